"""Compiled decoding: the rows of a lane in buffers of fixed sizes, for which code is compiled once.

    B  slots for rows      L  columns of a buffer

A step is compiled once for a pair (B, L), rounded up to powers of two, L also to three quarters of
them; the buffers of a pair are kept, as recorded CUDA graphs point into them. Rows are copied into
buffers when some join, when half of the slots are free, and when the columns are used up. Prompts
are not computed here, so what is compiled never has a hook.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import StaticLayer
from transformers.masking_utils import create_masks_for_generate

from seka_rag.decoding import Lane, layers_of, parts_of

_ROOM = 256  # columns that are free when rows are copied: as many tokens until the next copy
_SHAPES = 64  # pairs for which code is compiled
_BUFFERS = 4  # pairs that are kept


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model's forward, compiled for one shape after another."""
    return torch.compile(forward, mode="reduce-overhead", dynamic=False)


class CompiledLane(Lane):
    """Rows that grow by one token at a time, in compiled steps."""

    def __init__(
        self,
        model: PreTrainedModel,
        compile: Callable[[Callable[..., Any]], Callable[..., Any]] = compiled,
    ) -> None:
        super().__init__(model)
        self._forward = compile(model.forward)
        self._buffers: OrderedDict[tuple[int, int], Cache] = OrderedDict()
        self._shape = (0, 0)  # of the buffers in use
        self._slots: list[int] = []  # of the rows, in their order
        self._end = 0  # columns in use

    def absorb(self, other: Lane) -> None:
        """Let the rows of another lane join, behind those that are here."""
        self._unload()
        super().absorb(other)
        self._load()

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these, which are numbered as they are now."""
        if rows and _rounded(len(rows)) == self._shape[0]:
            self._slots = [self._slots[row] for row in rows]
            self._lengths = [self._lengths[row] for row in rows]
        elif len(rows) < self.rows:
            self._unload()
            super().keep(rows)
            self._load()

    @torch.no_grad()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Return the logits (B, V) that follow, now that every row goes on with its token."""
        if self._end == self._shape[1]:
            self._unload()
            self._load()
        tokens, lengths = (self._in_slots(values) for values in (token_ids, self._lengths))
        place = torch.arange(self._end + 1, device=tokens.device)
        seen = (place >= self._end - lengths).long()
        model, cache = self._model, self._buffers[self._shape]
        masks = create_masks_for_generate(
            config=model.config,
            inputs_embeds=torch.empty((*tokens.shape, 1), dtype=model.dtype, device=tokens.device),
            attention_mask=seen,
            past_key_values=cache,
            position_ids=lengths,
        )
        if tokens.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # By default a ninth shape would be computed without the compiler, and nobody told.
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            logits: Tensor = self._forward(
                input_ids=tokens,
                attention_mask=masks,
                position_ids=lengths,
                past_key_values=cache,
                use_cache=True,
                **self._options,
            ).logits
        self._lengths = [length + 1 for length in self._lengths]
        self._end += 1
        return logits[self._slots, -1].float()  # a copy: the next step writes over its output

    def _in_slots(self, values: Sequence[int]) -> Tensor:
        """Return one number for every slot, 0 where it is free: (B, 1)."""
        every = [0] * self._shape[0]
        for slot, value in zip(self._slots, values, strict=True):
            every[slot] = value
        return torch.tensor(every, device=self._model.device).unsqueeze(1)

    def _unload(self) -> None:
        """Move the rows out of the buffers."""
        self._cache = DynamicCache()
        if not self.rows:
            return
        kept = slice(self._end - self.columns, self._end)
        for number, layer in enumerate(_static(self._buffers[self._shape])):
            keys, values = (part[self._slots, :, kept] for part in parts_of(layer))
            self._cache.update(keys, values, number)

    def _load(self) -> None:
        """Move the rows into buffers that have room for more columns."""
        self._slots = list(range(self.rows))
        self._end = self.columns
        if not self.rows:
            return
        self._shape = _rounded(self.rows), _rounded_columns(self.columns + _ROOM)
        found = layers_of(self._cache)
        cache = self._buffers.pop(self._shape, None)
        if cache is None:
            cache = Cache(layers=[StaticLayer(self._shape[1]) for _ in found])
            while len(self._buffers) >= _BUFFERS:
                self._buffers.popitem(last=False)
        self._buffers[self._shape] = cache
        for own, new in zip(_static(cache), found, strict=True):
            if not own.is_initialized:
                like = (part[:1].expand(self._shape[0], -1, -1, -1) for part in parts_of(new))
                own.lazy_initialization(*like)
            for buffer, part in zip(parts_of(own), parts_of(new), strict=True):
                buffer[: self.rows, :, : self._end] = part
            own.cumulative_length.fill_(self._end)
        self._cache = DynamicCache()


def _static(cache: Cache) -> list[StaticLayer]:
    return cast(list[StaticLayer], cache.layers)


def _rounded(n: int) -> int:
    """Return the least power of two that is not less than n."""
    return 1 << (n - 1).bit_length()


def _rounded_columns(n: int) -> int:
    """Return the least power of two, or three quarters of one, that is not less than n."""
    power = _rounded(n)
    return 3 * power // 4 if n <= 3 * power // 4 else power
