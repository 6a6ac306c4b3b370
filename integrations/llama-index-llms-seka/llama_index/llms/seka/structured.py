"""Answers as objects: the schema that an answer must meet, and what is read from it.

Nothing here knows how a model is made to keep to a schema.
"""

from collections.abc import Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.program.streaming_utils import process_streaming_content_incremental
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model

_dispatcher = get_dispatcher(__name__)


def started(output_cls: type[Model], prompt: PromptTemplate, given: dict[str, Any]) -> None:
    """Tell those who watch that an object is asked for."""
    _dispatcher.event(
        LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=given)
    )


def as_json(output_cls: type[Model], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a call whose answer is an object of the class."""
    form = output_cls.model_json_schema()
    form.setdefault("additionalProperties", False)  # a class names all that it holds
    return {**(given or {}), "schema": form}


def object_in(output_cls: type[Model], response: ChatResponse) -> Model:
    """Return the object that an answer is in JSON."""
    _check_whole(response)
    found = output_cls.model_validate_json(response.message.content or "")
    _dispatcher.event(LLMStructuredPredictEndEvent(output=found))
    return found


def object_so_far(output_cls: type[Model], response: ChatResponse, known: Any) -> Any:
    """Return the object as far as it can be read, or as it was known; at the end, all of it."""
    if response.raw is None:
        return process_streaming_content_incremental(response, output_cls, known)
    _check_whole(response)
    return output_cls.model_validate_json(response.message.content or "")


def _check_whole(response: ChatResponse) -> None:
    if response.raw and response.raw["finish_reason"] == "length":
        raise ValueError(
            "the answer was cut off before its JSON was complete: allow more max_tokens, or limit "
            "the lengths in the schema"
        )
