"""Tool calls as models write them, and which part of a generated text is one.

    hermes        <tool_call>{"name": …, "arguments": {…}}</tool_call>, as Qwen and Hermes
    llama3        {"name": …, "parameters": {…}}, several separated by ; and <|python_tag|> before
    mistral       [TOOL_CALLS] [{"name": …, "arguments": {…}}, …]
    mistral_args  [TOOL_CALLS]name[ARGS]{…}, as newer Mistral models

A call names a tool that was offered and gives its arguments as a JSON object; whatever is no call
stays text. Nothing is known here of the tools' schemas: the arguments may fit them or not.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from seka_rag.errors import PromptError

Format: TypeAlias = Literal["hermes", "llama3", "mistral", "mistral_args"]


@dataclass(frozen=True)
class ToolCall:
    """One call that a model asks for."""

    name: str
    arguments: Mapping[str, object]
    id: str


@dataclass(frozen=True)
class CallFrame:
    """What a model writes around the name and around the JSON arguments of one call."""

    before_name: str
    before_arguments: str
    after_arguments: str

    def opening(self, name: str) -> str:
        """Return all that stands before the arguments of a call of the tool `name`."""
        return self.before_name + name + self.before_arguments


_FRAMES: dict[Format, CallFrame] = {
    "hermes": CallFrame('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
    "llama3": CallFrame('{"name": "', '", "parameters": ', "}"),
    "mistral": CallFrame('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]"),
    "mistral_args": CallFrame("[TOOL_CALLS]", "[ARGS]", ""),
}

# What stands before the JSON of a call, and what must follow it. A generation may end, or go on to
# the next call, before a closing tag. A decoder that skips special tokens swallows [TOOL_CALLS] and
# <|python_tag|>: without them, calls are only where an answer, or for llama3 a line, begins with
# one. JSON in the middle of a sentence is a quotation.
_HERMES = re.compile(r"<tool_call>\s*"), re.compile(r"\s*(?:</tool_call>|(?=<tool_call>)|\Z)")
_LLAMA3 = (
    re.compile(r"(?:<\|python_tag\|>\s*|^[ \t]*|(?<=\})\s*;\s*)(?=\{)", re.MULTILINE),
    re.compile(r"(?:\s*;\s*\Z)?"),
)
_MISTRAL = (
    re.compile(
        r"\[TOOL_CALLS\]\s*(?:(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?"
        r"(?=\{)|(?=[\[{]))|\A\s*(?=\[\s*\{)"
    ),
    re.compile(""),
)
_PATTERNS: dict[Format, tuple[re.Pattern[str], re.Pattern[str]]] = {
    "hermes": _HERMES,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
    "mistral_args": _MISTRAL,
}


def tool_call_format(template: str) -> Format:
    """Return the format in which a model writes tool calls, from its chat template's source.

    A template in which none of the formats is recognised is a PromptError.
    """
    if "[TOOL_CALLS]" in template:
        return "mistral_args" if "[ARGS]" in template else "mistral"
    # Some models write their calls in XML inside the same tag.
    if "<tool_call>" in template and not re.search("<function=|<arg_key>", template):
        return "hermes"
    if "<|python_tag|>" in template or "ipython" in template:
        return "llama3"
    raise PromptError(
        "the chat template shows none of the formats of tool calls that are known (Hermes, "
        "Llama 3, Mistral): use a model that has one of them, or no tools"
    )


def call_frame(form: Format) -> CallFrame:
    """Return the texts around one call, for a decoder that must write one."""
    return _FRAMES[form]


def parse_tool_calls(
    text: str, form: Format, names: Collection[str], *, first: int = 0
) -> tuple[str, list[ToolCall]]:
    """Return the text that is left without its calls of the tools `names`, and these calls.

    Without a call the text is returned as it is; around a call, blanks go with it. The calls are
    numbered from `first` on: a later turn of the same chat continues the count, so that no id
    comes twice. No text raises an error.
    """
    opens, closes = _PATTERNS[form]
    left: list[str] = []
    found: list[tuple[str, Mapping[str, object]]] = []
    at = kept = 0
    while opening := opens.search(text, at):
        at = max(opening.end(), opening.start() + 1)
        decoded = _decode(text, opening.end())
        if decoded is None:
            continue
        # Whether or not it is a call, nothing inside this JSON is looked at again.
        value, at = decoded
        name = opening.groupdict().get("name")
        calls = _as_calls(value if name is None else {"name": name, "arguments": value}, names)
        closing = closes.match(text, at)
        if calls and closing:
            found += calls
            left.append(text[kept : opening.start()])
            kept = at = closing.end()
    if not found:
        return text, []
    left.append(text[kept:])
    return (
        "\n".join(piece.strip() for piece in left if piece.strip()),
        # Mistral's templates want ids of nine letters and digits; the others take any.
        [ToolCall(name, given, f"call{i:05}") for i, (name, given) in enumerate(found, first)],
    )


def as_object(text: str) -> Mapping[str, object] | None:
    """Return the object that `text` is in JSON, empty if it is blank; None if it is no object."""
    blank = len(text) - len(text.lstrip())
    decoded = _decode(text, blank) if text.strip() else ({}, blank)
    if decoded is None or not isinstance(decoded[0], dict) or text[decoded[1] :].strip():
        return None
    return decoded[0]


def _as_calls(value: object, names: Collection[str]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the calls that a JSON value stands for, one or a list; none unless all of it is."""
    calls = [_as_call(item, names) for item in (value if isinstance(value, list) else [value])]
    known = [call for call in calls if call is not None]
    return known if len(known) == len(calls) else []


def _as_call(value: object, names: Collection[str]) -> tuple[str, Mapping[str, object]] | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    given = value.get("arguments", value.get("parameters"))
    if isinstance(given, str):  # JSON inside JSON, as the OpenAI API has it
        return None if (parsed := as_object(given)) is None else (name, parsed)
    if given is None and value.keys() <= {"name", "arguments", "parameters", "type", "id"}:
        given = {}
    return (name, given) if isinstance(given, dict) else None


def _decode(text: str, at: int) -> tuple[object, int] | None:
    """Return the JSON value that begins at `at`, and where it ends; None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        # Python reads NaN and 1e999, which are no JSON, and writes them on request alone. An escape
        # can stand for half of a surrogate pair, which no tokenizer takes.
        again = json.dumps(value, ensure_ascii=False, allow_nan=False)
        again = again.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return json.loads(again), end
    except (ValueError, RecursionError):
        return None


# Models write line breaks into strings as they are, which strict JSON forbids.
_DECODER = json.JSONDecoder(strict=False)
