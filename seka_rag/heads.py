"""What is learned of a layer's KV heads, and which of them are edited.

    H  KV heads of a layer      D  head_dim

A head is judged by how relevance moves its keys, or by how its attention tells relevance; all
layers at once. Nothing here knows of models, files or gains.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seka_rag.errors import BankError


@dataclass(frozen=True, eq=False)
class LayerSubspaces:
    """What was learned for one layer: whole bases, strongest direction first, in float32."""

    basis: Tensor  # U⁺ (H, D, D)
    spectrum: Tensor  # S⁺ (H, D)
    negative_basis: Tensor  # U⁻ (H, D, D)
    negative_spectrum: Tensor  # S⁻ (H, D)
    key_shift: Tensor  # mean ‖h⁺ − h⁻‖₂ (H,)
    # How well attention on the span tells a relevant question (H,), AUC in [0, 1]; None where the
    # attention could not be read.
    discrimination: Tensor | None = None
    # What every direction counts (H, D), of either sign; None where nothing has weighed them.
    weights: Tensor | None = None
    # How the attention of each query head on a span tells whether the question is about it, (Q, 2)
    # with the layer's bias (1,); and how much more a token counts that the question asks for,
    # (H, 2). As in `routing`; None for an edit that does not ask.
    gate: Tensor | None = None
    gate_bias: Tensor | None = None
    focus: Tensor | None = None


@dataclass(frozen=True)
class HeadFilter:
    """Which KV heads to edit and how much, judged over all layers at once.

    By key shift: `quantile:0.5` the upper half · `threshold:0.3` shifts of at least 0.3 · `top:8`
    the eight largest. The same by discrimination: `discrimination:quantile:0.75`,
    `discrimination:top:8`, and `discrimination:0.9` for an AUC of at least 0.9 · `smooth` every
    head, by how far its AUC is above 0.5 (after PRISM-Δ, arXiv 2603.10705) · `weighed` every head,
    by the weights of its directions. Or by name, `only:6.0,7.1` head 0 of layer 6 and head 1 of
    layer 7 · `all`.
    """

    rule: Literal["quantile", "threshold", "top", "smooth", "weighed", "only", "all"]
    number: float = 0.0
    heads: frozenset[tuple[int, int]] = frozenset()
    by_discrimination: bool = False

    @classmethod
    def parse(cls, text: str) -> "HeadFilter":
        """Return the filter that `text` describes."""
        rule, _, value = text.partition(":")
        if text == "all":
            return cls("all")
        if text == "weighed":
            return cls("weighed")
        if text == "smooth":
            return cls("smooth", by_discrimination=True)
        if rule == "only" and re.fullmatch(r"\d+\.\d+(,\d+\.\d+)*", value):
            pairs = (pair.split(".") for pair in value.split(","))
            return cls("only", heads=frozenset((int(layer), int(head)) for layer, head in pairs))
        discriminating = rule == "discrimination"
        if discriminating:
            rule, _, value = value.rpartition(":")
            rule = rule or "threshold"
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if rule == "quantile" and 0 <= number < 1:
            return cls("quantile", number, by_discrimination=discriminating)
        if rule == "threshold" and math.isfinite(number):
            return cls("threshold", number, by_discrimination=discriminating)
        if rule == "top" and number >= 1 and number.is_integer():
            return cls("top", number, by_discrimination=discriminating)
        raise BankError(
            f"{text!r} names no heads: use quantile:Q with Q in [0, 1), threshold:X, top:N with "
            "N at least 1, the same by attention with discrimination: before it, "
            "discrimination:AUC, smooth, weighed, only:LAYER.HEAD,LAYER.HEAD,… or all"
        )

    def weights(self, layers: Mapping[int, LayerSubspaces]) -> dict[int, Tensor]:
        """Return a weight (H,) in [0, 1] for every head of every layer; 0 is not edited."""
        numbers = sorted(layers)
        sizes = [len(layers[layer].key_shift) for layer in numbers]
        places = [
            (layer, head) for layer, n in zip(numbers, sizes, strict=True) for head in range(n)
        ]
        if self.rule == "weighed":
            return _strengths({layer: layers[layer].weights for layer in numbers})
        if self.by_discrimination:
            scores = _joined([layers[layer].discrimination for layer in numbers])
        else:
            scores = torch.cat([layers[layer].key_shift.float() for layer in numbers])
        kept = self._kept(scores, places)
        if not kept.any():
            name = "discrimination" if self.by_discrimination else "key shift"
            raise BankError(
                f"no head has a {name} of at least {self.number or 0.5:g}: they lie between "
                f"{scores.min():.3g} and {scores.max():.3g}; lower it, or use quantile:0.5"
            )
        weights = (2 * scores - 1).clamp(min=0) if self.rule == "smooth" else kept.float()
        return dict(zip(numbers, torch.split(weights, sizes), strict=True))

    def _kept(self, scores: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
        """Return which of the heads at `places` (layer, head) are edited: bool, one for each."""
        if self.rule == "only":
            if unknown := self.heads - set(places):
                names = ", ".join(f"{layer}.{head}" for layer, head in sorted(unknown))
                layers = sorted({layer for layer, _ in places})
                raise BankError(f"the bank has no head {names}: it has layers {layers}")
            return torch.tensor([place in self.heads for place in places])
        if self.rule == "top":
            order = scores.argsort(descending=True, stable=True)
            kept = torch.zeros(len(scores), dtype=torch.bool)
            kept[order[: int(self.number)]] = True
            return kept
        if self.rule == "quantile":
            return scores >= scores.quantile(self.number)
        if self.rule == "smooth":
            return scores > 0.5
        if self.rule == "all":
            return torch.ones(len(scores), dtype=torch.bool)
        return scores >= self.number


def default_heads(layers: Mapping[int, LayerSubspaces]) -> str:
    """Return the filter for banks of which nothing else is said.

    Of those compared in benchmarks/learning_study.py, the quarter that discriminates best and the
    half by key shift lie on the frontier of help and harm; the quarter edits half as many heads.
    """
    known = all(found.discrimination is not None for found in layers.values())
    return "discrimination:quantile:0.75" if known else "quantile:0.5"


def _joined(found: Sequence[Tensor | None]) -> Tensor:
    """Return the discriminations of all heads."""
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        raise BankError(
            "the bank does not say how heads discriminate: learn it again from triplets with the "
            "question behind the context, on a model whose attention can be read, or choose the "
            "heads by key shift, as quantile:0.5 does"
        )
    return torch.cat(known).float()


def _strengths(found: Mapping[int, Tensor | None]) -> dict[int, Tensor]:
    """Return the length of every head's weights, as a share of the greatest."""
    known = {layer: weights.norm(dim=-1) for layer, weights in found.items() if weights is not None}
    if len(known) < len(found):
        raise BankError(
            "the bank has no weights of its directions: let tune weigh them, or choose the heads "
            "otherwise, as quantile:0.5 does"
        )
    greatest = max(lengths.max() for lengths in known.values()).clamp(min=1e-30)
    return {layer: lengths / greatest for layer, lengths in known.items()}
