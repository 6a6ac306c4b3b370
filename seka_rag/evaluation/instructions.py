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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import Fact, join
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
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Segment, highlight
from seka_rag.prompts import Message, Passage, rag_messages

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

    @property
    def id(self) -> str:
        return str(self.case_id)


@dataclass(frozen=True)
class Instructions:
    """`cases` with so many competing orders, drawn with `seed` from one split of the data.

    `orders` is a file of other wordings, as `read_wordings` takes them.
    """

    name: ClassVar[str] = "instructions"

    data: Path
    split: str = "val"
    cases: int = 320
    competing: int = 2
    orders: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < len(KINDS) or not 0 <= self.competing < len(KINDS):
            raise DataError(
                f"{self.cases} cases with {self.competing} competing orders: at least "
                f"{len(KINDS)}, one of each kind, and 0 to {len(KINDS) - 1} are needed"
            )

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "split": self.split,
            "cases": self.cases,
            "competing": self.competing,
            "orders": None if self.orders is None else self.orders.name,
        }

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Case], dict[str, int]]:
        edits = read_counterfact(self.data, self.split)
        facts, left_out = join(edits, read_relations(self.data))
        built, passed = build(
            facts,
            cases=self.cases,
            competing=self.competing,
            seed=self.seed,
            wordings=None if self.orders is None else read_wordings(self.orders),
        )
        if len(built) < self.cases:
            raise DataError(
                f"{self.split} gives {len(built)} cases and {self.cases} were asked for: ask for "
                f"fewer, or use a larger split (left out: {left_out | passed})"
            )
        return built, {"read": len(edits), "used": len(built), **left_out, **passed}

    def prompts(self, example: Case) -> list[Ask]:
        return [Ask(messages(example), max_new_tokens=_NEW_TOKENS)]

    def score(self, example: Case, answers: Sequence[Answer]) -> dict[str, float]:
        obeyed = example.order.obeyed(answers[0].text, example.asked)
        return {"complied": obeyed, example.order.kind: obeyed}


def messages(case: Case) -> list[Message]:
    """Return the chat of one case, its order highlighted."""
    order = highlight(case.order.text, kind="instruction")
    system: list[Segment] = [f"{' '.join(case.before)} ", order, f" {' '.join(case.after)}"]
    opening: Message = {"role": "system", "content": system}
    return [opening, *rag_messages(case.asked.question, [Passage(case.asked.passage)], gains=None)]


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
