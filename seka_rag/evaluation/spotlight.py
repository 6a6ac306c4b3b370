"""SpotLight: every query gives the highlighted tokens at least a share ψ of its attention.

Venkateswaran and Contractor 2025, "Spotlight Your Instructions" (arXiv 2505.12025), section 2.1: in
every layer and head, and for every query, where the share p of the highlighted tokens is below ψ, a
bias is added to their logits before the softmax,

    log ψ/(1-ψ) - log p/(1-p)    after which the share is ψ;
    log ψ - log p                as published, after which it is ψ/(1 + ψ - p), a little less.

    B  rows      Q  query heads      T  queries      S  columns      H  KV heads      D  head_dim

The share needs the logits, which SDPA does not give away. While a model reads, its SDPA function is
one that computes them itself, some queries at a time; other models go on with theirs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seka_rag.errors import DataError, UnsteerableError
from seka_rag.evaluation.attention_bias import (
    causal,
    check_attention,
    check_passed,
    highlighted,
    widened,
)
from seka_rag.evaluation.reading import CachedReading, Highlighted, Reading, unedited
from seka_rag.evaluation.task import Ask
from seka_rag.inputs import Row
from seka_rag.prompts import Prompt
from seka_rag.steering import SteeredModel

_TARGET = 0.2  # the default of the authors' own package
_QUERIES = 256  # whose logits are held at once


@dataclass(frozen=True)
class Spotlight:
    """SpotLight, with the share made to be exactly the target or, `published`, nearly so."""

    target: float = _TARGET
    published: bool = False

    @classmethod
    def of(cls, strength: float | None, detail: str | None) -> "Spotlight":
        """Return the method; `strength` is ψ, and `detail` may be "paper" for its own bias."""
        target = _TARGET if strength is None else strength
        if not 0 < target < 1:
            raise DataError(f"spotlight's strength is {target}: it must be a share in (0, 1)")
        if detail not in (None, "paper"):
            raise DataError(f"spotlight:{detail} is unknown: write spotlight or spotlight:paper")
        return cls(target, detail == "paper")

    def prompt(self, ask: Ask) -> Prompt:
        return ask.prompt

    def prepare(self, model: SteeredModel, *, seed: int) -> Highlighted:
        check_attention(model, "sdpa")
        return Highlighted(model, partial(self._reading, model))

    def _reading(self, model: SteeredModel, rows: Sequence[Row]) -> Reading:
        columns = highlighted(rows, model.model.device)
        if not columns.any():
            return CachedReading(model, unedited(rows))
        bias = partial(raising, target=self.target, published=self.published)
        return CachedReading(model, unedited(rows), partial(steering, model, columns, bias))


def raising(logits: Tensor, span: Tensor, *, target: float, published: bool = False) -> Tensor:
    """Return what to add to the logits of the span, (B, Q, T, 1), for it to have its share.

    `logits` (B, Q, T, S) are as low as can be where a query does not see; `span` is (B, 1, 1, S).
    """
    lowest = torch.finfo(logits.dtype).min
    inside, outside = (
        logits.masked_fill(~part, lowest).logsumexp(-1, keepdim=True) for part in (span, ~span)
    )
    odds = inside - outside  # log p/(1-p), exact where p is small too
    if published:
        bias = math.log(target) - nn.functional.logsigmoid(odds)
    else:
        bias = math.log(target) - math.log1p(-target) - odds
    sees = (span & (logits > lowest)).any(-1, keepdim=True)
    return torch.where(sees, bias.clamp(min=0), 0.0)


@contextmanager
def steering(
    model: SteeredModel, columns: Tensor, bias: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Raise the attention on the columns (B, S) in every pass of the model in this context."""
    modules = {id(site.attention): site.layer for site in model.sites}
    passed = dict.fromkeys(modules.values(), 0)
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(module: nn.Module, *inputs: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        if id(module) not in modules:
            found: tuple[Tensor, Tensor | None] = plain(module, *inputs, **named)
            return found
        passed[modules[id(module)]] += 1
        return _attend(columns, bias, *inputs, **named), None

    # An entry of this kind goes before the one that `register` made, and leaves it alone.
    entries = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = entries.get("sdpa")
    entries["sdpa"] = attention
    try:
        yield
    finally:
        if before is None:
            del entries["sdpa"]
        else:
            entries["sdpa"] = before
    check_passed(passed)


def _attend(
    columns: Tensor,
    bias: Callable[[Tensor, Tensor], Tensor],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    **named: Any,
) -> Tensor:
    """Return the output (B, T, Q, D) of attention; queries are (B, Q, T, D), keys (B, H, S, D)."""
    if named.get("softcap") is not None or named.get("s_aux") is not None:
        raise UnsteerableError("attention with a soft cap or with sinks is not known here")
    groups = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
    S, D = keys.shape[2:]
    seen = causal(queries.shape[2], S, keys.device) if mask is None else mask
    span = widened(columns, S)[:, None, None].to(keys.device)
    seen = seen.expand(-1, -1, queries.shape[2], -1)
    outputs = []
    for first in range(0, queries.shape[2], _QUERIES):
        some, sees = (part[:, :, first : first + _QUERIES] for part in (queries, seen))
        logits = (some @ keys.mT).float() * (D**-0.5 if scaling is None else scaling)
        logits = logits.masked_fill(~sees, torch.finfo(logits.dtype).min)
        logits = torch.where(span & sees, logits + bias(logits, span), logits)
        outputs.append(logits.softmax(-1).to(values.dtype) @ values)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
