"""Middleware: an agent that attends to chosen instructions, and to what its tools have found.

Highlights are put into the request to the model alone, so that the agent's state and checkpoints
stay clean. Needs `langchain`, which the extra `agents` installs.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, ToolMessage
from seka_rag import (
    Highlight,
    HighlightError,
    MissingExtraError,
    Segment,
    check_policy,
    highlight_in,
    highlighted,
    read_marks,
)

from langchain_seka.documents import marked, to_passage
from langchain_seka.messages import highlight

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:
    raise MissingExtraError(
        'SekaHighlightMiddleware needs langchain: pip install "langchain-seka[agents]"'
    ) from error


class SekaHighlightMiddleware(AgentMiddleware[Any, Any, Any]):
    """Highlights instructions of the system prompt, and documents that tools return.

    `instructions`: "all" of the prompt, or texts that stand in it; one that does not is a
    HighlightError. `tag`: what stands between <tag> and </tag> in the prompt, tags excluded.
    `policy`: which of the documents in the artifact of a tool's message are highlighted, where
    their text stands in its content, as in `HighlightDocuments`; None highlights none. A gain of
    None is the bank's own.
    """

    def __init__(
        self,
        *,
        instructions: Literal["all"] | Sequence[str] = (),
        tag: str | None = None,
        policy: str | None = "all",
        gain: float | None = None,
        instruction_gain: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(instructions, str) and instructions != "all":
            raise HighlightError('instructions are "all", or a list of texts in the system prompt')
        self.instructions, self.tag, self.instruction_gain = instructions, tag, instruction_gain
        self.policy, self.gain = policy if policy is None else check_policy(policy), gain

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Return the model's answer to the request with its highlights."""
        return handler(self._highlighted(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Return the model's answer to the request with its highlights."""
        return await handler(self._highlighted(request))

    def _highlighted(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return request.override(
            system_message=self._system(request.system_message),
            messages=self._messages(request.messages),
        )

    def _system(self, message: SystemMessage | None) -> SystemMessage | None:
        """Return the system prompt with its instructions highlighted; a block may be already."""
        content = [] if message is None else message.content
        blocks: list[Any] = []
        missing = self._wanted
        for block in [content] if isinstance(content, str) else content:
            text = _plain_text(block)
            if text is None:
                blocks.append(block)
                continue
            found = [each for each in missing if each in text]
            missing = [each for each in missing if each not in found]
            blocks += [self._block(segment) for segment in self._instructed(text, found)]
        if missing:
            raise HighlightError(
                f"{missing[0]!r} is not in the system prompt, or highlighted there: copy it exactly"
            )
        return message and message.model_copy(update={"content": blocks})

    @property
    def _wanted(self) -> list[str]:
        """What must stand in the system prompt."""
        texts = [] if self.instructions == "all" else list(self.instructions)
        return texts if self.tag is None else [*texts, f"<{self.tag}>"]

    def _instructed(self, text: str, found: Sequence[str]) -> Sequence[Segment]:
        if self.instructions == "all":
            return [Highlight(text)] if text.strip() else [text]
        segments: Sequence[Segment] = [text]
        if self.tag is not None and f"<{self.tag}>" in text:
            segments = _tagged(text, self.tag)
        for each in found:
            if each in self.instructions:
                segments = highlight_in(segments, each)
        return segments

    def _block(self, segment: Segment) -> dict[str, Any]:
        if isinstance(segment, Highlight):
            return highlight(segment.text, gain=self.instruction_gain, kind="instruction")
        return {"type": "text", "text": segment}

    def _messages(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """Return the messages with what tools have found highlighted for the question before it."""
        changed: list[AnyMessage] = []
        question = ""
        for message in messages:
            if isinstance(message, HumanMessage):
                question = message.text
            if isinstance(message, ToolMessage) and (documents := _documents(message.artifact)):
                message = self._found(message, documents, question)
            changed.append(message)
        return changed

    def _found(
        self, message: ToolMessage, documents: Sequence[Document], question: str
    ) -> ToolMessage:
        if self.policy is None or not isinstance(message.content, str):
            return message
        passages = [to_passage(document) for document in documents]
        segments: Sequence[Segment] = read_marks(message.content)
        for passage in highlighted(self.policy, passages, question, gain=self.gain):
            for each in passage:
                # What a tool has changed, or marked already, stays as it is.
                if isinstance(each, Highlight) and _holds(segments, each.text):
                    segments = highlight_in(segments, each.text, gain=each.gain, kind=each.kind)
        return message.model_copy(update={"content": marked(segments)})


def _plain_text(block: str | Mapping[str, Any]) -> str | None:
    """Return the text of a block on which nobody has said anything yet."""
    if isinstance(block, str):
        return block
    return block["text"] if block.get("type") == "text" and not block.get("extras") else None


def _tagged(text: str, tag: str) -> Sequence[Segment]:
    """Return the text with all that stands between the tags highlighted."""
    name = re.escape(tag)
    inside = rf"(?<=<{name}>)(\s*)(\S.*?)(\s*)(?=</{name}>)"
    pieces = re.split(inside, text, flags=re.DOTALL)
    if len(pieces) == 1:
        raise HighlightError(f"nothing stands between <{tag}> and </{tag}> in the system prompt")
    return [Highlight(piece) if i % 4 == 2 else piece for i, piece in enumerate(pieces) if piece]


def _holds(segments: Sequence[Segment], text: str) -> bool:
    return any(isinstance(segment, str) and text in segment for segment in segments)


def _documents(artifact: object) -> list[Document]:
    """Return the documents in an artifact. From a checkpoint they come back as mappings."""
    listed = artifact if isinstance(artifact, list | tuple) else []
    found: list[Document] = []
    for each in listed:
        if isinstance(each, Document):
            found.append(each)
        elif isinstance(each, Mapping) and isinstance(text := each.get("page_content"), str):
            found.append(Document(text, metadata=dict(each.get("metadata") or {})))
    return found
