"""What a request may say of its highlights, and what is made of it."""

import math

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from seka_rag import Span, highlight
from seka_rag.inputs import read_prompt
from seka_rag.tokens import gain_map

from vllm_seka.highlights import HighlightsError, merged, read
from vllm_seka.prompts import extra_args, steered_prompt

N = 30

_pieces = st.lists(
    st.tuples(
        st.integers(0, N - 1),
        st.integers(1, N),
        st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]) | st.floats(-10, 10, width=32),
    ).filter(lambda piece: piece[0] < piece[1]),
    max_size=6,
)


@given(_pieces)
def test_pieces_overlap_as_in_the_core(pieces):
    tokens = [(i, i + 1) for i in range(N)]
    gains, owners = gain_map(tokens, [Span(*piece) for piece in pieces], default_gain=1.0)
    found_gains, found_owners = merged(pieces, N)
    assert found_gains.tolist() == gains
    assert found_owners.tolist() == owners


@given(_pieces)
def test_flat_and_nested_are_the_same(pieces):
    flat = read({"seka": [number for piece in pieces for number in piece]}, N)
    nested = read({"seka": [list(piece) for piece in pieces]}, N)
    if flat is None:
        assert nested is None
    else:
        assert flat.gains.tolist() == nested.gains.tolist()
        assert flat.kinds == nested.kinds


@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.none() | st.sampled_from([-1.0, 0.0, 2.0]),
            st.sampled_from(["plain", "passage", "instruction"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_prompt_arrives_as_the_core_reads_it(tokenizer, parts):
    segments = []
    for i, (n, gain, kind) in enumerate(parts):
        text = tiny.words(range(10 * i + 3, 10 * i + 3 + n))
        segments += [text if kind == "plain" else highlight(text, gain=gain, kind=kind), " "]
    row = read_prompt(tokenizer, segments, gain=None, default_gain=1.5)
    tokens, args = steered_prompt(tokenizer, segments, default_gain=1.5)
    assert tokens == {"prompt_token_ids": row.ids}
    found = read(args, len(row.ids))
    if found is None:
        assert not any(row.gains)
        return
    assert found.gains.tolist() == np.float32(row.gains).tolist()
    spans = row.rendered.spans
    kinds = [spans[owner].kind if gain else "" for gain, owner in zip(row.gains, row.owners)]  # noqa: B905
    assert [found.kinds[i] if i >= 0 else "" for i in found.owners] == kinds


def test_pieces_of_one_highlight_stay_together(tokenizer):
    """A stronger span inside another divides its tokens, which stay one highlight."""
    row = read_prompt(tokenizer, [highlight(tiny.words(range(3, 13)))], gain=None, default_gain=1.0)
    row.gains[4:6], row.owners[4:6] = [3.0, 3.0], [1, 1]
    spans = (*row.rendered.spans, Span(0, 1, 3.0, "instruction"))
    object.__setattr__(row.rendered, "spans", spans)
    args = extra_args(row)
    assert args["seka"] == [0, 4, 1.0, 4, 6, 3.0, 6, 10, 1.0]
    assert args["seka_owners"] == [0, 1, 0]
    assert args["seka_kinds"] == ["passage", "instruction", "passage"]
    found = read(args, 10)
    assert found.owners.tolist() == row.owners
    assert found.kinds == ("passage", "instruction")


def test_nothing_said_is_nothing_highlighted():
    assert read(None, N) is None
    assert read({}, N) is None
    assert read({"other": 1}, N) is None
    assert read({"seka": None, "seka_kinds": None}, N) is None  # as tables fill it in
    assert read({"seka": []}, N) is None
    assert read({"seka": [0, 5, 0.0]}, N) is None


def test_arrays_are_lists():
    """Data frames give arrays, and numbers of tokens as floats."""
    found = read({"seka": np.array([[2.0, 4.0, 1.5]])}, N)
    assert found.gains.nonzero()[0].tolist() == [2, 3]
    assert (found.first, found.end, found.count(0, 3), found.count(4, 99)) == (2, 4, 1, 0)


@pytest.mark.parametrize(
    "args",
    [
        {"seka": [0, 10**9, 1.0]},
        {"seka": [-1, 3, 1.0]},
        {"seka": [5, 5, 1.0]},
        {"seka": [6, 5, 1.0]},
        {"seka": [0, 5]},
        {"seka": [[0, 5, 1.0], [6, 7]]},
        {"seka": [[0, 5, 1.0], 6, 7, 1.0]},
        {"seka": [0, 5, math.nan]},
        {"seka": [0, 5, math.inf]},
        {"seka": [0, 5, 1e39]},
        {"seka": [0, 5, "1.0"]},
        {"seka": [0, 5, True]},
        {"seka": [0.5, 5, 1.0]},
        {"seka": [math.nan, 5, 1.0]},
        {"seka": [False, 5, 1.0]},
        {"seka": "0,5,1.0"},
        {"seka": 3},
        {"seka": [0, 5, 1.0], "seka_kinds": ["sentence"]},
        {"seka": [0, 5, 1.0], "seka_kinds": [["passage"]]},
        {"seka": [0, 5, 1.0], "seka_kinds": []},
        {"seka": [0, 5, 1.0], "seka_owners": [1]},
        {
            "seka": [0, 5, 1.0, 6, 7, 1.0],
            "seka_owners": [0, 0],
            "seka_kinds": ["passage", "instruction"],
        },
        {"seka_kinds": ["passage"]},
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(args):
    with pytest.raises(HighlightsError, match="^seka: "):
        read(args, N)
