"""SekaLLM continues strings; what is marked in them is highlighted."""

import asyncio

import pytest
from scripted import tiny
from seka_rag import Engine, Highlight, Sampling

from langchain_seka import SekaLLM, mark

PROMPTS = [f"Read: {mark(f'Ferry {i} leaves at {i}.', gain=i)} When?" for i in range(1, 5)]


@pytest.fixture(scope="module")
def engine():
    with Engine(tiny()) as engine:
        yield engine


@pytest.fixture
def llm(engine):
    return SekaLLM(engine=engine, max_tokens=12)


def test_the_answer_is_that_of_the_engine(llm, engine):
    prompt = ["Read: ", Highlight("Ferry 1 leaves at 1.", 1.0), " When?"]
    assert llm.invoke(PROMPTS[0]) == engine.generate(prompt, Sampling(max_new_tokens=12)).text


def test_batches_and_streams_equal_one_by_one(llm):
    texts = [llm.invoke(prompt) for prompt in PROMPTS]
    assert llm.batch(PROMPTS) == texts
    assert asyncio.run(llm.abatch(PROMPTS)) == texts
    assert "".join(llm.stream(PROMPTS[0])) == texts[0]

    async def gathered():
        return [piece async for piece in llm.astream(PROMPTS[0])]

    assert "".join(asyncio.run(gathered())) == texts[0]


def test_usage_is_reported(llm):
    result = llm.generate(PROMPTS)
    assert result.llm_output["token_usage"]["completion_tokens"] <= 12 * len(PROMPTS)
    assert all(each[0].generation_info["highlighted_tokens"] > 0 for each in result.generations)


def test_unknown_arguments_are_refused(llm):
    with pytest.raises(TypeError, match="temprature"):
        llm.invoke("Hello.", temprature=1)
