"""Built-in examples, for any model: made of the package's triplets and of well-known facts.

    kind       the highlighted text      elsewhere                wanted      rival       related
    contested  one of two passages that contradict each other     its value   the other's   yes
    beside     another passage           the answer               the answer  the other's   no
    override   a false value             -                        false       true          yes
    absent     another subject's value   - (memory knows)         true        the other's   no
    wrong      another subject's value   the answer, of a         the answer  the other's   no
                                         subject nobody bears
    corrected  a false value, in plain text after the true one    false       true          yes
    aside      the same text, and another subject is asked for    its value   false         no

The first two are about invented things, the others about facts that a model remembers: only there
is a highlight set against memory.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from seka_rag.contrast import BUILTIN
from seka_rag.highlight import Segment, highlight
from seka_rag.labelled import Example
from seka_rag.prompts import Passage, Prompt, rag_messages

_FACTS = Path(__file__).parent / "assets" / "facts.json"
# How a text goes from what was true to what is; the first as in the SEKA paper.
_TURNS = (
    "Previously {old}. Currently ",
    "It was long held that {old}. Today ",
    "{old}. That is out of date. ",
    "{old}. This was so for years, and then it was put right: ",
    "Old edition: {old}. New edition: ",
)
_PASSAGES = (2, 3, 4, 6)


@dataclass(frozen=True)
class Relation:
    """One relation: how it is told and asked, and the facts that are well known."""

    passages: Sequence[str]  # of {subject} and {value}
    questions: Sequence[str]  # of {subject}
    clozes: Sequence[str]  # of {subject}; the value is what comes next
    facts: Mapping[str, str]
    invented: Sequence[str]  # subjects that nobody bears


@cache
def relations() -> tuple[Relation, ...]:
    """Return the relations that ship with the package."""
    entries = json.loads(_FACTS.read_text("utf-8"))
    return tuple(
        Relation(**{name: part for name, part in entry.items() if name != "relation"})
        for entry in entries
    )


def builtin_examples(
    tokenizer: PreTrainedTokenizerBase, *, n: int = 120, seed: int = 0
) -> list[Example]:
    """Return examples of `n` situations, drawn by `seed`: half of them related.

    Every other situation is a context of a triplet (three examples), the rest are well-known facts
    (five). Beyond what there is of either, all.
    """
    rng = random.Random(seed)
    contexts = _contexts()
    known = [
        (relation, subject)
        for relation in relations()
        for subject in relation.facts
    ]  # fmt: skip
    examples: list[Example] = []
    for fact in rng.sample(contexts, min((n + 1) // 2, len(contexts))):
        examples += _of_context(tokenizer, fact, contexts, rng)
    for relation, subject in rng.sample(known, min(n // 2, len(known))):
        examples += _of_fact(tokenizer, relation, subject, rng)
    return examples


def _contexts() -> list[dict[str, str]]:
    lines = map(json.loads, BUILTIN.read_text("utf-8").splitlines())
    return [line for line in lines if line["kind"] == "grounding"]


def _of_context(
    tokenizer: PreTrainedTokenizerBase,
    fact: Mapping[str, str],
    contexts: Sequence[Mapping[str, str]],
    rng: random.Random,
) -> list[Example]:
    """Return contested, in both directions, and beside."""
    answer, context, question = fact["answer"], fact["context"], fact["question"]
    donors = [other for other in contexts if answer not in other["context"]]
    donor = max(donors, key=lambda other: _alikeness(answer, other["answer"]))
    rival = donor["answer"]
    first, second = rng.sample([(context, answer), (context.replace(answer, rival), rival)], 2)
    examples = []
    for lit, (_, wanted) in enumerate((first, second)):
        prompt = _asked(tokenizer, question, (first[0], second[0]), lit)
        examples.append(Example(prompt, wanted, rival if wanted == answer else answer))
    texts = rng.sample([context, donor["context"]], 2)
    prompt = _asked(tokenizer, question, texts, texts.index(donor["context"]))
    return [*examples, Example(prompt, answer, rival, related=False)]


def _of_fact(
    tokenizer: PreTrainedTokenizerBase, relation: Relation, subject: str, rng: random.Random
) -> list[Example]:
    """Return override, absent, wrong, corrected and aside; a fact without a foil gives none."""
    true = relation.facts[subject]
    others = [(s, v) for s, v in relation.facts.items() if _apart(v, true) and s != subject]
    pairs = [(one, v) for one in others for v in relation.facts.values() if _apart(v, one[1], true)]
    if not pairs:
        return []
    (other, elsewhere), false = rng.choice(pairs)
    nobody = rng.choice(relation.invented)
    taken = (subject, other, nobody, true, elsewhere, false)

    def tell(who: str, value: str) -> str:
        bare = [f"{cloze} {{value}}." for cloze in relation.clozes]
        return rng.choice([*relation.passages, *bare]).format(subject=who, value=value)

    def ask(who: str, texts: list[str]) -> Prompt:
        """Return the prompt of a question; the first text is the highlighted one."""
        rest = _distractors(relation, taken, rng.choice(_PASSAGES) - len(texts), rng)
        lit, texts = texts[0], rng.sample([*texts, *rest], len(texts) + len(rest))
        question = rng.choice(relation.questions).format(subject=who)
        return _asked(tokenizer, question, texts, texts.index(lit))

    def corrected(who: str) -> Prompt:
        first, again = (rng.choice(relation.clozes).format(subject=subject) for _ in range(2))
        before = rng.choice(_TURNS).format(old=f"{first} {true}")
        asked = rng.choice(relation.clozes).format(subject=who)
        return (before, highlight(f"{again} {false}."), f" {asked}")

    there = tell(other, elsewhere)
    return [
        Example(ask(subject, [tell(subject, false)]), false, true),
        Example(ask(subject, [there]), true, elsewhere, related=False),
        Example(ask(nobody, [there, tell(nobody, false)]), false, elsewhere, related=False),
        Example(corrected(subject), f" {false}", f" {true}"),
        Example(corrected(other), f" {elsewhere}", f" {false}", related=False),
    ]


def _apart(value: str, *others: str) -> bool:
    """Return whether none of the values begins with another."""
    folded = value.casefold()
    return not any(
        folded.startswith(other.casefold()) or other.casefold().startswith(folded)
        for other in others
    )


def _distractors(relation: Relation, taken: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Return n passages of other relations in which nothing that is taken occurs."""
    texts: list[str] = []
    while len(texts) < n:
        other = rng.choice([one for one in relations() if one is not relation])
        subject, value = rng.choice(list(other.facts.items()))
        text = rng.choice(other.passages).format(subject=subject, value=value)
        if text not in texts and not any(word.casefold() in text.casefold() for word in taken):
            texts.append(text)
    return texts


def _alikeness(answer: str, donor: str) -> tuple[float, ...]:
    """Return how well a donor's answer can stand where `answer` does; higher is better."""
    first, second = answer.split(), donor.split()
    if all(one.casefold() == other.casefold() for one, other in zip(first, second, strict=False)):
        return (-1.0,)  # one begins with the other
    shapes = [
        (words[0][0].isupper(), any(c.isdigit() for c in "".join(words)), words[0].casefold())
        for words in (first, second)
    ]
    same = [float(a == b) for a, b in zip(*shapes, strict=True)]
    return (sum(same), -float(abs(len(first) - len(second))))


def _asked(
    tokenizer: PreTrainedTokenizerBase, question: str, texts: Sequence[str], lit: int
) -> Prompt:
    """Return a question over passages of which the one at `lit` is highlighted."""
    if tokenizer.chat_template:
        gains = [None if i == lit else 0.0 for i in range(len(texts))]
        return rag_messages(question, [Passage(text) for text in texts], gains=gains)
    listed: list[Segment] = []
    for i, text in enumerate(texts):
        listed += ["\n", highlight(text) if i == lit else text]
    return ("Passages:", *listed, f"\n\nQuestion: {question}\nAnswer: ")
