"""What a user marks: pieces of text, each plain or highlighted.

A prompt is a sequence of segments. Its clean text is what the model reads, and never depends on the
highlights; a `Span` says which characters of it are highlighted. A gain of 0 leaves a text as it
is, a negative one de-emphasises it, and None stands for the default gain of the bank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from seka_rag.errors import HighlightError

Kind: TypeAlias = Literal["passage", "instruction"]


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of a clean text, highlighted."""

    start: int
    end: int
    gain: float | None = None
    kind: Kind = "passage"


@dataclass(frozen=True)
class Highlight:
    """A highlighted piece of a prompt. `highlight` makes one."""

    text: str
    gain: float | None = None
    kind: Kind = "passage"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise HighlightError(f"a highlight holds text, but this is {type(self.text).__name__}")
        if not self.text.strip():
            raise HighlightError(
                f"the highlight {self.text!r} is empty: highlight at least one visible character"
            )
        check_gain(self.gain)
        if self.kind not in get_args(Kind):
            raise HighlightError(f"unknown kind {self.kind!r}: use one of {get_args(Kind)}")


Segment: TypeAlias = str | Highlight
Segments: TypeAlias = Segment | Sequence[Segment]


def check_gain(gain: float | None) -> None:
    """Raise HighlightError unless `gain` is a finite number, or None for the default."""
    if gain is None:
        return
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not math.isfinite(gain):
        raise HighlightError(f"the gain is {gain!r}: give a finite number, such as 1.0")


def highlight(text: str, *, gain: float | None = None, kind: Kind = "passage") -> Highlight:
    """Return `text` as a highlighted segment of a prompt; a `gain` of None is the bank's own."""
    return Highlight(text, gain, kind)


def as_segments(segments: Segments) -> tuple[Segment, ...]:
    """Return the segments one by one, whatever form they came in."""
    listed = (segments,) if isinstance(segments, str | Highlight) else tuple(segments)
    for segment in listed:
        if not isinstance(segment, str | Highlight):
            raise HighlightError(
                f"a segment is {type(segment).__name__}: a prompt is made of text and "
                "highlight(text)"
            )
    return listed


def flatten(segments: Segments) -> tuple[str, tuple[Span, ...]]:
    """Return the clean text of the segments, and its highlighted spans in order."""
    texts: list[str] = []
    spans: list[Span] = []
    length = 0
    for segment in as_segments(segments):
        text = segment.text if isinstance(segment, Highlight) else segment
        if isinstance(segment, Highlight):
            spans.append(Span(length, length + len(text), segment.gain, segment.kind))
        texts.append(text)
        length += len(text)
    return "".join(texts), tuple(spans)


def segments_of(text: str, spans: Sequence[Span]) -> tuple[Segment, ...]:
    """Return the segments that flatten to this clean text and these spans, given in order."""
    segments: list[Segment] = []
    end = 0
    for span in spans:
        highlighted = Highlight(text[span.start : span.end], span.gain, span.kind)
        segments += [text[end : span.start], highlighted]
        end = span.end
    segments.append(text[end:])
    return tuple(segment for segment in segments if segment != "")


def highlight_in(
    segments: Segments, text: str, *, gain: float | None = None, kind: Kind = "passage"
) -> tuple[Segment, ...]:
    """Return the segments with the first plain occurrence of `text` highlighted."""
    marked = highlight(text, gain=gain, kind=kind)
    listed = as_segments(segments)
    for i, segment in enumerate(listed):
        if isinstance(segment, str) and text in segment:
            before, _, after = segment.partition(text)
            pieces = [piece for piece in (before, marked, after) if piece]
            return (*listed[:i], *pieces, *listed[i + 1 :])
    shown = text if len(text) <= 60 else text[:57] + "..."
    if text in flatten(listed)[0]:
        raise HighlightError(f"{shown!r} overlaps another highlight: merge the two into one")
    raise HighlightError(f"{shown!r} does not occur in the prompt: copy it from there exactly")
