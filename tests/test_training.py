"""How mini is trained: documents end to end in two parts of a row, none of which sees another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from mini import corpus, train

TOKENS = 4096


def test_the_parts_make_up_the_row():
    short, rest = corpus.parts(TOKENS)
    assert short.tokens + rest.tokens == TOKENS
    assert short.longest < rest.longest


def test_a_part_takes_what_fits_and_cuts_the_last():
    row = corpus._Row(corpus.Part(tokens=600, room=9, longest=512))
    assert not row.take([1] * 513, [1.0] * 513)
    assert row.take([1] * 400, [1.0] * 400)
    assert not row.is_full
    assert row.take([2] * 400, [1.0] * 400)
    assert row.is_full
    assert not row.take([3], [1.0])
    assert row.padded_starts() == [0, 400, *[600] * 8]


def test_a_part_short_of_room_keeps_it_for_long_documents():
    row = corpus._Row(corpus.Part(tokens=4096, room=8, longest=4096))
    assert [row.take([1], [1.0]) for _ in range(5)] == [True] * 4 + [False]
    assert row.take([1] * 4092, [1.0] * 4092)
    assert row.is_full


@given(st.lists(st.integers(1, 600), min_size=1), st.integers(0, 1))
def test_no_part_has_more_documents_than_room(lengths, which):
    part = corpus.parts(TOKENS)[which]
    row = corpus._Row(part)
    for length in [*lengths * 40, *[part.longest] * 60]:
        row.take([1] * length, [1.0] * length)
    assert row.is_full
    starts = row.padded_starts()
    assert len(starts) == part.room + 1
    assert starts == sorted(starts)
    assert starts[-1] == part.tokens


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return Qwen3ForCausalLM._from_config(config, attn_implementation="packed").eval()


def hidden(model, ids, starts):
    positions = train._positions(starts, len(ids))
    return model.model(
        input_ids=ids[None],
        position_ids=positions,
        attention_mask={"full_attention": None},
        use_cache=False,
        starts=starts,
    ).last_hidden_state[0]


@torch.no_grad()
def test_documents_in_a_row_do_not_see_each_other(tiny):
    short, rest = corpus.parts(TOKENS)
    first = [0, 100, 700, *[short.tokens] * (short.room - 2)]
    second = [0, 50, *[rest.tokens] * (rest.room - 1)]
    starts = torch.tensor([*first, *(short.tokens + s for s in second)], dtype=torch.int32)
    ids = torch.randint(64, (TOKENS,), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[100:700] = (other[100:700] + 1) % 64
    one, two = hidden(tiny, ids, starts), hidden(tiny, other, starts)
    assert torch.equal(one[:100], two[:100])
    assert torch.equal(one[700:], two[700:])
    assert not torch.equal(one[100:700], two[100:700])
    assert torch.equal(
        train._positions(starts, TOKENS)[0, 695:703],
        torch.tensor([595, 596, 597, 598, 599, 0, 1, 2]),
    )


def test_the_rate_rises_stays_and_falls():
    plan = train.Plan("first", steps=1000)
    rates = [train._rate(plan, step) for step in range(plan.steps)]
    assert rates[plan.warmup] == rates[500] == plan.rate
    assert rates == sorted(rates[: plan.warmup]) + rates[plan.warmup : 500] + sorted(
        rates[500:], reverse=True
    )
    assert rates[-1] < 0.01 * plan.rate
