"""Discrimination: does a head's attention tell a question about a span from one that is not?

The question stands behind the context, and the last token of the prompt looks back. What share of
its attention falls on the span is compared between relevant and irrelevant questions.

    R  prompts      T  tokens      H  KV heads      G  query heads of a KV head      D  head_dim

Pure mathematics: nothing here knows of models. Queries and keys come from before the rotary
embedding, so the rotation is applied here, as all the supported architectures apply it: dimension i
is turned together with dimension i + D/2 (Su et al. 2021, in the layout of GPT-NeoX).
"""

import torch
from torch import Tensor


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return vectors (..., D) turned by the angles of `cos` and `sin` (..., D'), with D' ≤ D."""
    size = cos.shape[-1]
    turned, rest = vectors[..., :size], vectors[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1)


def span_attention(
    queries: Tensor,
    keys: Tensor,
    *,
    rotation: tuple[Tensor, Tensor],
    last: Tensor,
    span: Tensor,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """Return the share of the last token's attention on the span, by KV head: (R, H), in [0, 1].

    `queries` (R, H·G, D) are those of the tokens `last` (R,); `keys` (R, T, H, D); `rotation` holds
    cosines and sines (R or 1, T, D); `span` (R, T) is true on the span. A KV head's share is the
    mean over its query heads. With a sliding `window`, only that many tokens are seen.
    """
    R, T, H, D = keys.shape
    cos, sin = (part.float().expand(R, T, -1) for part in rotation)
    each = torch.arange(R, device=keys.device)
    q = rotate(queries.float(), cos[each, last].unsqueeze(1), sin[each, last].unsqueeze(1))
    k = rotate(keys.float(), cos.unsqueeze(2), sin.unsqueeze(2))
    scores = torch.einsum("rhgd,rthd->rhgt", q.reshape(R, H, -1, D), k) * scaling
    position = torch.arange(T, device=keys.device)
    seen = position <= last.unsqueeze(1)
    if window is not None:
        seen &= position > last.unsqueeze(1) - window
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    on_span = scores.softmax(-1) * span[:, None, None]
    return on_span.sum(-1).mean(-1)


def auc(relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """Return P(a relevant number > an irrelevant one), ties counting half, for each head: (H,).

    Both are (n, H). It is the area under the ROC curve: 1 tells them apart, 0.5 does not.
    """
    ascending = irrelevant.T.contiguous().sort(dim=-1).values
    wanted = relevant.T.contiguous()
    below, upto = (
        torch.searchsorted(ascending, wanted, right=right).double() for right in (False, True)
    )
    return (below + upto).mean(-1) / (2 * irrelevant.shape[0])
