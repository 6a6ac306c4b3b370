"""Hooks at the key sites: `recording` and `observing` look on, `editing` changes a prompt's keys.

    B  rows      T  positions of the prompt, padding included      H  KV heads      D  head_dim

Keys are cached, so an edit happens once, while the prompt is computed. Each hook counts the
positions that have gone by from the lengths of the keys themselves, in one forward pass or in many,
and removes itself after the last one: decoding runs the plain model. Attention modules make their
queries before their keys, so a `Router` knows what a layer's queries say when its keys are edited.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seka_rag.architecture import KeySite
from seka_rag.bank import KeyOperator
from seka_rag.editing import EditPlan, edit_keys
from seka_rag.errors import UnsteerableError
from seka_rag.router import Observed, Router

# Keys that are returned take the place of those that were seen.
_Visit: TypeAlias = Callable[[KeySite, Observed], Tensor | None]


@contextmanager
def recording(sites: Sequence[KeySite]) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that holds the keys (B, T, H, D) of the latest forward pass, by layer."""
    keys: dict[int, Tensor] = {}

    def keep(site: KeySite, observed: Observed) -> None:
        keys[site.layer] = observed.keys

    with observing(sites, keep):
        yield keys


@contextmanager
def observing(
    sites: Sequence[KeySite],
    visit: Callable[[KeySite, Observed], None],
    *,
    until: int | None = None,
) -> Iterator[None]:
    """Call `visit` for every site as the model computes it, one layer at a time.

    The forward pass is broken off after the layer `until`, if given: what stands behind the call of
    the model in the context is not run, and no error leaves it.
    """

    def look(site: KeySite, observed: Observed) -> None:
        queries = None if observed.queries is None else observed.queries.detach()
        visit(site, Observed(observed.keys.detach(), queries, observed.rotation))
        if site.layer == until:
            raise _Enough

    try:
        with _armed([_LayerHooks(site, look, asks=True) for site in sites]):
            yield
    except _Enough:
        pass


class _Enough(Exception):
    """Ends a forward pass of which nothing more is wanted."""


@contextmanager
def _armed(hooks: Sequence["_LayerHooks"]) -> Iterator[None]:
    try:
        for each in hooks:
            each.arm()
        yield
    finally:
        for each in hooks:
            each.disarm()


class _LayerHooks:
    """The hooks of one layer: at its keys, and at its queries and rotation if it `asks`."""

    def __init__(self, site: KeySite, visit: _Visit, *, asks: bool) -> None:
        self.site = site
        self._visit = visit
        self._asks = asks and site.attention is not None and site.query is not None
        self._queries: Tensor | None = None
        self._rotation: tuple[Tensor, Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    def arm(self) -> None:
        site = self.site
        if self._asks:
            assert site.attention is not None
            assert site.query is not None
            self._handles += [
                site.attention.register_forward_pre_hook(self._see_rotation, with_kwargs=True),
                site.query.register_forward_hook(self._see_queries),
            ]
        self._handles.append(site.module.register_forward_hook(self._see_keys))

    def disarm(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _see_rotation(
        self, module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]
    ) -> None:
        found = named.get("position_embeddings")
        self._rotation = found if isinstance(found, tuple) else None

    def _see_queries(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._queries = self.site.queries_of(output)

    def _see_keys(
        self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        keys = self.site.keys_of(output)
        queries, self._queries = self._queries, None
        new = self._visit(self.site, Observed(keys, queries, self._rotation))
        return None if new is None else self.site.output_of(new)


@contextmanager
def editing(
    sites: Sequence[KeySite],
    operators: Mapping[int, KeyOperator],
    gains: Tensor,
    *,
    start: int = 0,
    owners: Tensor | None = None,
    router: Router | None = None,
) -> Iterator[None]:
    """Edit the keys of one prompt, with gains (B, T), while it is computed.

    The first `start` positions are in the cache already. The model may see every row several times,
    side by side, as beams and several return sequences do. With a `router`, `owners` (B, T) say to
    which span a token belongs; a layer that the router has not seen yet is routed here, from this
    very pass, which must then hold the whole prompt. Leaving the context before every layer that
    has an operator has seen the whole prompt is an UnsteerableError.
    """
    prompt = _Prompt(gains, owners)
    editors = [
        _Editor(site, operators[site.layer], prompt, start, router)
        for site in sites
        if site.layer in operators
    ]
    if not editors:
        raise UnsteerableError("no key site has an operator: the bank has none of these layers")
    with _armed([editor.hooks for editor in editors]):
        yield
    missed = [editor.site.layer for editor in editors if editor.seen < prompt.length]
    if missed:
        raise UnsteerableError(
            f"layers {missed} have not seen the whole prompt, so the highlights were not applied: "
            "the model was called in a way that passes its modules by; use the plain model"
        )


class _Prompt:
    """The gains of one prompt, as plans that all layers share."""

    def __init__(self, gains: Tensor, owners: Tensor | None) -> None:
        self.gains = gains
        self.owners = torch.zeros_like(gains, dtype=torch.int64) if owners is None else owners
        self.length = gains.shape[1]
        self._plans: dict[tuple[object, ...], EditPlan] = {}

    def plan(self, keys: Tensor, start: int) -> EditPlan:
        """Return the plan for keys of the positions from `start`, which the plan counts from 0."""
        rows, end = keys.shape[0], start + keys.shape[1]
        if rows % len(self.gains):
            raise UnsteerableError(
                f"the model computes {rows} rows for a batch of {len(self.gains)} prompts: "
                "pass the prompts to generate_batch, and nothing that regroups them"
            )
        place = (rows, start, end, keys.device, keys.dtype)
        if place not in self._plans:
            gains, owners = (
                part[:, start:end].repeat_interleave(rows // len(self.gains), dim=0)
                for part in (self.gains, self.owners)
            )
            self._plans[place] = EditPlan.from_gains(gains, keys.device, owners, dtype=keys.dtype)
        return self._plans[place]


class _Editor:
    """The edit of one layer."""

    def __init__(
        self,
        site: KeySite,
        operator: KeyOperator,
        prompt: _Prompt,
        start: int,
        router: Router | None,
    ) -> None:
        self.site = site
        self.operator = operator
        self.prompt = prompt
        self.seen = start
        self.router = router
        inline = router is not None and site.layer not in router.found
        self.hooks = _LayerHooks(site, self._edit, asks=inline)

    def _edit(self, site: KeySite, observed: Observed) -> Tensor | None:
        keys, start = observed.keys, self.seen
        self.seen += keys.shape[1]
        if self.seen >= self.prompt.length:
            self.hooks.disarm()
        plan = self.prompt.plan(keys, start)
        if self.router is not None and site.layer not in self.router.found:
            if self.seen < self.prompt.length:
                raise UnsteerableError(
                    "the prompt is computed in parts, and its last token is not in the first of "
                    'them: use routing="two_pass"'
                )
            self.router.see(site, observed)
        if len(plan) == 0:
            return None
        factors = None
        if self.router is not None:
            factors = self.router.factors(site.layer, plan, rows=len(keys), start=start)
        return edit_keys(keys, self.operator, plan, factors)
