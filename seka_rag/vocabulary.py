"""How a tokenizer spells its tokens, as llguidance reads it: once for each tokenizer.

Control tokens are those that the tokenizer knows by name. Which token ends a turn differs from
model to model and is decided elsewhere; llguidance is given one of its own that no model has.

Nothing here knows of schemas. Needs llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from seka_rag.errors import GrammarError, MissingExtraError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_END = "<|the end, for seka_rag.grammar|>"
_SPECIAL = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
_UNICODE_FORMS = frozenset(("NFC", "NFD", "NFKC", "NFKD"))


class AddedToken(Protocol):
    """A token that the tokenizer recognises before it splits text into words."""

    content: str


class Backend(Protocol):
    """The part of a fast tokenizer that describes itself as JSON."""

    def to_str(self) -> str: ...


class Tokenizer(Protocol):
    """What is asked of a fast Hugging Face tokenizer."""

    @property
    def backend_tokenizer(self) -> Backend: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...
    def get_vocab(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How a tokenizer spells its tokens, which of them end a turn, and which have names."""

    tokens: LLTokenizer
    size: int
    eos_ids: frozenset[int]
    control_ids: Mapping[str, int]

    def literal(self, text: str) -> str:
        """Return a rule for this text, in which the name of a control token is that token."""
        names = sorted(self.control_ids, key=len, reverse=True)  # the longest that fits
        pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        return " ".join(
            f"<[{self.control_ids[piece]}]>" if piece in self.control_ids else json.dumps(piece)
            for piece in pieces
            if piece
        )


_vocabularies: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()
_reading = Lock()


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return what is known of the tokenizer, which takes up to a second to find out, once."""
    with _reading:
        if tokenizer not in _vocabularies:
            _vocabularies[tokenizer] = _read(tokenizer)
        return _vocabularies[tokenizer]


def _read(tokenizer: Tokenizer) -> Vocabulary:
    try:
        from llguidance import LLTokenizer
    except ImportError as error:
        raise MissingExtraError(
            "constrained decoding needs llguidance, which is not installed: pip install "
            '"seka-rag[structured]"'
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise GrammarError(
            f"{type(tokenizer).__name__} does not say how its tokens are spelled: load the fast "
            "tokenizer"
        )
    size = 1 + max(tokenizer.get_vocab().values())
    try:
        tokens = LLTokenizer(_description(tokenizer, end_id=size), eos_token=size)
    except ValueError as error:
        raise GrammarError(
            f"llguidance cannot read {type(tokenizer).__name__}, and so cannot constrain what its "
            f"model writes: {error}"
        ) from error
    eos_id = tokenizer.eos_token_id
    return Vocabulary(
        tokens,
        size,
        frozenset() if eos_id is None else frozenset([eos_id]),
        {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip()  # runs of blanks are no control tokens
        },
    )


def _description(tokenizer: Tokenizer, *, end_id: int) -> str:
    """Return the tokenizer as JSON, with an end of our own, and with nothing that cuts or changes
    text.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["padding"] = described["truncation"] = None
    described["normalizer"] = _without_unicode_forms(described.get("normalizer"))
    described["added_tokens"].append({"id": end_id, "content": _END, **_SPECIAL})
    return json.dumps(described)


def _without_unicode_forms(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    # Text that is certain is written as the tokenizer would: under NFC that is another text.
    if normalizer is None or normalizer["type"] in _UNICODE_FORMS:
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    parts = map(_without_unicode_forms, normalizer["normalizers"])
    return {**normalizer, "normalizers": [part for part in parts if part is not None]}
