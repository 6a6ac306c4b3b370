"""Answers as objects, and calls of tools: nothing can be written that would not be one."""

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from scripted import Recording, ScriptedEngine, tiny
from seka_rag import Engine, Highlight

from llama_index.llms.seka import SekaLLM, mark

PROMPT = PromptTemplate("{fact} When?")
CALL = '<tool_call>\n{"name": "search", "arguments": {"early": true}}\n</tool_call>'


class Ferry(BaseModel):
    """When a ferry leaves."""

    hour: int
    port: str = ""


class Mood(BaseModel):
    """How somebody feels."""

    good: bool


@pytest.fixture(scope="module")
def llm():
    with Engine(tiny()) as engine:
        yield SekaLLM(engine=engine, max_tokens=200)


async def every_way(llm, form, **given):
    """Return what each of the four ways gives."""
    streamed = list(llm.stream_structured_predict(form, PROMPT, **given))
    astreamed = [each async for each in await llm.astream_structured_predict(form, PROMPT, **given)]
    return [
        llm.structured_predict(form, PROMPT, **given),
        await llm.astructured_predict(form, PROMPT, **given),
        streamed[-1],
        astreamed[-1],
        llm.as_structured_llm(form).complete(given["fact"]).raw,
    ]


async def test_answers_of_a_random_model_meet_the_schema(llm):
    assert {type(each) for each in await every_way(llm, Mood, fact="Well?")} == {Mood}


async def test_every_way_gives_the_object_and_keeps_highlights():
    engine = Recording(lambda _: '{"hour":1,"port":"Porto"}')
    found = await every_way(SekaLLM(engine=engine), Ferry, fact=mark("At one."))
    assert found == [Ferry(hour=1, port="Porto")] * 5
    assert engine.highlights == [[Highlight("At one.")]] * 5


async def test_json_that_is_cut_off_is_an_error():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: '{"hour":1,"port":"Porto"}'), max_tokens=5)
    with pytest.raises(ValueError, match="max_tokens"):
        llm.structured_predict(Ferry, PROMPT, fact="At one.")
    with pytest.raises(ValueError, match="max_tokens"):
        list(llm.stream_structured_predict(Ferry, PROMPT, fact="At one."))


def test_arguments_of_a_call_reach_it():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: '{"hour":1,"port":"Porto"}'), max_tokens=5)
    found = llm.structured_predict(Ferry, PROMPT, {"max_tokens": 100}, fact="At one.")
    assert found.hour == 1


def search(early: bool) -> str:
    """Find a ferry."""
    return f"One at {'one' if early else 'ten'}."


TOOL = FunctionTool.from_defaults(search)


def test_a_random_model_calls_what_it_must(llm):
    for choice in ({"tool_required": True}, {"tool_choice": "search"}):
        response = llm.chat_with_tools([TOOL], user_msg="Hello.", **choice)
        (call,) = llm.get_tool_calls_from_response(response)
        assert call.tool_name == "search"
        assert isinstance(call.tool_kwargs["early"], bool)


async def test_calls_come_whole_at_the_end_of_a_stream():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: f"Wait. {CALL}"))
    stream = [each async for each in await llm.astream_chat_with_tools([TOOL], user_msg="Hello.")]
    (call,) = llm.get_tool_calls_from_response(stream[-1])
    assert (call.tool_name, call.tool_kwargs) == ("search", {"early": True})
    assert "tool_call" not in "".join(each.delta for each in stream)
    assert llm.predict_and_call([TOOL], "Hello.").response == "One at one."


def test_one_call_where_one_is_allowed():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: CALL + CALL))
    for parallel, count in ((True, 2), (False, 1)):
        response = llm.chat_with_tools([TOOL], "Hello.", allow_parallel_tool_calls=parallel)
        assert len(llm.get_tool_calls_from_response(response)) == count


def test_no_call_is_an_error_if_one_is_wanted():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: "No."))
    response = llm.chat_with_tools([TOOL], ChatMessage("Hello."))
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="No"):
        llm.get_tool_calls_from_response(response)
