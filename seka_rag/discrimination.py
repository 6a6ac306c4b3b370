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
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def visible(length: int, first: Tensor, last: Tensor, *, window: int | None = None) -> Tensor:
    """Return which of the positions the tokens `last` (R,) see: bool (R, length).

    What stands before `first` (R,) is padding. With a sliding `window`, only that many are seen.
    """
    position = torch.arange(length, device=last.device)
    seen = (position <= last.unsqueeze(1)) & (position >= first.unsqueeze(1))
    return seen if window is None else seen & (position > last.unsqueeze(1) - window)


def last_scores(
    queries: Tensor,
    keys: Tensor,
    *,
    rotation: tuple[Tensor, Tensor],
    last: Tensor,
    seen: Tensor,
    scaling: float,
) -> Tensor:
    """Return the logits of the last token's attention: (R, Q, T) float32, -inf where it is blind.

    `queries` (R, Q, D) are those of the tokens `last` (R,), which see what `seen` (R, T) says;
    `keys` (R, T, H, D); `rotation` holds cosines and sines (R or 1, T, D).
    """
    R, T, H, D = keys.shape
    cos, sin = (part.to(keys.dtype).expand(R, T, -1) for part in rotation)
    each = torch.arange(R, device=keys.device)
    q = rotate(queries, cos[each, last].unsqueeze(1), sin[each, last].unsqueeze(1)) * scaling
    k = rotate(keys, cos.unsqueeze(2), sin.unsqueeze(2))
    scores = torch.einsum("rhgd,rthd->rhgt", q.reshape(R, H, -1, D), k).flatten(1, 2)
    return torch.where(seen.unsqueeze(1), scores.float(), -torch.inf)


def span_attention(scores: Tensor, spans: Tensor) -> Tensor:
    """Return the share of the last token's attention on each span: (R, Q, S), in [0, 1].

    `scores` are `last_scores`; `spans` (R, S, T) is 1 on a span's tokens and 0 elsewhere.
    """
    return scores.softmax(-1) @ spans.mT


def affinity(scores: Tensor, seen: Tensor, n_kv_heads: int) -> Tensor:
    """Return how much a KV head's queries ask for each token: (R, T, H), 0 where they are blind.

    The mean of `scores` over the head's queries, less its mean over the tokens that are seen, in
    units of its standard deviation over them.
    """
    R, _, T = scores.shape
    known = seen.unsqueeze(1)
    per_head = torch.where(known, scores.view(R, n_kv_heads, -1, T).mean(2), 0.0)
    share = known / known.sum(-1, keepdim=True)  # of each token in a mean over those that are seen
    mean = (per_head * share).sum(-1, keepdim=True)
    variance = (per_head.square() * share).sum(-1, keepdim=True) - mean.square()
    found = torch.where(known, (per_head - mean) * variance.clamp(min=1e-6).rsqrt(), 0.0)
    return found.transpose(1, 2)


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
