"""CounterFact in the paper's form: does the model follow the new fact, and it alone?

    Previously {prompt} {ground_truth}. Currently {prompt} {target_new}. {question}

"{prompt} {target_new}." is highlighted: the new fact with its full stop, without "Currently". All
rates compare the first tokens of two answers, in [0, 1]:

    es        question = prompt            P(target_new) > P(ground_truth)
    ps        question = rephrase_prompt   P(target_new) > P(ground_truth)
    locality  question = locality_prompt, about another subject
                                           P(locality_ground_truth) > P(target_new)

`memory` and `memory_top1` ask the prompt alone: P(ground_truth) > P(target_new), and whether
ground_truth comes first of all. Rows whose subject names an answer, or whose two answers begin with
the same token, say nothing about steering and are left out, as are locality questions whose
answer begins as target_new does.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Edit, read_counterfact
from seka_rag.evaluation.methods import (
    GAINS,
    MARK,
    METHODS,
    Choice,
    Progress,
    counter,
    first_token,
    judge,
    settings,
    steered,
)
from seka_rag.evaluation.results import Rate, Result, Row, describe, digest_of
from seka_rag.highlight import Segments, highlight
from seka_rag.steering import SteeredModel


@dataclass(frozen=True)
class Case:
    """A usable row, with the first tokens of its answers."""

    edit: Edit
    new: int
    true: int
    locality: int

    @property
    def has_locality(self) -> bool:
        return self.locality != self.new


def prompt(edit: Edit, question: str, *, marked: bool) -> Segments:
    """Return the paper's prompt for one question about one row."""
    fact = f"{edit.prompt} {edit.target_new}."
    before = f"Previously {edit.prompt} {edit.ground_truth}. Currently "
    if marked:
        return f"{before}{MARK}{fact}{MARK} {question}"
    return [before, highlight(fact), f" {question}"]


def usable(model: SteeredModel, edits: Sequence[Edit]) -> tuple[list[Case], dict[str, int]]:
    """Return the rows that can be scored with this tokenizer, and how many cannot, by reason."""
    known: dict[str, int] = {}

    def first(answer: str) -> int:
        if answer not in known:
            known[answer] = first_token(model, f" {answer}", before="is")
        return known[answer]

    cases = []
    left_out = {"answer_in_subject": 0, "same_first_token": 0}
    for edit in edits:
        if edit.names_its_answer():
            left_out["answer_in_subject"] += 1
        elif first(edit.target_new) == first(edit.ground_truth):
            left_out["same_first_token"] += 1
        else:
            answers = (edit.target_new, edit.ground_truth, edit.locality_ground_truth)
            cases.append(Case(edit, *map(first, answers)))
    return cases, left_out


def run(
    model: SteeredModel,
    data: str | Path,
    *,
    split: str = "val",
    limit: int | None = None,
    methods: Sequence[str] = METHODS,
    gains: Sequence[float] = GAINS,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Return ES, PS and locality of every method at every gain, on `limit` rows drawn with `seed`.

    Without `limit`, all rows. `progress` is called with the prompts done and the prompts in all.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the limit is {limit}: it must be at least 1")
    edits = read_counterfact(data, split)
    cases, left_out = usable(model, edits)
    if limit is not None and limit < len(cases):
        cases = random.Random(seed).sample(cases, limit)
    if not cases:
        raise DataError(f"none of the {len(edits)} rows of {split} can be scored: {left_out}")
    local = [case for case in cases if case.has_locality]
    planned = settings(methods, gains)
    total = len(cases) + len(planned) * (2 * len(cases) + len(local))
    tick = counter(progress, total=total)
    alone = [Choice(case.edit.prompt, case.true, case.new) for case in cases]
    memory = judge(model, alone, gain=0.0, batch_size=batch_size, done=tick)
    remembered = {
        "memory": Rate.of(verdict.preferred for verdict in memory),
        "memory_top1": Rate.of(verdict.first for verdict in memory),
    }
    rows = []
    edited: dict[str, SteeredModel] = {}
    for setting in planned:
        if setting.method not in edited:
            edited[setting.method] = steered(model, setting.method, seed=seed)
        marked = setting.marked
        asked = {
            "es": [_about(case, case.edit.prompt, marked) for case in cases],
            "ps": [_about(case, case.edit.rephrase_prompt, marked) for case in cases],
            "locality": [
                Choice(
                    prompt(case.edit, case.edit.locality_prompt, marked=marked),
                    case.locality,
                    case.new,
                )
                for case in local
            ],
        }
        asked = {name: choices for name, choices in asked.items() if choices}
        verdicts = judge(
            edited[setting.method],
            [choice for choices in asked.values() for choice in choices],
            gain=setting.gain,
            batch_size=batch_size,
            done=tick,
        )
        rates = {}
        for name, choices in asked.items():
            rates[name] = Rate.of(verdict.preferred for verdict in verdicts[: len(choices)])
            verdicts = verdicts[len(choices) :]
        rows.append(Row(setting.method, setting.gain, rates))
    return Result(
        task="counterfact",
        settings={
            **describe(model, command=command),
            "split": split,
            "seed": seed,
            "batch_size": batch_size,
            "rows_digest": digest_of([case.edit.case_id for case in cases]),
            "memory": {name: rate.value for name, rate in remembered.items()},
        },
        counts={"read": len(edits), "used": len(cases), "locality": len(local), **left_out},
        rows=tuple(rows),
    )


def _about(case: Case, question: str, marked: bool) -> Choice:
    return Choice(prompt(case.edit, question, marked=marked), case.new, case.true)
