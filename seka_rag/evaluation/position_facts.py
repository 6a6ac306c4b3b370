"""Positions: how well a passage is read wherever it stands among others, highlighted or not.

The lost-in-the-middle curve. Each case is a question about a name that nobody bears, which one
passage answers, the highlighted one; of the others, true facts about further subjects, one is of
the same relation, and its value is the rival. The passage is put at every position in turn, the
others keep their order and all wording stays, so the positions differ in nothing else.

    at_01 …  the wanted value's first token is the likeliest of all, with the passage at 1 …
    mean     the same over all positions

Figures are shares in [0, 1]. The interval of `mean` takes prompts for independent, which those of
one case are not. Models that do not open with the bare value ("Paris.") are not measured well.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import Fact, about_others, ask_over, by_relation, distractors, join
from seka_rag.evaluation.firsts import first_tokens
from seka_rag.evaluation.relations import RELATIONS, ask, invent, tell
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.prompts import Message


@dataclass(frozen=True)
class Case:
    """One question, the passage that answers it, and those among which it is put."""

    case_id: int
    subject: str
    question: str
    passage: str  # answers; to be highlighted
    others: tuple[str, ...]
    wanted: str
    rival: str  # the value of one of the others


@dataclass(frozen=True)
class Placed:
    """A case with its passage at one position."""

    case: Case
    position: int  # of 1 … N

    @property
    def id(self) -> str:
        return f"{self.case.case_id}@{self.position:02}"


@dataclass(frozen=True)
class PositionFacts:
    """`cases` over so many passages, drawn with `seed`, at each of `positions`, or at all."""

    name: ClassVar[str] = "position-facts"

    data: Path
    split: str = "val"
    cases: int = 100
    passages: int = 12
    positions: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < 1 or self.passages < 2:
            raise DataError(
                f"{self.cases} cases of {self.passages} passages: at least 1 and 2 are needed"
            )
        if not self._places or not set(self._places) <= set(range(1, self.passages + 1)):
            raise DataError(
                f"the positions are {self._places}: choose from 1 to {self.passages}, the passages"
            )

    @property
    def _places(self) -> list[int]:
        every = range(1, self.passages + 1)
        return sorted(set(every if self.positions is None else self.positions))

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "split": self.split,
            "cases": self.cases,
            "passages": self.passages,
            "positions": self._places,
        }

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Placed], dict[str, int]]:
        edits = read_counterfact(self.data, self.split)
        facts, left_out = join(edits, read_relations(self.data))
        built, passed = build(
            facts,
            cases=self.cases,
            passages=self.passages,
            seed=self.seed,
            first=first_tokens(tokenizer),
        )
        if len(built) < self.cases:
            raise DataError(
                f"{self.split} gives {len(built)} cases and {self.cases} were asked for: ask for "
                f"fewer, or use a larger split (left out: {left_out | passed})"
            )
        placed = [Placed(case, place) for case in built for place in self._places]
        return placed, {"read": len(edits), "used": len(built), **left_out, **passed}

    def prompts(self, example: Placed) -> list[Ask]:
        case = example.case
        last = messages(case, len(case.others) + 1)
        return [Ask(messages(case, example.position), (case.wanted, case.rival), last=last)]

    def score(self, example: Placed, answers: Sequence[Answer]) -> dict[str, float]:
        hit = answers[0].first
        return {"mean": hit, f"at_{example.position:02}": hit}


def messages(case: Case, position: int) -> list[Message]:
    """Return the chat of one case, its passage at `position` of 1 … N and highlighted."""
    at = position - 1
    texts = (*case.others[:at], case.passage, *case.others[at:])
    return ask_over(case.question, texts, highlighted=at)


def build(
    facts: Sequence[Fact],
    *,
    cases: int,
    passages: int,
    seed: int,
    first: Callable[[str], int],
) -> tuple[list[Case], dict[str, int]]:
    """Return `cases` cases, and how many rows were passed over on the way to them.

    `first` is the first token of a value where the answer begins: wanted and rival differ in it.
    """
    rng = random.Random(seed)
    grouped = by_relation(facts)
    built: list[Case] = []
    passed = {"same_first_token": 0, "no_other_subject": 0}
    for fact in rng.sample(list(facts), len(facts)):
        if len(built) == cases:
            break
        rivals = about_others(fact, grouped)
        if not rivals:
            passed["no_other_subject"] += 1
            continue
        rival, wanted = rng.choice(rivals), fact.edit.target_new
        if first(wanted) == first(rival.ground_truth):
            passed["same_first_token"] += 1
            continue
        relation = RELATIONS[fact.relation]
        subject = invent(fact.relation, rng)
        passage = tell(rng.choice(relation.passages), subject, wanted)
        like = tell(rng.choice(relation.passages), rival.subject, rival.ground_truth)
        taken = (subject, wanted, rival.subject, rival.ground_truth)
        others = [like, *distractors(facts, taken, n=passages - 2, rng=rng)]
        rng.shuffle(others)
        question = ask(rng.choice(relation.questions), subject)
        built.append(
            Case(
                fact.edit.case_id,
                subject,
                question,
                passage,
                tuple(others),
                wanted,
                rival.ground_truth,
            )
        )
    return built, passed
