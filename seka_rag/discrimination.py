"""Discrimination: does a head's attention tell a question about a span from one that is not?

The question stands behind the context, and the last token of the prompt looks back. What share of
its attention falls on the span is compared between relevant and irrelevant questions.

    R  prompts      S  spans of each      T  tokens      H  KV heads      Q  query heads
    D  head_dim

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


def last_scores(
    queries: Tensor,
    keys: Tensor,
    *,
    rotation: tuple[Tensor, Tensor],
    first: Tensor,
    last: Tensor,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """Return the logits of the last token's attention: (R, Q, T) float32, -inf where it is blind.

    `queries` (R, Q, D) are those of the tokens `last` (R,); `keys` (R, T, H, D), of which those
    before `first` (R,) are padding; `rotation` holds cosines and sines (R or 1, T, D). With a
    sliding `window`, only that many tokens are seen.
    """
    R, T, H, D = keys.shape
    cos, sin = (part.to(keys.dtype).expand(R, T, -1) for part in rotation)
    each = torch.arange(R, device=keys.device)
    q = rotate(queries, cos[each, last].unsqueeze(1), sin[each, last].unsqueeze(1))
    k = rotate(keys, cos.unsqueeze(2), sin.unsqueeze(2))
    scores = torch.einsum("rhgd,rthd->rhgt", q.reshape(R, H, -1, D), k).float() * scaling
    position = torch.arange(T, device=keys.device)
    seen = (position <= last.unsqueeze(1)) & (position >= first.unsqueeze(1))
    if window is not None:
        seen &= position > last.unsqueeze(1) - window
    return scores.masked_fill(~seen[:, None, None], -torch.inf).flatten(1, 2)


def span_attention(scores: Tensor, spans: Tensor) -> Tensor:
    """Return the share of the last token's attention on each span: (R, Q, S), in [0, 1].

    `scores` are `last_scores`; `spans` (R, S, T) is 1 on a span's tokens and 0 elsewhere.
    """
    return scores.softmax(-1) @ spans.mT


def affinity(scores: Tensor, n_kv_heads: int) -> Tensor:
    """Return how much a KV head's queries ask for each token: (R, T, H), 0 where they are blind.

    The mean of `scores` over the head's queries, less its mean over the tokens that are seen, in
    units of its standard deviation over them.
    """
    seen = scores[:, 0].isfinite().unsqueeze(1)  # (R, 1, T)
    R, _, T = scores.shape
    per_head = scores.view(R, n_kv_heads, -1, T).mean(2).masked_fill(~seen, 0.0)
    count = seen.sum(-1, keepdim=True)
    mean = per_head.sum(-1, keepdim=True) / count
    apart = (per_head - mean).masked_fill(~seen, 0.0)
    deviation = (apart.square().sum(-1, keepdim=True) / count).clamp(min=1e-6).sqrt()
    found: Tensor = (apart / deviation).transpose(1, 2)
    return found


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
