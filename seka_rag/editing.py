"""The edit: k' = k + w·Pk for highlighted tokens, and the same k, bit for bit, for all the others.

    B  rows      T  tokens      H  KV heads      D  head_dim      r  columns of the basis      n
    edited tokens

P = U diag(c) Uᵀ, with a basis U (D, r) and a weight c per column for every KV head; w is the
token's gain. P is never formed. SEKA fixes the column weights when it learns; routing between
experts would set them for every prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seka_rag.bank import KeyOperator


@dataclass(frozen=True)
class EditPlan:
    """Which tokens are edited, and how much. Made once, so that no layer waits for the device."""

    rows: Tensor  # (n,) int64
    columns: Tensor  # (n,) int64
    weights: Tensor  # (n,) float32

    @staticmethod
    def from_gains(gains: Sequence[Sequence[float]], device: torch.device | str) -> "EditPlan":
        """Return the plan for gains (B, T), with its tensors on `device`."""
        edited = [
            (row, column, gain)
            for row, row_gains in enumerate(gains)
            for column, gain in enumerate(row_gains)
            if gain != 0
        ]
        rows, columns, weights = zip(*edited, strict=True) if edited else ((), (), ())
        return EditPlan(
            torch.tensor(rows, dtype=torch.long, device=device),
            torch.tensor(columns, dtype=torch.long, device=device),
            torch.tensor(weights, dtype=torch.float32, device=device),
        )

    def __len__(self) -> int:
        return self.weights.shape[0]


def placed(operator: KeyOperator, device: torch.device) -> KeyOperator:
    """Return the operator on `device`: itself, where it is there already."""
    if operator.basis.device == device:
        return operator
    return KeyOperator(operator.basis.to(device), operator.weights.to(device))


def edit_keys(keys: Tensor, operator: KeyOperator, plan: EditPlan) -> Tensor:
    """Return keys (B, T, H, D) edited by the plan, in their own dtype; computed in float32."""
    edited = keys[plan.rows, plan.columns].transpose(0, 1)  # (H, n, D)
    edited = edited.to(operator.basis.dtype)
    parts = (edited @ operator.basis) * operator.weights[:, None, :]  # (H, n, r)
    shift = (parts @ operator.basis.mT) * plan.weights[:, None]
    new = (edited + shift).transpose(0, 1).to(keys.dtype)
    return keys.index_put((plan.rows, plan.columns), new)
