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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seka_rag.errors import DataError
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import Fact, about_others, ask_over, by_relation, distractors, join
from seka_rag.evaluation.methods import (
    GAINS,
    METHODS,
    Choice,
    Progress,
    counter,
    first_tokens,
    judge,
    settings,
    steered,
)
from seka_rag.evaluation.relations import RELATIONS, ask, invent, tell
from seka_rag.evaluation.results import Rate, Result, Row, describe, digest_of
from seka_rag.prompts import Message
from seka_rag.steering import SteeredModel

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


def messages(case: Case, *, marked: bool) -> list[Message]:
    """Return the chat of one case: its passage highlighted, or marked in the text."""
    return ask_over(case.question, case.passages, highlighted=case.highlighted, marked=marked)


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


def run(
    model: SteeredModel,
    data: str | Path,
    *,
    split: str = "val",
    cases: int = 300,
    passages: int = 6,
    methods: Sequence[str] = METHODS,
    gains: Sequence[float] = GAINS,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Return the rates of the three kinds for every method at every gain, on `cases` of each kind.

    The cases depend on data, split, tokenizer and `seed` alone. `progress` is called with the
    prompts done and the prompts in all.
    """
    if cases < 1 or passages < 2:
        raise DataError(f"{cases} cases of {passages} passages: at least 1 and 2 are needed")
    edits = read_counterfact(data, split)
    facts, left_out = join(edits, read_relations(data))
    first = first_tokens(model)
    built, passed = build(facts, cases=cases, passages=passages, seed=seed, first=first)
    used = len(built) // len(KINDS)
    if used < cases:
        raise DataError(
            f"{split} gives {used} cases of each kind and {cases} were asked for: ask for fewer, "
            f"or use a larger split (left out: {left_out | passed})"
        )
    planned = settings(methods, gains)
    tick = counter(progress, total=len(planned) * len(built))
    rows = []
    edited: dict[str, SteeredModel] = {}
    for setting in planned:
        if setting.method not in edited:
            edited[setting.method] = steered(model, setting.method, seed=seed)
        choices = [
            Choice(messages(case, marked=setting.marked), first(case.wanted), first(case.rival))
            for case in built
        ]
        verdicts = judge(
            edited[setting.method], choices, gain=setting.gain, batch_size=batch_size, done=tick
        )
        judged = list(zip(built, verdicts, strict=True))
        rates = {
            kind: Rate.of(verdict.preferred for case, verdict in judged if case.kind == kind)
            for kind in KINDS
        }
        top1 = {
            f"{kind}_top1": Rate.of(verdict.first for case, verdict in judged if case.kind == kind)
            for kind in KINDS
        }
        rows.append(Row(setting.method, setting.gain, rates | top1))
    return Result(
        task="conflicts",
        settings={
            **describe(model, command=command),
            "split": split,
            "seed": seed,
            "passages": passages,
            "batch_size": batch_size,
            "rows_digest": digest_of([case.case_id for case in built]),
        },
        counts={"read": len(edits), "used": used, **left_out, **passed},
        rows=tuple(rows),
    )
