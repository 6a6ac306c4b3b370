"""Which characters a token stands for, where tokens are bytes: tiktoken encodings.

A byte-level token may hold part of a character, as one of the four bytes of an emoji. It then
stands for the whole character, and so do the tokens that hold its other bytes: neighbours overlap
by that character, and a highlight of it reaches every piece.

An encoding comes bare, or inside a slow Hugging Face tokenizer, as models bring whose vocabulary is
a tiktoken file. It is told by its methods: tiktoken itself is never imported. Nothing is known here
of chats, of what an id does to a model, or of tokenizers whose tokens are not bytes of the text.
"""

from collections.abc import Collection, Iterable, Set
from itertools import accumulate, pairwise
from typing import Literal, Protocol, runtime_checkable

from seka_rag.errors import PromptError


@runtime_checkable
class Encoding(Protocol):
    """What is asked of a `tiktoken.Encoding`."""

    @property
    def special_tokens_set(self) -> Set[str]: ...

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | Set[str] = ...,
        disallowed_special: Literal["all"] | Collection[str] = ...,
    ) -> list[int]: ...

    def encode_ordinary(self, text: str) -> list[int]: ...

    def decode_single_token_bytes(self, token: int) -> bytes: ...


def encoding_inside(tokenizer: object) -> Encoding | None:
    """Return the encoding that a tokenizer keeps as an attribute, under whatever name."""
    attributes = getattr(tokenizer, "__dict__", {}).values()
    return next((value for value in attributes if isinstance(value, Encoding)), None)


def special_tokens(encoding: Encoding) -> dict[int, str]:
    """Return the encoding's special tokens: the id of each, and how it is written."""
    return {
        token_id: token
        for token in encoding.special_tokens_set
        for token_id in encoding.encode(token, allowed_special={token}, disallowed_special=())
    }


def byte_offsets(pieces: Iterable[bytes], text: str) -> list[tuple[int, int]]:
    """Return the characters [start, end) of `text` of which each piece holds a byte.

    The pieces, one after the other, must be the text in UTF-8.
    """
    pieces = list(pieces)
    # A lone surrogate is no UTF-8. Tokenizers replace it, so the comparison finds it.
    whole = text.encode("utf-8", "surrogatepass")
    if b"".join(pieces) != whole:
        raise PromptError(
            "the tokenizer changes the text, so no highlight can be placed in it: pass a text that "
            "it leaves as it is, such as unicodedata.normalize('NFC', text)"
        )
    # How many characters begin before each byte: all but the first byte of one look like 10xxxxxx.
    begun = list(accumulate((byte & 0xC0 != 0x80 for byte in whole), initial=0))
    borders = accumulate(map(len, pieces), initial=0)
    return [(begun[first + 1] - 1, begun[end]) for first, end in pairwise(borders)]
