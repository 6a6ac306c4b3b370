"""Facts told as passages: the rows of CounterFact of which the relation is known.

What the tasks of the library's own share: which rows can be told, passages about other subjects to
put around one that matters, and the chat over passages of which one is highlighted.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Edit
from seka_rag.evaluation.relations import RELATIONS, tell
from seka_rag.prompts import Message, Passage, rag_messages


@dataclass(frozen=True)
class Fact:
    """A row of CounterFact of which the relation is known."""

    edit: Edit
    relation: str


def join(
    edits: Sequence[Edit], relations: Mapping[tuple[str, str], frozenset[str]]
) -> tuple[list[Fact], dict[str, int]]:
    """Return the rows whose relation is known and told here, and how many are not, by reason."""
    facts = []
    left_out = {"answer_in_subject": 0, "no_relation": 0, "several_relations": 0}
    for edit in edits:
        found = relations.get((edit.subject, edit.ground_truth), frozenset()) & RELATIONS.keys()
        if edit.names_its_answer():
            left_out["answer_in_subject"] += 1
        elif not found:
            left_out["no_relation"] += 1
        elif len(found) > 1:
            left_out["several_relations"] += 1
        else:
            facts.append(Fact(edit, *found))
    return facts, left_out


def by_relation(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    """Return the facts of each relation."""
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.relation, []).append(fact)
    return found


def about_others(fact: Fact, facts: Mapping[str, Sequence[Fact]]) -> list[Edit]:
    """Return the rows of the same relation about other subjects, with a value that is neither."""
    edit = fact.edit
    return [
        other.edit
        for other in facts[fact.relation]
        if other.edit.subject != edit.subject
        and other.edit.ground_truth not in (edit.ground_truth, edit.target_new)
    ]


def distractors(
    facts: Sequence[Fact], taken: Sequence[str], *, n: int, rng: random.Random
) -> list[str]:
    """Return passages about n further subjects in which no `taken` text occurs."""
    avoided = [text.casefold() for text in taken]
    texts: list[str] = []
    subjects: set[str] = set()
    for _ in range(200 * n):
        if len(texts) == n:
            break
        fact = rng.choice(facts)
        template = rng.choice(RELATIONS[fact.relation].passages)
        text = tell(template, fact.edit.subject, fact.edit.ground_truth)
        clean = not any(word in text.casefold() for word in avoided)
        if clean and fact.edit.subject not in subjects:
            subjects.add(fact.edit.subject)
            texts.append(text)
    if len(texts) < n:
        raise DataError(f"the data hold too few facts for {n} further passages: use more rows")
    return texts


def ask_over(question: str, texts: Sequence[str], *, highlighted: int) -> list[Message]:
    """Return a chat over passages, the one at index `highlighted` so."""
    gains = [None if i == highlighted else 0.0 for i in range(len(texts))]
    return rag_messages(question, [Passage(text) for text in texts], gains=gains)


def with_last(texts: Sequence[str], i: int) -> list[str]:
    """Return the texts with that at index i behind the others."""
    return [*texts[:i], *texts[i + 1 :], texts[i]]
