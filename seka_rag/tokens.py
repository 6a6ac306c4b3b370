"""From characters to tokens: ids that no highlight changes, and a gain for every token.

    T  tokens

Offsets are the characters [start, end) of the clean text that a token stands for: of fast
tokenizers, of tiktoken encodings, and of slow tokenizers around one. Control tokens are those that
steer a chat: the special ones, and those that the chat template writes. Where a message's content
spells one, it is encoded as the text that it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Span
from seka_rag.offsets import Encoding, byte_offsets, encoding_inside, special_tokens

Region = tuple[int, int]


class AddedToken(Protocol):
    """A token that the tokenizer recognises before it splits text into words."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    is_fast: bool
    chat_template: object

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        return_offsets_mapping: bool,
        return_attention_mask: bool,
        verbose: bool,
    ) -> Mapping[str, list[int]]: ...


class SlowTokenizer(Tokenizer, Protocol):
    """A tokenizer in Python, which says what it adds to a text."""

    def build_inputs_with_special_tokens(self, token_ids_0: list[int]) -> list[int]: ...


@dataclass(frozen=True)
class Encoded:
    """The tokens of one text: their ids, and the characters that each stands for."""

    ids: list[int]
    offsets: list[Region]


def tokenize(tokenizer: Tokenizer | Encoding, text: str, *, add_special_tokens: bool) -> Encoded:
    """Return the tokens of `text`, with their offsets. An encoding has no special tokens to add."""
    if isinstance(tokenizer, Encoding):
        ids = tokenizer.encode(text, allowed_special="all")
        return Encoded(ids, byte_offsets(map(tokenizer.decode_single_token_bytes, ids), text))
    if not tokenizer.is_fast:
        return _tokenize_slowly(tokenizer, text, add_special_tokens=add_special_tokens)
    found = _call(tokenizer, text, add_special_tokens=add_special_tokens)
    offsets: Sequence[object] = found["offset_mapping"]
    return Encoded(list(found["input_ids"]), [(pair[0], pair[1]) for pair in offsets])  # type: ignore[index]


def _call(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]:
    return tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=tokenizer.is_fast,
        return_attention_mask=False,
        verbose=False,
    )


def _tokenize_slowly(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Encoded:
    """Return the tokens of a slow tokenizer, with offsets from the bytes of the encoding inside."""
    encoding = encoding_inside(tokenizer)
    if encoding is None:
        raise PromptError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for: load "
            "the fast tokenizer"
        )
    ids = list(_call(tokenizer, text, add_special_tokens=False)["input_ids"])
    added = tokenizer.added_tokens_decoder
    pieces = (
        added[i].content.encode() if i in added else encoding.decode_single_token_bytes(i)
        for i in ids
    )
    encoded = Encoded(ids, byte_offsets(pieces, text))
    return _surround(tokenizer, encoded, len(text)) if add_special_tokens else encoded


def _surround(tokenizer: Tokenizer, encoded: Encoded, end: int) -> Encoded:
    """Return the tokens between the special ones, which stand for no character."""
    here = -1  # no token: the text may consist of the very tokens that are added
    around = cast(SlowTokenizer, tokenizer).build_inputs_with_special_tokens([here])
    n = around.index(here)
    behind = around[n + 1 :]
    return Encoded(
        [*around[:n], *encoded.ids, *behind],
        [(0, 0)] * n + encoded.offsets + [(end, end)] * len(behind),
    )


def control_tokens(tokenizer: Tokenizer | Encoding) -> dict[int, str]:
    """Return the tokens that a message's content must never produce, by id, as they are written."""
    if isinstance(tokenizer, Encoding):
        return special_tokens(tokenizer)
    templates = str(tokenizer.chat_template or "")
    listed = {
        token_id: token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        # Some tokenizers add runs of blanks or HTML tags for economy; those control nothing.
        if token.content.strip() and (token.special or token.content in templates)
    }
    # A slow tokenizer need not list what the encoding inside takes for special.
    encoding = None if tokenizer.is_fast else encoding_inside(tokenizer)
    return listed if encoding is None else special_tokens(encoding) | listed


def control_ids(tokenizer: Tokenizer | Encoding) -> frozenset[int]:
    """Return the ids of the tokens that a message's content must never produce."""
    return frozenset(control_tokens(tokenizer))


def encode_chat(
    tokenizer: Tokenizer | Encoding, text: str, content_regions: Sequence[Region]
) -> Encoded:
    """Return the tokens of a rendered chat, in which control tokens come from the template alone.

    Where a control token overlaps a content region, the text is cut after the first character of it
    and the pieces are encoded apart, until none is left. Everywhere else the tokens are those of
    the whole text.
    """
    controls = control_ids(tokenizer)
    done: list[Encoded] = []
    pending = [(0, len(text))]
    while pending:
        start, end = pending.pop()
        found = tokenize(tokenizer, text[start:end], add_special_tokens=False)
        piece = Encoded(found.ids, [(a + start, b + start) for a, b in found.offsets])
        cuts = _cuts(piece, text, controls, content_regions)
        if not cuts:
            done.append(piece)
            continue
        borders = [start, *cuts, end]
        pending += reversed(list(pairwise(borders)))
    return Encoded(
        [token_id for piece in done for token_id in piece.ids],
        [offset for piece in done for offset in piece.offsets],
    )


def _cuts(
    piece: Encoded, text: str, controls: frozenset[int], regions: Sequence[Region]
) -> list[int]:
    """Return where to cut a piece so that no control token overlaps a content region."""
    cuts = []
    for token_id, (start, end) in zip(piece.ids, piece.offsets, strict=True):
        if token_id not in controls:
            continue
        # A control token may swallow the blanks beside it: these can be content, and the token the
        # template's.
        shown = text[start:end]
        start += len(shown) - len(shown.lstrip())
        end -= len(shown) - len(shown.rstrip())
        if not any(
            start < region_end and region_start < end for region_start, region_end in regions
        ):
            continue
        if end - start == 1:
            raise PromptError(
                f"a message holds the control token {text[start:end]!r}, which cannot be written "
                "as text: remove it"
            )
        cuts.append(start + 1)
    return cuts


def gain_map(
    offsets: Sequence[Region], spans: Sequence[Span], *, default_gain: float
) -> tuple[list[float], list[int]]:
    """Return one gain per token (T), 0 where nothing is highlighted, and which span it comes from.

    A token is highlighted when it overlaps a span by at least one character. Where several spans
    do, the gain of greatest magnitude counts. Spans are given by their number; -1 is none.
    """
    gains = [0.0] * len(offsets)
    owners = [-1] * len(offsets)
    for number, span in enumerate(spans):
        gain = default_gain if span.gain is None else span.gain
        covered = [
            i
            for i, (start, end) in enumerate(offsets)
            if max(start, span.start) < min(end, span.end)
        ]
        if not covered:
            raise HighlightError(
                f"the highlight of characters {span.start} to {span.end} covers no token: "
                "highlight a longer text"
            )
        for i in covered:
            if abs(gain) > abs(gains[i]):
                gains[i], owners[i] = gain, number
    return gains, owners
