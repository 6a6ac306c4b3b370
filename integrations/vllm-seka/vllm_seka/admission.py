"""The door: a request whose highlights cannot be followed is refused before it enters the engine.

`InputProcessor.process_inputs` is what makes requests of prompts, for `LLM`, `AsyncLLM` and the
HTTP server alike. A VLLMValidationError there fails that request alone; over HTTP it is a 400. Beam
search makes requests of its own, without the arguments that highlights come in: it is refused where
the server reads what was sent.
"""

import functools
from typing import TYPE_CHECKING, Any

from vllm_seka.highlights import HighlightsError, mentions, read
from vllm_seka.settings import Steering, steering_of

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest


def install() -> None:
    """Make vLLM check the highlights of every request. Installing again does nothing."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    plain = InputProcessor.process_inputs
    if hasattr(plain, "_seka"):
        return

    @functools.wraps(plain)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> "EngineCoreRequest":
        request = plain(self, *args, **kwargs)
        steering = steering_of(self.vllm_config.additional_config)
        try:
            admit(request, steering)
        except HighlightsError as error:
            # A client that has no bank learns from it what a highlight is to have by itself.
            gain = "" if steering is None else f" (the bank's gain is {steering.experts.gain:g})"
            raise VLLMValidationError(f"{error}{gain}") from error
        return request

    process_inputs._seka = True  # type: ignore[attr-defined]
    InputProcessor.process_inputs = process_inputs
    for sent in (CompletionRequest, ChatCompletionRequest):
        sent.to_beam_search_params = _without_highlights(sent.to_beam_search_params)


def _without_highlights(plain: Any) -> Any:
    """Return `to_beam_search_params`, which refuses highlights."""
    from vllm.exceptions import VLLMValidationError

    @functools.wraps(plain)
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        if mentions(self.vllm_xargs):
            raise VLLMValidationError("seka: beam search cannot be highlighted: sample instead")
        return plain(self, *args, **kwargs)

    return to_beam_search_params


def admit(request: "EngineCoreRequest", steering: Steering | None) -> None:
    """Raise HighlightsError unless the request can be steered as it asks."""
    params = request.sampling_params
    if params is None or not mentions(params.extra_args):
        return
    tokens = request.prompt_token_ids
    if tokens is None or request.prompt_embeds is not None:
        raise HighlightsError("highlights need a prompt of tokens, not of embeddings")
    highlights = read(params.extra_args, len(tokens))
    if highlights is None:
        return
    if steering is None:
        raise HighlightsError(
            'this server has no bank: start it with additional_config={"seka": {"bank": ...}}'
        )
    if request.resumable:
        raise HighlightsError("a session whose prompt grows cannot be highlighted")
    if unserved := [kind for kind in highlights.kinds if not steering.serves(kind)]:
        raise HighlightsError(f"no expert serves highlights of the kind {unserved[0]!r}")
    if steering.routed:
        # Its last token decides about keys anywhere in the prompt: all of it must be computed.
        params.skip_reading_prefix_cache = True
