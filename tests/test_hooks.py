"""Hooks see every prompt position once, in however many passes, and never outlive their use."""

import oracle
import pytest
import torch
from conftest import make_bank, make_model

from seka_rag.architecture import key_sites
from seka_rag.errors import UnsteerableError
from seka_rag.hooks import editing, observing, recording

IDS = [5, 9, 17, 30, 41, 52, 63]
GAINS = [0, 0, 2.0, 2.0, -1.0, 0, 0.5]
ONE_ROW = torch.tensor([GAINS])


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def forward(model, ids, **options):
    return model(torch.tensor(ids), **options)


def test_an_edited_pass_equals_the_oracle(model):
    operators = make_bank(model).operators()
    with editing(key_sites(model), operators, ONE_ROW):
        steered = forward(model, [IDS]).logits[0]
    expected = oracle.logits(model, operators, IDS, GAINS)
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(steered, forward(model, [IDS]).logits[0], atol=1e-2)


def test_only_the_layers_and_heads_of_the_operators_change(model):
    bank = make_bank(model, heads="only:1.0,2.1")
    with recording(key_sites(model)) as keys:
        forward(model, [IDS])
        plain = {layer: kept.clone() for layer, kept in keys.items()}
    with (
        editing(key_sites(model), bank.operators(), ONE_ROW),
        recording(key_sites(model)) as keys,
    ):
        forward(model, [IDS])
    marked = torch.tensor(GAINS) != 0
    assert torch.equal(keys[0], plain[0])
    assert torch.equal(keys[1][:, :, 1], plain[1][:, :, 1])
    assert torch.equal(keys[1][0, ~marked], plain[1][0, ~marked])
    assert (keys[1][0, marked, 0] != plain[1][0, marked, 0]).any(dim=-1).all()


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [2, 2, 2, 1], [5, 6]])
def test_the_prompt_may_come_in_any_pieces(model, sizes):
    operators = make_bank(model).operators()
    ids = [*IDS, 70, 71, 72, 73][: sum(sizes)]
    cache = None
    with editing(key_sites(model), operators, ONE_ROW):
        start = 0
        for size in sizes:
            assert n_hooks(model) == 3
            output = forward(
                model, [ids[start : start + size]], past_key_values=cache, use_cache=True
            )
            cache, start = output.past_key_values, start + size
        assert n_hooks(model) == 0
    expected = oracle.logits(model, operators, ids, GAINS)
    torch.testing.assert_close(output.logits[0], expected[-sizes[-1] :], atol=1e-4, rtol=1e-4)


def test_positions_in_the_cache_are_skipped(model):
    operators = make_bank(model).operators()
    cache = forward(model, [IDS[:2]], use_cache=True).past_key_values
    with editing(key_sites(model), operators, ONE_ROW, start=2):
        steered = forward(model, [IDS[2:]], past_key_values=cache).logits[0]
    expected = oracle.logits(model, operators, IDS, GAINS)[2:]
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


def test_copies_of_a_row_get_its_gains(model):
    operators = make_bank(model).operators()
    other = [0.0] * 6 + [3.0]
    with editing(key_sites(model), operators, torch.tensor([GAINS, other])):
        steered = forward(model, [IDS] * 4).logits
    for row, gains in enumerate([GAINS, GAINS, other, other]):
        expected = oracle.logits(model, operators, IDS, gains)
        torch.testing.assert_close(steered[row], expected, atol=1e-4, rtol=1e-4)


def test_rows_that_belong_to_no_prompt_are_refused(qwen3):
    operators = make_bank(qwen3).operators()
    with (
        pytest.raises(UnsteerableError, match="3 rows for a batch of 2 prompts"),
        editing(key_sites(qwen3), operators, torch.tensor([GAINS, GAINS])),
    ):
        forward(qwen3, [IDS] * 3)
    assert n_hooks(qwen3) == 0


def test_a_prompt_that_was_not_computed_to_its_end_is_an_error(qwen3):
    operators = make_bank(qwen3).operators()
    with (
        pytest.raises(UnsteerableError, match=r"layers \[0, 1, 2\] have not seen the whole prompt"),
        editing(key_sites(qwen3), operators, ONE_ROW),
    ):
        forward(qwen3, [IDS[:6]])
    assert n_hooks(qwen3) == 0


def test_an_exception_leaves_no_hook_and_is_not_hidden(qwen3):
    sites, operators = key_sites(qwen3), make_bank(qwen3).operators()

    def interrupted():
        # An edit of each key site; keys, queries and rotations are looked at.
        assert n_hooks(qwen3) == 3 + 3 * 3
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        editing(sites, operators, ONE_ROW),
        recording(sites),
    ):
        interrupted()
    assert n_hooks(qwen3) == 0


def test_a_bank_of_some_layers_is_bound_by_their_numbers():
    model = make_model("qwen3")
    last = key_sites(model)[-1:]
    whole = make_bank(model).operators()
    with editing(last, whole, ONE_ROW):
        steered = forward(model, [IDS]).logits[0]
    expected = oracle.logits(model, {2: whole[2]}, IDS, GAINS)
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


def test_operators_for_no_site_are_refused(qwen3):
    operators = make_bank(qwen3).operators()
    with (
        pytest.raises(UnsteerableError, match="no key site has an operator"),
        editing(key_sites(qwen3)[:1], {2: operators[2]}, ONE_ROW),
    ):
        pass


def test_recording_keeps_the_latest_pass_without_its_graph(model):
    with recording(key_sites(model)) as keys:
        model(torch.tensor([IDS]))
        model(torch.tensor([IDS[:2], IDS[:2]]))
    assert {layer: tuple(kept.shape) for layer, kept in keys.items()} == {
        layer: (2, 2, 2, 8) for layer in range(3)
    }
    assert not keys[0].requires_grad
    assert n_hooks(model) == 0


def test_a_pass_is_broken_off_after_the_layer_that_is_wanted(model):
    seen, sites = [], key_sites(model)
    with observing(sites[:2], lambda site, observed: seen.append(site.layer), until=1):
        model(torch.tensor([IDS]))
        raise AssertionError("the pass was not broken off")
    assert seen == [0, 1]
    assert n_hooks(model) == 0
    assert torch.equal(model(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


def test_queries_and_rotations_are_those_of_the_attention(model):
    found = {}
    with observing(key_sites(model), lambda site, observed: found.update({site.layer: observed})):
        model(torch.tensor([IDS, IDS]))
    for observed in found.values():
        assert observed.queries.shape == (2, len(IDS), 4, 8)
        assert [part.shape[1:] for part in observed.rotation] == [(len(IDS), 8)] * 2
