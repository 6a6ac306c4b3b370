"""SekaLLM: a completion model whose attention follows the marked pieces of its prompt.

A prompt is a string and goes to the model as it stands; what `mark` signed in it is highlighted.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from seka_rag import Completion, Engine, RemoteEngine, read_marks

from langchain_seka.serving import Served


class SekaLLM(Served, BaseLLM):
    """A local model that continues a text; without a name, the embedded one."""

    @property
    def _llm_type(self) -> str:
        return "seka"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        sampling, options = self._request(stop, kwargs)
        engine: Engine | RemoteEngine = self.engine.get()
        return self._result(
            engine.batch([read_marks(prompt) for prompt in prompts], sampling, **options)
        )

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        sampling, options = self._request(stop, kwargs)
        engine: Engine | RemoteEngine = await self.engine.aget()
        answers = await asyncio.gather(
            *(engine.agenerate(read_marks(prompt), sampling, **options) for prompt in prompts)
        )
        return self._result(answers)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        sampling, options = self._request(stop, kwargs)
        engine: Engine | RemoteEngine = self.engine.get()
        with engine.stream(read_marks(prompt), sampling, **options) as stream:
            for piece in stream:
                if piece.text:
                    chunk = GenerationChunk(text=piece.text)
                    if run_manager:
                        run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk
            assert stream.completion is not None
            yield GenerationChunk(text="", generation_info=_info(stream.completion))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        sampling, options = self._request(stop, kwargs)
        engine: Engine | RemoteEngine = await self.engine.aget()
        async with engine.astream(read_marks(prompt), sampling, **options) as stream:
            async for piece in stream:
                if piece.text:
                    chunk = GenerationChunk(text=piece.text)
                    if run_manager:
                        await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk
            assert stream.completion is not None
            yield GenerationChunk(text="", generation_info=_info(stream.completion))

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Return what `generate` does. The event loop does not wait for weights to be loaded."""
        await self.engine.aget()
        return await super().agenerate(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[str]:
        """Return what `stream` does. The event loop does not wait for weights to be loaded."""
        await self.engine.aget()
        async with aclosing(super().astream(*args, **kwargs)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    def _result(self, completions: Sequence[Completion]) -> LLMResult:
        read = sum(each.usage.prompt_tokens for each in completions)
        written = sum(each.usage.completion_tokens for each in completions)
        usage = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
        return LLMResult(
            generations=[
                [Generation(text=each.text, generation_info=_info(each))] for each in completions
            ],
            llm_output={"model_name": self._model_name, "token_usage": usage},
        )


def _info(completion: Completion) -> dict[str, Any]:
    return {
        "finish_reason": completion.finish_reason,
        "highlighted_tokens": completion.usage.highlighted_tokens,
    }
