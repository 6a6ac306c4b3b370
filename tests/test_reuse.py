"""Prompts that begin the same, and sessions, against prompts computed as a whole."""

import random
from functools import cache

import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_routing import gated
from transformers import DynamicCache

from seka_rag import Engine, Experts, Sampling, SteeredModel, highlight
from seka_rag.errors import PromptError
from seka_rag.inputs import Row
from seka_rag.prompts import Rendered
from seka_rag.reuse import LEAST, Prefix, Prefixes, laid_out, prefix_of

WORDS = "The capital of France is Paris and Ada Lovelace was born there".split()
LONG = " ".join(random.Random(0).choices(WORDS, k=70)) + " "
EIGHT = Sampling(max_new_tokens=8)
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 511}


@cache
def steered_of(name, tokenizer, *, routed):
    model = make_model(name)
    bank = make_bank(model)
    if routed:
        bank = Experts({"one": gated(bank, 1), "other": gated(bank, 2)})
    return SteeredModel(model, tokenizer, bank)


def row_of(tokens):
    ids, gains = ([each[i] for each in tokens] for i in (0, 1))
    return Row(Rendered("", (), (), is_chat=False), ids, gains, [-1] * len(ids), len(ids))


TOKENS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0])), max_size=8)


@given(TOKENS, TOKENS.filter(bool))
def test_what_is_shared_is_the_common_beginning(kept, new):
    prefix = Prefix(tuple(kept), "", ())
    n = prefix.shared(row_of(new))
    assert kept[:n] == new[:n]
    assert n <= len(new) - 1
    assert n == min(len(kept), len(new) - 1) or kept[n] != new[n]


@given(st.lists(TOKENS.filter(bool), min_size=1, max_size=6), st.integers(1, 12))
def test_prefixes_keep_the_latest_within_their_room(prompts, room):
    kept = Prefixes(room)
    for prompt in prompts:
        if len(prompt) <= room:
            kept.add(Prefix(tuple(prompt), "", ()))
            assert kept._kept[-1].tokens == tuple(prompt)
        assert sum(len(each.tokens) for each in kept._kept) <= room
        beginnings = [each.tokens for each in kept._kept]
        assert len(beginnings) == len(set(beginnings))


@torch.no_grad()
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_logits_are_those_of_the_whole_prompt(name, routed, tokenizer, data):
    """Rows of different lengths, prefixes of different lengths, highlights behind them."""
    steered = steered_of(name, tokenizer, routed=routed)
    rng = random.Random(data.draw(st.integers(0, 999)))
    prompts = [
        [
            " ".join(rng.choices(WORDS, k=rng.randint(3, 20))) + " ",
            highlight(rng.choice(WORDS)),
            " " + " ".join(rng.choices(WORDS, k=rng.randint(1, 5))),
        ]
        for _ in range(3)
    ]
    rows = [steered.read(prompt) for prompt in prompts]
    cache = DynamicCache()
    whole = steered.prefill(rows, cache)
    found = []
    for i, row in enumerate(rows):
        settled = min(steered.settled(row), len(row.ids) - 1)
        found.append((prefix_of(cache, i, row, settled, ""), rng.randint(0, settled)))
    again, start = laid_out(found, [len(row.ids) for row in rows])
    logits = steered.prefill(rows, again, start=start)
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
    for old, new in zip(cache.layers, again.layers, strict=True):
        for i, row in enumerate(rows):
            n = len(row.ids)
            torch.testing.assert_close(
                new.keys[i, :, -n:], old.keys[i, :, -n:], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("routed", [False, True])
def test_an_engine_that_reuses_says_the_same(tokenizer, routed):
    steered = steered_of("qwen3", tokenizer, routed=routed)
    rng = random.Random(1)
    prompts = [
        [LONG, highlight("Paris", gain=gain), " and ", " ".join(rng.choices(WORDS, k=4))]
        for gain in (None, 2.0, None, 2.0, 0.5, None)
    ]
    alone = [steered.generate(prompt, **GREEDY).token_ids for prompt in prompts]
    assert len(set(alone)) > 2
    with Engine(steered) as engine:
        found = [engine.generate(prompt, EIGHT).token_ids for prompt in prompts]
        found += [each.token_ids for each in engine.batch(prompts, EIGHT)]
    assert found == alone * 2


def test_what_is_kept_is_not_computed_again(qwen3, tokenizer, monkeypatch):
    steered = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    computed = []
    forward = qwen3.forward

    def counting(*args, logits_to_keep=0, **kwargs):
        computed.append(kwargs["input_ids"].shape[1])
        return forward(*args, logits_to_keep=logits_to_keep, **kwargs)

    monkeypatch.setattr(qwen3, "forward", counting)
    one = Sampling(max_new_tokens=1)
    with Engine(steered) as engine:
        for prompt in (
            [LONG, highlight("Paris"), " and"],
            [LONG, highlight("Paris"), " or"],
            [LONG, highlight("Paris", gain=1.0), " or"],
        ):
            engine.generate(prompt, one)
    whole, other_end, other_gain = computed
    assert whole > LEAST
    assert other_end <= 3
    assert other_end < other_gain < whole / 2  # what stands before the highlight is the same


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("routed", [False, True])
def test_a_session_answers_behind_its_context(tokenizer, routed, chat, monkeypatch):
    steered = steered_of("qwen3", tokenizer, routed=routed)
    content = [LONG, highlight("Paris is the capital."), " "]
    context = [{"role": "user", "content": content}] if chat else content
    questions = ["Where was Ada born?", ["The capital of ", highlight("France"), "?"]]

    def whole(question):
        more = [question] if isinstance(question, str) else question
        return [{"role": "user", "content": content + more}] if chat else content + more

    with Engine(steered, max_prefix_tokens=0) as engine:
        session = engine.prefill(context)
        assert session.tokens == steered.count_tokens(context)
        found = [session.generate(question, EIGHT) for question in questions]
        together = session.batch(questions, EIGHT)
        plain = [engine.generate(whole(question), EIGHT, gain=0) for question in questions]
        alone = [engine.generate(whole(question), EIGHT) for question in questions]
    assert [each.token_ids for each in together] == [each.token_ids for each in found]
    assert [each.usage.prompt_tokens for each in found] == [
        steered.count_tokens(whole(question)) for question in questions
    ]
    assert [each.token_ids for each in found] != [each.token_ids for each in plain]
    if not routed:  # else a question changes how its context is edited, if it is there in time
        assert [each.token_ids for each in found] == [each.token_ids for each in alone]


def test_a_session_takes_no_chat_behind_its_context(tokenizer):
    steered = steered_of("qwen3", tokenizer, routed=False)
    with Engine(steered) as engine:
        session = engine.prefill(LONG)
        with pytest.raises(PromptError, match="pass segments"):
            session.generate([{"role": "user", "content": "x"}])
