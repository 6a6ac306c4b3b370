"""Messages: LangChain's as the chats of seka-rag, and highlights inside them.

A highlight is a text block with `extras={"seka": {"gain": …, "kind": …}}`, or a marked piece of a
plain string. Extras can be set by whoever makes a message, so they count on system and human
messages alone; a marker is signed, and counts wherever it stands. Nothing here knows of models.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call, tool_call_chunk
from seka_rag import (
    Highlight,
    HighlightError,
    Kind,
    PromptError,
    Segment,
    ToolCall,
    flatten,
    read_marks,
)
from seka_rag import mark as mark

_ROLES = {"human": "user", "ai": "assistant", "developer": "system"}
_TRUSTED = ("system", "user")


def highlight(text: str, *, gain: float | None = None, kind: Kind = "passage") -> dict[str, Any]:
    """Return `text` as a highlighted block of a message; a `gain` of None is the bank's own."""
    Highlight(text, gain, kind)  # what is wrong is said here, not when the model is called
    extras = {"seka": {"gain": gain, "kind": kind}}
    return {"type": "text", "text": text, "extras": extras}


def to_chat(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the messages as seka-rag takes them."""
    return [_to_message(message) for message in messages]


def _to_message(message: BaseMessage) -> dict[str, Any]:
    role = _role(message)
    plain: dict[str, Any] = {"role": role, "content": _segments(message.content, role)}
    if message.name:
        plain["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        plain["tool_calls"] = [
            ToolCall(call["name"], call["args"], call["id"] or "") for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _role(message: BaseMessage) -> str:
    if isinstance(message, ToolMessage | FunctionMessage):
        return "tool"
    # The type of a piece of a stream is that of the message with "Chunk" behind it.
    role = message.role if isinstance(message, ChatMessage) else message.type
    role = "ai" if isinstance(message, AIMessage) else role.removesuffix("MessageChunk").lower()
    return _ROLES.get(role, role)


def _segments(content: str | Sequence[Any], role: str) -> list[Segment]:
    """Return the content, its blocks one behind the other as in `message.text`."""
    blocks = [content] if isinstance(content, str) else content
    return [segment for block in blocks for segment in _block(block, role)]


def _block(block: str | Mapping[str, Any], role: str) -> Sequence[Segment]:
    if isinstance(block, str):
        return read_marks(block)
    if block.get("type") != "text":
        if role == "assistant":  # calls are in tool_calls, and how it came to an answer is past
            return ()
        raise PromptError(
            f"a message holds a block of type {block.get('type')!r}: the model reads text alone"
        )
    segments = read_marks(block["text"])
    given = (block.get("extras") or {}).get("seka")
    if given is None or role not in _TRUSTED:
        return segments
    text = flatten(segments)[0]
    return [_highlight(text, given)] if text.strip() else [text]


def _highlight(text: str, given: Mapping[str, Any]) -> Highlight:
    gain = given.get("gain")
    if isinstance(gain, str):  # as a prompt template fills it in
        try:
            gain = float(gain)
        except ValueError:
            raise HighlightError(f"the gain is {gain!r}: give a number, such as 1.0") from None
    return Highlight(text, gain, given.get("kind", "passage"))


def to_ai_message(text: str, calls: Sequence[ToolCall], **fields: Any) -> AIMessage:
    """Return an answer of the model, with the calls that it asks for."""
    found = [tool_call(name=call.name, args=dict(call.arguments), id=call.id) for call in calls]
    return AIMessage(text, tool_calls=found, **fields)


def to_last_chunk(calls: Sequence[ToolCall], **fields: Any) -> AIMessageChunk:
    """Return the end of an answer whose text has come in pieces."""
    found = [
        tool_call_chunk(
            name=call.name,
            args=json.dumps(dict(call.arguments), ensure_ascii=False),
            id=call.id,
            index=i,
        )
        for i, call in enumerate(calls)
    ]
    return AIMessageChunk(content="", tool_call_chunks=found, chunk_position="last", **fields)
