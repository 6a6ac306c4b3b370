"""Conflicts in RAG form: what a highlight does when its passage answers, and when it does not.

Six passages, one of them highlighted, and a question about one subject. Each case compares the
first tokens of two values where the answer begins; a rate is the share in which the wanted one is
likelier, in [0, 1], and `…_top1` that in which it is the likeliest of all tokens.

    case    the highlighted passage       in a plain one   wanted           rival
    gold    a false value of the subject  -                the false value  the true value
    absent  another subject's value       -                the true value   the other's
    wrong   another subject's value       an answer        that answer      the other's

Another subject is one of the same relation, told truly. In `wrong` the question is about a name
that nobody bears, so the plain passage is all there is to answer from: about a known subject,
memory would win over both. The other passages are true facts about
further subjects, of mixed relations, in which neither value occurs. `gold` shows the help of a
highlight, `absent` and `wrong` its harm. Models that do not open with the bare value ("Paris.")
are not measured well by this.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import (
    Fact,
    about_others,
    ask_over,
    by_relation,
    distractors,
    join,
    with_last,
)
from seka_rag.evaluation.firsts import first_tokens
from seka_rag.evaluation.relations import RELATIONS, ask, invent, tell
from seka_rag.evaluation.task import Answer, Ask

KINDS = ("gold", "absent", "wrong")


@dataclass(frozen=True)
class Case:
    """One question over passages, one of which is to be highlighted."""

    kind: str
    case_id: int
    subject: str  # of the question
    question: str
    passages: tuple[str, ...]
    highlighted: int  # index into `passages`
    wanted: str
    rival: str

    @property
    def id(self) -> str:
        return f"{self.case_id}-{self.kind}"


@dataclass(frozen=True)
class Conflicts:
    """`cases` of each kind over so many passages, drawn with `seed` from one split of the data."""

    name: ClassVar[str] = "conflicts"

    data: Path
    split: str = "val"
    cases: int = 300
    passages: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < 1 or self.passages < 2:
            raise DataError(
                f"{self.cases} cases of {self.passages} passages: at least 1 and 2 are needed"
            )

    @property
    def settings(self) -> Mapping[str, object]:
        return {"split": self.split, "cases": self.cases, "passages": self.passages}

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Case], dict[str, int]]:
        edits = read_counterfact(self.data, self.split)
        facts, left_out = join(edits, read_relations(self.data))
        built, passed = build(
            facts,
            cases=self.cases,
            passages=self.passages,
            seed=self.seed,
            first=first_tokens(tokenizer),
        )
        used = len(built) // len(KINDS)
        if used < self.cases:
            raise DataError(
                f"{self.split} gives {used} cases of each kind and {self.cases} were asked for: "
                f"ask for fewer, or use a larger split (left out: {left_out | passed})"
            )
        return built, {"read": len(edits), "used": used, **left_out, **passed}

    def prompts(self, example: Case) -> list[Ask]:
        texts, at = example.passages, example.highlighted
        last = ask_over(example.question, with_last(texts, at), highlighted=len(texts) - 1)
        given = ask_over(example.question, texts, highlighted=at)
        return [Ask(given, (example.wanted, example.rival), last=last)]

    def score(self, example: Case, answers: Sequence[Answer]) -> dict[str, float]:
        kind, answer = example.kind, answers[0]
        return {kind: answer.preferred, f"{kind}_top1": answer.first}


def build(
    facts: Sequence[Fact],
    *,
    cases: int,
    passages: int,
    seed: int,
    first: Callable[[str], int],
) -> tuple[list[Case], dict[str, int]]:
    """Return `cases` of each kind, drawn from the same rows, and how many rows were passed over.

    `first` is the first token of a value where the answer begins: the values of a row differ in it.
    """
    rng = random.Random(seed)
    grouped = by_relation(facts)
    built: list[Case] = []
    passed = {"same_first_token": 0, "no_other_subject": 0}
    for fact in rng.sample(list(facts), len(facts)):
        if len(built) == cases * len(KINDS):
            break
        edit = fact.edit
        others = about_others(fact, grouped)
        if not others:
            passed["no_other_subject"] += 1
            continue
        other = rng.choice(others)
        values = (edit.ground_truth, edit.target_new, other.ground_truth)
        if len({first(value) for value in values}) < len(values):
            passed["same_first_token"] += 1
            continue
        relation = RELATIONS[fact.relation]
        template = rng.choice(relation.questions)
        invented = invent(fact.relation, rng)
        false, unheard = (
            tell(rng.choice(relation.passages), subject, edit.target_new)
            for subject in (edit.subject, invented)
        )
        elsewhere = tell(rng.choice(relation.passages), other.subject, other.ground_truth)
        for kind, subject, lit, plain, wanted, rival in (
            ("gold", edit.subject, false, [], edit.target_new, edit.ground_truth),
            ("absent", edit.subject, elsewhere, [], edit.ground_truth, other.ground_truth),
            ("wrong", invented, elsewhere, [unheard], edit.target_new, other.ground_truth),
        ):
            taken = (edit.subject, invented, other.subject, *values)
            rest = distractors(facts, taken, n=passages - 1 - len(plain), rng=rng)
            texts = [lit, *plain, *rest]
            order = rng.sample(range(len(texts)), len(texts))
            built.append(
                Case(
                    kind,
                    edit.case_id,
                    subject,
                    ask(template, subject),
                    tuple(texts[i] for i in order),
                    order.index(0),
                    wanted,
                    rival,
                )
            )
    return built, passed
