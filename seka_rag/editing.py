"""The edit: k' = k + w·Pk for highlighted tokens, and the same k, bit for bit, for all the others.

    B  rows      S  spans      T  tokens      H  KV heads      D  head_dim      M  experts
    r  columns of the basis      n  edited tokens

P = U diag(c) Uᵀ, with a basis U (D, r) and a weight c per column for every KV head; w is the
token's gain. P is never formed. SEKA fixes the column weights when it learns; AdaSEKA puts the
columns of its experts side by side and multiplies each expert's by a coefficient of the prompt's.
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
    owners: Tensor  # (n,) int64: the number of the token's span in its row

    @staticmethod
    def from_gains(
        gains: Sequence[Sequence[float]],
        device: torch.device | str,
        owners: Sequence[Sequence[int]] | None = None,
    ) -> "EditPlan":
        """Return the plan for gains (B, T), with its tensors on `device`.

        `owners` (B, T) are the numbers of the spans; without them, a row has one.
        """
        every = torch.tensor(gains, dtype=torch.float32)
        rows, columns = every.nonzero(as_tuple=True)
        spans = torch.zeros_like(rows) if owners is None else torch.tensor(owners)[rows, columns]
        return EditPlan(*(part.to(device) for part in (rows, columns, every[rows, columns], spans)))

    def __len__(self) -> int:
        return self.weights.shape[0]


def placed(
    operator: KeyOperator, device: torch.device, dtype: torch.dtype | None = None
) -> KeyOperator:
    """Return the operator on `device`, in `dtype` if given: itself, where it is so already."""
    basis, weights = (part.to(device, dtype) for part in (operator.basis, operator.weights))
    if basis is operator.basis and weights is operator.weights:
        return operator
    return KeyOperator(basis, weights)


def edit_keys(
    keys: Tensor, operator: KeyOperator, plan: EditPlan, factors: Tensor | None = None
) -> Tensor:
    """Return keys (B, T, H, D) edited by the plan, in their own dtype.

    `factors` (n, H, M) multiply the columns of M experts, for every edited token.
    """
    operator = placed(operator, keys.device, keys.dtype)
    edited = keys[plan.rows, plan.columns].transpose(0, 1)  # (H, n, D)
    parts = (edited @ operator.basis) * operator.weights[:, None, :]  # (H, n, r)
    if factors is not None:
        each = factors.transpose(0, 1).to(keys.dtype)  # (H, n, M)
        parts = (parts.view(*each.shape, -1) * each[..., None]).flatten(-2)
    shift = (parts @ operator.basis.mT) * plan.weights[:, None].to(keys.dtype)
    return keys.index_put((plan.rows, plan.columns), (edited + shift).transpose(0, 1))
