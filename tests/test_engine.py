"""The engine against one-by-one runs: threads, event loops, faults, and callers who leave."""

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model

from seka_rag import Experts, Sampling, SteeredModel, highlight
from seka_rag.engine import Engine
from seka_rag.errors import (
    BankError,
    EngineClosedError,
    PromptError,
    QueueFullError,
    RequestTimeoutError,
)

WORDS = "The capital of France is Paris and Ada Lovelace was born there".split()


def make_prompt(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))]
    at = rng.randrange(len(words))
    gain = rng.choice([None, 2.0, -1.0, 0.0])
    return [" ".join(words[:at]) + " ", highlight(words[at], gain=gain), " " + " ".join(words)]


PROMPTS = [make_prompt(random.Random(i)) for i in range(24)]
TEN = Sampling(max_new_tokens=10)
# `generate` takes a token for padding off the end of an answer: let it be one that is not drawn.
GREEDY = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 511}


@pytest.fixture(scope="module")
def steered(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, make_bank(qwen3))


@pytest.fixture(scope="module")
def expected(steered):
    """The answers of the model's own `generate`, one prompt at a time."""
    return [steered.generate(prompt, **GREEDY).token_ids for prompt in PROMPTS]


@pytest.fixture
def engine(steered):
    with Engine(steered, max_wait_ms=5) as engine:
        yield engine


def ids_of(completions):
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_is_what_each_prompt_gives_alone(name, tokenizer):
    model = make_model(name)
    steered = SteeredModel(model, tokenizer, make_bank(model))
    prompts = PROMPTS[:8]
    alone = [steered.generate(prompt, **GREEDY).token_ids for prompt in prompts]
    with Engine(steered) as engine:
        assert ids_of(engine.batch(prompts, TEN)) == alone
    plain = [steered.generate(prompt, gain=0, **GREEDY).token_ids for prompt in prompts]
    assert alone != plain  # else nothing here would show whose highlights were whose


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 10_000])
def test_many_threads_get_their_own_answers(steered, expected, max_batch_tokens):
    with Engine(steered, max_batch_tokens=max_batch_tokens, max_queue=4) as engine:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda prompt: engine.generate(prompt, TEN), PROMPTS))
        assert ids_of(found) == expected


def test_many_tasks_get_their_own_answers(engine, expected):
    async def ask():
        return await asyncio.gather(*(engine.agenerate(prompt, TEN) for prompt in PROMPTS))

    assert ids_of(asyncio.run(ask())) == expected


def test_streams_say_what_generate_says(engine, expected):
    streams = [engine.stream(prompt, TEN) for prompt in PROMPTS]
    for stream, token_ids in zip(streams, expected, strict=True):
        chunks = list(stream)
        assert stream.completion.token_ids == token_ids
        assert "".join(chunk.text for chunk in chunks) == stream.completion.text
        assert sum((chunk.token_ids for chunk in chunks), ()) == token_ids
        assert list(stream) == []


def test_async_streams_say_what_generate_says(engine, expected):
    async def read(prompt):
        async with engine.astream(prompt, TEN) as stream:
            text = "".join([chunk.text async for chunk in stream])
        return text, stream.completion

    async def ask():
        return await asyncio.gather(*map(read, PROMPTS))

    found = asyncio.run(ask())
    assert [completion.token_ids for _, completion in found] == expected
    assert all(text == completion.text for text, completion in found)


def test_rows_end_each_in_its_own_time(engine, expected):
    lengths = [1 + i % 10 for i in range(len(PROMPTS))]
    found = engine.batch(PROMPTS, [Sampling(max_new_tokens=n) for n in lengths])
    assert ids_of(found) == [ids[:n] for ids, n in zip(expected, lengths, strict=True)]
    assert {completion.finish_reason for completion in found} == {"length"}


def test_a_seed_draws_the_same_in_any_company(engine):
    hot = [Sampling(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=i) for i in range(6)]
    alone = [engine.generate(PROMPTS[i], each) for i, each in enumerate(hot)]
    together = engine.batch(PROMPTS[:6], hot)
    assert ids_of(together) == ids_of(alone)
    other = engine.generate(PROMPTS[0], Sampling(max_new_tokens=8, temperature=1.5, seed=99))
    assert other.token_ids != alone[0].token_ids


def test_the_end_of_the_turn_ends_the_row(steered, expected):
    ids = expected[0]
    config = steered.model.generation_config
    config.eos_token_id = ids[3]
    try:
        with Engine(steered) as engine:
            found = engine.generate(PROMPTS[0], TEN)
    finally:
        config.eos_token_id = None
    first = ids.index(ids[3])
    assert found.token_ids == ids[: first + 1]
    assert found.finish_reason == "stop"


def test_a_stop_text_ends_the_row_and_is_not_shown(engine):
    whole = engine.generate(PROMPTS[1], TEN).text
    stop = whole[4:7]
    found = engine.generate(PROMPTS[1], Sampling(max_new_tokens=10, stop=stop))
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"
    stream = engine.stream(PROMPTS[1], Sampling(max_new_tokens=10, stop=(stop,)))
    assert "".join(chunk.text for chunk in stream) == found.text


def test_usage_counts(engine, steered):
    usage = engine.generate(PROMPTS[2], TEN).usage
    row = steered.read(PROMPTS[2])
    assert usage.prompt_tokens == len(row.ids)
    assert usage.highlighted_tokens == sum(gain != 0 for gain in row.gains)
    assert usage.completion_tokens == 10
    assert min(usage.waited, usage.prefill, usage.decode) >= 0


def test_logprobs_are_the_models_own(engine, steered):
    found = engine.generate(PROMPTS[3], Sampling(max_new_tokens=3, logprobs=2))
    assert len(found.logprobs) == 3
    first = steered.next_token_logprobs([PROMPTS[3]])[0]
    likeliest = first.topk(2)
    assert [token_id for token_id, _ in found.logprobs[0].top] == likeliest.indices.tolist()
    values = torch.tensor([value for _, value in found.logprobs[0].top])
    torch.testing.assert_close(values, likeliest.values, atol=1e-4, rtol=1e-4)
    assert found.logprobs[0].token_id == found.token_ids[0]
    assert found.logprobs[0].logprob == pytest.approx(found.logprobs[0].top[0][1])


def test_gain_and_experts_are_a_requests_own(qwen3, tokenizer):
    banks = {"one": make_bank(qwen3, heads="only:0.0"), "other": make_bank(qwen3, gain=9.0)}
    steered = SteeredModel(qwen3, tokenizer, Experts(banks))
    ways = [{}, {"gain": 0}, {"gain": 5.0}, {"experts": ["one"]}, {"experts": ["other"]}]
    with Engine(steered) as engine:
        alone = [engine.generate(PROMPTS[4], TEN, **way).token_ids for way in ways]
        with ThreadPoolExecutor(5) as pool:
            together = list(
                pool.map(lambda way: engine.generate(PROMPTS[4], TEN, **way).token_ids, ways)
            )
        assert together == alone
        assert len(set(alone)) >= 4
        with pytest.raises(BankError, match="no expert"):
            engine.generate(PROMPTS[4], TEN, experts=["none such"])


class Faulty:
    """A model's forward that fails when it is told to."""

    def __init__(self, model, monkeypatch, fails):
        self.calls, self._fails, self._forward = 0, fails, model.forward
        monkeypatch.setattr(model, "forward", self)

    def __call__(self, *args, logits_to_keep=0, **kwargs):
        self.calls += 1
        if self._fails(self.calls, kwargs):
            raise ArithmeticError("injected")
        return self._forward(*args, logits_to_keep=logits_to_keep, **kwargs)


@pytest.mark.parametrize("step", range(1, 14))
def test_a_fault_that_passes_is_not_noticed(steered, expected, monkeypatch, step):
    Faulty(steered.model, monkeypatch, lambda calls, _: calls == step)
    with Engine(steered, max_wait_ms=20) as engine:
        assert ids_of(engine.batch(PROMPTS[:6], TEN)) == expected[:6]
    assert not any(module._forward_hooks for module in steered.model.modules())


def test_a_fault_of_one_row_reaches_its_caller_alone(steered, expected, monkeypatch):
    marked = steered.read(PROMPTS[3]).ids

    def fails(_, kwargs):
        return any(row[-len(marked) :].tolist() == marked for row in kwargs["input_ids"])

    Faulty(steered.model, monkeypatch, fails)
    with Engine(steered, max_wait_ms=20) as engine, ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(engine.generate, prompt, TEN) for prompt in PROMPTS[:6]]
        with pytest.raises(ArithmeticError, match="injected"):
            futures[3].result()
        rest = [i for i in range(6) if i != 3]
        assert [futures[i].result().token_ids for i in rest] == [expected[i] for i in rest]


def bytes_alive():
    """Return the bytes of all tensors that anything refers to."""
    gc.collect()
    tensors = (item for item in gc.get_objects() if issubclass(type(item), torch.Tensor))
    return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_random_faults_cancelled_streams_and_timeouts_leave_nothing_behind(
    steered, expected, monkeypatch
):
    rng = random.Random(0)
    faults = Faulty(steered.model, monkeypatch, lambda *_: False)
    with Engine(steered) as engine:
        assert ids_of(engine.batch(PROMPTS, TEN)) == expected
        before = bytes_alive()
        faults._fails = lambda *_: rng.random() < 0.1
        for _ in range(100):
            streams = [engine.stream(prompt, TEN) for prompt in PROMPTS[:4]]
            if rng.random() < 0.5:
                with contextlib.suppress(ArithmeticError):
                    next(streams[0])
            streams[0].close()
            with pytest.raises((RequestTimeoutError, ArithmeticError)):
                engine.generate(PROMPTS[5], Sampling(max_new_tokens=200), timeout=0.001)
            for stream, ids in zip(streams[1:], expected[1:4], strict=True):
                try:
                    list(stream)
                except ArithmeticError:
                    continue
                assert stream.completion.token_ids == ids
        faults._fails = lambda *_: False
        assert ids_of(engine.batch(PROMPTS, TEN)) == expected
        assert bytes_alive() <= 1.05 * before


def test_what_is_wrong_with_a_prompt_is_said_at_once(engine, expected):
    for prompt, error in (
        ([highlight("x"), " " + "word " * 400], PromptError),
        ([], PromptError),
    ):
        with pytest.raises(error):
            engine.generate(prompt, TEN)
    assert engine.generate(PROMPTS[0], TEN).token_ids == expected[0]


def test_a_closed_stream_ends_and_the_rest_goes_on(engine, expected):
    stream = engine.stream(PROMPTS[0], Sampling(max_new_tokens=200))
    next(stream)
    stream.close()
    list(stream)
    assert stream.completion.finish_reason == "cancelled"
    assert len(stream.completion.token_ids) < 200
    assert engine.generate(PROMPTS[1], TEN).token_ids == expected[1]


def test_a_cancelled_task_ends_its_row(engine, expected):
    async def ask():
        task = asyncio.create_task(engine.agenerate(PROMPTS[0], Sampling(max_new_tokens=200)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await engine.agenerate(PROMPTS[1], TEN)

    assert asyncio.run(ask()).token_ids == expected[1]


def test_a_full_queue_waits_or_raises(steered):
    gate = threading.Event()
    with Engine(steered, max_queue=1, when_full="raise", max_batch_tokens=1) as engine:
        forward = steered.model.forward
        steered.model.forward = lambda *args, **kwargs: gate.wait() and forward(*args, **kwargs)
        try:
            streams = []
            with pytest.raises(QueueFullError, match="1 requests wait"):  # noqa: PT012
                for _ in range(6):
                    streams.append(engine.stream(PROMPTS[0], TEN))
                    time.sleep(0.01)
            assert len(streams) >= 2
        finally:
            gate.set()
            steered.model.forward = forward
            del steered.model.forward
        for stream in streams:
            list(stream)


def test_close_tells_those_who_wait(steered):
    engine = Engine(steered, max_batch_tokens=1)
    streams = [engine.stream(prompt, Sampling(max_new_tokens=200)) for prompt in PROMPTS[:3]]
    next(streams[0])
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            list(stream)
    with pytest.raises(EngineClosedError):
        engine.generate(PROMPTS[0], TEN)
    engine.close()  # twice is as good as once


EXIT = """
import sys
sys.path.insert(0, {tests!r})
from conftest import make_bank, make_model
from seka_rag import Engine, Sampling, SteeredModel
from transformers import AutoTokenizer
model = make_model("qwen3")
steered = SteeredModel(model, AutoTokenizer.from_pretrained({tokenizer!r}), make_bank(model))
engine = Engine(steered)
stream = engine.stream("The capital", Sampling(max_new_tokens=200))
next(stream)
print("out")
"""


def test_the_interpreter_ends_while_an_engine_runs(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    script = EXIT.format(tests=str(Path(__file__).parent), tokenizer=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "")
