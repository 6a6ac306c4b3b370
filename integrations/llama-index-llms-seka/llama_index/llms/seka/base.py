"""SekaLLM: a language model whose attention follows the highlights in its prompt.

Messages become a seka-rag chat, prompts that are formatted go to the model as they stand; answers
become responses. Everything between is the engine's.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    ToolCallBlock,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import Model, PydanticProgramMode, TokenAsyncGen
from pydantic import ConfigDict
from seka_rag import (
    Chat,
    Completion,
    Engine,
    Options,
    Passage,
    RemoteEngine,
    Sampling,
    Segment,
    flatten,
    rag_messages,
    read_marks,
    request_of,
)

from llama_index.llms.seka.messages import to_answer, to_chat
from llama_index.llms.seka.serving import Served
from llama_index.llms.seka.structured import as_json, object_in, object_so_far, started

_FRAME = rag_messages("{query_str}", [Passage("{context_str}")], gains=None)[0]["content"]

QA_TEMPLATE = PromptTemplate(flatten(_FRAME)[0])
"""A `text_qa_template` in the words that the embedded model learned to read."""

_Engine: TypeAlias = Engine | RemoteEngine
_Prompt: TypeAlias = Chat | list[Segment]
_Step: TypeAlias = tuple[
    Completion | None, str, str
]  # the end of a stream, all so far, what is new


class SekaLLM(Served, FunctionCallingLLM):
    """A local model that attends to what is highlighted; without a name, the embedded one.

    What `mark` or `highlight` signed is highlighted, wherever it stands in a prompt or a message.
    """

    model_config = ConfigDict(extra="forbid")

    context_window: int | None = None
    """The most tokens that LlamaIndex puts into a prompt; None is what the model can read."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows it."""
        return "SekaLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What the model can do, for which it is loaded."""
        steered = self._held.get().steered
        return LLMMetadata(
            context_window=self.context_window or steered.context_length or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens or Sampling().max_new_tokens,
            is_chat_model=True,
            is_function_calling_model="tools" in str(steered.tokenizer.chat_template),
            model_name=self._held.name,
        )

    def to_payload(self) -> dict[str, Any]:
        """Return what is told of it to those who watch, for which no weights are loaded."""
        names = ("model", "gain", "max_tokens", "temperature")
        return {"class_name": self.class_name(), **{name: getattr(self, name) for name in names}}

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the model's answer to the messages."""
        asked = self._asked(messages, kwargs)
        return self._answer(_ask(self._held.get(), *asked))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return what `chat` does."""
        asked = self._asked(messages, kwargs)
        return self._answer(await _aask(await self._held.aget(), *asked))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the answer as it is written: all so far, and what is new. Usage comes last."""
        asked = self._asked(messages, kwargs)
        return (self._answer(*step) for step in _steps(self._held.get(), *asked))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Return what yields what `stream_chat` does."""
        asked = self._asked(messages, kwargs)
        engine = await self._held.aget()
        return (self._answer(*step) async for step in _asteps(engine, *asked))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return how the model goes on from a formatted prompt, or answers any other."""
        sampling, options = request_of(self, kwargs)
        engine = self._held.get()
        return self._text(_ask(engine, self._prompt(prompt, formatted), sampling, options))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Return what `complete` does."""
        sampling, options = request_of(self, kwargs)
        engine = await self._held.aget()
        return self._text(await _aask(engine, self._prompt(prompt, formatted), sampling, options))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Yield the text as it is written: all so far, and what is new. Usage comes last."""
        sampling, options = request_of(self, kwargs)
        engine = self._held.get()
        steps = _steps(engine, self._prompt(prompt, formatted), sampling, options)
        return (self._text(*step) for step in steps)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Return what yields what `stream_complete` does."""
        sampling, options = request_of(self, kwargs)
        engine = await self._held.aget()
        steps = _asteps(engine, self._prompt(prompt, formatted), sampling, options)
        return (self._text(*step) async for step in steps)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return what `predict` does. The event loop does not wait for weights to be loaded."""
        await self._held.aget()
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Return what `stream` does. The event loop does not wait for weights to be loaded."""
        await self._held.aget()
        return await super().astream(prompt, **prompt_args)

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return the answer as an object: nothing but JSON that its schema accepts is written.

        What `max_tokens` cuts off is a ValueError. In another `pydantic_program_mode` than the
        default, LlamaIndex's own programs are asked.
        """
        if self._has_program:
            found: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return found
        started(output_cls, prompt, prompt_args)
        messages = self._get_messages(prompt, **prompt_args)
        return object_in(output_cls, self.chat(messages, **as_json(output_cls, llm_kwargs)))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return what `structured_predict` does."""
        if self._has_program:
            found: Model = await super().astructured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return found
        started(output_cls, prompt, prompt_args)
        messages = self._get_messages(prompt, **prompt_args)
        return object_in(output_cls, await self.achat(messages, **as_json(output_cls, llm_kwargs)))

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self._has_program:
            yield from super()._structured_stream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return
        messages = self._get_messages(prompt, **prompt_args)
        known = None
        for response in self.stream_chat(messages, **as_json(output_cls, llm_kwargs)):
            known = object_so_far(output_cls, response, known)
            yield known

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if self._has_program:
            return await super()._structured_astream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
        messages = self._get_messages(prompt, **prompt_args)
        responses = await self.astream_chat(messages, **as_json(output_cls, llm_kwargs))

        async def objects() -> AsyncGenerator[Any, None]:
            known = None
            async for response in responses:
                known = object_so_far(output_cls, response, known)
                yield known

        return objects()

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of the chat in which these tools may be called, or must.

        `tool_choice`: "auto", "none", "any" (or "required"), or the name of a tool.
        """
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        choice = tool_choice or ("any" if tool_required else "auto")
        return {
            "messages": messages,
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools or ()],
            "tool_choice": "any" if choice == "required" else choice,
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Return the response, with its first call alone where only one is allowed."""
        if not allow_parallel_tool_calls:
            surplus = [id(call) for call in _calls(response)[1:]]
            message = response.message
            message.blocks = [block for block in message.blocks if id(block) not in surplus]
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls that a response asks for."""
        calls = [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs,  # type: ignore[arg-type]  # always of ours
            )
            for call in _calls(response)
        ]
        if not calls and error_on_no_tool_call:
            raise ValueError(f"the model called no tool, it wrote: {response.message.content}")
        return calls

    @property
    def _has_program(self) -> bool:
        return self.pydantic_program_mode != PydanticProgramMode.DEFAULT

    def _asked(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> tuple[Chat, Sampling, Options]:
        """Return the request that a call stands for."""
        settings = {name: value for name, value in given.items() if name != "tools"}
        chat = Chat(to_chat(messages), given.get("tools") or ())
        return chat, *request_of(self, settings)

    def _prompt(self, prompt: str, formatted: bool) -> _Prompt:
        """Return a prompt as the engine takes it, which puts a BOS before all that is no chat."""
        if not formatted:
            return Chat(to_chat([ChatMessage(prompt)]))
        first, *others = read_marks(prompt) or ("",)
        if isinstance(first, str):
            first = first.removeprefix(self._held.bos)
        return [first, *others]

    def _answer(
        self, completion: Completion | None, text: str | None = None, delta: str | None = None
    ) -> ChatResponse:
        """Return the answer; of a stream, what there is of it."""
        if completion is None:
            return ChatResponse(message=to_answer(text or ""), delta=delta)
        message = to_answer(completion.text, completion.tool_calls)
        return ChatResponse(message=message, delta=delta, raw=self._facts(completion))

    def _text(
        self, completion: Completion | None, text: str | None = None, delta: str | None = None
    ) -> CompletionResponse:
        """Return the text; of a stream, what there is of it."""
        if completion is None:
            return CompletionResponse(text=text or "", delta=delta)
        return CompletionResponse(text=completion.text, delta=delta, raw=self._facts(completion))

    def _facts(self, completion: Completion) -> dict[str, Any]:
        usage = completion.usage
        return {
            "model": self._held.name,
            "finish_reason": completion.finish_reason,
            "highlighted_tokens": usage.highlighted_tokens,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }


def _ask(engine: _Engine, prompt: _Prompt, sampling: Sampling, options: Options) -> Completion:
    return engine.generate(prompt, sampling, **options)


async def _aask(
    engine: _Engine, prompt: _Prompt, sampling: Sampling, options: Options
) -> Completion:
    return await engine.agenerate(prompt, sampling, **options)


def _steps(
    engine: _Engine, prompt: _Prompt, sampling: Sampling, options: Options
) -> Iterator[_Step]:
    text = ""
    with engine.stream(prompt, sampling, **options) as stream:
        for piece in stream:
            if piece.text:
                text += piece.text
                yield None, text, piece.text
        yield stream.completion, text, ""


async def _asteps(
    engine: _Engine, prompt: _Prompt, sampling: Sampling, options: Options
) -> AsyncIterator[_Step]:
    text = ""
    async with engine.astream(prompt, sampling, **options) as stream:
        async for piece in stream:
            if piece.text:
                text += piece.text
                yield None, text, piece.text
        yield stream.completion, text, ""


def _calls(response: ChatResponse) -> list[ToolCallBlock]:
    return [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
