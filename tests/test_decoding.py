"""A lane against forward passes of each row alone, whoever joins and leaves in between."""

import pytest
import torch
from conftest import ARCHITECTURES, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from seka_rag.compiled import CompiledLane
from seka_rag.decoding import Lane

TOKENS = st.integers(3, 400)
ROWS = st.lists(st.lists(TOKENS, min_size=1, max_size=9), min_size=1, max_size=3)
MODELS = {name: make_model(name) for name in ARCHITECTURES}


@torch.no_grad()
def started(model, rows):
    """Return a lane with the rows in it, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    cache = DynamicCache()
    model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
    )
    lane = Lane(model)
    lane.start(cache, [len(row) for row in rows])
    return lane


def as_it_is(forward):
    """Stand in for the compiler."""
    return forward


@torch.no_grad()
def alone(model, row):
    return model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@given(first=ROWS, data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_row_goes_on_as_it_would_alone(name, compiled, first, data):
    model = MODELS[name]
    rows = [list(row) for row in first]
    lane = CompiledLane(model, as_it_is) if compiled else Lane(model)
    lane.absorb(started(model, rows))
    for _ in range(data.draw(st.integers(1, 5))):
        match data.draw(st.sampled_from(["step", "step", "join", "leave"])):
            case "step" if rows:
                drawn = data.draw(st.lists(TOKENS, min_size=len(rows), max_size=len(rows)))
                logits = lane.step(drawn)
                for row, token_id, found in zip(rows, drawn, logits, strict=True):
                    row.append(token_id)
                    torch.testing.assert_close(found, alone(model, row), atol=1e-4, rtol=1e-4)
            case "join":
                new = data.draw(ROWS)
                lane.absorb(started(model, new))
                rows += [list(row) for row in new]
            case "leave":
                kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
                staying = [i for i, keep in enumerate(kept) if keep]
                lane.keep(staying)
                rows = [rows[i] for i in staying]
        assert (lane.rows, lane.columns) == (len(rows), max(map(len, rows), default=0))
