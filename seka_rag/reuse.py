"""Reuse: keys and values of prompts' beginnings, for prompts that begin the same.

    H  KV heads      n  tokens      D  head_dim

Two prompts begin the same as long as their tokens and the gains of these are equal: another gain is
another prefix. Rows with prefixes of several lengths are laid out flush right, so that each has as
many tokens left to compute as the one with the most.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from seka_rag.decoding import layers_of, parts_of
from seka_rag.inputs import Row

LEAST = 64  # tokens: below, putting a prefix in place costs what it saves


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first tokens of a prompt under some experts, computed."""

    tokens: tuple[tuple[int, float], ...]  # ids and gains
    experts: str
    parts: tuple[tuple[Tensor, Tensor], ...]  # of each layer: keys and values (H, n, D)

    def shared(self, row: Row) -> int:
        """Return how many tokens the row begins with that are here; one is always left over."""
        pairs = zip(self.tokens, zip(row.ids[:-1], row.gains, strict=False), strict=False)
        return next((i for i, (own, new) in enumerate(pairs) if own != new), self._most(row))

    def _most(self, row: Row) -> int:
        return min(len(self.tokens), len(row.ids) - 1)


def prefix_of(cache: DynamicCache, number: int, row: Row, n: int, experts: str) -> Prefix:
    """Return the first n tokens of a row that stands flush right in a cache, `number`-th there."""
    parts = []
    for layer in layers_of(cache):
        keys, values = parts_of(layer)
        start = keys.shape[2] - len(row.ids)
        used = slice(start, start + n)
        parts.append((keys[number, :, used].clone(), values[number, :, used].clone()))
    return Prefix(tuple(zip(row.ids[:n], row.gains, strict=False)), experts, tuple(parts))


def laid_out(
    found: Sequence[tuple[Prefix, int]], lengths: Sequence[int]
) -> tuple[DynamicCache, int]:
    """Return a cache that holds rows' prefixes flush right, and how many columns it has.

    `found` has a prefix and its tokens in use for every row; `lengths` are those of the whole rows.
    """
    left = max(length - n for (_, n), length in zip(found, lengths, strict=True))
    columns = max(lengths) - left
    cache = DynamicCache()

    def row(part: Tensor, length: int) -> Tensor:
        used = max(0, length - left)
        return nn.functional.pad(part[:, :used], (0, 0, columns - used, 0))

    for number in range(len(found[0][0].parts)):
        keys, values = (
            torch.stack(
                [
                    row(prefix.parts[number][which], length)
                    for (prefix, _), length in zip(found, lengths, strict=True)
                ]
            )
            for which in (0, 1)
        )
        cache.update(keys, values, number)
    return cache, columns


class Prefixes:
    """The prefixes that are kept: of the latest prompts, up to so many tokens together."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._kept: list[Prefix] = []  # the latest last

    def find(self, row: Row, experts: str) -> tuple[Prefix, int] | None:
        """Return the prefix of which the row can use most, and how many tokens of it."""
        shared = [(each.shared(row), each) for each in self._kept if each.experts == experts]
        n, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        if best is None or n < max(LEAST, len(row.ids) // 2):
            return None
        self._kept.remove(best)
        self._kept.append(best)
        return best, n

    def wants(self, row: Row, n: int, experts: str) -> bool:
        """Return whether the row's first n tokens are worth keeping, and not there already."""
        return LEAST <= n <= self._max_tokens and not any(
            each.shared(row) >= n for each in self._kept if each.experts == experts
        )

    def add(self, prefix: Prefix) -> None:
        """Keep a prefix; what it begins with, and the oldest if there is no room, are let go."""
        n = len(prefix.tokens)
        self._kept = [
            each
            for each in self._kept
            if each.experts != prefix.experts or each.tokens != prefix.tokens[: len(each.tokens)]
        ]
        while self._kept and n + sum(len(each.tokens) for each in self._kept) > self._max_tokens:
            self._kept.pop(0)
        self._kept.append(prefix)
