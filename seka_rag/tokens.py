"""From characters to tokens: ids that no highlight changes, and a gain for every token.

    T  tokens

Offsets are the characters [start, end) of the clean text that a token stands for. Control tokens
are those that steer a chat: the special ones, and those that the chat template writes. Where a
message's content spells one, it is encoded as the text that it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Span

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


@dataclass(frozen=True)
class Encoded:
    """The tokens of one text: their ids, and the characters that each stands for."""

    ids: list[int]
    offsets: list[Region]


def tokenize(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> Encoded:
    """Return the tokens of `text`, with their offsets."""
    if not tokenizer.is_fast:
        raise PromptError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for: load "
            "the fast tokenizer"
        )
    found = tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    offsets: Sequence[object] = found["offset_mapping"]
    return Encoded(list(found["input_ids"]), [(pair[0], pair[1]) for pair in offsets])  # type: ignore[index]


def control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of the tokens that a message's content must never produce."""
    templates = str(tokenizer.chat_template or "")
    return frozenset(
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        # Some tokenizers add runs of blanks or HTML tags for economy; those control nothing.
        if token.content.strip() and (token.special or token.content in templates)
    )


def encode_chat(tokenizer: Tokenizer, text: str, content_regions: Sequence[Region]) -> Encoded:
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
