"""The bench counts what it says, and its random models and experts are what they are called."""

import math

import pytest
import torch
from conftest import make_bank

from seka_rag.errors import DataError
from seka_rag.evaluation import bench
from seka_rag.evaluation.bench import Spread, measure, random_experts
from seka_rag.steering import SteeredModel


@pytest.fixture(scope="module")
def steered(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, make_bank(qwen3))


@pytest.mark.parametrize(("tokens", "highlighted"), [(40, 30), (41, 7), (10, 1), (30, 26), (9, 0)])
def test_a_prompt_has_so_many_highlighted_tokens_in_spans_apart(tokens, highlighted):
    row = bench._row(tokens, highlighted)
    assert len(row.ids) == len(row.gains) == tokens
    assert sum(gain != 0 for gain in row.gains) == highlighted
    assert row.gains[0] == row.gains[-1] == 0
    assert {owner for owner in row.owners if owner >= 0} <= {0, 1, 2}
    assert all(
        (owner >= 0) == (gain != 0) for owner, gain in zip(row.owners, row.gains, strict=True)
    )


def test_every_method_takes_its_turn_in_every_round(steered, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(bench, "_now", lambda model: float(next(clock)))
    told = []
    costs = measure(
        steered,
        ["seka", "none", "cad"],
        tokens=20,
        highlighted=9,
        rows=2,
        new=3,
        rounds=4,
        progress=lambda *each: told.append(each),
    )
    assert [cost.method for cost in costs] == ["none", "seka", "cad"]
    assert [cost.highlighted for cost in costs] == [0, 9, 9]
    assert told == [(i, 4) for i in range(5)]
    # Each time takes two ticks of this clock: one for reading, one for all that is written.
    assert all(cost.prefill_ms.median == 1000 for cost in costs)
    assert all(math.isclose(cost.decode_ms.median, 1000 / 3) for cost in costs)
    assert all(cost.prefill_ratio == cost.decode_ratio == Spread(1, 1, 1) for cost in costs)
    assert all(cost.peak_gb is None for cost in costs)  # of a CPU's memory nothing is known
    assert next(clock) == 5 * 3 * 3


def test_the_plain_model_reads_without_highlights(steered, monkeypatch):
    seen = {}
    timed = bench._timed

    def spy(model, prepared, rows, *, new):
        seen.setdefault(type(prepared).__name__, []).append(any(map(any, (r.gains for r in rows))))
        return timed(model, prepared, rows, new=new)

    monkeypatch.setattr(bench, "_timed", spy)
    measure(steered, ["none", "cad"], tokens=20, highlighted=9, new=0, rounds=1)
    assert seen == {"Steered": [False, False], "Highlighted": [True, True]}


@pytest.mark.parametrize(
    "sizes", [{"highlighted": 18}, {"highlighted": -1}, {"rows": 0}, {"rounds": 0}, {"new": -1}]
)
def test_sizes_that_cannot_be_are_refused(steered, sizes):
    with pytest.raises(DataError):
        measure(steered, ["none"], **{"tokens": 20, "highlighted": 9, **sizes})


def test_random_experts_edit_half_of_the_heads_and_differ(qwen3):
    experts = random_experts(qwen3, ("e0", "e1"), rank=3)
    kept = [
        sum(int(each.sum()) for each in bank.selected().values()) for bank in experts.banks.values()
    ]
    layers, heads = qwen3.config.num_hidden_layers, qwen3.config.num_key_value_heads
    assert kept == [layers * heads // 2] * 2
    bases = [bank.layers[0].basis for bank in experts.banks.values()]
    assert not torch.allclose(*bases)
    assert experts.banks["e0"].digest() != experts.banks["e1"].digest()


def test_unknown_shapes_are_refused():
    with pytest.raises(DataError, match="no shapes gpt: choose from qwen3-0.6b, qwen3-8b"):
        bench.shaped("gpt", torch.device("meta"), torch.bfloat16)


def test_shapes_are_those_of_the_model_they_are_called_after():
    model = bench.shaped("qwen3-0.6b", torch.device("meta"), torch.bfloat16)
    assert 0.59e9 < model.num_parameters() < 0.61e9
    assert not model.training
