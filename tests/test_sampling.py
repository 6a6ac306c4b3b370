import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import PromptError
from seka_rag.sampling import Sampling, logprobs_of, pick

LOGITS = st.lists(st.integers(-10, 10).map(lambda a: a / 2), min_size=6, max_size=6)
SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    top_k=st.integers(0, 7),
    seed=st.integers(0, 99),
)


def allowed(logits, settings):
    """Return the tokens that may be drawn, by the definitions."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if settings.temperature == 0:
        return {i for i in order if logits[i] == logits[order[0]]}
    weights = [math.exp(logits[i] / settings.temperature) for i in order]
    kept, reached = set(), 0.0
    for rank, (i, weight) in enumerate(zip(order, weights, strict=True)):
        if reached / sum(weights) >= settings.top_p + 1e-6 or rank >= (settings.top_k or 99):
            break
        kept.add(i)
        reached += weight
    return kept


@given(st.lists(st.tuples(LOGITS, SETTINGS), min_size=1, max_size=5))
def test_a_row_draws_the_same_alone_and_beside_others(rows):
    logits = torch.tensor([row for row, _ in rows])
    settings = [each for _, each in rows]
    together = [each.generator() for each in settings]
    alone = [each.generator() for each in settings]
    for _ in range(3):
        drawn = pick(logits, settings, together)
        for i, (row, each) in enumerate(rows):
            assert pick(logits[i : i + 1], [each], [alone[i]]) == [drawn[i]]
            assert drawn[i] in allowed(row, each)


def test_draws_follow_the_distribution():
    settings = Sampling(temperature=0.5, top_k=3, seed=0)
    logits = torch.tensor([0.0, 1.0, 0.5, -9.0])
    n = 4000
    drawn = torch.tensor(pick(logits.expand(n, -1), [settings] * n, [settings.generator()] * n))
    share = (logits[:3] / 0.5).softmax(-1)
    found = torch.bincount(drawn, minlength=4) / n
    assert found[3] == 0
    torch.testing.assert_close(found[:3], share, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("stop", ("",)),
        ("logprobs", -1),
    ],
)
def test_settings_out_of_range_are_an_error(name, value):
    with pytest.raises(PromptError, match=name):
        Sampling(**{name: value})


def test_one_stop_text_is_a_stop_text():
    assert Sampling(stop="ab").stop == ("ab",)


def test_logprobs_are_those_of_the_softmax():
    logits = torch.tensor([1.0, 3.0, 2.0])
    found = logprobs_of(logits, 0, 2)
    expected = logits.log_softmax(-1).tolist()
    assert (found.token_id, found.logprob) == (0, pytest.approx(expected[0]))
    assert found.top == ((1, pytest.approx(expected[1])), (2, pytest.approx(expected[2])))
