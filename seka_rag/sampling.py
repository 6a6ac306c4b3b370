"""Sampling: which token a row writes next, by the settings of its own request.

    B  rows      V  vocabulary

A row's draw depends on its own seed and step alone, never on who shares its batch: every row has a
generator of its own and needs one uniform number a step, which is looked up in the cumulated
distribution of its tokens, likeliest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seka_rag.errors import PromptError


@dataclass(frozen=True)
class Sampling:
    """How one request is continued.

    `max_new_tokens` at least 1. `temperature` at least 0; 0 is greedy, and the others then say
    nothing. `top_p` in (0, 1]: the likeliest tokens that have this share together; `top_k` of them
    at most, 0 for all. `seed` makes a draw repeatable. `stop`: texts that end the answer and are
    left out of it. `logprobs`: how many of the likeliest tokens are reported at each step, beside
    the one that was written; None reports nothing. Anything else is a PromptError.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, wrong, need in (
            ("max_new_tokens", self.max_new_tokens < 1, "at least 1"),
            ("temperature", not 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", not 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k < 0, "0 or more"),
            ("stop", not all(self.stop), "made of texts that are not empty"),
            ("logprobs", self.logprobs is not None and self.logprobs < 0, "0 or more"),
        ):
            if wrong:
                raise PromptError(f"{name} is {getattr(self, name)!r}: it must be {need}")

    def generator(self) -> torch.Generator:
        """Return a source of the request's random numbers."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was written, with its log P in nats, and the likeliest ones in its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def pick(
    logits: Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> list[int]:
    """Return one token id for each row of logits (B, V)."""
    picked = logits.argmax(-1)
    drawn = [i for i, each in enumerate(settings) if each.temperature > 0]
    if drawn:
        uniform = [torch.rand((), generator=generators[i], dtype=torch.float64) for i in drawn]
        picked[drawn] = _draw(logits[drawn], [settings[i] for i in drawn], torch.stack(uniform))
    return [int(token_id) for token_id in picked.tolist()]


def _draw(logits: Tensor, settings: Sequence[Sampling], uniform: Tensor) -> Tensor:
    """Return the tokens (B,) at which the rows' distributions reach `uniform` (B,), in [0, 1)."""
    n_tokens = logits.shape[-1]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device).unsqueeze(1)

    temperature = column([each.temperature for each in settings])
    top_p = column([each.top_p for each in settings])
    top_k = column([each.top_k or n_tokens for each in settings])
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    share = (ordered.double() / temperature).softmax(-1)
    reached = share.cumsum(-1)
    rank = torch.arange(n_tokens, device=logits.device)
    # The likeliest token always stays: what was reached before it is nothing.
    kept = share * ((reached - share < top_p) & (rank < top_k))
    whole = kept.cumsum(-1)
    wanted = uniform.to(logits.device).unsqueeze(1) * whole[:, -1:]
    place = torch.searchsorted(whole, wanted, right=True).clamp(max=n_tokens - 1)
    # Rounding may lead past the last token that is kept.
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return ids.gather(1, place.minimum(last)).squeeze(1)


def logprobs_of(logits: Tensor, token_id: int, top: int) -> TokenLogprob:
    """Return what one row of logits (V,) says of the token written, and of the `top` likeliest."""
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, logprobs[token_id].item(), likeliest)
