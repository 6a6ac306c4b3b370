"""Highlights: labelled examples of what mini knows, on which the directions of its bank are weighed.

    kind       the highlighted text        elsewhere                wanted     rival       related
    gold       a false value               -                        false      true        yes
    absent     another subject's value     - (memory knows)         true       the other's no
    wrong      another subject's value     the answer, of an        the answer the other's no
                                           invented subject
    corrected  a false value, after the true one, in plain text     false      true        yes
    aside      the same, and another subject is asked for           its value  false       no

The words are those of mini's training. No subject of `train` or `val` is contradicted, and no passage is worded as in
`seka_rag.evaluation`; plain questions («Where was X born?») are, as are the frame and the prompts of CounterFact's `edit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from mini import memory, reading
from mini.facts import Facts
from mini.relations import fill
from mini.sheets import Sheet, invented, passage, relation, remembered, some_value
from seka_rag import Example, Passage, highlight, rag_messages

_FRAMES = (
    ("Previously {old}. Currently ", 6),
    ("It used to be that {old}. Now ", 1),
    ("Before: {old}. After: ", 1),
    ("Note that ", 1),
)


def examples(facts: Facts, n: int, seed: int = 0) -> list[Example]:
    """Return examples of n situations, one of each kind where it can be made."""
    rng = Random(seed)
    made = [
        one for _ in range(n) for one in (*_over_passages(rng, facts), *_in_plain_text(rng, facts))
    ]
    return [one for one in made if not _begin_alike(one.wanted.casefold(), one.rival.casefold())]


def _begin_alike(first: str, second: str) -> bool:
    return first.startswith(second) or second.startswith(first)


def _over_passages(rng: Random, facts: Facts) -> Iterator[Example]:
    subject, code = rng.choice(facts.arguable)
    contradicted = remembered(rng, facts, subject, contradict=code)
    false, true = contradicted.said[code], contradicted.memory[code]
    yield Example(_asked(rng, facts, contradicted, code, [contradicted]), false, true)
    others = [
        who
        for who in rng.choices(facts.by_relation[code], k=20)
        if facts.known[who][code] not in (true, false)
    ]
    if not others:
        return
    other = remembered(rng, facts, others[0])
    value = other.said[code]
    yield Example(_asked(rng, facts, contradicted, code, [other]), true, value, related=False)
    newcomer = invented(rng, facts, wanted=code, facts_each=rng.randrange(1, 4))
    asked = _asked(rng, facts, newcomer, code, [other, newcomer])
    yield Example(asked, newcomer.said[code], value, related=False)


def _asked(rng: Random, facts: Facts, about: Sheet, code: str, shown: list[Sheet]) -> object:
    """Return the question over a few passages, of which the first of `shown` is highlighted."""
    lit, *rest = shown
    rest += reading.distractors(rng, facts, about, code, rng.randrange(1, 7))
    texts = [passage(rng, one) for one in (lit, *rest) if one is lit or one.subject != lit.subject]
    order = rng.sample(range(len(texts)), len(texts))
    question = fill(rng.choice(relation(code).ask), about.subject)
    return rag_messages(
        question, [Passage(texts[i]) for i in order], gains=[None if i == 0 else 0.0 for i in order]
    )


def _in_plain_text(rng: Random, facts: Facts) -> Iterator[Example]:
    row = rng.choice(facts.edits)
    subject, code, start, true = row["subject"], row["relation"], row["prompt"], row["ground_truth"]
    false = (
        row["target_new"]
        if rng.random() < 0.6
        else some_value(rng, facts, code, but=frozenset({true}))
    )
    (frame,) = rng.choices([frame for frame, _ in _FRAMES], [often for _, often in _FRAMES])
    again = rng.choice(
        (start, row["rephrase_prompt"], memory.statement_start(rng, facts, subject, code))
    )
    other_start, value = memory.elsewhere(rng, facts, subject, code, true)
    context = (frame.format(old=f"{start} {true}"), highlight(f"{start} {false}."))
    yield Example((*context, f" {again}"), f" {false}", f" {true}")
    yield Example((*context, f" {other_start}"), f" {value}", f" {false}", related=False)
