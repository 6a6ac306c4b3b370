"""Prompts as a model takes them: token ids and a gain for each, in rows padded on the left.

B  rows      T  tokens of the longest row
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from seka_rag.errors import PromptError
from seka_rag.highlight import check_gain
from seka_rag.prompts import ChatTokenizer, Prompt, Rendered, render
from seka_rag.tokens import Encoded, Tokenizer, encode_chat, gain_map, tokenize


class ModelTokenizer(Tokenizer, ChatTokenizer, Protocol):
    """A tokenizer that says which characters a token stands for, and may render chats."""

    @property
    def pad_token_id(self) -> object: ...

    @property
    def eos_token_id(self) -> object: ...


@dataclass(frozen=True)
class Row:
    """One prompt: what was rendered, its tokens, the gain of each, and the span it comes from."""

    rendered: Rendered
    ids: list[int]
    gains: list[float]
    owners: list[int]  # index into rendered.spans, -1 for none
    prompt_tokens: int  # what follows them is a continuation

    def scaled(self, factor: float) -> "Row":
        """Return the row with every gain multiplied."""
        return replace(self, gains=[factor * gain for gain in self.gains])

    def followed_by(self, ids: list[int]) -> "Row":
        """Return the row with the tokens of a continuation behind it."""
        blank = [0] * len(ids)
        return replace(
            self,
            ids=self.ids + ids,
            gains=self.gains + [0.0 for _ in blank],
            owners=self.owners + [-1 for _ in blank],
        )


@dataclass(frozen=True)
class Batch:
    """Rows of one length, for the model. What plans the edit is on the CPU."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64; 0 where padded
    gains: Tensor  # (B, T) float32
    owners: Tensor  # (B, T) int64: the number of a token's span in its row, -1 for none
    kinds: list[list[str]]  # of each row's spans
    first: Tensor  # (B,) int64: where a row's prompt begins
    last: Tensor  # (B,) int64: its last token

    @property
    def is_highlighted(self) -> bool:
        """Whether any token has a gain other than 0."""
        return bool(self.gains.any())


def read_prompt(
    tokenizer: ModelTokenizer, prompt: Prompt, *, gain: float | None, default_gain: float
) -> Row:
    """Return the prompt's tokens and gains.

    `gain` takes the place of `default_gain` where a highlight has none of its own; 0 turns every
    highlight off. The tokens depend on neither.
    """
    check_gain(gain)
    rendered = render(tokenizer, prompt)
    encoded = _encode(tokenizer, rendered)
    gains, owners = gain_map(
        encoded.offsets, rendered.spans, default_gain=default_gain if gain is None else gain
    )
    row = Row(rendered, encoded.ids, gains, owners, len(encoded.ids))
    return row.scaled(0.0) if gain == 0 else row


def continuation_ids(tokenizer: ModelTokenizer, row: Row, continuation: str) -> list[int]:
    """Return the tokens of a text that follows the prompt, whose own tokens stay as they are."""
    joined = _encode(tokenizer, row.rendered, continuation).ids
    n = len(row.ids)
    if joined[:n] != row.ids:
        joined = row.ids + tokenize(tokenizer, continuation, add_special_tokens=False).ids
    if len(joined) == n:
        raise PromptError(f"the continuation {continuation!r} has no token: give it some text")
    return joined[n:]


def _encode(tokenizer: ModelTokenizer, rendered: Rendered, continuation: str = "") -> Encoded:
    text = rendered.text + continuation
    if rendered.is_chat:
        return encode_chat(tokenizer, text, rendered.content_regions)
    return tokenize(tokenizer, text, add_special_tokens=True)


def padding_id(tokenizer: ModelTokenizer) -> int:
    """Return the id that fills up short rows, where the mask hides it."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token_id for token_id in ids if isinstance(token_id, int)), 0)


def pad(rows: Sequence[Row], *, pad_id: int, device: torch.device) -> Batch:
    """Return the rows padded on the left, with their tensors on `device`."""
    longest = max(len(row.ids) for row in rows)
    blanks = [longest - len(row.ids) for row in rows]
    padded = list(zip(blanks, rows, strict=True))
    return Batch(
        torch.tensor([[pad_id] * n + row.ids for n, row in padded]).to(device),
        torch.tensor([[0] * n + [1] * (longest - n) for n in blanks]).to(device),
        torch.tensor([[0.0] * n + row.gains for n, row in padded]),
        torch.tensor([[-1] * n + row.owners for n, row in padded]),
        [[span.kind for span in row.rendered.spans] for row in rows],
        torch.tensor(blanks),
        torch.tensor([n + row.prompt_tokens - 1 for n, row in padded]),
    )
