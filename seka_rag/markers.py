"""Highlights inside a plain string: `[[hl:1.5.passage.<tag>]]text[[/hl:<tag>]]`.

For frameworks that carry nothing but strings. Every line of a text is marked by itself, so that a
splitter that cuts between lines loses nothing. The tag is an HMAC of the gain, the kind and the
line: a marker that is guessed, moved to other text, nested or spliced is deleted, and highlights
nothing. What can be replayed is a marked line, as it was marked; `neutralise` on every text that
others wrote stops that too. Of a line cut within, the halves are known again in the process that
marked it, as long as it remembers the line; elsewhere they are plain. The key is random for each
process, unless SEKA_RAG_KEY gives one that several share. Nothing here knows prompts or models.
"""

import base64
import hmac
import os
import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from os.path import commonprefix
from threading import Lock
from typing import TypeAlias, cast

from seka_rag.errors import HighlightError
from seka_rag.highlight import Kind, Segment, Span, highlight, segments_of

KEY_VARIABLE = "SEKA_RAG_KEY"
_MIN_KEY = 32  # characters: 128 bits, if they are hexadecimal
_TAG_BYTES = 10  # 80 bits, 16 letters and digits

# Where a marker begins, and all of it, also of one that was cut before its brackets. No `[` is in
# a marker, so that a broken one never swallows the beginning of the next.
_OPENING = re.compile(r"\[(?=\[/?hl:)")
_MARKER = re.compile(r"(\[\[/?hl:[-+.\w]*\]{0,2})", re.ASCII)

# All that `str.splitlines` takes for a line end is outside of the marked lines.
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")

_REMEMBERED = 4096  # lines
_lines: "dict[str, _Line]" = {}  # by closing marker, the oldest first
_lines_lock = Lock()


@dataclass(frozen=True)
class _Line:
    """A line under its marker; `head` is the gain and the kind, as they are written there."""

    head: str
    text: str

    @property
    def opening(self) -> str:
        return f"[[hl:{self.head}.{self._tag()}]]"

    @property
    def closing(self) -> str:
        return f"[[/hl:{self._tag()}]]"

    def _tag(self) -> str:
        # Backslashes do not count: some prompts are made with `repr`, which adds them to quotes.
        text = self.text.replace("\\", "")
        signed = f"{self.head}\n{text}".encode("utf-8", "surrogatepass")
        digest = hmac.digest(_key(), signed, "sha256")[:_TAG_BYTES]
        return base64.b32encode(digest).decode("ascii").lower()


_Piece: TypeAlias = tuple[str, str | None]  # of a text, with the head of its marker if highlighted


def mark(text: str, *, gain: float | None = None, kind: Kind = "passage") -> str:
    """Return `text` as a string that says it is highlighted; `read_marks` makes it a highlight.

    Marker-shaped text in it is neutralised, and blank lines are left as they are. What changes a
    marked line afterwards (a template whose variables stand in it) takes its highlight away.
    """
    highlight(text, gain=gain, kind=kind)  # refuses what cannot be highlighted
    head = f"{'default' if gain is None else float(gain)}.{kind}"
    text = neutralise(text)
    marked: list[str] = []
    end = 0
    for found in _LINE.finditer(text):
        if found[0].strip():
            marked += [text[end : found.start()], _marked(_Line(head, found[0]))]
            end = found.end()
            # A `+` says that the line goes on from the one before: both are one highlight.
            head = head.removesuffix("+") + "+"
    return "".join([*marked, text[end:]])


def has_marks(text: str) -> bool:
    """Return whether anything in `text` is marker-shaped, validly signed or not."""
    return _OPENING.search(text) is not None


def neutralise(text: str) -> str:
    """Return `text` with a space within every `[[` that could begin a marker: `[ [hl:`.

    It is then text like any other: neither read as a marker nor deleted as one. All other text
    stays as it is. Do this to every passage and tool result that comes in.
    """
    return _OPENING.sub("[ ", text)


def read_marks(text: str) -> tuple[Segment, ...]:
    """Return the segments of a string: what is validly marked in it is highlighted.

    No marker is left in their text, valid or not. The lines of one marked text are one highlight,
    with the line ends and blank lines between them.
    """
    pieces = [piece for between in _between_markers(text) for piece in _read(*between)]
    clean = "".join(piece for piece, _ in pieces)
    spans = _spans(pieces, clean)
    # A marker that was deleted may have kept the parts of another apart.
    spaces = [found.end() for found in _OPENING.finditer(clean)]
    moved = [
        replace(
            span,
            start=span.start + bisect_right(spaces, span.start),
            end=span.end + bisect_left(spaces, span.end),
        )
        for span in spans
    ]
    return segments_of(neutralise(clean), moved)


def _marked(line: _Line) -> str:
    closing = line.closing
    with _lines_lock:
        _lines.pop(closing, None)
        _lines[closing] = line
        if len(_lines) > _REMEMBERED:
            del _lines[next(iter(_lines))]
    return line.opening + line.text + closing


def _between_markers(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each text that holds no marker, between those to its left and right, in order."""
    parts = ["", *_MARKER.split(text), ""]
    for i in range(1, len(parts), 2):
        yield parts[i - 1], parts[i], parts[i + 1]


def _read(left: str, text: str, right: str) -> list[_Piece]:
    """Return the pieces of the text between two markers, or between one and an end."""
    head, _, tag = left.removeprefix("[[hl:").removesuffix("]]").rpartition(".")
    opens, closes = left.startswith("[[hl:"), right.startswith("[[/hl:")
    if opens and closes:
        line = _Line(head, text)
        valid = hmac.compare_digest(left + right, line.opening + line.closing)
        return [(text, head if valid else None)]
    # One marker without the other: a splitter has cut the line.
    cut = _lines.get(f"[[/hl:{tag}]]" if opens else right)
    if cut and opens and hmac.compare_digest(left, cut.opening):
        end = _common_words(text, cut.text)
        return [(text[:end], head), (text[end:], None)]
    if cut and closes and hmac.compare_digest(right, cut.closing):
        start = len(text) - _common_words(text[::-1], cut.text[::-1])
        return [(text[:start], None), (text[start:], cut.head)]
    return [(text, None)]


def _common_words(text: str, line: str) -> int:
    """Return how many characters at the beginning of both are the same, in whole words of `line`.

    Splitters cut between words, and parts of words agree by chance.
    """
    end = len(commonprefix([text, line]))
    while 0 < end < len(line) and not (line[end - 1].isspace() or line[end].isspace()):
        end -= 1
    return end


def _spans(pieces: Sequence[_Piece], clean: str) -> list[Span]:
    """Return where the pieces with a head lie in the clean text, those that go on joined."""
    spans: list[Span] = []
    end = 0
    for piece, head in pieces:
        start, end = end, end + len(piece)
        if head is None or not piece.strip():
            continue
        gain, _, kind = head.removesuffix("+").rpartition(".")
        span = Span(start, end, None if gain == "default" else float(gain), cast(Kind, kind))
        if spans and head.endswith("+") and _goes_on(spans[-1], span, clean):
            span = replace(span, start=spans.pop().start)
        spans.append(span)
    return spans


def _goes_on(before: Span, span: Span, clean: str) -> bool:
    alike = (before.gain, before.kind) == (span.gain, span.kind)
    return alike and not clean[before.end : span.start].strip()


def _key() -> bytes:
    given = os.environ.get(KEY_VARIABLE)
    if given is None:
        return _random_key()
    if len(given) < _MIN_KEY:
        raise HighlightError(
            f"{KEY_VARIABLE} has {len(given)} characters: give at least {_MIN_KEY}, such as "
            'python -c "import secrets; print(secrets.token_hex(32))" prints'
        )
    return given.encode("utf-8", "surrogateescape")


@cache
def _random_key() -> bytes:
    return secrets.token_bytes(32)
