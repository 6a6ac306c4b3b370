"""The edit of `editing` as one GPU kernel, in Triton, which comes with PyTorch's CUDA builds.

    n  edited tokens      H  KV heads      D  head_dim      M  experts      R  columns of the basis

Apart, gathering, two products and putting back are seven operations a layer, and as many trips of
the keys through memory; here a token's key is read once, edited in registers and written once.
Products have the precision of the keys and sums that of float32, as in PyTorch's own.
"""

# Triton compiles the function below, in which types are its own affair.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

_CELLS = 8192  # of the block of keys that one program holds: tokens times dimensions


@triton.jit
def _edit(
    keys,
    rows,
    columns,
    heads,
    each,
    basis,
    back,
    n,
    row_stride,
    column_stride,
    head_stride,
    each_head,
    each_token,
    each_expert,
    D: tl.constexpr,
    R: tl.constexpr,
    SHARE: tl.constexpr,
    TOKENS: tl.constexpr,
    DIMS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    head = tl.load(heads + tl.program_id(1))
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    dim = tl.arange(0, DIMS)
    there = token < n
    row = tl.load(rows + token, mask=there, other=0)
    column = tl.load(columns + token, mask=there, other=0)
    place = keys + row * row_stride + column * column_stride + head * head_stride
    inside = there[:, None] & (dim < D)[None, :]
    key = tl.load(place[:, None] + dim[None, :], mask=inside, other=0.0)
    shift = tl.zeros((TOKENS, DIMS), tl.float32)
    for first in range(0, R, WIDTH):
        r = first + tl.arange(0, WIDTH)
        known = (dim < D)[:, None] & (r < R)[None, :]
        u = tl.load(basis + head * D * R + dim[:, None] * R + r[None, :], mask=known, other=0.0)
        part = tl.dot(key, u, input_precision="ieee")
        weight = tl.load(
            each
            + head * each_head
            + token[:, None] * each_token
            + (r // SHARE)[None, :] * each_expert,
            mask=there[:, None] & (r < R)[None, :],
            other=0.0,
        )
        part = (part * weight.to(tl.float32)).to(key.dtype)
        w = tl.load(
            back + head * R * D + r[:, None] * D + dim[None, :],
            mask=(r < R)[:, None] & (dim < D)[None, :],
            other=0.0,
        )
        shift += tl.dot(part, w, input_precision="ieee")
    tl.store(place[:, None] + dim[None, :], (key + shift).to(key.dtype), mask=inside)


def edit_in_place(
    keys: Tensor,
    rows: Tensor,
    columns: Tensor,
    heads: Tensor,
    each: Tensor,
    basis: Tensor,
    back: Tensor,
) -> None:
    """Edit keys (B, T, H, D) at the n places: k becomes k + (each · (k basis)) back.

    `heads` (int32) are those that are edited. `each` (H or 1, n, M) is what the columns of every
    expert count; `basis` (H, D, R) and `back` (H, R, D) are contiguous and in the dtype of the
    keys, whose last stride is 1.
    """
    n = len(rows)
    if not n or not len(heads):
        return
    dims, width = keys.shape[3], basis.shape[-1]
    block = max(16, triton.next_power_of_2(dims))
    tokens = max(16, min(64, _CELLS // block))
    _edit[(triton.cdiv(n, tokens), len(heads))](
        keys,
        rows,
        columns,
        heads,
        each,
        basis,
        back,
        n,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        each.stride(0) if each.shape[0] > 1 else 0,
        each.stride(1),
        each.stride(2),
        D=dims,
        R=width,
        SHARE=width // each.shape[-1],
        TOKENS=tokens,
        DIMS=block,
        WIDTH=min(64, max(16, triton.next_power_of_2(width))),
    )
