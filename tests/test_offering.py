"""Tools and schemas in the engine, with random models whose answers a constraint shapes.

What is tested is the way from a request to its calls, not whether a model calls the right tool.
"""

import asyncio
import json

import pytest
from conftest import make_bank, make_model
from test_chat import WITH_TOOLS, with_template

from seka_rag import Chat, Constraint, Engine, Sampling, SteeredModel, ToolCall, highlight
from seka_rag.errors import GrammarError, PromptError
from seka_rag.toolcalls import call_frame

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
LONG = Sampling(max_new_tokens=150)


def tool(name):
    return {
        "type": "function",
        "function": {"name": name, "description": "Look it up.", "parameters": SCHEMA},
    }


def chat(*tools):
    content = ["How warm is it in ", highlight("Paris"), "?"]
    return Chat([{"role": "user", "content": content}], [tool(name) for name in tools])


@pytest.fixture(scope="module")
def model():
    model = make_model("qwen3")
    model.config.max_position_embeddings = 4096  # tools take room
    return model


@pytest.fixture(scope="module", params=WITH_TOOLS)
def form_and_engine(request, model, tokenizer):
    own = with_template(tokenizer, WITH_TOOLS[request.param])
    with Engine(SteeredModel(model, own, make_bank(model))) as engine:
        form = {"qwen": "hermes", "llama": "llama3"}.get(request.param, request.param)
        yield form, engine


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    with Engine(SteeredModel(model, tokenizer, make_bank(model))) as engine:
        yield engine


def test_a_forced_call_is_a_call(form_and_engine):
    _, engine = form_and_engine
    found = engine.generate(chat("weather"), LONG, tool_choice="weather")
    (call,) = found.tool_calls
    assert (call.name, call.id, found.text) == ("weather", "call00000", "")
    assert set(call.arguments) == {"city", "days"}
    assert found.finish_reason == "stop"
    either = engine.generate(chat("weather", "news"), LONG, tool_choice="any")
    assert [call.name in ("weather", "news") for call in either.tool_calls] == [True]


def test_text_before_a_call_is_streamed_and_the_call_is_not(form_and_engine):
    form, engine = form_and_engine
    frame = call_frame(form)
    constraint = Constraint.framed(
        engine.steered.tokenizer,
        f"Let me see.\n{frame.opening('weather')}",
        SCHEMA,
        frame.after_arguments,
    )
    stream = engine.stream(chat("weather"), LONG, constraint=constraint)
    text = "".join(chunk.text for chunk in stream)
    assert text.strip() == stream.completion.text == "Let me see."
    assert [call.name for call in stream.completion.tool_calls] == ["weather"]
    as_text = engine.generate(chat("weather"), LONG, constraint=constraint, tool_choice="none")
    assert as_text.tool_calls == ()
    assert '"city"' in as_text.text


def test_a_later_turn_goes_on_counting_calls(form_and_engine):
    _, engine = form_and_engine
    first = ToolCall("weather", {"city": "Rome", "days": 1}, "call00000")
    messages = [
        {"role": "user", "content": "How warm is it in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [first]},
        {"role": "tool", "content": highlight("17 degrees"), "tool_call_id": "call00000"},
        {"role": "assistant", "content": "17 degrees."},
        {"role": "user", "content": "And in Paris?"},
    ]
    found = engine.generate(Chat(messages, [tool("weather")]), LONG, tool_choice="any")
    assert [call.id for call in found.tool_calls] == ["call00001"]
    assert found.usage.highlighted_tokens > 0


@pytest.mark.parametrize("choice", ["any", "weather", "always"])
def test_a_choice_without_its_tool_is_an_error(engine, choice):
    with pytest.raises(PromptError, match="tool_choice"):
        engine.generate("The capital", tool_choice=choice)


def test_an_answer_meets_its_schema_whoever_else_is_in_the_batch(engine):
    async def ask():
        return await asyncio.gather(
            engine.agenerate("The capital", Sampling(max_new_tokens=20)),
            *(
                engine.agenerate(
                    ["Where is ", highlight("Paris"), "?"],
                    Sampling(max_new_tokens=150, temperature=1.0, seed=seed),
                    schema=SCHEMA,
                )
                for seed in range(6)
            ),
        )

    free, *answers = asyncio.run(ask())
    assert free.token_ids == engine.generate("The capital", Sampling(max_new_tokens=20)).token_ids
    values = [json.loads(answer.text) for answer in answers]
    assert all(
        value["city"] in ("Paris", "Rome") and value["days"] in (1, 2, 3) for value in values
    )
    assert len({answer.text for answer in answers}) > 1


def test_what_cannot_be_asked_is_said_at_once(engine):
    with pytest.raises(GrammarError):
        engine.generate("The capital", schema={"type": "nothing"})
    with pytest.raises(PromptError, match="one form"):
        engine.generate(
            "The capital",
            schema=SCHEMA,
            constraint=Constraint.json(engine.steered.tokenizer),
        )
