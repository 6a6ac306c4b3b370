"""Readings: a batch of prompts under some method, read once and then continued token by token.

    B  rows      V  vocabulary

Methods differ in what they do to a reading; what is asked of it is the same for all, so that a
comparison compares methods and nothing else.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor
from transformers import DynamicCache

from seka_rag.decoding import Lane
from seka_rag.inputs import Row, read_prompt
from seka_rag.prompts import Prompt
from seka_rag.steering import SteeredModel


class Reading(Protocol):
    """A batch of prompts: `read` once, then `step` as often as wanted."""

    def read(self) -> Tensor:
        """Return the logits (B, V) after the prompts, float32."""

    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits (B, V) that follow, now that every row goes on with its token."""


class CachedReading:
    """The model as it is, keys edited where the rows have gains, every pass inside `around()`."""

    def __init__(
        self,
        model: SteeredModel,
        rows: Sequence[Row],
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._model, self._rows, self._around = model, rows, around
        self._lane = Lane(model.model)

    def read(self) -> Tensor:
        cache = DynamicCache()
        with self._around():
            logits = self._model.prefill(self._rows, cache)
        self._lane.start(cache, [len(row.ids) for row in self._rows])
        return logits

    def step(self, token_ids: Sequence[int]) -> Tensor:
        with self._around():
            return self._lane.step(token_ids)


class ContrastedReading:
    """`full` + weight · (`full` - `bare`) in the rows that `bare` reads, and `full` in the others.

    Both go on with the same tokens.
    """

    def __init__(
        self, full: Reading, bare: Reading | None, rows: Sequence[int], *, weight: float
    ) -> None:
        self._full, self._bare = full, bare
        self._rows, self._weight = list(rows), weight

    def read(self) -> Tensor:
        full = self._full.read()
        return full if self._bare is None else self._contrast(full, self._bare.read())

    def step(self, token_ids: Sequence[int]) -> Tensor:
        full = self._full.step(token_ids)
        if self._bare is None:
            return full
        return self._contrast(full, self._bare.step([token_ids[row] for row in self._rows]))

    def _contrast(self, full: Tensor, bare: Tensor) -> Tensor:
        logits = full.clone()
        logits[self._rows] += self._weight * (full[self._rows] - bare)
        return logits


def spans_of(model: SteeredModel, prompts: Sequence[Prompt]) -> list[Row]:
    """Return the prompts' tokens, with a gain of 1 where they are highlighted; no bank is needed.

    A highlight's own gain counts as any other, unless it is 0.
    """
    rows = [read_prompt(model.tokenizer, each, gain=None, default_gain=1.0) for each in prompts]
    return [replace(row, gains=[float(gain != 0) for gain in row.gains]) for row in rows]


@dataclass(frozen=True)
class Highlighted:
    """A model that reads rows in a way which knows of a highlight only that it is one.

    A highlight that asks for less attention, by a negative gain, is one like any other.
    """

    model: SteeredModel
    read: Callable[[Sequence[Row]], Reading]

    def rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        for prompt in prompts:
            self.model.read(prompt, gain=0)  # raises where it is longer than the model reads
        return spans_of(self.model, prompts)

    def reading(self, rows: Sequence[Row]) -> Reading:
        return self.read(rows)


def unedited(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with all gains 0, so that no key is edited."""
    return [row.scaled(0.0) for row in rows]
