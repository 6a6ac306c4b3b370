"""ChatSeka: a chat model whose attention follows the highlights in its messages.

Messages become a seka-rag chat, answers become messages; everything between is the engine's.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from seka_rag import Chat, Completion, Engine, Options, RemoteEngine, Sampling

from langchain_seka.messages import to_ai_message, to_chat, to_last_chunk
from langchain_seka.serving import Served

Tools = Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool]
Method = Literal["json_schema", "json_mode", "function_calling"]


class ChatSeka(Served, BaseChatModel):
    """A local chat model that attends to what is highlighted; without a name, the embedded one.

    Text blocks made by `highlight`, and pieces of strings made by `mark`, are highlighted.
    """

    @property
    def _llm_type(self) -> str:
        return "seka-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        profile = ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            # Beside tools a schema cannot be met, which is what LangChain would take this for.
            structured_output=False,
        )
        if not self.engine.loading:
            steered = self.engine.get().steered
            profile["tool_calling"] = "tools" in str(steered.tokenizer.chat_template)
            if steered.context_length is not None:
                profile["max_input_tokens"] = steered.context_length
        return profile

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat, sampling, options = self._asked(messages, stop, kwargs)
        engine: Engine | RemoteEngine = self.engine.get()
        return self._result(engine.generate(chat, sampling, **options))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat, sampling, options = self._asked(messages, stop, kwargs)
        engine: Engine | RemoteEngine = await self.engine.aget()
        return self._result(await engine.agenerate(chat, sampling, **options))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chat, sampling, options = self._asked(messages, stop, kwargs)
        engine: Engine | RemoteEngine = self.engine.get()
        with engine.stream(chat, sampling, **options) as stream:
            for piece in stream:
                if piece.text:
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
                    if run_manager:
                        run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk
            yield self._last(stream.completion)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chat, sampling, options = self._asked(messages, stop, kwargs)
        engine: Engine | RemoteEngine = await self.engine.aget()
        async with engine.astream(chat, sampling, **options) as stream:
            async for piece in stream:
                if piece.text:
                    chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
                    if run_manager:
                        await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                    yield chunk
            yield self._last(stream.completion)

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Return what `generate` does. The event loop does not wait for weights to be loaded."""
        await self.engine.aget()
        return await super().agenerate(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """Return what `stream` does. The event loop does not wait for weights to be loaded."""
        await self.engine.aget()
        async with aclosing(super().astream(*args, **kwargs)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    def bind_tools(
        self,
        tools: Tools,
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools that it may call, or must.

        `tool_choice`: "auto" or None leaves it to the model, "none" keeps its calls as text, "any",
        "required" or True forces one, the name of a tool forces that one. Arguments of a forced
        call always meet the tool's schema, so `strict` changes nothing.
        """
        described = [convert_to_openai_tool(tool) for tool in tools]
        choice = _choice(tool_choice, [tool["function"]["name"] for tool in described])
        return self.bind(tools=described, tool_choice=choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return the model with answers as objects of the schema.

        "json_schema" lets it write nothing but JSON that the schema accepts, "json_mode" nothing
        but a JSON object, "function_calling" forces a call, for which its template must take tools.
        Of a class nothing but its fields is written; `strict` says so of what is inside them too.
        An answer that `max_tokens` cuts off is an OutputParserException.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        form = convert_to_json_schema(schema, strict=strict)
        if isinstance(schema, type):  # a class names all that an object of it holds
            form.setdefault("additionalProperties", False)
        answers = self.bind(
            schema=form if method == "json_schema" else {"type": "object"},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
            **kwargs,
        )
        parser = _parser(schema)
        return _with_raw(answers, parser) if include_raw else answers | parser

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Tools | None = None
    ) -> int:
        """Return how many tokens the messages have in the model's own template."""
        chat = Chat(to_chat(messages), [convert_to_openai_tool(tool) for tool in tools or ()])
        count: int = self.engine.get().steered.count_tokens(chat)
        return count

    def _asked(
        self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]
    ) -> tuple[Chat, Sampling, Options]:
        """Return the request that a call stands for."""
        given = dict(given)
        tools = given.pop("tools", None) or ()
        if form := given.pop("response_format", None):
            given["schema"] = _form(form)
        sampling, options = self._request(stop, given)
        return Chat(to_chat(messages), tools), sampling, options

    def _result(self, completion: Completion) -> ChatResult:
        message = to_ai_message(completion.text, completion.tool_calls, **self._facts(completion))
        info = {"finish_reason": completion.finish_reason}
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])

    def _last(self, completion: Completion | None) -> ChatGenerationChunk:
        assert completion is not None  # the stream has ended
        message = to_last_chunk(completion.tool_calls, **self._facts(completion))
        info = {"finish_reason": completion.finish_reason}
        return ChatGenerationChunk(message=message, generation_info=info)

    def _facts(self, completion: Completion) -> dict[str, Any]:
        usage = completion.usage
        return {
            "usage_metadata": UsageMetadata(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.prompt_tokens + usage.completion_tokens,
            ),
            "response_metadata": {
                "model_name": self._model_name,
                "model_provider": "seka",
                "finish_reason": completion.finish_reason,
                "highlighted_tokens": usage.highlighted_tokens,
            },
        }


def _choice(given: str | bool | Mapping[str, Any] | None, names: Sequence[str]) -> str:
    """Return the choice in seka-rag's words."""
    if isinstance(given, Mapping):
        given = given.get("function", given).get("name")
    if not given:
        return "auto"
    choice = "any" if given is True or given == "required" else str(given)
    if choice not in ("auto", "none", "any", *names):
        raise ValueError(
            f'tool_choice is {given!r}: use "auto", "none", "any" or one of {", ".join(names)}'
        )
    return choice


def _form(response_format: Mapping[str, Any] | type) -> Mapping[str, Any]:
    """Return the JSON schema of a response format as the OpenAI API writes it, or of a class."""
    if isinstance(response_format, type):
        return convert_to_json_schema(response_format)
    if response_format.get("type") == "json_object":
        return {"type": "object"}
    described: Mapping[str, Any] = response_format.get("json_schema", response_format)
    form: Mapping[str, Any] = described.get("schema", described)
    return form


class _Whole(JsonOutputParser):
    """JSON that the model could write to its end."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        answer = result[0]
        info = answer.message.response_metadata if isinstance(answer, ChatGeneration) else {}
        if not partial and info.get("finish_reason") == "length":
            raise OutputParserException(
                "the answer was cut off before its JSON was complete: allow more max_tokens, or "
                "limit the lengths in the schema",
                llm_output=answer.text,
            )
        return super().parse_result(result, partial=partial)


class _WholeObject(_Whole, PydanticOutputParser[Any]):
    """The same, as an object of a pydantic class."""


def _parser(schema: dict[str, Any] | type) -> JsonOutputParser:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _WholeObject(pydantic_object=schema)
    return _Whole()


def _with_raw(answers: Runnable[Any, Any], parser: JsonOutputParser) -> Runnable[Any, Any]:
    """Return what gives the message, and what was read from it or why it could not be."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=answers) | parsed.with_fallbacks([failed], exception_key="parsing_error")
