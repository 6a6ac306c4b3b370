"""Chats as a tokenizer's template takes them: messages, tools, and the calls of tools.

Templates differ in what they take. A chat is tried as it is; only where the template raises, or
leaves out a system message, are neighbouring messages of one role merged, and system messages put
in front of the user message that follows. Arguments of calls reach the template as the objects that
it writes as JSON, never as JSON in a string. Where in the rendering a content stands is not known
here. Neither torch nor transformers is needed: a tokenizer comes as an argument.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, Protocol, TypeAlias, TypedDict

from seka_rag.errors import PromptError
from seka_rag.highlight import Segments, as_segments, flatten
from seka_rag.tokens import AddedToken
from seka_rag.toolcalls import ToolCall, as_object

AnyMessage: TypeAlias = Mapping[str, object]


class Message(TypedDict):
    """One message of a chat. Other keys that a template knows are passed on to it."""

    role: str
    content: Segments
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[ToolCall | Mapping[str, object]]]
    tool_call_id: NotRequired[str]


@dataclass(frozen=True)
class Chat:
    """Messages, and the tools that the model may call, as the OpenAI API writes them:

    {"type": "function", "function": {"name": …, "description": …, "parameters": {JSON schema}}}
    """

    messages: Sequence[Message] | Sequence[AnyMessage]
    tools: Sequence[Mapping[str, object]] = ()


class ChatTokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    chat_template: object

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    @property
    def apply_chat_template(self) -> Callable[..., object]: ...


def content_of(message: Mapping[str, object]) -> Segments:
    """Return the content of a message in segments, of which there may be none."""
    segments = message.get("content")
    return () if segments is None else segments  # type: ignore[return-value]


def apply_template(tokenizer: ChatTokenizer, chat: Chat) -> str:
    """Return the rendering of the chat, up to the opening of the assistant's turn.

    A tokenizer without a template, and a template that raises, are a PromptError.
    """
    from jinja2 import TemplateError  # slow to import, and needed for chats alone

    if not tokenizer.chat_template:
        raise PromptError(
            "the tokenizer has no chat template: pass the prompt as text, or set "
            "tokenizer.chat_template"
        )
    messages = [_plain(message) for message in chat.messages]
    tools = [dict(tool) for tool in chat.tools] or None
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError) as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    assert isinstance(text, str)
    return text


def accepted(tokenizer: ChatTokenizer, chat: Chat) -> tuple[Chat, str]:
    """Return the chat in the form that its template takes, and the rendering of it.

    A chat that it takes in no form, a system message that it leaves out in each, tools that it
    ignores, and what is no tool are a PromptError.
    """
    for tool in chat.tools:
        if not isinstance(tool, Mapping):
            raise PromptError(
                f"a tool is {type(tool).__name__}: describe it as "
                '{"type": "function", "function": {...}}'
            )
    refusal: PromptError | None = None
    for messages in _forms([_with_calls(message) for message in chat.messages]):
        form = replace(chat, messages=messages)
        try:
            text = apply_template(tokenizer, form)
        except PromptError as error:
            refusal = refusal or error
            continue
        if _leaves_out_system(tokenizer, form, text):
            refusal = refusal or PromptError(
                "the chat template leaves out a system message: write it into a user message"
            )
            continue
        if chat.tools and _renders_as(tokenizer, replace(form, tools=()), text):
            raise PromptError(
                "the chat template ignores tools: use a model whose template takes them, or "
                "describe them in a message"
            )
        return form, text
    assert refusal is not None
    raise refusal


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value made of dicts and lists, with every text in it changed, keys as well."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(name, change): map_texts(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return value


def _plain(message: AnyMessage) -> dict[str, object]:
    """Return the message with its content as text."""
    if message.get("content") is None:
        return dict(message)
    return {**message, "content": flatten(content_of(message))[0]}


def _with_calls(message: AnyMessage) -> AnyMessage:
    """Return the message with its calls as templates expect them."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: object) -> object:
    if isinstance(call, ToolCall):
        called = {"name": call.name, "arguments": dict(call.arguments)}
        return {"id": call.id, "type": "function", "function": called}
    if isinstance(call, Mapping) and isinstance(function := call.get("function"), Mapping):
        given = function.get("arguments")
        if isinstance(given, str) and (parsed := as_object(given)) is not None:
            return {**call, "function": {**function, "arguments": parsed}}
    return call


def _forms(messages: Sequence[AnyMessage]) -> Iterator[Sequence[AnyMessage]]:
    """Yield the messages as they are, then in the forms that a strict template may take."""
    yield messages
    merged = _merged(messages)
    if len(merged) < len(messages):
        yield merged
    if any(message.get("role") == "system" for message in messages):
        folded = _folded(messages)
        yield folded
        merged = _merged(folded)
        if len(merged) < len(folded):
            yield merged


def _merged(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the messages with neighbours of one role in one; calls and results stay alone."""
    merged: list[AnyMessage] = []
    for message in messages:
        before = merged[-1] if merged else {}
        # Beside calls, some templates leave out the content.
        alone = before.get("tool_calls") or message.get("tool_calls")
        if not alone and before.get("role") == message.get("role") != "tool":
            merged[-1] = _joined(before, message)
        else:
            merged.append(message)
    return merged


def _folded(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Return the messages with system messages in front of the user message that follows.

    Where none follows, a system message becomes a user message.
    """
    folded: list[AnyMessage] = []
    after_system = False
    for message in messages:
        is_system = message.get("role") == "system"
        as_user = {**message, "role": "user"} if is_system else message
        if after_system and as_user.get("role") == "user":
            folded[-1] = _joined(folded[-1], as_user)
        else:
            folded.append(as_user)
        after_system = is_system
    return folded


def _joined(before: AnyMessage, after: AnyMessage) -> AnyMessage:
    """Return two messages as one, with a blank line between their contents."""
    contents = [as_segments(content_of(message)) for message in (before, after)]
    first, second = (content if flatten(content)[0] else () for content in contents)
    border = ("\n\n",) if first and second else ()
    return {**before, **after, "content": [*first, *border, *second]}


def _leaves_out_system(tokenizer: ChatTokenizer, chat: Chat, text: str) -> bool:
    """Return whether a system message could as well hold anything else."""
    for i, message in enumerate(chat.messages):
        content = flatten(content_of(message))[0]
        if message.get("role") == "system" and content.strip():
            other = {**message, "content": f"x{content}x"}
            changed = [*chat.messages[:i], other, *chat.messages[i + 1 :]]
            if _renders_as(tokenizer, replace(chat, messages=changed), text):
                return True
    return False


def _renders_as(tokenizer: ChatTokenizer, chat: Chat, text: str) -> bool:
    try:
        return apply_template(tokenizer, chat) == text
    except PromptError:
        return False
