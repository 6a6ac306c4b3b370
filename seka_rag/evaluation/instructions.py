"""Instructions: is an order obeyed that lies buried in a long system prompt, if it is highlighted?

A system prompt of 12 to 20 sentences, as one that many hands have edited: most order nothing, one
is the wanted order about the form of the answer, highlighted, and some are competing orders of
other kinds, which nobody can obey together with the wanted one. The wanted order is neither first
nor last. The user asks over one passage about a name that nobody bears, so the value is known.

    complied   share of the cases in which the greedy answer has the wanted form and holds the value
    upper …    the same for each kind of order, of `orders.KINDS`

Rates are shares in [0, 1]; cases are spread evenly over the kinds. Nothing in the text says which
of the orders counts: without a highlight, obeying any of them is as good. Values are such that have
letters of both cases, so a plain answer obeys no order, save one to be brief: `at_most` alone
measures that the competing orders are not obeyed.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seka_rag.errors import DataError
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import Fact, join
from seka_rag.evaluation.methods import (
    GAINS,
    MARK,
    METHODS,
    Progress,
    batches,
    counter,
    settings,
    steered,
)
from seka_rag.evaluation.orders import (
    IDLE,
    KINDS,
    Asked,
    Order,
    Wordings,
    compete,
    draw,
    holds,
    read_wordings,
)
from seka_rag.evaluation.relations import RELATIONS, ask, invent, tell
from seka_rag.evaluation.results import Rate, Result, Row, describe, digest_of
from seka_rag.highlight import highlight
from seka_rag.prompts import Message, Passage, Prompt, rag_messages
from seka_rag.steering import SteeredModel

_SENTENCES = range(12, 21)  # of a system prompt
_NEW_TOKENS = 48


@dataclass(frozen=True)
class Case:
    """One question, and a system prompt with the order that is to be obeyed."""

    case_id: int
    asked: Asked
    order: Order  # to be highlighted
    competing: tuple[Order, ...]
    before: tuple[str, ...]  # sentences of the system prompt, around the order
    after: tuple[str, ...]


def messages(case: Case, *, marked: bool) -> list[Message]:
    """Return the chat of one case: its order highlighted, or marked in the text."""
    text = case.order.text
    order = f"{MARK}{text}{MARK}" if marked else highlight(text, kind="instruction")
    system = [f"{' '.join(case.before)} ", order, f" {' '.join(case.after)}"]
    passages = [Passage(case.asked.passage)]
    opening: Message = {"role": "system", "content": system}
    return [opening, *rag_messages(case.asked.question, passages, gains=None)]


def build(
    facts: Sequence[Fact],
    *,
    cases: int,
    competing: int,
    seed: int,
    wordings: Wordings | None = None,
) -> tuple[list[Case], dict[str, int]]:
    """Return `cases` cases, kind after kind, and how many rows were passed over on the way."""
    rng = random.Random(seed)
    built: list[Case] = []
    passed = {"value_in_one_case": 0, "value_in_prompt": 0}
    kinds = tuple(KINDS)
    for fact in rng.sample(list(facts), len(facts)):
        if len(built) == cases:
            break
        value = fact.edit.target_new
        if value in (value.upper(), value.lower()):
            passed["value_in_one_case"] += 1
            continue
        kind = kinds[len(built) % len(kinds)]
        case = _case(fact, kind, competing=competing, rng=rng, wordings=wordings)
        if holds(
            " ".join((*case.before, case.order.text, *case.after, case.asked.question)), value
        ):
            passed["value_in_prompt"] += 1
            continue
        built.append(case)
    return built, passed


def _case(
    fact: Fact, kind: str, *, competing: int, rng: random.Random, wordings: Wordings | None
) -> Case:
    relation = RELATIONS[fact.relation]
    subject, value = invent(fact.relation, rng), fact.edit.target_new
    asked = Asked(
        ask(rng.choice(relation.questions), subject),
        tell(rng.choice(relation.passages), subject, value),
        value,
    )
    order = draw(kind, asked, rng, wordings)
    others = _competing(order, asked, n=competing, rng=rng, wordings=wordings)
    idle = rng.sample(IDLE, rng.choice(_SENTENCES) - 1 - competing)
    sentences = [*idle, *(other.text for other in others)]
    rng.shuffle(sentences)
    at = rng.randrange(1, len(sentences))
    return Case(
        fact.edit.case_id, asked, order, others, tuple(sentences[:at]), tuple(sentences[at:])
    )


def _competing(
    order: Order, asked: Asked, *, n: int, rng: random.Random, wordings: Wordings | None
) -> tuple[Order, ...]:
    """Return n orders of different kinds that compete with `order`."""
    others = (draw(kind, asked, rng, wordings) for kind in rng.sample(list(KINDS), len(KINDS)))
    found = [other for other in others if other.kind != order.kind and compete(order, other, asked)]
    if len(found) < n:
        raise DataError(
            f"{len(found)} orders compete with {order.text!r} and {n} were asked for: ask for fewer"
        )
    return tuple(found[:n])


def run(
    model: SteeredModel,
    data: str | Path,
    *,
    split: str = "val",
    cases: int = 320,
    competing: int = 2,
    orders: str | Path | None = None,
    methods: Sequence[str] = METHODS,
    gains: Sequence[float] = GAINS,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Return how often the order is obeyed with every method at every gain, and so for each kind.

    `orders` is a file of other wordings, as `read_wordings` takes them. The cases depend on data,
    split, `competing`, `orders` and `seed` alone. `progress` is called with the
    prompts done and the prompts in all.
    """
    if cases < len(KINDS) or not 0 <= competing < len(KINDS):
        raise DataError(
            f"{cases} cases with {competing} competing orders: at least {len(KINDS)}, one of each "
            f"kind, and 0 to {len(KINDS) - 1} are needed"
        )
    edits = read_counterfact(data, split)
    facts, left_out = join(edits, read_relations(data))
    wordings = None if orders is None else read_wordings(orders)
    built, passed = build(facts, cases=cases, competing=competing, seed=seed, wordings=wordings)
    if len(built) < cases:
        raise DataError(
            f"{split} gives {len(built)} cases and {cases} were asked for: ask for fewer, or use "
            f"a larger split (left out: {left_out | passed})"
        )
    planned = settings(methods, gains)
    tick = counter(progress, total=len(planned) * cases)
    rows = []
    edited: dict[str, SteeredModel] = {}
    for setting in planned:
        if setting.method not in edited:
            edited[setting.method] = steered(model, setting.method, seed=seed)
        said = _answers(
            edited[setting.method],
            [messages(case, marked=setting.marked) for case in built],
            gain=setting.gain,
            batch_size=batch_size,
            done=tick,
        )
        rows.append(Row(setting.method, setting.gain, rates_of(built, said)))
    return Result(
        task="instructions",
        settings={
            **describe(model, command=command),
            "split": split,
            "seed": seed,
            "competing": competing,
            "orders": None if orders is None else Path(orders).name,
            "batch_size": batch_size,
            "rows_digest": digest_of([case.case_id for case in built]),
        },
        counts={"read": len(edits), "used": len(built), **left_out, **passed},
        rows=tuple(rows),
    )


def rates_of(cases: Sequence[Case], said: Sequence[str]) -> dict[str, Rate]:
    """Return how often the answers comply, over all cases and for each kind of order."""
    hits = [case.order.obeyed(text, case.asked) for case, text in zip(cases, said, strict=True)]
    rates = {"complied": Rate.of(hits)}
    for kind in KINDS:
        of_kind = (hit for case, hit in zip(cases, hits, strict=True) if case.order.kind == kind)
        rates[kind] = Rate.of(of_kind)
    return rates


def _answers(
    model: SteeredModel,
    prompts: Sequence[Prompt],
    *,
    gain: float,
    batch_size: int,
    done: Callable[[int], None],
) -> list[str]:
    """Return the greedy answer to each prompt; `done` is told the size of each batch."""
    said = [""] * len(prompts)
    for batch in batches(prompts, size=batch_size):
        written = model.generate_batch(
            [prompts[i] for i in batch], gain=gain, do_sample=False, max_new_tokens=_NEW_TOKENS
        )
        for i, answer in zip(batch, written, strict=True):
            said[i] = answer.text
        done(len(batch))
    return said
