"""The edit: k' = k + w·Pk for highlighted tokens, and the same k, bit for bit, for all the others.

    B  rows      S  spans      T  tokens      H  KV heads      D  head_dim      M  experts
    r  columns of the basis      n  edited tokens

P = U diag(c) Uᵀ, with a basis U (D, r) and a weight c per column for every KV head; w is the
token's gain. P is never formed. SEKA fixes the column weights when it learns; AdaSEKA puts the
columns of its experts side by side and multiplies each expert's by a coefficient of the prompt's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from seka_rag.bank import KeyOperator


@dataclass(frozen=True)
class EditPlan:
    """Which tokens are edited, and how much. Made once, so that no layer waits for the device."""

    rows: Tensor  # (n,) int64
    columns: Tensor  # (n,) int64
    tokens: Tensor  # (n,) int64: rows and columns in one number
    weights: Tensor  # (n,), in the dtype of the keys
    owners: Tensor  # (n,) int64: the number of the token's span in its row

    @staticmethod
    def from_gains(
        gains: Tensor,
        device: torch.device | str,
        owners: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> "EditPlan":
        """Return the plan for gains (B, T) and keys of a `dtype`, with its tensors on `device`.

        `owners` (B, T) are the numbers of the spans; without them, a row has one.
        """
        rows, columns = gains.nonzero(as_tuple=True)
        weights = gains[rows, columns].to(dtype)
        spans = torch.zeros_like(rows) if owners is None else owners[rows, columns]
        places = torch.stack([rows, columns, rows * gains.shape[1] + columns, spans])
        # Waiting for the copies would be waiting for all that the device has still to do.
        rows, columns, tokens, spans = places.to(device, non_blocking=True)
        return EditPlan(rows, columns, tokens, weights.to(device, non_blocking=True), spans)

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

    `factors` (n, H, M) multiply the columns of M experts, for every edited token. On a CUDA device,
    and without gradients, the keys are edited where they are, by one kernel.
    """
    operator = placed(operator, keys.device, keys.dtype)
    each = plan.weights.view(1, -1, 1)  # (H or 1, n, M): what every expert's columns count
    if factors is not None:
        each = factors.transpose(0, 1) * each
    fused = None if torch.is_grad_enabled() or not keys.is_cuda else _kernel()
    if fused is not None and keys.stride(-1) == 1:
        basis, heads = operator.basis.contiguous(), operator.edited_heads
        fused(keys, plan.rows, plan.columns, heads, each, basis, operator.back)
        return keys
    flat = keys.reshape(-1, keys.shape[2] * keys.shape[3])  # (B·T, H·D)
    tokens = flat.index_select(0, plan.tokens)
    by_head = tokens.view(-1, *keys.shape[2:]).transpose(0, 1)  # (H, n, D)
    parts = torch.bmm(by_head, operator.basis).view(*by_head.shape[:2], each.shape[-1], -1)
    parts = (parts * each.unsqueeze(-1).to(keys.dtype)).flatten(-2)
    by_head.baddbmm_(parts, operator.back)
    return flat.index_copy(0, plan.tokens, tokens).view(keys.shape)


@cache
def _kernel() -> Callable[..., None] | None:
    """Return the kernel, where there is Triton."""
    try:
        from seka_rag.kernels import edit_in_place
    except ImportError:
        return None
    return edit_in_place
