"""A training document: pieces of text, each with the weight of its tokens in the loss.

    Doc = [(text, weight), …]      weight 1: to be learned      0: only to be read

The chat format here is the one that chat_template.jinja renders; `check.py` holds the two together.
"""

from __future__ import annotations

import json

Doc = list[tuple[str, float]]
Turn = tuple[str, str]

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOOLS_HEAD = "You may call these tools:\n<tools>\n"
TOOLS_TAIL = (
    "\n</tools>\nTo call one, answer with its name and arguments in JSON:\n"
    '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
)
# Prompts carry a little weight: the wording of questions helps the model to speak, but made-up facts are not to be kept.
READ = 0.05


def chat(turns: list[Turn], *, read: float = READ) -> Doc:
    """Return a conversation in which every assistant turn is to be learned and its end marked."""
    doc: Doc = []
    for role, content in turns:
        if role == "assistant":
            doc += [(f"{TURN_START}assistant\n", 0.0), (f"{content}{TURN_END}", 1.0), ("\n", 0.0)]
        else:
            doc += [(f"{TURN_START}{role}\n", 0.0), (content, read), (f"{TURN_END}\n", 0.0)]
    return doc


def tool_system(system: str, tools: list[dict[str, object]]) -> str:
    """Return the system message that offers tools."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    offer = f"{TOOLS_HEAD}{listed}{TOOLS_TAIL}"
    return f"{system}\n\n{offer}" if system else offer


def tool_call(name: str, arguments: dict[str, object]) -> str:
    """Return the assistant's text that calls a tool."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"
