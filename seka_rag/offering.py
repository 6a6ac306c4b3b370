"""Offering: the tools of one request, how calls of them are found in an answer, and how forced.

`tool_choice`: "auto" lets the model decide, "none" leaves its calls as text, "any" forces a call of
one of the tools, and a tool's name a call of that one. Nothing is known here of batches or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag.chat import Chat
from seka_rag.errors import PromptError
from seka_rag.grammar import Constraint
from seka_rag.toolcalls import Format, ToolCall, call_frame, parse_tool_calls, tool_call_format

# Where a call may begin, as far as text can be shown before the answer is done.
_SIGNALS: dict[Format, tuple[str, ...]] = {
    "hermes": ("<tool_call>",),
    "llama3": ("{", "<|python_tag|>"),
    "mistral": ("[TOOL_CALLS]", "["),
    "mistral_args": ("[TOOL_CALLS]",),
}


@dataclass(frozen=True)
class Offer:
    """The tools that a chat offers, in the format that its template shows the model."""

    form: Format
    parameters: Mapping[str, Mapping[str, Any]]  # JSON schemas, by the tools' names
    calls_so_far: int

    @property
    def signals(self) -> tuple[str, ...]:
        """What a call may begin with."""
        return _SIGNALS[self.form]

    def parse(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the text that is left without its calls, and the calls."""
        return parse_tool_calls(text, self.form, self.parameters, first=self.calls_so_far)

    def forced(self, tokenizer: Any, choice: str) -> Constraint | None:
        """Return what makes the model call as `choice` says; None where it may do as it likes."""
        if choice in ("auto", "none"):
            return None
        frame = call_frame(self.form)
        return Constraint.any_of(
            [
                Constraint.framed(tokenizer, frame.opening(name), schema, frame.after_arguments)
                for name, schema in self.parameters.items()
                if choice in ("any", name)
            ]
        )


def offer_of(tokenizer: Any, chat: Chat | None, choice: str) -> Offer | None:
    """Return what a chat offers; None without tools, or where calls are to stay text.

    A choice that cannot be met is a PromptError.
    """
    tools = [_function(tool) for tool in chat.tools] if chat is not None else []
    names = [str(function.get("name")) for function in tools]
    if choice not in ("auto", "none", *(("any", *names) if names else ())):
        raise PromptError(
            f'tool_choice is {choice!r}: use "auto" or "none"'
            + (f', "any", or one of {", ".join(names)}' if names else ", or offer tools in a Chat")
        )
    if chat is None or not tools or choice == "none":
        return None
    schemas = (function.get("parameters") or {"type": "object"} for function in tools)
    return Offer(
        tool_call_format(tokenizer.get_chat_template(tools=list(chat.tools))),
        dict(zip(names, schemas, strict=True)),
        sum(_calls(message) for message in chat.messages),
    )


def _function(tool: Mapping[str, object]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}


def _calls(message: Mapping[str, object]) -> int:
    calls = message.get("tool_calls")
    return len(calls) if isinstance(calls, Sequence) else 0
