"""Where the texts of a chat stand in its rendering.

A template may strip, cut, escape or repeat a content. So that each is found for certain, the chat
is rendered again with a mark in the middle of every content; without its marks the second rendering
must equal the first. Other texts of a chat (the arguments of calls, the descriptions of tools) are
looked at only where they spell a control token: there, the mark stands before it. What a template
takes, and how text becomes tokens, is known elsewhere.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from os.path import commonprefix

from seka_rag.chat import Chat, ChatTokenizer, apply_template, content_of, map_texts
from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Span, flatten
from seka_rag.tokens import Region, control_ids

_OWN = {"role", "content"}


@dataclass(frozen=True)
class Place:
    """Where the characters [first, last) of a content stand in a rendering."""

    base: int  # where the content would begin
    starts: Sequence[int]  # how far from there each of its characters begins
    first: int
    last: int

    @property
    def region(self) -> Region:
        """The characters [start, end) of the rendering."""
        return self.base + self.starts[self.first], self.base + self.starts[self.last]

    def move(self, span: Span, content: str) -> Span:
        """Return a span of the content as a span of the rendering.

        A span of which visible characters are outside of the place is a HighlightError.
        """
        start = max(span.start, self.first)
        end = min(span.end, self.last)
        if content[span.start : start].strip() or content[end : span.end].strip() or start >= end:
            raise HighlightError(
                f"the chat template leaves out part of the highlight "
                f"{content[span.start : span.end][:60]!r}: pass the rendered text as the prompt"
            )
        moved_start, moved_end = replace(self, first=start, last=end).region
        return replace(span, start=moved_start, end=moved_end)


def find_contents(tokenizer: ChatTokenizer, chat: Chat, clean: str) -> list[list[Place]]:
    """Return every place of every message's content in the rendering `clean`."""
    contents = [flatten(content_of(message))[0] for message in chat.messages]
    places: list[list[Place]] = [[] for _ in contents]
    stem = _stem(clean, *contents)
    # Templates look at how a content begins and ends, and some drop what it begins with: mark the
    # middle, then the end.
    for where in (0.5, 1.0):
        cuts = {
            i: _cut(content, where)
            for i, content in enumerate(contents)
            if content.strip() and not places[i]
        }
        if not cuts:
            break
        marked = {i: f"{contents[i][:cut]}{stem}{i}z{contents[i][cut:]}" for i, cut in cuts.items()}
        for at, i in _marks(tokenizer, _with_contents(chat, marked), clean, stem) or ():
            places[i].append(_around(clean, at, contents[i], cuts[i]))
    for i, content in enumerate(contents):
        whole = content.strip()
        if whole and not places[i] and clean.count(whole) == 1:
            places[i].append(_around(clean, clean.index(whole), content, content.index(whole)))
    return places


def find_regions(
    tokenizer: ChatTokenizer, chat: Chat, clean: str, places_of: Sequence[Sequence[Place]]
) -> list[Region]:
    """Return what in the rendering is not the template's: contents, and control tokens elsewhere.

    A control token in a name, a call or a tool that cannot be told from the template's own is a
    PromptError.
    """
    contents = [flatten(content_of(message))[0] for message in chat.messages]
    regions: list[Region] = []
    partial: dict[int, str] = {}
    for i, (content, places) in enumerate(zip(contents, places_of, strict=True)):
        whole = [p for p in places if content.strip() in content[p.first : p.last]]
        regions += [place.region for place in whole]
        if len(whole) < len(places) or (content.strip() and not places):
            partial[i] = content
    has_others = chat.tools or any(message.keys() - _OWN for message in chat.messages)
    if not (partial or has_others):
        return regions
    controls = _control_texts(tokenizer)
    stem = _stem(clean)
    # Where part of a content is missing, its last character in the rendering may be the template's:
    # only its control tokens are certain. A template can look for one of them, so each goes alone.
    for i, content in partial.items():
        for control in (control for control in controls if control in content):
            marker = _Marker([control], stem)
            marked = _with_contents(chat, {i: marker.mark(content)})
            regions += marker.regions(tokenizer, marked, clean) or []
    return regions + _controls_in_others(tokenizer, chat, clean, _Marker(controls, stem))


def _controls_in_others(
    tokenizer: ChatTokenizer, chat: Chat, clean: str, marker: "_Marker"
) -> list[Region]:
    """Return where names, calls and tools spell control tokens."""
    messages = [
        {
            name: value if name in _OWN else map_texts(value, marker.mark)
            for name, value in message.items()
        }
        for message in chat.messages
    ]
    marked = Chat(messages, map_texts(chat.tools, marker.mark))
    regions = marker.regions(tokenizer, marked, clean)
    if regions is None:
        raise PromptError(
            "a tool or a call of one spells a control token that cannot be told from the chat "
            f"template's own: remove {' and '.join(sorted(marker.seen))}"
        )
    return regions


class _Marker:
    """Writes a mark before every control token, and reads the marks in a rendering."""

    def __init__(self, controls: Sequence[str], stem: str) -> None:
        longest_first = sorted(controls, key=len, reverse=True)
        # Without any, the pattern must match nothing, not everywhere.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.stem = stem
        self.seen: list[str] = []  # a mark bears the number of the control token behind it

    def mark(self, text: str) -> str:
        return self._pattern.sub(self._marked, text)

    def regions(self, tokenizer: ChatTokenizer, marked: Chat, clean: str) -> list[Region] | None:
        """Return where the control tokens stand in `clean`; None if the marks change the rest."""
        if not self.seen:
            return []
        marks = _marks(tokenizer, marked, clean, self.stem)
        if marks is None:
            return None
        # One that a template escapes is no control token any more.
        return [
            (at, at + len(self.seen[i])) for at, i in marks if clean.startswith(self.seen[i], at)
        ]

    def _marked(self, control: re.Match[str]) -> str:
        if control[0] not in self.seen:
            self.seen.append(control[0])
        return f"{self.stem}{self.seen.index(control[0])}z{control[0]}"


def _control_texts(tokenizer: ChatTokenizer) -> list[str]:
    """Return the control tokens as they are written."""
    known = tokenizer.added_tokens_decoder
    ids = control_ids(tokenizer)  # type: ignore[arg-type]
    return [known[token_id].content for token_id in sorted(ids) if token_id in known]


def _with_contents(chat: Chat, contents: Mapping[int, str]) -> Chat:
    """Return the chat with the contents of some messages changed."""
    messages = [
        {**message, "content": contents[i]} if i in contents else message
        for i, message in enumerate(chat.messages)
    ]
    return replace(chat, messages=messages)


def _cut(content: str, where: float) -> int:
    """Return where to mark the content: before its middle, or at 1 its last visible character."""
    start = len(content) - len(content.lstrip())
    end = len(content.rstrip())
    return start + min(int((end - start) * where), end - start - 1)


def _stem(*texts: str) -> str:
    """Return a word to make marks of, which none of the texts holds."""
    stem = "seka0mark"
    while any(stem in text for text in texts):
        stem = f"x{stem}"
    return stem


def _marks(
    tokenizer: ChatTokenizer, marked: Chat, clean: str, stem: str
) -> list[tuple[int, int]] | None:
    """Return where in `clean` the marks stand, with their numbers; None if they change the rest."""
    try:
        rendering = apply_template(tokenizer, marked)
    except PromptError:
        return None
    pieces = re.split(rf"{stem}(\d+)z", rendering)
    if "".join(pieces[::2]) != clean:
        return None
    borders = accumulate(len(literal) for literal in pieces[::2])
    return [(at, int(number)) for at, number in zip(borders, pieces[1::2], strict=False)]


def _around(clean: str, at: int, content: str, cut: int) -> Place:
    """Return how much of the content stands around `at`, where its character `cut` was rendered."""
    places: list[Place] = []
    for spelled, starts in _spellings(content):
        offset = starts[cut]
        base = at - offset
        before = spelled[:offset], clean[max(base, 0) : at]
        left = len(commonprefix([text[::-1] for text in before]))
        right = len(commonprefix([spelled[offset:], clean[at : base + len(spelled)]]))
        first = bisect_left(starts, offset - left)
        last = bisect_right(starts, offset + right) - 1
        places.append(Place(base, starts, first, last))
        if content.strip() in content[first:last]:
            break
    return max(places, key=lambda place: place.last - place.first)


def _spellings(content: str) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the content as templates write it, with where each character of it begins.

    Some write the results of tools as JSON strings.
    """
    yield content, range(len(content) + 1)
    for only_ascii in (False, True):
        escaped = [json.dumps(character, ensure_ascii=only_ascii)[1:-1] for character in content]
        yield "".join(escaped), [0, *accumulate(map(len, escaped))]
