"""Hooks at the key sites: `recording` and `observing` look on, `editing` changes a prompt's keys.

    B  rows      T  positions of the prompt, padding included      H  KV heads      D  head_dim

Keys are cached, so an edit happens once, while the prompt is computed. Each hook counts the
positions that have gone by from the lengths of the keys themselves, in one forward pass or in many,
and removes itself after the last one: decoding runs the plain model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seka_rag.architecture import KeySite
from seka_rag.bank import KeyOperator
from seka_rag.editing import EditPlan, edit_keys, placed
from seka_rag.errors import UnsteerableError

_Hook: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True)
class Observed:
    """What one layer made of a batch, before the rotary embedding.

    `queries` and `rotation` are there where the attention's own modules are known, else None.
    """

    keys: Tensor  # (B, T, H, D)
    queries: Tensor | None = None  # (B, T, heads, D)
    rotation: tuple[Tensor, Tensor] | None = None  # cos, sin (B or 1, T, D)


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
    observers = [_Observer(site, visit, last=site.layer == until) for site in sites]
    try:
        for observer in observers:
            observer.arm()
        yield
    except _Enough:
        pass
    finally:
        for observer in observers:
            observer.disarm()


class _Enough(Exception):
    """Ends a forward pass of which nothing more is wanted."""


class _Observer:
    """The hooks of one layer that is looked at."""

    def __init__(
        self, site: KeySite, visit: Callable[[KeySite, Observed], None], *, last: bool
    ) -> None:
        self.site = site
        self.visit = visit
        self.last = last
        self._queries: Tensor | None = None
        self._rotation: tuple[Tensor, Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    def arm(self) -> None:
        site = self.site
        if site.attention is not None and site.query is not None:
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
        self._queries = self.site.queries_of(output).detach()

    def _see_keys(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Attention modules make their queries before their keys.
        keys = self.site.keys_of(output).detach()
        queries, self._queries = self._queries, None
        self.visit(self.site, Observed(keys, queries, self._rotation))
        if self.last:
            raise _Enough


@contextmanager
def editing(
    sites: Sequence[KeySite],
    operators: Mapping[int, KeyOperator],
    gains: Sequence[Sequence[float]],
    *,
    start: int = 0,
) -> Iterator[None]:
    """Edit the keys of one prompt, with gains (B, T), while it is computed.

    The first `start` positions are in the cache already. The model may see every row several times,
    side by side, as beams and several return sequences do. Leaving the context before every layer
    that has an operator has seen the whole prompt is an UnsteerableError.
    """
    prompt = _Prompt(gains)
    editors = [
        _Editor(site, operators[site.layer], prompt, start)
        for site in sites
        if site.layer in operators
    ]
    if not editors:
        raise UnsteerableError("no key site has an operator: the bank has none of these layers")
    try:
        for editor in editors:
            editor.arm()
        yield
    finally:
        for editor in editors:
            editor.disarm()
    missed = [editor.site.layer for editor in editors if editor.seen < prompt.length]
    if missed:
        raise UnsteerableError(
            f"layers {missed} have not seen the whole prompt, so the highlights were not applied: "
            "the model was called in a way that passes its modules by; use the plain model"
        )


class _Prompt:
    """The gains of one prompt, as plans that all layers share."""

    def __init__(self, gains: Sequence[Sequence[float]]) -> None:
        self.gains = gains
        self.length = len(gains[0])
        self._plans: dict[tuple[object, ...], EditPlan] = {}

    def plan(self, rows: int, start: int, end: int, device: torch.device) -> EditPlan:
        """Return the plan for the positions [start, end), which a forward pass counts from 0."""
        if rows % len(self.gains):
            raise UnsteerableError(
                f"the model computes {rows} rows for a batch of {len(self.gains)} prompts: "
                "pass the prompts to generate_batch, and nothing that regroups them"
            )
        place = (rows, start, end, device)
        if place not in self._plans:
            copies = rows // len(self.gains)
            gains = [row[start:end] for row in self.gains for _ in range(copies)]
            self._plans[place] = EditPlan.from_gains(gains, device)
        return self._plans[place]


class _Editor:
    """The hook of one layer."""

    def __init__(self, site: KeySite, operator: KeyOperator, prompt: _Prompt, start: int) -> None:
        self.site = site
        self.operator = operator
        self.prompt = prompt
        self.seen = start
        self._handle: RemovableHandle | None = None

    def arm(self) -> None:
        self._handle = self.site.module.register_forward_hook(self._edit)

    def disarm(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _edit(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = self.site.keys_of(output)
        start = self.seen
        self.seen += keys.shape[1]
        if self.seen >= self.prompt.length:
            self.disarm()
        plan = self.prompt.plan(keys.shape[0], start, self.seen, keys.device)
        if len(plan) == 0:
            return output
        operator = placed(self.operator, keys.device)
        return self.site.output_of(edit_keys(keys, operator, plan))
