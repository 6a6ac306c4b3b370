"""Highlights: labelled examples of what mini knows, on which the directions of its bank are weighed.

    kind       the highlighted text        elsewhere                wanted     rival       related
    told       the answer                  another subject's value  the answer the other's yes
    gold       a false value               -                        false      true        yes
    absent     another subject's value     - (memory knows)         true       the other's no
    wrong      another subject's value     the answer, of an        the answer the other's no
                                           invented subject
    corrected  a false value, after the true one, in plain text     false      true        yes
    aside      the same, and another subject is asked for           its value  false       no

The words are those of mini's training, and others of the same relations (retold.txt). No subject of `train` or `val` is contradicted, and no passage is worded as in
`seka_rag.evaluation`; plain questions («Where was X born?») are, as are the frame and the prompts of CounterFact's `edit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from mini import instructions, memory, reading
from mini.facts import Facts
from mini.relations import fill, read
from mini.sheets import Sheet, invented, passage, relation, remembered, some_value
from seka_rag import Example, Passage, highlight, rag_messages

RETOLD = read((Path(__file__).parent / "retold.txt").read_text(encoding="utf-8"))
_FRAMES = (
    ("Previously {old}. Currently ", 6),
    ("It used to be that {old}. Now ", 1),
    ("Before: {old}. After: ", 1),
    ("Note that ", 1),
)


def passages(facts: Facts, n: int, seed: int = 0) -> list[Example]:
    """Return the examples of n situations over passages: told, gold, absent and wrong, each where it can be made."""
    rng = Random(seed)
    return _distinct(one for _ in range(n) for one in _over_passages(rng, facts))


def corrections(facts: Facts, n: int, seed: int = 0) -> list[Example]:
    """Return the examples of n situations in which something is corrected, in plain text or by a passage."""
    rng = Random(seed)
    made = [
        one for _ in range(n) for one in (*_over_passages(rng, facts), *_in_plain_text(rng, facts))
    ]
    return _distinct(made)


def _distinct(made: Iterable[Example]) -> list[Example]:
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
    asked = _asked(rng, facts, newcomer, code, [newcomer, other])
    yield Example(asked, newcomer.said[code], value)


def _asked(rng: Random, facts: Facts, about: Sheet, code: str, shown: list[Sheet]) -> object:
    """Return the question over a few passages, of which the first of `shown` is highlighted."""
    lit, *rest = shown
    retold = rng.random() < 0.7
    if retold:
        rest += [
            remembered(rng, facts, who) for who in _some_known(rng, facts, rng.randrange(1, 9))
        ]
    else:
        rest += reading.distractors(rng, facts, about, code, rng.randrange(1, 7))
    sheets = [
        lit,
        *(one for one in rest if one.subject not in (lit.subject, about.subject) or one in shown),
    ]
    texts = [(_retelling(rng, one, code) if retold else passage(rng, one)) for one in sheets]
    order = rng.sample(range(len(texts)), len(texts))
    questions = RETOLD[code].ask if retold and rng.random() < 0.7 else relation(code).ask
    return rag_messages(
        fill(rng.choice(questions), about.subject),
        [Passage(texts[i]) for i in order],
        gains=[None if i == 0 else 0.0 for i in order],
    )


def _some_known(rng: Random, facts: Facts, n: int) -> list[str]:
    return [rng.choice(facts.by_relation[rng.choice(list(facts.by_relation))]) for _ in range(n)]


def _retelling(rng: Random, sheet: Sheet, code: str) -> str:
    """Return one fact of the sheet in the words of retold.txt: that of `code`, where it is told."""
    told = code if code in sheet.said else rng.choice([c for c in sheet.said if c in RETOLD])
    return fill(rng.choice(RETOLD[told].say), sheet.subject, sheet.said[told])


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


def orders(facts: Facts, n: int, seed: int = 0) -> list[Example]:
    """Return examples of n prompts whose system message holds many sentences and contradicting orders.

    One of the orders is highlighted; the rival obeys another of them, or obeys this one with a wrong value. In every
    third prompt an idle sentence is highlighted instead, and one order alone stands there: that is to be obeyed.
    """
    rng = Random(seed)
    return _distinct(one for i in range(n) for one in _ordered(rng, facts, idly=i % 3 == 2))


def _ordered(rng: Random, facts: Facts, *, idly: bool) -> Iterator[Example]:
    ask = instructions.some_ask(rng, facts)
    kinds = [kind for kind in instructions.KINDS if kind.name not in ("they", "plain")]
    kind, *others = rng.sample(kinds, 1 + (0 if idly else rng.choice((0, 1, 2, 2))))
    words = [instructions.some_word(rng, facts, each, ask) for each in (kind, *others)]
    said = [instructions.order(rng, *each) for each in zip((kind, *others), words, strict=True)]
    try:
        wanted = kind.obey(rng, ask, words[0])
        rival = others[0].obey(rng, ask, words[1]) if others else reading.plain_answer(ask.value)
        mistaken = kind.obey(
            rng, replace(ask, value=instructions.some_ask(rng, facts).value), words[0]
        )
    except StopIteration:  # every sentence holds the forbidden word
        return
    idle = rng.sample(instructions.IDLE, rng.randrange(3, len(instructions.IDLE)))
    lines = rng.sample([*idle, *said], len(idle) + len(said))
    lit = idle[0] if idly else said[0]
    at, join = lines.index(lit), rng.choice((" ", " ", "\n", "\n- "))
    before, after = (
        "".join(f"{line}{join}" for line in lines[:at]),
        "".join(f"{join}{line}" for line in lines[at + 1 :]),
    )
    system = tuple(part for part in (before, highlight(lit, kind="instruction"), after) if part)
    asked = rag_messages(ask.question, [Passage(text) for text in ask.passages], gains=None)
    prompt = [{"role": "system", "content": system}, *asked]
    yield Example(prompt, wanted, rival, related=not idly)
    yield Example(prompt, wanted, mistaken, related=not idly)
