"""CAD: the logits of a prompt, set against those of the prompt without what is highlighted.

Shi et al. 2023, "Trusting Your Evidence" (arXiv 2305.14739), section 2: with the context c, which
is here what is highlighted, and the rest x of the prompt,

    y ~ softmax[(1 + α) logit(y | c, x) - α logit(y | x)]

so that α = 0 does nothing. The tokens of c are left out: those behind them move up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from seka_rag.errors import DataError
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

_ALPHA = 0.5  # the paper's for summaries; for conflicts with what the model remembers, 1


@dataclass(frozen=True)
class Cad:
    """Context-aware decoding."""

    alpha: float = _ALPHA

    @classmethod
    def of(cls, strength: float | None, detail: str | None) -> "Cad":
        """Return the method; `strength` is α, at least 0."""
        alpha = _ALPHA if strength is None else strength
        if not 0 <= alpha < float("inf"):
            raise DataError(f"cad's strength is {alpha}: it must be at least 0, which does nothing")
        if detail is not None:
            raise DataError(f"cad:{detail} is unknown: write cad or cad@STRENGTH")
        return cls(alpha)

    def prompt(self, ask: Ask) -> Prompt:
        return ask.prompt

    def prepare(self, model: SteeredModel, *, seed: int) -> Highlighted:
        return Highlighted(model, partial(self._reading, model))

    def _reading(self, model: SteeredModel, rows: Sequence[Row]) -> Reading:
        lit = [i for i, row in enumerate(rows) if any(row.gains)]
        bare = CachedReading(model, [without(rows[i]) for i in lit]) if lit else None
        full = CachedReading(model, unedited(rows))
        return ContrastedReading(full, bare, lit, weight=self.alpha)


def without(row: Row) -> Row:
    """Return the row without its highlighted tokens."""
    kept = [i for i, gain in enumerate(row.gains) if gain == 0]
    if not kept:
        raise DataError("a whole prompt is highlighted, and cad has nothing left to read")
    return replace(
        row,
        ids=[row.ids[i] for i in kept],
        gains=[0.0 for _ in kept],
        owners=[row.owners[i] for i in kept],
        prompt_tokens=sum(i < row.prompt_tokens for i in kept),
    )
