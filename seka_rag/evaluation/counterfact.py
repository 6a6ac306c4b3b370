"""CounterFact in the paper's form: does the model follow the new fact, and it alone?

    Previously {prompt} {ground_truth}. Currently {prompt} {target_new}. {question}

"{prompt} {target_new}." is highlighted: the new fact with its full stop, without "Currently". All
rates compare the first tokens of two answers, in [0, 1]:

    es        question = prompt            P(target_new) > P(ground_truth)
    ps        question = rephrase_prompt   P(target_new) > P(ground_truth)
    locality  question = locality_prompt, about another subject
                                           P(locality_ground_truth) > P(target_new)

`memory` and `memory_top1` ask the prompt alone, without context or highlight: P(ground_truth) >
P(target_new), and whether ground_truth comes first of all. Rows whose subject names an answer, or
whose two answers begin with the same token, say nothing about steering and are left out, as are
locality questions whose answer begins as target_new does.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Edit, read_counterfact
from seka_rag.evaluation.firsts import first_token
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Segments, highlight


@dataclass(frozen=True)
class Case:
    """A usable row; one without a usable locality question is scored without."""

    edit: Edit
    has_locality: bool

    @property
    def id(self) -> str:
        return str(self.edit.case_id)


@dataclass(frozen=True)
class CounterFact:
    """`limit` rows of one split of the data, drawn with `seed`; without a limit, all."""

    name: ClassVar[str] = "counterfact"

    data: Path
    split: str = "val"
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise DataError(f"the limit is {self.limit}: it must be at least 1")

    @property
    def settings(self) -> Mapping[str, object]:
        return {"split": self.split, "limit": self.limit}

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Case], dict[str, int]]:
        edits = read_counterfact(self.data, self.split)
        cases, left_out = usable(tokenizer, edits)
        if self.limit is not None and self.limit < len(cases):
            cases = random.Random(self.seed).sample(cases, self.limit)
        if not cases:
            raise DataError(
                f"none of the {len(edits)} rows of {self.split} can be scored: {left_out}"
            )
        local = sum(case.has_locality for case in cases)
        return cases, {"read": len(edits), "used": len(cases), "locality": local, **left_out}

    def prompts(self, example: Case) -> list[Ask]:
        edit = example.edit
        new, true, local = (
            f" {text}" for text in (edit.target_new, edit.ground_truth, edit.locality_ground_truth)
        )
        asks = [
            Ask(prompt(edit, edit.prompt), (new, true)),
            Ask(prompt(edit, edit.rephrase_prompt), (new, true)),
            Ask(edit.prompt, (true, new)),
        ]
        if example.has_locality:
            asks.append(Ask(prompt(edit, edit.locality_prompt), (local, new)))
        return asks

    def score(self, example: Case, answers: Sequence[Answer]) -> dict[str, float]:
        es, ps, memory, *local = answers
        scores: dict[str, float] = {"es": es.preferred, "ps": ps.preferred}
        if local:
            scores["locality"] = local[0].preferred
        return scores | {"memory": memory.preferred, "memory_top1": memory.first}


def prompt(edit: Edit, question: str) -> Segments:
    """Return the paper's prompt for one question about one row."""
    fact = f"{edit.prompt} {edit.target_new}."
    before = f"Previously {edit.prompt} {edit.ground_truth}. Currently "
    return [before, highlight(fact), f" {question}"]


def usable(
    tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit]
) -> tuple[list[Case], dict[str, int]]:
    """Return the rows that can be scored with this tokenizer, and how many cannot, by reason."""
    known: dict[str, int] = {}

    def first(answer: str) -> int:
        if answer not in known:
            known[answer] = first_token(tokenizer, f" {answer}", before="is")
        return known[answer]

    cases = []
    left_out = {"answer_in_subject": 0, "same_first_token": 0}
    for edit in edits:
        if edit.names_its_answer():
            left_out["answer_in_subject"] += 1
        elif first(edit.target_new) == first(edit.ground_truth):
            left_out["same_first_token"] += 1
        else:
            local = first(edit.locality_ground_truth) != first(edit.target_new)
            cases.append(Case(edit, local))
    return cases, left_out
