"""The first token of a text where it follows another: what a choice is scored by.

Tasks leave out rows whose choices begin alike, which says nothing about steering.
"""

from collections.abc import Callable
from functools import cache

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.prompts import render
from seka_rag.tokens import tokenize


def first_token(tokenizer: PreTrainedTokenizerBase, text: str, *, before: str) -> int:
    """Return the id of the first token of `text` where it follows `before`."""
    encoded = tokenize(tokenizer, before + text, add_special_tokens=False)
    for token_id, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if end > max(start, len(before)):
            return token_id
    raise DataError(f"{text!r} has no token of its own after {before!r}")


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], int]:
    """Return what gives the first token of a value where the answer to a chat begins."""
    opening = render(tokenizer, [{"role": "user", "content": "?"}]).text
    return cache(lambda value: first_token(tokenizer, value, before=opening))
