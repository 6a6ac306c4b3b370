"""What a user passes as a prompt, rendered to the clean text that the model reads, with its
highlighted spans.

A prompt is segments, taken as they stand, or a chat, whose messages go through the tokenizer's own
template. A template may strip, cut or repeat a content. So that each is found for certain, the chat
is rendered again with a mark in the middle of every content; without its marks the second rendering
must equal the first. Neither torch nor transformers is needed here: a tokenizer comes as an
argument.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import NotRequired, Protocol, TypeAlias, TypedDict, TypeGuard

from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Highlight, Segment, Segments, Span, flatten, highlight


class Message(TypedDict):
    """One message of a chat. Other keys that a template knows are passed on to it."""

    role: str
    content: Segments
    name: NotRequired[str]


Prompt: TypeAlias = Segments | Sequence[Message] | Sequence[Mapping[str, object]]


class ChatTokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    chat_template: object

    @property
    def apply_chat_template(self) -> Callable[..., object]: ...


@dataclass(frozen=True)
class Rendered:
    """The clean text that the model reads, and what of it is highlighted."""

    text: str
    spans: tuple[Span, ...]
    content_regions: tuple[tuple[int, int], ...]  # [start, end): from messages, not the template
    is_chat: bool


@dataclass(frozen=True)
class _Place:
    """Where a content stands in a rendering: its characters [skipped, skipped + end - start)."""

    start: int
    end: int
    skipped: int


def is_chat(prompt: Prompt) -> TypeGuard[Sequence[Mapping[str, object]]]:
    """Return whether the prompt is a sequence of messages."""
    if isinstance(prompt, str | Highlight):
        return False
    return len(prompt) > 0 and all(isinstance(item, Mapping) for item in prompt)


def render(tokenizer: ChatTokenizer, prompt: Prompt) -> Rendered:
    """Return the prompt as clean text; a chat ends with the opening of the assistant's turn."""
    if isinstance(prompt, Mapping):
        raise PromptError("the prompt is one message: put it into a list")
    if not is_chat(prompt):
        text, spans = flatten(prompt)  # type: ignore[arg-type]
        if not text:
            raise PromptError("the prompt is empty: give it at least one character")
        return Rendered(text, spans, (), is_chat=False)

    contents: list[str] = []
    spans_of: list[tuple[Span, ...]] = []
    for message in prompt:
        segments = message.get("content")
        text, spans = ("", ()) if segments is None else flatten(segments)  # type: ignore[arg-type]
        contents.append(text)
        spans_of.append(spans)
    clean = _apply(tokenizer, prompt, contents)
    placed: list[Span] = []
    regions: list[tuple[int, int]] = []
    places_of = _find_contents(tokenizer, prompt, contents, clean)
    for content, spans, places in zip(contents, spans_of, places_of, strict=True):
        regions += [(place.start, place.end) for place in places]
        placed += [_move(span, content, place) for span in spans for place in places]
        if spans and not places:
            shown = content[spans[0].start : spans[0].end][:60]
            raise HighlightError(
                f"the highlight {shown!r} was not found in the chat as its template renders it: "
                "highlight it in another message, or pass the rendered text as the prompt"
            )
    return Rendered(
        clean, tuple(sorted(placed, key=lambda span: span.start)), tuple(sorted(regions)), True
    )


def _apply(
    tokenizer: ChatTokenizer, prompt: Sequence[Mapping[str, object]], contents: Sequence[str]
) -> str:
    """Return the rendering of the chat with these contents."""
    from jinja2 import TemplateError  # slow to import, and needed for chats alone

    if not tokenizer.chat_template:
        raise PromptError(
            "the tokenizer has no chat template: pass the prompt as text, or set "
            "tokenizer.chat_template"
        )
    messages = [
        dict(message) if message.get("content") is None else {**message, "content": content}
        for message, content in zip(prompt, contents, strict=True)
    ]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    assert isinstance(text, str)
    return text


def _find_contents(
    tokenizer: ChatTokenizer,
    prompt: Sequence[Mapping[str, object]],
    contents: Sequence[str],
    clean: str,
) -> list[list[_Place]]:
    """Return every place of every content in the rendering `clean`."""
    places: list[list[_Place]] = [[] for _ in contents]
    stem = "seka0mark"
    while stem in clean or any(stem in content for content in contents):
        stem = f"x{stem}"
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
        marked = [
            f"{content[: cuts[i]]}{stem}{i}z{content[cuts[i] :]}" if i in cuts else content
            for i, content in enumerate(contents)
        ]
        try:
            rendering = _apply(tokenizer, prompt, marked)
        except PromptError:
            continue
        pieces = re.split(rf"{stem}(\d+)z", rendering)
        if "".join(pieces[::2]) != clean:
            continue
        at = 0
        for literal, number in zip(pieces[::2], pieces[1::2], strict=False):
            at += len(literal)
            i = int(number)
            places[i].append(_around(clean, at, contents[i], cuts[i]))
    for i, content in enumerate(contents):
        whole = content.strip()
        if whole and not places[i] and clean.count(whole) == 1:
            places[i].append(_around(clean, clean.index(whole), content, content.index(whole)))
    return places


def _cut(content: str, where: float) -> int:
    """Return where to mark the content: before its middle, or at 1 its last visible character."""
    start = len(content) - len(content.lstrip())
    end = len(content.rstrip())
    return start + min(int((end - start) * where), end - start - 1)


def _around(clean: str, at: int, content: str, cut: int) -> _Place:
    """Return how much of the content stands around `at`, where its character `cut` was rendered."""
    before = content[:cut], clean[max(at - cut, 0) : at]
    left = len(commonprefix([text[::-1] for text in before]))
    right = len(commonprefix([content[cut:], clean[at : at + len(content) - cut]]))
    return _Place(at - left, at + right, skipped=cut - left)


def _move(span: Span, content: str, place: _Place) -> Span:
    """Return a span of the content as a span of the rendering."""
    start = max(span.start, place.skipped)
    end = min(span.end, place.skipped + place.end - place.start)
    if content[span.start : start].strip() or content[end : span.end].strip() or start >= end:
        raise HighlightError(
            f"the chat template leaves out part of the highlight "
            f"{content[span.start : span.end][:60]!r}: pass the rendered text as the prompt"
        )
    shift = place.start - place.skipped
    return replace(span, start=start + shift, end=end + shift)


@dataclass(frozen=True)
class Passage:
    """Retrieved text, with where it comes from and how relevant the retriever found it."""

    text: str
    source: str = ""
    score: float | None = None


def rag_messages(
    question: str,
    passages: Sequence[Passage],
    *,
    gains: Sequence[float | None] | None,
    system: str | None = None,
) -> list[Message]:
    """Return a chat that asks `question` over numbered passages.

    `gains` has one entry per passage: 0 leaves it plain, None highlights it with the bank's gain;
    no list, no highlight.
    """
    if gains is not None and len(gains) != len(passages):
        raise PromptError(
            f"there are {len(gains)} gains for {len(passages)} passages: give one for each"
        )
    segments: list[Segment] = ["Passages:"] if passages else []
    for i, passage in enumerate(passages):
        lines = (line.strip() for line in passage.text.splitlines())
        text = " ".join(line for line in lines if line)
        if not text:
            raise PromptError(f"passage {i + 1} is empty: leave it out")
        gain = 0.0 if gains is None else gains[i]
        segments += [f"\n[{i + 1}] ", text if gain == 0 else highlight(text, gain=gain)]
    segments.append(f"\n\nQuestion: {question}" if passages else f"Question: {question}")
    opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": segments}]


def fit_passages(
    passages: Sequence[Passage], *, fits: Callable[[Sequence[Passage]], bool]
) -> tuple[list[Passage], list[Passage]]:
    """Return the passages kept, in their order, and those dropped, least relevant first.

    Whole passages go, the lowest score first (without scores, the last first), until `fits` says
    that the prompt made of those kept is short enough. The question is never cut: if it does not
    fit alone, that is a PromptError.
    """
    by_relevance = sorted(
        range(len(passages)),
        key=lambda i: -math.inf if (score := passages[i].score) is None else score,
        reverse=True,
    )
    dropped: list[Passage] = []
    while True:
        kept = [passages[i] for i in sorted(by_relevance)]
        if fits(kept):
            return kept, dropped
        if not by_relevance:
            raise PromptError(
                "the question alone is longer than the model's context: shorten it, or use "
                "another model"
            )
        dropped.append(passages[by_relevance.pop()])
