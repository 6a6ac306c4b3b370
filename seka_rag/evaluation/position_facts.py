"""Positions: how well a passage is read wherever it stands among others, highlighted or not.

The lost-in-the-middle curve. Each case is a question about a name that nobody bears, which one
passage answers, the highlighted one; of the others, true facts about further subjects, one is of
the same relation, and its value is the rival. The passage is put at every position in turn, the
others keep their order and all wording stays, so the positions differ in nothing else.

    at_01 …  the wanted value's first token is the likeliest of all, with the passage at 1 …
    mean     the same over all positions
    worst    the lowest of the positions

Rates are shares in [0, 1]. `worst` is the lowest of several noisy figures, so it lies below the
lowest true one; the interval of `mean` takes prompts for independent, which those of one case are
not. Models that do not open with the bare value ("Paris.") are not measured well by this.
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
    Verdict,
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


def messages(case: Case, position: int, *, marked: bool) -> list[Message]:
    """Return the chat of one case: its passage at `position` of 1 … N, highlighted or marked."""
    at = position - 1
    texts = (*case.others[:at], case.passage, *case.others[at:])
    return ask_over(case.question, texts, highlighted=at, marked=marked)


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


def run(
    model: SteeredModel,
    data: str | Path,
    *,
    split: str = "val",
    cases: int = 100,
    passages: int = 12,
    positions: Sequence[int] | None = None,
    methods: Sequence[str] = METHODS,
    gains: Sequence[float] = GAINS,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Return the rate at each of `positions` for every method at every gain, and mean and worst.

    Without `positions`, at every one of 1 … `passages`. The cases depend on data, split, tokenizer,
    `passages` and `seed` alone. `progress` is called with the prompts done and the prompts in all.
    """
    if cases < 1 or passages < 2:
        raise DataError(f"{cases} cases of {passages} passages: at least 1 and 2 are needed")
    every = range(1, passages + 1)
    places = sorted(set(every if positions is None else positions))
    if not places or not set(places) <= set(every):
        raise DataError(f"the positions are {places}: choose from 1 to {passages}, the passages")
    edits = read_counterfact(data, split)
    facts, left_out = join(edits, read_relations(data))
    first = first_tokens(model)
    built, passed = build(facts, cases=cases, passages=passages, seed=seed, first=first)
    if len(built) < cases:
        raise DataError(
            f"{split} gives {len(built)} cases and {cases} were asked for: ask for fewer, or use "
            f"a larger split (left out: {left_out | passed})"
        )
    planned = settings(methods, gains)
    tick = counter(progress, total=len(planned) * len(places) * cases)
    rows = []
    edited: dict[str, SteeredModel] = {}
    for setting in planned:
        if setting.method not in edited:
            edited[setting.method] = steered(model, setting.method, seed=seed)
        choices = [
            Choice(
                messages(case, place, marked=setting.marked), first(case.wanted), first(case.rival)
            )
            for place in places
            for case in built
        ]
        verdicts = judge(
            edited[setting.method], choices, gain=setting.gain, batch_size=batch_size, done=tick
        )
        rows.append(Row(setting.method, setting.gain, _rates(places, verdicts)))
    return Result(
        task="positions",
        settings={
            **describe(model, command=command),
            "split": split,
            "seed": seed,
            "passages": passages,
            "positions": places,
            "batch_size": batch_size,
            "rows_digest": digest_of([case.case_id for case in built]),
        },
        counts={"read": len(edits), "used": len(built), **left_out, **passed},
        rows=tuple(rows),
    )


def _rates(places: Sequence[int], verdicts: Sequence[Verdict]) -> dict[str, Rate]:
    """Return the rate of each place, whose verdicts follow one another, then mean and worst."""
    hits = [verdict.first for verdict in verdicts]
    n = len(hits) // len(places)
    rates = {f"at_{place:02}": Rate.of(hits[i * n : (i + 1) * n]) for i, place in enumerate(places)}
    worst = min(rates.values(), key=lambda rate: rate.value)
    return {**rates, "mean": Rate.of(hits), "worst": worst}
