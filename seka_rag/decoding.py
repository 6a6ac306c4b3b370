"""Decoding: rows that are continued side by side, with the keys and values of all their tokens.

    B  rows      T  columns of the cache: the tokens of the longest row      V  vocabulary

Rows of different lengths stand flush right: what is left of a shorter one is masked. So rows can
join while others are being continued, and leave without holding them; columns that no row needs
any more go with them. Steering is over when a row gets here: nothing here knows of highlights.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, StaticLayer

from seka_rag.forward import last_only


class Lane:
    """Rows that grow by one token at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache()
        self._lengths: list[int] = []
        self._options = last_only(model)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._lengths)

    @property
    def columns(self) -> int:
        """How many columns the cache has."""
        return max(self._lengths, default=0)

    def start(self, cache: DynamicCache, lengths: Sequence[int]) -> None:
        """Begin with rows of so many tokens, whose keys and values are in `cache`, flush right.

        The cache is the lane's from now on.
        """
        self._cache, self._lengths = cache, list(lengths)

    def absorb(self, other: "Lane") -> None:
        """Let the rows of another lane join, behind those that are here."""
        joined = [*self._lengths, *other._lengths]
        if self._lengths and other._lengths:
            for own, new in zip(layers_of(self._cache), layers_of(other._cache), strict=True):
                own.keys, own.values = (
                    torch.cat([_as_wide(part, max(joined)) for part in parts])
                    for parts in zip(parts_of(own), parts_of(new), strict=True)
                )
        elif other._lengths:
            self._cache = other._cache
        self._lengths = joined

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these, which are numbered as they are now."""
        if len(rows) == self.rows:
            return
        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._cache = DynamicCache()
            return
        for layer in layers_of(self._cache):
            layer.keys, layer.values = (
                part[list(rows), :, -self.columns :] for part in parts_of(layer)
            )

    @torch.no_grad()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits (B, V) that follow, now that every row goes on with its token."""
        device = self._model.device
        lengths = torch.tensor(self._lengths, device=device).unsqueeze(1)
        columns = self.columns + 1
        mask = torch.arange(columns, device=device) >= columns - 1 - lengths
        logits: Tensor = self._model(
            input_ids=torch.tensor(token_ids, device=device).unsqueeze(1),
            attention_mask=mask.long(),
            position_ids=lengths,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        ).logits
        self._lengths = [length + 1 for length in self._lengths]
        return logits[:, -1].float()


def layers_of(cache: DynamicCache) -> list[DynamicLayer]:
    """Return the layers of a cache that was made without a config: there are no others in it."""
    return cast(list[DynamicLayer], cache.layers)


def parts_of(layer: DynamicLayer | StaticLayer) -> tuple[Tensor, Tensor]:
    """Return the keys and values (B, H, T, D) of a layer that has some."""
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


def _as_wide(part: Tensor, width: int) -> Tensor:
    """Return keys or values (B, H, T, D) with columns on the left that nobody looks at."""
    return nn.functional.pad(part, (0, 0, width - part.shape[2], 0))
