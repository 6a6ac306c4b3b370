"""Edits that ask nobody: k' = k + g·U diag(w) Uᵀ k, with a gain g for every token of a step.

    T  tokens of a step      H  KV heads on this device      D  head_dim      r  columns

The gains stand in one buffer that all layers read. It stays where it is, so that compiled code and
CUDA graphs, which hold the edit, find each step's gains there. Tokens of gain 0 keep their keys bit
for bit.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from seka_rag.routing import Edit
from torch import Tensor, nn

from vllm_seka.sites import Site, by_head, on_heads
from vllm_seka.steps import Row, Steps

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


class StaticSteering:
    """The edit of a model's layers, and the gains of the step that is computed."""

    def __init__(
        self,
        sites: Iterable[Site],
        edit: Edit,
        *,
        n_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._steps = Steps()
        self._gains = torch.zeros(n_tokens, dtype=dtype, device=device)
        self.is_blank = True  # whether no gain is set
        for site in sites:
            operator = edit.operators.get(site.layer)
            if operator is None or not operator.weights[site.heads].any():
                continue
            basis, back = (
                on_heads(part, site.heads, device, dtype)
                for part in (operator.basis, operator.back)
            )
            site.put(StaticKeys, basis, back, self._gains, self)

    def begin(self, ordered: "SchedulerOutput") -> None:
        """Take in what the scheduler orders."""
        self._steps.begin(ordered)

    def place(self, rows: Iterable[Row]) -> None:
        """Put the gains of a step's tokens into the buffer."""
        found = self._steps.place(rows)
        if not self.is_blank:
            self._gains.zero_()
            self.is_blank = True
        if not found:
            return
        end = max(row.offset + row.count for row, _ in found)
        gains = np.zeros(end, dtype=np.float32)
        for row, highlights in found:
            own = highlights.gains[row.position : row.position + row.count]
            gains[row.offset : row.offset + len(own)] = own
        new = torch.from_numpy(gains).to(self._gains.dtype)
        if self._gains.is_cuda:
            # PyTorch keeps pinned memory from other uses until the copy out of it is done.
            new = new.pin_memory()
        self._gains[:end].copy_(new, non_blocking=True)
        self.is_blank = False

    def end(self) -> None:
        """Raise SteeringLostError unless the step was steered as ordered."""
        self._steps.end()

    def abandon(self) -> None:
        """Forget the step."""
        self._steps.abandon()


class StaticKeys(nn.Module):
    """A rotary embedding before which the keys of highlighted tokens are edited."""

    basis: Tensor  # (H, D, r)
    back: Tensor  # (H, r, D)
    gains: Tensor  # (most tokens of a step,)

    def __init__(
        self,
        inner: nn.Module,
        basis: Tensor,
        back: Tensor,
        gains: Tensor,
        steering: StaticSteering,
    ) -> None:
        super().__init__()
        self.inner = inner
        self._steering = steering
        for name, part in (("basis", basis), ("back", back), ("gains", gains)):
            self.register_buffer(name, part, persistent=False)

    def forward(self, positions: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        turned: tuple[Tensor, Tensor]
        if not _is_recorded(keys) and self._steering.is_blank:
            turned = self.inner(positions, queries, keys)
            return turned
        gains = self.gains[: keys.shape[0]].view(-1, 1, 1)
        heads = by_head(keys, self.basis.shape[1])
        new = edited(heads, gains, self.basis, self.back)
        turned = self.inner(positions, queries, new.flatten(1))
        return turned


def _is_recorded(keys: Tensor) -> bool:
    """Return whether what is done now is done again later, to other gains: it must edit them."""
    if torch.compiler.is_compiling():
        return True
    return keys.is_cuda and torch.cuda.is_current_stream_capturing()


def edited(keys: Tensor, gains: Tensor, basis: Tensor, back: Tensor) -> Tensor:
    """Return keys (T, H, D) edited with gains (T, 1, 1)."""
    each = keys.transpose(0, 1)  # (H, T, D)
    parts = torch.bmm(each, basis) * gains.transpose(0, 1)
    new = torch.baddbmm(each, parts, back).transpose(0, 1)
    return torch.where(gains != 0, new, keys)
