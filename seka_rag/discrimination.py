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
from torch import Tensor, nn

_TINY = 1e-6  # added to variances


def turns(rotation: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
    """Return cosines and sines of the angles from the tokens `last` (R,) to all: (R, T, 2, D').

    `rotation` holds cosines and sines of the angles themselves, (R or 1, T, D'), with D' ≤ D.
    """
    cos, sin = (part.float().expand(len(last), -1, -1) for part in rotation)
    each = torch.arange(len(last), device=cos.device)
    cos_last, sin_last = cos[each, last].unsqueeze(1), sin[each, last].unsqueeze(1)
    return torch.stack(
        [cos * cos_last + sin * sin_last, sin * cos_last - cos * sin_last], dim=-2
    ).to(rotation[0].dtype)


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
    turned: Tensor,
    scaling: float,
    seen: Tensor | None = None,
) -> Tensor:
    """Return the logits of the last token's attention: (R, Q, T) float32, -inf where it is blind.

    `queries` (R, Q, D) are those of the last tokens, which see what `seen` (R, T) says, or all;
    `keys` (R, T, H, D); `turned` (R, T, 2, D') are `turns`. With J the quarter turn in every plane,
    a key that is turned by δ goes with a query as (k cos δ)·q + (k sin δ)·Jᵀq: one product.
    """
    R, _, H, _ = keys.shape
    size = turned.shape[-1]
    q = queries.view(R, H, -1, queries.shape[-1]) * scaling
    first, second = q[..., :size].chunk(2, dim=-1)
    sides = torch.cat([first, second, second, -first], dim=-1)  # q, Jᵀq: (R, H, Q / H, 2D')
    k = (keys[..., :size].unsqueeze(-2) * turned.to(keys.dtype).unsqueeze(2)).flatten(-2)
    scores = sides @ k.permute(0, 2, 3, 1)
    if size < keys.shape[-1]:
        scores = scores + q[..., size:] @ keys[..., size:].permute(0, 2, 3, 1)
    scores = scores.flatten(1, 2).float()
    return scores if seen is None else torch.where(seen.unsqueeze(1), scores, -torch.inf)


def rotated(queries: Tensor, rotation: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
    """Return queries (R, Q, D) of the tokens `last` (R,), turned by the angles of their places."""
    each = torch.arange(len(last), device=queries.device)
    cos, sin = (
        part.to(queries.device, queries.dtype).expand(len(last), -1, -1)[each, last].unsqueeze(1)
        for part in rotation
    )
    size = cos.shape[-1]
    turned, rest = queries[..., :size], queries[..., size:]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


def cached_scores(queries: Tensor, keys: Tensor, *, scaling: float) -> Tensor:
    """Return the logits of attention on keys that are turned already: (R, Q, t) float32.

    `queries` (R, Q, D) are turned as well; `keys` are (R, H, t, D), as caches hold them.
    """
    R, H, _, D = keys.shape
    scores = (queries.view(R, H, -1, D) * scaling) @ keys.to(queries.dtype).mT
    return scores.flatten(1, 2).float()


def blind(scores: Tensor, n: int) -> Tensor:
    """Return scores (R, Q, t) behind those of n tokens that are not seen."""
    return nn.functional.pad(scores, (n, 0), value=-torch.inf) if n else scores


def span_attention(scores: Tensor, spans: Tensor) -> Tensor:
    """Return the share of the last token's attention on each span: (R, Q, S), in [0, 1].

    `scores` are `last_scores`; `spans` (R, S, T) is 1 on a span's tokens and 0 elsewhere.
    """
    return scores.softmax(-1) @ spans.mT


def affinity(scores: Tensor, seen: Tensor | None, n_kv_heads: int) -> Tensor:
    """Return how much a KV head's queries ask for each token: (R, T, H), 0 where they are blind.

    The mean of `scores` over the head's queries, less its mean over the tokens that are seen, in
    units of its standard deviation over them.
    """
    R, _, T = scores.shape
    per_head = scores.view(R, n_kv_heads, -1, T).mean(2)
    if seen is None:
        return nn.functional.layer_norm(per_head, (T,), eps=_TINY).transpose(1, 2)
    known = seen.unsqueeze(1)
    share = known / known.sum(-1, keepdim=True)  # of each token in a mean over those that are seen
    per_head = torch.where(known, per_head, 0.0)
    rest = (per_head - (per_head * share).sum(-1, keepdim=True)) * known
    variance = (rest.square() * share).sum(-1, keepdim=True)
    return (rest * (variance + _TINY).rsqrt()).transpose(1, 2)


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
