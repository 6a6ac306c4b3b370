"""SPA: what the highlighted tokens make of the next one is taken ω times.

Tian and Zhang 2024, "Selective Prompt Anchoring for Code Generation" (arXiv 2408.09121), augmented
logits: with the logits f of the prompt, and of the prompt with the highlighted tokens masked,

    F(ω) = ω f(prompt) + (1 - ω) f(masked) = f(prompt) + (ω - 1) (f(prompt) - f(masked))

so that ω = 1 does nothing. Masked tokens keep their positions and nobody attends to them, as in the
authors' code; that code damps the difference for unlikely tokens, which the paper does not.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from seka_rag.architecture import KeySite
from seka_rag.errors import DataError
from seka_rag.evaluation.attention_bias import biased, check_attention, highlighted, widened
from seka_rag.evaluation.reading import (
    CachedReading,
    ContrastedReading,
    Highlighted,
    Reading,
    unedited,
)
from seka_rag.evaluation.task import Ask
from seka_rag.inputs import Row
from seka_rag.prompts import Prompt
from seka_rag.steering import SteeredModel

_OMEGA = 1.4  # of the authors' package; the paper tunes it for every model


@dataclass(frozen=True)
class Spa:
    """Selective prompt anchoring."""

    omega: float = _OMEGA

    @classmethod
    def of(cls, strength: float | None, detail: str | None) -> "Spa":
        """Return the method; `strength` is ω, at least 0, where 1 does nothing."""
        omega = _OMEGA if strength is None else strength
        if not 0 <= omega < float("inf"):
            raise DataError(f"spa's strength is {omega}: it must be at least 0, 1 does nothing")
        if detail is not None:
            raise DataError(f"spa:{detail} is unknown: write spa or spa@STRENGTH")
        return cls(omega)

    def prompt(self, ask: Ask) -> Prompt:
        return ask.prompt

    def prepare(self, model: SteeredModel, *, seed: int) -> Highlighted:
        check_attention(model, "sdpa", "eager")
        return Highlighted(model, partial(self._reading, model))

    def _reading(self, model: SteeredModel, rows: Sequence[Row]) -> Reading:
        lit = [i for i, row in enumerate(rows) if any(row.gains)]
        masked = None
        if lit:
            part = [rows[i] for i in lit]
            if any(all(row.gains) for row in part):
                raise DataError("a whole prompt is highlighted, and spa has nothing left to read")
            columns = highlighted(part, model.model.device)
            masked = CachedReading(model, unedited(part), partial(hiding, model, columns))
        full = CachedReading(model, unedited(rows))
        return ContrastedReading(full, masked, lit, weight=self.omega - 1)


def hiding(model: SteeredModel, columns: Tensor) -> AbstractContextManager[None]:
    """Return a context in which nobody attends to the columns (B, S)."""

    def bias(site: KeySite, width: int) -> Tensor:
        hidden = widened(columns, width).to(site.device)
        return torch.zeros(hidden.shape, device=site.device).masked_fill(hidden, -torch.inf)[
            :, None, None
        ]

    return biased(model.sites, bias)
