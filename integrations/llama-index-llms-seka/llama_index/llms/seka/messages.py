"""Messages: LlamaIndex's as the chats of seka-rag, and highlights inside them.

A piece of text is highlighted where `mark` signed it, wherever it stands; `highlight` is a block of
such text. A whole message is, where its `additional_kwargs` have {"seka": {"gain": …, "kind": …}}.
Whoever makes a message can write that, so it counts on system and user messages alone. Nothing here
knows of models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from seka_rag import (
    Highlight,
    HighlightError,
    Kind,
    PromptError,
    Segments,
    ToolCall,
    flatten,
    read_marks,
)
from seka_rag import mark as mark

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
_TRUSTED = ("system", "user")
# Calls go another way, thoughts are past, and a point of somebody's cache is no text.
_BESIDE_TEXT = (CachePoint, ThinkingBlock, ToolCallBlock)


def highlight(text: str, *, gain: float | None = None, kind: Kind = "passage") -> TextBlock:
    """Return `text` as a highlighted block of a message; a `gain` of None is the bank's own."""
    return TextBlock(text=mark(text, gain=gain, kind=kind))


def to_chat(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return the messages as seka-rag takes them."""
    return [_to_message(message) for message in messages]


def _to_message(message: ChatMessage) -> dict[str, Any]:
    role = _ROLES.get(message.role, message.role.value)
    plain: dict[str, Any] = {"role": role, "content": _content(message, role)}
    for name in ("name", "tool_call_id"):
        if value := message.additional_kwargs.get(name):
            plain[name] = value
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if calls:
        plain["tool_calls"] = [_to_call(call) for call in calls]
    return plain


def _to_call(block: ToolCallBlock) -> dict[str, Any]:
    function = {"name": block.tool_name, "arguments": block.tool_kwargs}
    return {"id": block.tool_call_id or "", "type": "function", "function": function}


def _content(message: ChatMessage, role: str) -> Segments:
    """Return the text of the message, which is that of `message.content`."""
    for block in message.blocks:
        if not isinstance(block, (TextBlock, *_BESIDE_TEXT)):
            raise PromptError(
                f"a message holds a block of type {block.block_type!r}: the model reads text alone"
            )
    segments = read_marks(message.content or "")
    given = message.additional_kwargs.get("seka")
    if given is None or role not in _TRUSTED:
        return segments
    if not isinstance(given, Mapping) or not given.keys() <= {"gain", "kind"}:
        raise HighlightError(f'"seka" is {given!r}: give {{"gain": …, "kind": …}}, or {{}}')
    text = flatten(segments)[0]
    if not text.strip():
        return text
    return Highlight(text, given.get("gain"), given.get("kind", "passage"))


def to_answer(text: str, calls: Sequence[ToolCall] = ()) -> ChatMessage:
    """Return an answer of the model, with the calls that it asks for."""
    blocks: list[TextBlock | ToolCallBlock] = [TextBlock(text=text)] if text or not calls else []
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=dict(call.arguments))
        for call in calls
    ]
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
