"""What a user passes as a prompt, rendered to the clean text that the model reads, with its
highlighted spans.

A prompt is segments, taken as they stand, or a chat, whose messages go through the tokenizer's own
template. How a template is applied, and how contents are found in its rendering, is known to other
modules. Neither torch nor transformers is needed here: a tokenizer comes as an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from seka_rag.chat import AnyMessage, Chat, accepted, content_of
from seka_rag.chat import ChatTokenizer as ChatTokenizer
from seka_rag.chat import Message as Message
from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Highlight, Segment, Segments, Span, as_segments, flatten, highlight
from seka_rag.places import find_contents, find_regions

Prompt: TypeAlias = Segments | Chat | Sequence[Message] | Sequence[AnyMessage]


@dataclass(frozen=True)
class Rendered:
    """The clean text that the model reads, and what of it is highlighted."""

    text: str
    spans: tuple[Span, ...]
    content_regions: tuple[tuple[int, int], ...]  # [start, end): from the user, not the template
    is_chat: bool


def as_chat(prompt: Prompt) -> Chat | None:
    """Return the chat that the prompt is; None if it is segments."""
    messages = prompt.messages if isinstance(prompt, Chat) else prompt
    if isinstance(messages, Mapping):
        raise PromptError("the prompt is one message: put it into a list")
    if isinstance(prompt, Chat):
        if not messages:
            raise PromptError("the chat is empty: give it at least one message")
        return prompt
    if isinstance(messages, str | Highlight) or not messages:
        return None
    is_chat = all(isinstance(item, Mapping) for item in messages)
    return Chat(messages) if is_chat else None  # type: ignore[arg-type]


def render(tokenizer: ChatTokenizer, prompt: Prompt) -> Rendered:
    """Return the prompt as clean text; a chat ends with the opening of the assistant's turn.

    A prompt that is empty, and a chat that its template does not take, are a PromptError; a
    highlight that is not in the rendering is a HighlightError.
    """
    chat = as_chat(prompt)
    if chat is not None:
        return _render_chat(tokenizer, chat)
    text, spans = flatten(prompt)  # type: ignore[arg-type]
    if not text:
        raise PromptError("the prompt is empty: give it at least one character")
    return Rendered(text, spans, (), is_chat=False)


def _render_chat(tokenizer: ChatTokenizer, chat: Chat) -> Rendered:
    chat, clean = accepted(tokenizer, chat)
    flattened = [flatten(content_of(message)) for message in chat.messages]
    places_of = find_contents(tokenizer, chat, clean)
    placed: list[Span] = []
    for (content, spans), places in zip(flattened, places_of, strict=True):
        placed += [place.move(span, content) for span in spans for place in places]
        if spans and not places:
            shown = content[spans[0].start : spans[0].end][:60]
            raise HighlightError(
                f"the highlight {shown!r} was not found in the chat as its template renders it: "
                "highlight it in another message, or pass the rendered text as the prompt"
            )
    regions = find_regions(tokenizer, chat, clean, places_of)
    placed.sort(key=lambda span: span.start)
    return Rendered(clean, tuple(placed), tuple(sorted(regions)), is_chat=True)


def continued(context: Prompt, more: Prompt) -> Prompt:
    """Return the prompt that goes on from the context: at the end of the last message of a chat."""
    if as_chat(more) is not None:
        raise PromptError("what follows a context is text and highlights: pass segments")
    segments = as_segments(more)  # type: ignore[arg-type]
    chat = as_chat(context)
    if chat is None:
        return [*as_segments(context), *segments]  # type: ignore[arg-type]
    *before, last = chat.messages
    content = [*as_segments(content_of(last)), *segments]
    return replace(chat, messages=[*before, {**last, "content": content}])


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
