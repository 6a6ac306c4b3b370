"""Attention that is changed from outside: a number is added to the logits of some of its keys.

    B  rows      Q  query heads      T  queries      S  columns: the keys that are there so far

The columns of a batch are those of its rows, padded on the left, and behind them one for every
token with which the rows were continued. Hooks put the bias into the mask that an attention module
is given, so that SDPA and eager attention apply it themselves; others are refused. The causal,
padding and sliding masks that are there stay in force.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.architecture import KeySite
from seka_rag.errors import UnsteerableError
from seka_rag.inputs import Row
from seka_rag.modes import check_uncompiled
from seka_rag.steering import SteeredModel

# What is added in a layer, (B or 1, Q or 1, T or 1, S); -inf hides a key.
Bias = Callable[[KeySite, int], Tensor]


def highlighted(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Return which columns (B, S) are highlighted, before any row is continued."""
    longest = max(len(row.ids) for row in rows)
    return torch.tensor(
        [[False] * (longest - len(row.ids)) + [gain != 0 for gain in row.gains] for row in rows],
        device=device,
    )


def widened(columns: Tensor, width: int) -> Tensor:
    """Return the columns (B, `width`), of which none that was added is highlighted."""
    return nn.functional.pad(columns, (0, width - columns.shape[1]))


def check_attention(model: SteeredModel, *kinds: str) -> None:
    """Raise UnsteerableError where the attention is of another kind, or cannot be hooked."""
    check_uncompiled(model.model)
    for site in model.sites:
        kind = getattr(getattr(site.attention, "config", None), "_attn_implementation", None)
        if kind not in kinds or not site.n_query_heads:
            raise UnsteerableError(
                f"the attention of layer {site.layer} is {kind or 'unknown'}, and its logits must "
                f"be changed: load the model with attn_implementation={kinds[0]!r}"
            )


@contextmanager
def biased(sites: Sequence[KeySite], bias: Bias) -> Iterator[None]:
    """Add `bias` to the attention logits of these sites' layers in every pass of this context."""
    passed = dict.fromkeys((site.layer for site in sites), 0)
    with ExitStack() as stack:
        for site in sites:
            assert site.attention is not None
            hook = _Adder(site, bias, passed)
            stack.callback(site.attention.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield
    check_passed(passed)


def check_passed(passed: dict[int, int]) -> None:
    """Raise UnsteerableError where a layer was computed less often than another, or never."""
    missed = [layer for layer, times in passed.items() if times < max(1, *passed.values())]
    if missed:
        raise UnsteerableError(
            f"the attention of layers {missed} was passed by, so the highlights were not applied: "
            "use the plain model"
        )


class _Adder:
    """The hook of one layer."""

    def __init__(self, site: KeySite, bias: Bias, passed: dict[int, int]) -> None:
        self._site, self._bias, self._passed = site, bias, passed

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden: Tensor = named["hidden_states"] if "hidden_states" in named else inputs[0]
        mask: Tensor | None = named["attention_mask"]
        if mask is None:
            past = named.get("past_key_values")
            seen = 0 if past is None else int(past.get_seq_length(self._site.layer))
            mask = causal(hidden.shape[1], seen + hidden.shape[1], hidden.device)
        bias = self._bias(self._site, mask.shape[-1]).to(hidden.dtype)
        self._passed[self._site.layer] += 1
        return inputs, {**named, "attention_mask": added(mask, bias)}


def causal(queries: int, columns: int, device: torch.device) -> Tensor:
    """Return which columns (1, 1, T, S) the last queries see, where nothing else is hidden."""
    shape = torch.ones(queries, columns, dtype=torch.bool, device=device)
    return shape.tril(columns - queries)[None, None]


def added(mask: Tensor, bias: Tensor) -> Tensor:
    """Return `mask`, of numbers to add or of what is seen, with `bias` added to what is seen."""
    lowest = torch.finfo(bias.dtype).min
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, lowest)
    # Rows of padding see nothing: with -inf they would be no numbers, which others then attend to.
    return (mask.to(bias.dtype) + bias).clamp(min=lowest)
