"""Routing: how much each expert counts for a highlighted span, told by the prompt's own queries.

    B  rows      S  spans of a row      T  tokens      H  KV heads      Q  query heads
    D  head_dim  M  experts             K  directions that are asked

AdaSEKA (arXiv 2603.01281): with q the last prompt token's query, averaged over the query heads of a
KV head, an expert's alignment is Σ_k (q·u_k) s_k, and its coefficient the alignment
as a share of the largest. The span's kind says which experts may be used for it. The edit is then
multiplied by a gate: whether the question is about the span at all, told by how the last token's
attention falls on it in the layers so far; and by a focus: whether it asks for this very token.

Pure functions over plain data: nothing here knows of models, hooks or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from seka_rag.bank import KeyOperator
from seka_rag.editing import placed

Score = Literal["energy", "signed"]
Mode = Literal["inline", "two_pass"]


@dataclass(frozen=True, eq=False)
class Gate:
    """How one layer tells what the question is about, for M experts."""

    weights: Tensor  # (2Q, M): what the share counts, query head by query head; what its log does
    bias: Tensor  # (M,); infinite for an expert without a gate
    focus: Tensor  # (M, H, 2): what a token's affinity counts, and a constant

    def to(self, device: torch.device) -> "Gate":
        """Return the gate on `device`."""
        return Gate(*(part.to(device) for part in (self.weights, self.bias, self.focus)))


@dataclass(frozen=True, eq=False)
class Route:
    """What routing needs of one layer."""

    directions: Tensor  # (H, D, M·K): those of all experts side by side
    spectrum: Tensor  # (H, M·K, M): what each counts for its own expert, 0 for the others
    edited: Tensor  # bool (H, M): whether the expert edits the head
    gate: Gate | None

    @staticmethod
    def of(directions: Tensor, spectrum: Tensor, edited: Tensor, gate: Gate | None) -> "Route":
        """Return the route for directions (H, M, D, K) that count `spectrum` (H, M, K)."""
        own = torch.eye(directions.shape[1]).unsqueeze(1)  # (M, 1, M)
        return Route(
            directions.transpose(1, 2).flatten(2),
            (spectrum.unsqueeze(-1) * own).flatten(1, 2),
            edited,
            gate,
        )

    def to(self, device: torch.device) -> "Route":
        """Return the route on `device`."""
        return Route(
            self.directions.to(device),
            self.spectrum.to(device),
            self.edited.to(device),
            None if self.gate is None else self.gate.to(device),
        )


@dataclass(frozen=True, eq=False)
class Edit:
    """What is done to the keys of highlighted tokens, layer by layer.

    With `routes`, column c of an operator belongs to expert c // (columns / M), and `serves` says
    which experts may be used for a kind of span: {kind: M flags}.
    """

    operators: Mapping[int, KeyOperator]
    routes: Mapping[int, Route]
    serves: Mapping[str, Sequence[bool]]
    score: Score = "energy"

    def on(self, devices: Mapping[int, torch.device], dtype: torch.dtype | None = None) -> "Edit":
        """Return the edit with every layer's tensors on that layer's device.

        Operators in the `dtype` of the keys save every layer a conversion.
        """
        operators = {
            layer: placed(operator, devices[layer], dtype)
            for layer, operator in self.operators.items()
        }
        routes = {layer: route.to(devices[layer]) for layer, route in self.routes.items()}
        return replace(self, operators=operators, routes=routes)


def alignment(queries: Tensor, route: Route, score: Score) -> Tensor:
    """Return how queries (B, Q, D) lie with the experts' directions: (B, H, M).

    "signed" is the paper's Σ (q·u) s; "energy" is Σ (q·u)² s, which no sign can turn round. The
    length of q is left as it is: coefficients are shares, in which it cancels out.
    """
    B, _, D = queries.shape
    q = queries.view(B, len(route.directions), -1, D).mean(2, dtype=torch.float32)
    along = q.transpose(0, 1) @ route.directions  # (H, B, M·K)
    if score == "energy":
        along = along.square()
    return (along @ route.spectrum).transpose(0, 1)


def coefficients(queries: Tensor, route: Route, allowed: Tensor, score: Score) -> Tensor:
    """Return what every expert counts for a span: (B, S, H, M), in [-1, 1].

    `queries` are (B, Q, D), and `allowed` (B, S, M) says which experts may be used for a span. One
    alone has the coefficient 1, whatever its alignment. Where none of them edits the head, all are
    0 and the head stays as it is.
    """
    usable = allowed.unsqueeze(2) & route.edited
    if usable.shape[-1] == 1:
        return usable.float()
    return shares(alignment(queries, route, score).unsqueeze(1), usable, score)


def shares(aligned: Tensor, usable: Tensor, score: Score) -> Tensor:
    """Return alignments (…, M) as shares of a whole, among the experts that are `usable`.

    "signed" divides by the largest magnitude, as the paper does; energies are shares of their sum,
    so that two experts who agree do no more than one.
    """
    found = aligned * usable
    tiny = torch.finfo(found.dtype).tiny
    if score == "energy":
        return nn.functional.normalize(found, p=1.0, dim=-1, eps=tiny)  # alone: its own sum
    found = nn.functional.normalize(found, p=torch.inf, dim=-1, eps=tiny)
    alone = usable.sum(-1, keepdim=True) == 1
    return torch.where(alone, usable.to(found.dtype), found)


def evidence(attention: Tensor, gate: Gate) -> Tensor:
    """Return what one layer's attention says about the spans' relevance: (B, S, M), in nats.

    `attention` (B, Q, S) are shares of the last prompt token's. The sum over the layers so
    far and the layer's bias are the log odds that the question is about the span.
    """
    return torch.cat([attention, (attention + 1e-3).log() / 5], dim=1).mT @ gate.weights


def focused(affinity: Tensor, gate: Gate) -> Tensor:
    """Return by what a token's edit is multiplied, in [0, 2]: (n, H, M), for affinities (n, H)."""
    slope, constant = gate.focus[..., 0].T, gate.focus[..., 1].T  # (H, M)
    return 2 * torch.addcmul(constant, affinity.unsqueeze(-1), slope).sigmoid()
