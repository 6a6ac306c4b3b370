"""Writing: from tokens, one by one, to text that may be shown.

A character may be spread over several tokens, and a stop text over several pieces: what may still
change, or turn out to be the beginning of a stop text, is held back. What was let out, put
together, is the decoding of all the tokens, up to the stop text that is complete first.
"""

from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\ufffd"  # how a character is decoded of which not all the bytes are there


class Decoder(Protocol):
    """What is asked of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> object: ...


class Pieces:
    """Decodes one row's tokens as they come.

    Only the latest tokens are decoded again: those since the last two borders between characters.
    The ones before the newer border give the context, as some tokenizers write blanks by it.
    """

    def __init__(self, tokenizer: Decoder, *, special: bool = False) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._ids: list[int] = []
        self._context, self._shown = 0, 0

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; empty while a character is unfinished."""
        self._ids.append(token_id)
        piece = self._piece()
        if not piece or piece.endswith(_UNFINISHED):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return piece

    def finish(self) -> str:
        """Return what is left, with a mark for a character that stays unfinished."""
        piece = self._piece()
        self._context = self._shown = len(self._ids)
        return piece

    def _piece(self) -> str:
        before, whole = (
            str(self._tokenizer.decode(ids, skip_special_tokens=not self._special))
            for ids in (self._ids[self._context : self._shown], self._ids[self._context :])
        )
        return whole[len(before) :]


class StopFinder:
    """Lets text through up to the first stop text, whichever way the text is cut into pieces."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Return what is sure not to belong to a stop text; nothing after one was found."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = ((text.find(stop), stop) for stop in self._stop)
        if done := [(at + len(stop), at, stop) for at, stop in places if at >= 0]:
            _, at, self.found = min(done)
            self._held = ""
            return text[:at]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how long the longest end of the text is that is the beginning of the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Writer:
    """The text of one row: pieces, up to a stop text; with `special`, control tokens are text."""

    def __init__(self, tokenizer: Decoder, stop: Sequence[str], *, special: bool = False) -> None:
        self._pieces = Pieces(tokenizer, special=special)
        self._finder = StopFinder(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop text was written."""
        return self._finder.found is not None

    def push(self, token_id: int) -> str:
        """Return the text that may be shown now that this token is written."""
        return self._finder.push(self._pieces.push(token_id))

    def finish(self) -> str:
        """Return what was held back, now that nothing follows."""
        return self._finder.push(self._pieces.finish()) + self._finder.finish()
