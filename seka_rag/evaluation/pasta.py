"""PASTA: in a few heads, tokens that are not highlighted get a small part of their attention.

Zhang et al. 2023, "Tell Your Model Where to Attend" (arXiv 2311.02262), section 3.1: with the
attention A of a head, the highlighted tokens G and all others G⁻,

    A~_ij = α A_ij / C_i  for j in G⁻,      A~_ij = A_ij / C_i  for j in G,      0 < α <= 1

where C_i makes the row sum to 1. That is log α added to the logits of G⁻, and it leaves queries
alone that see nothing of G. Tokens that are being written belong to G⁻ too, so that an answer is
read as it would be in the prompt; the authors' code spares them.

The heads are found as in section 3.2: each is steered alone on labelled examples, and those that
help most are taken. The paper takes the heads that do best on several tasks at once; here the one
sample holds the tasks mixed. Of the 1024 heads of its models it takes 25 to 150: an eighth at most.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seka_rag.architecture import KeySite
from seka_rag.builtin import builtin_examples
from seka_rag.errors import DataError
from seka_rag.evaluation.attention_bias import biased, check_attention, highlighted, widened
from seka_rag.evaluation.reading import CachedReading, Highlighted, Reading, unedited
from seka_rag.evaluation.task import Ask
from seka_rag.inputs import Row
from seka_rag.labelled import Choice, Example, batches, read_choices
from seka_rag.prompts import Prompt
from seka_rag.steering import SteeredModel

_ALPHA = 0.01  # the paper's, section 4
_SHARE = 1 / 8  # of all heads
_SITUATIONS = 12  # of the built-in examples: 24 related ones, each read once for every head
_BATCH_TOKENS = 1024


class Head(NamedTuple):
    """One query head."""

    layer: int
    head: int


@dataclass(frozen=True)
class Pasta:
    """PASTA on the heads that a profile finds best, an eighth or so many, or on all."""

    alpha: float = _ALPHA
    top: int | None = None  # heads; None for an eighth
    every: bool = False  # all heads of all layers
    _found: WeakKeyDictionary[nn.Module, dict[int, tuple[Head, ...]]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, strength: float | None, detail: str | None) -> "Pasta":
        """Return the method; `strength` is α, and `detail` is "all" or "top:N"."""
        alpha = _ALPHA if strength is None else strength
        if not 0 < alpha <= 1:
            raise DataError(f"pasta's strength is {alpha}: it must be in (0, 1], 1 does nothing")
        if detail in (None, "all"):
            return cls(alpha, every=detail == "all")
        named, _, count = str(detail).partition(":")
        if named != "top" or not (count.isascii() and count.isdigit()) or int(count) < 1:
            raise DataError(f"pasta:{detail} is unknown: write pasta, pasta:all or pasta:top:N")
        return cls(alpha, int(count))

    def prompt(self, ask: Ask) -> Prompt:
        return ask.prompt

    def prepare(self, model: SteeredModel, *, seed: int) -> Highlighted:
        check_attention(model, "sdpa", "eager")
        heads = self._heads(model, seed)
        return Highlighted(model, partial(reading, model, heads=heads, alpha=self.alpha))

    def _heads(self, model: SteeredModel, seed: int) -> tuple[Head, ...]:
        every = heads_of(model)
        if self.every:
            return every
        k = max(1, int(_SHARE * len(every))) if self.top is None else self.top
        if k > len(every):
            raise DataError(f"pasta:top:{k} asks for more heads than the {len(every)} there are")
        found = self._found.setdefault(model.model, {})
        if seed not in found:
            examples = builtin_examples(model.tokenizer, n=_SITUATIONS, seed=seed)
            found[seed] = profile(model, examples, k=k, alpha=self.alpha)
        return found[seed]


def heads_of(model: SteeredModel) -> tuple[Head, ...]:
    """Return all query heads of the model."""
    return tuple(Head(site.layer, i) for site in model.sites for i in range(site.n_query_heads))


def profile(
    model: SteeredModel, examples: Sequence[Example], *, k: int, alpha: float = _ALPHA
) -> tuple[Head, ...]:
    """Return the `k` heads which, steered alone, help most in the related examples, best first.

    What counts is the mean of log P(wanted) - log P(rival), at the token where the two part.
    """
    related = [each for each in read_choices(model.tokenizer, examples) if each.related]
    batched = list(batches(related, _BATCH_TOKENS))
    helped = {
        head: sum(_margin(model, batch, head, alpha=alpha) for batch in batched)
        for head in heads_of(model)
    }
    return tuple(sorted(helped, key=lambda head: -helped[head])[:k])


def _margin(model: SteeredModel, batch: Sequence[Choice], head: Head, *, alpha: float) -> float:
    """Return the sum of log P(wanted) - log P(rival) over a batch."""
    logits = reading(model, [choice.row for choice in batch], heads=[head], alpha=alpha).read()
    sides = [(choice.wanted, choice.rival) for choice in batch]
    wanted, rival = logits.gather(1, torch.tensor(sides, device=logits.device)).unbind(1)
    return float((wanted - rival).sum())


def reading(
    model: SteeredModel, rows: Sequence[Row], *, heads: Sequence[Head], alpha: float
) -> Reading:
    """Return a reading of the rows in which these heads are steered."""
    columns = highlighted(rows, model.model.device)
    if not columns.any():
        return CachedReading(model, unedited(rows))
    return CachedReading(
        model, unedited(rows), partial(steering, model, columns, heads=heads, alpha=alpha)
    )


def steering(
    model: SteeredModel, columns: Tensor, *, heads: Sequence[Head], alpha: float
) -> AbstractContextManager[None]:
    """Return a context in which the attention of these heads keeps to the columns (B, S)."""
    chosen = {site.layer: torch.zeros(site.n_query_heads) for site in model.sites}
    for layer, head in heads:
        chosen[layer][head] = math.log(alpha)
    lit = columns.any(1, keepdim=True)

    def bias(site: KeySite, width: int) -> Tensor:
        others = (~widened(columns, width) & lit).to(site.device)
        return chosen[site.layer].to(others.device)[:, None, None] * others[:, None, None]

    sites = [site for site in model.sites if any(head.layer == site.layer for head in heads)]
    return biased(sites, bias)
