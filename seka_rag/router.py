"""What a forward pass says of the experts: one `Router` a batch, told layer after layer.

    B  rows      S  spans      T  tokens      H  KV heads      Q  query heads      M  experts

It puts together what `routing` computes with where prompts begin and end and which tokens belong to
which span. It neither hooks nor runs anything: who has seen a layer's queries and keys tells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seka_rag.architecture import KeySite
from seka_rag.discrimination import (
    affinity,
    blind,
    cached_scores,
    last_scores,
    rotated,
    span_attention,
    turns,
    visible,
)
from seka_rag.editing import EditPlan
from seka_rag.errors import UnsteerableError
from seka_rag.inputs import Batch
from seka_rag.routing import Edit, coefficients, evidence, focused


class Past(Protocol):
    """What is asked of a cache: layers, whose keys (R, H, t, D) are turned already."""

    @property
    def layers(self) -> Sequence[object]: ...


@dataclass(frozen=True)
class Observed:
    """What one layer made of a batch, before the rotary embedding.

    `queries` and `rotation` are there where the attention's own modules are known, else None.
    """

    keys: Tensor  # (B, T, H, D)
    queries: Tensor | None = None  # (B, T, heads, D)
    rotation: tuple[Tensor, Tensor] | None = None  # cos, sin (B or 1, T, D)


@dataclass(frozen=True)
class Routed:
    """What one layer's queries said."""

    coefficients: Tensor  # (B, S, H, M)
    odds: Tensor | None = None  # (B, S, M): log odds that the question is about the span
    affinity: Tensor | None = None  # (B, T, H), cached positions included

    def gates(self, row: int, span: int) -> Tensor:
        """Return how far the question is about a span, for each expert: (M,) in [0, 1], CPU."""
        if self.odds is None:
            return torch.ones(self.coefficients.shape[-1])
        return self.odds[row, span].detach().sigmoid().float().cpu()


class Router:
    """What every row's own query says of the experts, layer after layer, for one batch.

    `found` holds the layers seen so far. The first `start` positions are in the cache `past`.
    """

    def __init__(
        self, edit: Edit, batch: Batch, *, start: int = 0, past: Past | None = None
    ) -> None:
        self.found: dict[int, Routed] = {}
        self.rows = len(batch.kinds)
        self.spans = max(1, *map(len, batch.kinds))
        self._edit, self._batch, self._start, self._past = edit, batch, start, past
        self._evidence: Tensor | None = None
        self._places: dict[tuple[object, ...], _Place] = {}
        self._turned: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def see(self, site: KeySite, observed: Observed) -> None:
        """Take in one layer of a forward pass over the whole prompt: a layer that has a route."""
        route, keys = self._edit.routes[site.layer], observed.keys
        if observed.queries is None or observed.rotation is None:
            raise UnsteerableError(
                f"the queries of layer {site.layer} cannot be seen, and routing needs them: pass "
                "sites with their attention and query modules, or a single expert without a gate"
            )
        place = self._at(len(keys), keys.shape[1], site.window, keys.device)
        queries = observed.queries[place.rows, place.last]
        found = coefficients(queries, route, place.allowed, self._edit.score)
        if route.gate is None:
            self.found[site.layer] = Routed(found)
            return
        turned = self._turns(observed.rotation, place.last)
        scores = last_scores(queries, keys, turned=turned, scaling=site.scaling)
        if self._start:
            turned_queries = rotated(queries, observed.rotation, place.last)
            before = cached_scores(turned_queries, self._cached_keys(site), scaling=site.scaling)
            unseen = self._start - before.shape[-1]
            scores = torch.cat([blind(before, unseen), scores], dim=-1)
        if place.seen is not None:
            scores = scores.masked_fill(~place.seen.unsqueeze(1), -torch.inf)
        said = evidence(span_attention(scores, place.spans), route.gate)
        if self._evidence is not None:
            said = said + self._evidence.to(said.device)
        self._evidence = said
        odds = said + route.gate.bias
        asked = affinity(scores, place.seen, site.n_kv_heads)
        self.found[site.layer] = Routed(found, odds, asked)

    def odds(self) -> Tensor:
        """Return the log odds of every layer that has a gate, for the first expert: (L, B, S)."""
        every = [found.odds[..., 0] for found in self.found.values() if found.odds is not None]
        return torch.stack([odds.to(every[0].device) for odds in every])

    def factors(self, layer: int, plan: EditPlan, *, rows: int, start: int) -> Tensor:
        """Return by what the experts' columns are multiplied, (n, H, M), for a plan's tokens.

        The plan is one for positions from `start` of as many `rows`.
        """
        found, gate = self.found[layer], self._edit.routes[layer].gate
        copies = rows // len(found.coefficients)  # of each row that was seen
        own = plan.rows if copies == 1 else plan.rows // copies
        if gate is None or found.odds is None or found.affinity is None:
            return found.coefficients[own, plan.owners]
        gated = found.coefficients * found.odds.sigmoid().unsqueeze(2)
        asked = found.affinity[own, plan.columns + start if start else plan.columns]
        return gated[own, plan.owners] * focused(asked, gate)

    def _turns(self, rotation: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
        """Return the layer's `turns`, which those before it have computed if it turns as they."""
        cosines, found = self._turned.get(last.device, (None, None))
        if found is None or cosines is not rotation[0]:
            found = turns((rotation[0].to(last.device), rotation[1].to(last.device)), last)
            self._turned[last.device] = rotation[0], found
        return found

    def _cached_keys(self, site: KeySite) -> Tensor:
        """Return the keys (R, H, t, D) that stand before those of this pass, turned already.

        There may be fewer than `start`: a cache may keep no more than a window sees, or not all as
        they were.
        """
        layer = self._past.layers[site.layer] if self._past is not None else None
        keys = getattr(layer, "keys", None)
        if not isinstance(keys, Tensor):
            raise UnsteerableError(
                "the cache does not show its keys, and routing needs them: pass an empty cache"
            )
        return keys[:, :, : self._start]

    def _at(self, rows: int, length: int, window: int | None, device: torch.device) -> "_Place":
        """Return where things are for a layer's keys of so many rows and positions."""
        place = (rows, length, window, device)
        if place not in self._places:
            batch, serves = self._batch, self._edit.serves
            none = (False,) * len(next(iter(serves.values())))
            allowed = [
                [*(serves.get(kind, none) for kind in kinds), *[none] * (self.spans - len(kinds))]
                for kinds in batch.kinds
            ]
            whole = self._start + length
            owners = batch.owners[:, None, :whole]
            seen = visible(whole, batch.first, batch.last, window=window)
            copies = rows // len(batch.kinds)

            def placed(part: Tensor) -> Tensor:
                return part.repeat_interleave(copies, dim=0).to(device, non_blocking=True)

            self._places[place] = _Place(
                torch.arange(rows, device=device),
                placed(batch.last - self._start),
                placed((owners == torch.arange(self.spans)[:, None]).float()),
                placed(torch.tensor(allowed)),
                None if seen.all() else placed(seen),
            )
        return self._places[place]


@dataclass(frozen=True)
class _Place:
    """Where things are, for R rows: the model may see each of the batch's several, side by side."""

    rows: Tensor  # (R,)
    last: Tensor  # (R,): prompts' ends, among the positions of this pass
    spans: Tensor  # (R, S, start + T): 1 on a span's tokens
    allowed: Tensor  # bool (R, S, M): which experts may serve a span
    seen: Tensor | None  # bool (R, start + T): what the last token sees; all, if None
