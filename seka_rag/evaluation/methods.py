"""Methods of our own: what each does to a prompt, and to a model that reads it.

none       the prompt as it is            seka       the bank, all of its experts routed
marks      ** around the highlights       seka:NAME  one expert of the bank, for all highlights
reorder    the highlighted passage last   scaling    the identity in place of P, same KV heads
unweighed  the bank without the weights   random     a random projection of the same ranks
           of its directions: the paper's P, on the heads of `learn`
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from seka_rag.bank import Bank
from seka_rag.chat import content_of
from seka_rag.errors import BankError, DataError
from seka_rag.evaluation.reading import CachedReading, Reading
from seka_rag.evaluation.task import Ask
from seka_rag.experts import Experts, as_experts
from seka_rag.heads import default_heads
from seka_rag.highlight import Highlight, Segment, Segments, as_segments
from seka_rag.inputs import Row
from seka_rag.prompts import Prompt, as_chat
from seka_rag.steering import SteeredModel

MARK = "**"


class Prepared(Protocol):
    """A method, ready for one model."""

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """Return the prompts' tokens, with a gain other than 0 where they are highlighted."""

    def reading(self, rows: Sequence[Row]) -> Reading:
        """Return a reading of a batch."""


class Method(Protocol):
    """One way to make a model attend to what is highlighted."""

    def prompt(self, ask: Ask) -> Prompt:
        """Return the prompt that is read in the place of the ask's own."""

    def prepare(self, model: SteeredModel, *, seed: int) -> Prepared:
        """Return what reads prompts, for this model. What cannot be done is refused now."""


@dataclass(frozen=True)
class Steered:
    """A model whose keys are edited, or which is left alone at a gain of 0."""

    model: SteeredModel
    gain: float | None  # of highlights without one of their own; None is the bank's

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        return [self.model.read(prompt, gain=self.gain) for prompt in prompts]

    def reading(self, rows: Sequence[Row]) -> Reading:
        return CachedReading(self.model, rows)


@dataclass(frozen=True)
class Plain:
    """No highlight: the prompt as it is, or as `rewrite` leaves it."""

    rewrite: Callable[[Ask], Prompt]

    def prompt(self, ask: Ask) -> Prompt:
        return self.rewrite(ask)

    def prepare(self, model: SteeredModel, *, seed: int) -> Prepared:
        return Steered(model, 0.0)


@dataclass(frozen=True)
class EditedKeys:
    """Keys of highlighted tokens edited: by the bank, or by what `change` makes of each bank."""

    name: str
    gain: float | None = None
    expert: str | None = None
    change: Callable[[Bank, int], Bank] | None = None

    def prompt(self, ask: Ask) -> Prompt:
        return ask.prompt

    def prepare(self, model: SteeredModel, *, seed: int) -> Prepared:
        bank = model.bank
        if bank is None:
            raise BankError(
                f"{self.name} needs a bank: give one, or leave out methods that edit keys"
            )
        if self.expert is not None:
            model = _under(model, as_experts(bank), self.expert)
        if self.change is not None:
            banks = as_experts(bank).banks
            changed = {name: self.change(each, seed) for name, each in banks.items()}
            model = model.with_bank(Experts(changed))
        return Steered(model, self.gain)


def _under(model: SteeredModel, experts: Experts, name: str) -> SteeredModel:
    """Return the model under one expert, for highlights of every kind, at its own gain."""
    experts.chosen([name])  # an unknown name is an error
    routing = replace(model.routing, experts=[name])
    return model.with_bank(Experts({name: experts.banks[name]})).with_routing(routing)


def scaled(bank: Bank, seed: int) -> Bank:
    return bank.replace(method="scaling")


def random(bank: Bank, seed: int) -> Bank:
    return bank.replace(method="random", seed=seed)


def unweighed(bank: Bank, seed: int) -> Bank:
    return bank.replace(heads=default_heads(bank.layers))


def as_it_is(ask: Ask) -> Prompt:
    return ask.prompt


def marked(ask: Ask) -> Prompt:
    """Return the prompt with its highlights put between marks, as text."""
    chat = as_chat(ask.prompt)
    if chat is None:
        return _with_marks(ask.prompt)  # type: ignore[arg-type]
    messages = [
        {**message, "content": _with_marks(content_of(message))} for message in chat.messages
    ]
    return replace(chat, messages=messages)


def _with_marks(segments: Segments) -> str:
    return "".join(_with_mark(part) for part in as_segments(segments))


def _with_mark(part: Segment) -> str:
    if not isinstance(part, Highlight):
        return part
    return part.text if part.gain == 0 else f"{MARK}{part.text}{MARK}"


def reordered(ask: Ask) -> Prompt:
    if ask.last is None:
        raise DataError(
            "reorder puts a passage behind the others, and this task has none to put: leave it out"
        )
    return ask.last
