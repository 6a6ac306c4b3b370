"""SekaLLM is the engine behind LlamaIndex's interface: nothing is lost between the two."""

import asyncio
import gc
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import ValidationError
from scripted import Recording, ScriptedEngine, tiny
from seka_rag import Engine, Highlight, RequestTimeoutError, Sampling

from llama_index.llms.seka import SekaLLM, highlight, mark

TEMPLATE = PromptTemplate("Hello.")


@pytest.fixture(scope="module")
def engine():
    with Engine(tiny()) as engine:
        yield engine


@pytest.fixture
def llm(engine):
    return SekaLLM(engine=engine, max_tokens=12)


def ask(i, gain):
    """Return a question under a passage that is highlighted."""
    return [ChatMessage([highlight(f"Ferry {i} leaves at {i}.", gain=gain)]), ChatMessage("When?")]


async def gathered(stream):
    return [each async for each in await stream]


def test_the_answer_is_that_of_the_engine(llm, engine):
    prompt = [
        {"role": "user", "content": [Highlight("Ferry 3 leaves at 3.", 9.0)]},
        {"role": "user", "content": "When?"},
    ]
    expected = engine.generate(prompt, Sampling(max_new_tokens=12))
    answer = llm.chat(ask(3, 9.0))
    assert answer.message.content == expected.text
    assert answer.raw["highlighted_tokens"] == expected.usage.highlighted_tokens > 0
    assert answer.raw["usage"] == {
        "prompt_tokens": expected.usage.prompt_tokens,
        "completion_tokens": expected.usage.completion_tokens,
        "total_tokens": expected.usage.prompt_tokens + expected.usage.completion_tokens,
    }
    assert answer.raw["finish_reason"] == expected.finish_reason


async def test_threads_and_tasks_with_other_highlights_equal_one_by_one(llm):
    prompts = [ask(i, gain=0.5 * i) for i in range(32)]
    one_by_one = [llm.chat(prompt).message.content for prompt in prompts]
    with ThreadPoolExecutor(32) as pool:
        assert [each.message.content for each in pool.map(llm.chat, prompts)] == one_by_one
    together = await asyncio.gather(*map(llm.achat, prompts))
    assert [each.message.content for each in together] == one_by_one
    assert len(set(one_by_one)) > 1


async def test_every_stream_gives_the_same_text_as_its_call(llm):
    whole, completed = llm.chat(ask(1, 5)), llm.complete(mark("When?"))
    for stream in (list(llm.stream_chat(ask(1, 5))), await gathered(llm.astream_chat(ask(1, 5)))):
        assert "".join(each.delta for each in stream) == whole.message.content
        assert stream[0].message.content == stream[0].delta
        assert (stream[-1].message, stream[-1].raw) == (whole.message, whole.raw)
        assert [each.raw for each in stream[:-1]] == [None] * (len(stream) - 1)
    prompt = mark("When?")
    for texts in (list(llm.stream_complete(prompt)), await gathered(llm.astream_complete(prompt))):
        assert "".join(each.delta for each in texts) == completed.text == texts[-1].text
        assert texts[-1].raw == completed.raw
    assert (await llm.achat(ask(1, 5))) == whole
    assert (await llm.acomplete(prompt)) == completed


def test_responses_are_json(llm):
    responses = [llm.chat(ask(1, 1)), llm.complete("Hello.")]
    responses += [*llm.stream_chat(ask(1, 1)), *llm.stream_complete("Hello.")]
    assert all(json.loads(each.model_dump_json()) for each in responses)


async def test_tokens_are_counted_as_the_engine_reports_them(engine):
    counter = TokenCountingHandler(tokenizer=lambda text: [])
    llm = SekaLLM(engine=engine, max_tokens=3, callback_manager=CallbackManager([counter]))
    raws = [llm.chat(ask(1, 1)).raw, llm.complete("Hello.").raw]
    raws += [list(llm.stream_chat(ask(1, 1)))[-1].raw, list(llm.stream_complete("Hello."))[-1].raw]
    raws += [
        (await llm.achat(ask(1, 1))).raw,
        (await gathered(llm.astream_chat(ask(1, 1))))[-1].raw,
    ]
    usages = [raw["usage"] for raw in raws]
    assert counter.prompt_llm_token_count == sum(each["prompt_tokens"] for each in usages) > 0
    assert counter.completion_llm_token_count == sum(each["completion_tokens"] for each in usages)


def test_an_unformatted_prompt_is_one_turn_and_a_formatted_one_goes_as_it_stands():
    engine = Recording()
    llm = SekaLLM(engine=engine)
    for prompt, formatted in (("Read.", False), (f"<|im_start|>Read {mark('this.')}", True)):
        llm.complete(prompt, formatted=formatted)
    turn = "<|im_start|>user\nRead.<|im_end|>\n<|im_start|>assistant\n"
    assert engine.texts == [turn, "<|im_start|>Read this."]
    assert engine.highlights == [[], [Highlight("this.")]]


@pytest.fixture(scope="module")
def begins():
    """An engine whose tokenizer puts a token before every text."""
    from tokenizers.processors import TemplateProcessing

    model = tiny()
    tokenizer = model.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<pad>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", bos)]
    )
    assert tokenizer.encode("x")[0] == bos
    with Engine(model) as engine:
        yield engine


@pytest.mark.parametrize("mode", ["call", "stream"])
def test_a_formatted_prompt_gets_no_second_bos(begins, monkeypatch, mode):
    jobs = []
    submit = begins._submit
    monkeypatch.setattr(begins, "_submit", lambda job: (jobs.append(job), submit(job)))
    llm = SekaLLM(engine=begins, max_tokens=2)
    prompt = "<pad><|im_start|>user\nHello.<|im_end|>\n"
    if mode == "call":
        llm.complete(prompt, formatted=True)
    else:
        list(llm.stream_complete(prompt, formatted=True))
    tokenizer = begins.steered.tokenizer
    assert jobs[0].row.ids == tokenizer.encode(prompt, add_special_tokens=False)


def test_stop_is_a_field_and_an_argument():
    llm = SekaLLM(engine=ScriptedEngine(lambda _: "one two three"), stop=[" two"])
    assert llm.complete("Count.").text == "one"
    assert llm.complete("Count.", stop=" three").text == "one two"
    assert list(llm.stream_complete("Count."))[-1].text == "one"


def test_unknown_names_are_refused(llm):
    with pytest.raises(TypeError, match="temprature"):
        llm.complete("Hello.", temprature=1)
    with pytest.raises(TypeError, match="temprature"):
        llm.stream_chat(ask(1, 1), temprature=1)
    with pytest.raises(ValidationError, match="temprature"):
        SekaLLM(temprature=1)


async def test_time_that_is_up_is_an_error(engine):
    llm = SekaLLM(engine=engine, max_tokens=5000, timeout=0.2)
    with pytest.raises(RequestTimeoutError):
        llm.complete("Hello.")
    with pytest.raises(RequestTimeoutError):
        await llm.achat(ask(1, 1))


async def test_what_goes_wrong_in_the_engine_is_raised():
    def fail(_):
        raise ZeroDivisionError

    llm = SekaLLM(engine=ScriptedEngine(fail))
    with pytest.raises(ZeroDivisionError):
        llm.complete("Hello.")
    with pytest.raises(ZeroDivisionError):
        await gathered(llm.astream_complete("Hello."))


@pytest.fixture
def jobs(engine, monkeypatch):
    """The requests that the engine gets."""
    found = []
    submit = engine._submit
    monkeypatch.setattr(engine, "_submit", lambda job: (found.append(job), submit(job)))
    return found


async def test_closing_a_stream_ends_the_row(llm, jobs):
    stream = await llm.astream_chat(ask(1, 1), max_tokens=5000)
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):  # LlamaIndex leaves what is inside to the event loop
        while not jobs[0].cancelled:
            await asyncio.sleep(0.01)


def test_closing_a_stream_of_a_thread_ends_the_row(llm, jobs):
    pieces = llm.stream_chat(ask(1, 1), max_tokens=5000)
    next(pieces)
    pieces.close()
    gc.collect()
    assert jobs[0].cancelled


@pytest.mark.parametrize("streaming", [False, True])
async def test_other_coroutines_run_between_the_tokens(llm, streaming):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    if streaming:
        seen = []
        async for _ in await llm.astream_chat(ask(1, 1), max_tokens=40):
            seen.append(ticks)
        assert seen[0] < seen[-1]
    else:
        await llm.achat(ask(1, 1), max_tokens=40)
    ticking.cancel()
    assert ticks > 5


@pytest.fixture
def loads(monkeypatch, engine):
    """What weights were loaded for, in order."""
    found = []
    monkeypatch.setattr(
        "seka_rag.serving.load", lambda **given: (found.append(given["model"]), engine.steered)[1]
    )
    return found


def test_weights_are_loaded_by_the_first_call_alone(loads):
    llm = SekaLLM(model="some/model", max_tokens=2)
    repr(llm), llm.model_dump(), llm.to_dict(), llm.to_payload()
    copied = llm.model_copy()
    assert loads == []
    llm.complete("Hello.")
    copied.complete("Hello.")
    assert loads == ["some/model"]
    assert llm.metadata.model_name == "some/model"


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.achat(ask(1, 1)),
        lambda llm: llm.acomplete("Hello."),
        lambda llm: gathered(llm.astream_chat(ask(1, 1))),
        lambda llm: gathered(llm.astream_complete("Hello.")),
        lambda llm: llm.apredict(TEMPLATE),
        lambda llm: gathered(llm.astream(TEMPLATE)),
    ],
)
async def test_the_event_loop_does_not_wait_for_weights(call, monkeypatch, engine):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def load(**_):
        # Were this the thread of the event loop, nobody could set the event.
        asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(timeout=5)
        return engine.steered

    monkeypatch.setattr("seka_rag.serving.load", load)
    task = asyncio.create_task(call(SekaLLM(max_tokens=2)))
    await asyncio.sleep(0.05)
    asked.set()
    await task


def test_an_engine_is_in_no_dump_and_has_its_model(llm, engine):
    assert llm.class_name() == llm.to_dict()["class_name"] == "SekaLLM"
    assert "engine" not in llm.model_dump()
    assert "engine" not in repr(llm)
    again = SekaLLM.from_dict(SekaLLM(max_tokens=3, gain=2.0).to_dict())
    assert (again.max_tokens, again.gain) == (3, 2.0)
    with pytest.raises(ValueError, match="engine"):
        SekaLLM(engine=engine, model="some/model")


def test_a_model_that_was_pickled_loads_its_own(loads, caplog):
    again = pickle.loads(pickle.dumps(SekaLLM(model="some/model", max_tokens=2)))
    again.complete("Hello.")
    assert loads == ["some/model"]


def test_metadata_is_that_of_the_model(llm, engine):
    metadata = llm.metadata
    assert (metadata.context_window, metadata.num_output) == (65_536, 12)
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    plain = SekaLLM(engine=engine, context_window=1400).metadata
    assert (plain.context_window, plain.num_output) == (1400, Sampling().max_new_tokens)
    model = tiny()
    model.tokenizer.chat_template = "{{ messages[0].content }}"
    with Engine(model) as other:
        assert not SekaLLM(engine=other).metadata.is_function_calling_model
