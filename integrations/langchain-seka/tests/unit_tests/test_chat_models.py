"""ChatSeka is the engine behind LangChain's interface: nothing is lost between the two."""

import asyncio
import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel
from scripted import ScriptedEngine, tiny
from seka_rag import Engine, Highlight, PromptError, Sampling
from typing_extensions import TypedDict

from langchain_seka import ChatSeka, SekaLLM, highlight, mark

FACT = "The ferry leaves at one."


@pytest.fixture(scope="module")
def engine():
    with Engine(tiny()) as engine:
        yield engine


@pytest.fixture
def chat(engine):
    return ChatSeka(engine=engine, max_tokens=12)


def ask(i, gain):
    """Return a question under a passage that is highlighted."""
    return [HumanMessage([highlight(f"Ferry {i} leaves at {i}.", gain=gain), " When?"])]


def test_the_answer_is_that_of_the_engine(chat, engine):
    messages = [SystemMessage(mark("Be brief.", gain=2)), *ask(3, 9)]
    prompt = [
        {"role": "system", "content": [Highlight("Be brief.", 2.0)]},
        {"role": "user", "content": [Highlight("Ferry 3 leaves at 3.", 9), " When?"]},
    ]
    expected = engine.generate(prompt, Sampling(max_new_tokens=12))
    answer = chat.invoke(messages)
    assert answer.text == expected.text
    assert answer.response_metadata["highlighted_tokens"] == expected.usage.highlighted_tokens > 0


def test_a_batch_of_different_highlights_equals_one_by_one(chat):
    prompts = [ask(i, gain=0.5 * i) for i in range(32)]
    one_by_one = [chat.invoke(prompt).text for prompt in prompts]
    assert [answer.text for answer in chat.batch(prompts)] == one_by_one
    together = asyncio.run(chat.abatch(prompts))
    assert [answer.text for answer in together] == one_by_one
    assert len(set(one_by_one)) > 1


def test_streams_give_the_same_text_with_usage_once(chat):
    whole = chat.invoke(ask(1, 5))
    chunks = list(chat.stream(ask(1, 5)))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    joined = sum(chunks[1:], chunks[0])
    assert joined.text == whole.text
    assert joined.usage_metadata == whole.usage_metadata
    assert joined.response_metadata == whole.response_metadata

    async def gathered():
        return [chunk async for chunk in chat.astream(ask(1, 5))]

    assert "".join(chunk.text for chunk in asyncio.run(gathered())) == whole.text


def test_the_cache_tells_highlights_gains_and_models_apart(engine):
    cache = InMemoryCache()
    chat = ChatSeka(engine=engine, cache=cache, max_tokens=2)

    def entries(model, prompt, **kwargs):
        model.invoke(prompt, **kwargs)
        return len(cache._cache)

    assert [entries(chat, ask(1, gain)) for gain in (1, 1, 2, None, 0)] == [1, 1, 2, 3, 4]
    assert entries(chat, ask(1, None), gain=0.5) == 5
    others = [
        ChatSeka(engine=engine, cache=cache, max_tokens=2, gain=0.5),
        ChatSeka(engine=engine, cache=cache, max_tokens=2, experts=[""]),
        ChatSeka(engine=Engine(tiny(gain=4.0)), cache=cache, max_tokens=2),
        ChatSeka(engine=Engine(tiny(seed=8)), cache=cache, max_tokens=2),
    ]
    keys = {other._get_llm_string() for other in (chat, *others)}
    assert len(keys) == 5
    assert ChatSeka(engine=engine, max_tokens=2)._get_llm_string() in keys


def test_stop_is_a_field_and_an_argument(engine):
    chat = ChatSeka(engine=ScriptedEngine(lambda _: "one two three"), stop=[" two"])
    assert chat.invoke("Count.").text == "one"
    assert chat.invoke("Count.", stop=[" three"]).text == "one two"
    assert [chunk.text for chunk in chat.stream("Count.")][-1] == ""


def test_unknown_arguments_are_refused(chat):
    with pytest.raises(TypeError, match="temprature"):
        chat.invoke("Hello.", temprature=1)


class Ferry(BaseModel):
    """When a ferry leaves."""

    hour: int


class Day(TypedDict):
    """A day of the week."""

    day: str


def test_answers_of_a_random_model_meet_the_schema(chat):
    class Mood(BaseModel):
        """How somebody feels."""

        good: bool

    answers = chat.with_structured_output(Mood, max_tokens=40)
    assert isinstance(answers.invoke("Well?"), Mood)


def test_objects_come_as_what_was_asked_for():
    def script(prompt):
        return '{"day":"Monday"}' if "day" in prompt else '{"hour":1}'

    chat = ChatSeka(engine=ScriptedEngine(script))
    assert chat.with_structured_output(Ferry).invoke("When?") == Ferry(hour=1)
    assert chat.with_structured_output(Day).invoke("Which day?") == {"day": "Monday"}
    assert chat.with_structured_output(Ferry, method="json_mode").invoke("When?") == Ferry(hour=1)
    both = chat.with_structured_output(Ferry, include_raw=True).invoke("When?")
    assert (both["parsed"], both["parsing_error"]) == (Ferry(hour=1), None)
    assert json.loads(both["raw"].text) == {"hour": 1}


def test_json_that_is_cut_off_is_an_error():
    chat = ChatSeka(engine=ScriptedEngine(lambda _: '{"day":"Monday"}'), max_tokens=5)
    with pytest.raises(OutputParserException, match="max_tokens"):
        chat.with_structured_output(Day).invoke("Which day?")
    both = chat.with_structured_output(Day, include_raw=True).invoke("Which day?")
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], OutputParserException)


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "Ferry", {"function": {"name": "Ferry"}}]
)
def test_a_random_model_calls_what_it_must(chat, choice):
    class Ferry(BaseModel):
        """Find a ferry."""

        early: bool

    answer = chat.bind_tools([Ferry], tool_choice=choice).invoke("Hello.", max_tokens=200)
    (call,) = answer.tool_calls
    assert call["name"] == "Ferry"
    assert isinstance(call["args"]["early"], bool)


def test_calls_stay_text_where_they_are_not_wanted():
    call = '<tool_call>\n{"name": "Ferry", "arguments": {"hour": 1}}\n</tool_call>'
    chat = ChatSeka(engine=ScriptedEngine(lambda _: call))
    assert chat.bind_tools([Ferry]).invoke("Hello.").tool_calls[0]["args"] == {"hour": 1}
    refused = chat.bind_tools([Ferry], tool_choice="none").invoke("Hello.")
    assert (refused.tool_calls, refused.text) == ([], call)


def test_a_tool_that_was_not_offered_cannot_be_chosen(chat):
    with pytest.raises(ValueError, match="Train"):
        chat.bind_tools([Ferry], tool_choice="Train")


@pytest.fixture
def loads(monkeypatch, engine):
    """What weights were loaded for, in order."""
    found = []

    def load(**given):
        found.append(given["model"])
        return engine.steered

    monkeypatch.setattr("seka_rag.serving.load", load)
    return found


@pytest.mark.parametrize("kind", [ChatSeka, SekaLLM])
def test_weights_are_loaded_by_the_first_call_alone(kind, loads):
    model = kind(model="some/model", max_tokens=2)
    repr(model), str(model), model.model_dump(), model._get_ls_params()
    assert loads == []
    other = model.configurable_fields(temperature=ConfigurableField("temperature"))
    for temperature in (0.1, 0.2):
        other.with_config(configurable={"temperature": temperature}).invoke("Hello.")
    model.invoke("Hello.")
    assert loads == ["some/model"]


def test_another_model_is_another_engine(loads):
    chat = ChatSeka(max_tokens=2).configurable_fields(model=ConfigurableField("model"))
    chat.invoke("Hello.")
    chat.with_config(configurable={"model": "some/model"}).invoke("Hello.")
    assert loads == [None, "some/model"]


@pytest.mark.parametrize("kind", [ChatSeka, SekaLLM])
@pytest.mark.parametrize("streaming", [False, True])
async def test_the_event_loop_does_not_wait_for_weights(kind, streaming, monkeypatch, engine):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(**_):
        # Were this the thread of the event loop, nobody could set the event.
        asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(timeout=5)
        return engine.steered

    async def read(model):
        if streaming:
            return [piece async for piece in model.astream("Hello.")]
        return await model.ainvoke("Hello.")

    monkeypatch.setattr("seka_rag.serving.load", load)
    task = asyncio.create_task(read(kind(max_tokens=2)))
    await asyncio.sleep(0.05)
    asked.set()
    await task


async def test_closing_a_stream_ends_the_row(engine, monkeypatch):
    jobs = []
    submit = engine._submit
    monkeypatch.setattr(engine, "_submit", lambda job: (jobs.append(job), submit(job)))
    chat = ChatSeka(engine=engine, max_tokens=4000)
    stream = chat.astream("Hello.")
    await anext(stream)
    await stream.aclose()
    pieces = chat.stream("Hello.")
    next(pieces)
    pieces.close()
    assert [job.cancelled for job in jobs] == [True, True]


def test_an_engine_is_in_no_dump_and_no_repr(chat):
    assert "engine" not in chat.model_dump()
    assert "engine" not in repr(chat)


def test_an_engine_has_its_model(engine):
    with pytest.raises(ValueError, match="engine"):
        ChatSeka(engine=engine, model="some/model")


def test_tokens_are_those_of_the_model(chat, engine):
    assert chat.get_token_ids(FACT) == engine.steered.tokenizer.encode(FACT)
    read = chat.invoke(ask(1, 2)).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages(ask(1, 2)) == read


def test_the_profile_is_that_of_the_engine(chat):
    assert chat.profile["max_input_tokens"] == 8192
    assert chat.profile["tool_calling"]


def test_one_answer_has_one_form(chat):
    with pytest.raises(PromptError, match="one form"):
        chat.bind_tools([Ferry], tool_choice="any").invoke("Hello.", schema={"type": "object"})
