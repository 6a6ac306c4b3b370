"""Segments flatten to the clean text, and spans slice back to what was highlighted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import HighlightError
from seka_rag.highlight import Highlight, Span, flatten, highlight, highlight_in, segments_of

visible = st.text(min_size=1).filter(str.strip)
segments = st.lists(st.one_of(st.text(), st.builds(highlight, visible)))


@given(segments)
def test_spans_slice_back_to_the_highlighted_texts(parts):
    text, spans = flatten(parts)
    assert text == "".join(p.text if isinstance(p, Highlight) else p for p in parts)
    highlighted = [p for p in parts if isinstance(p, Highlight)]
    assert [text[s.start : s.end] for s in spans] == [p.text for p in highlighted]


@given(segments)
def test_clean_text_and_spans_make_segments_again(parts):
    text, spans = flatten(parts)
    assert flatten(segments_of(text, spans)) == (text, spans)
    assert "" not in segments_of(text, spans)


def test_a_string_and_a_lone_highlight_are_prompts_too():
    assert flatten("plain") == ("plain", ())
    assert flatten(highlight("all", gain=2)) == ("all", (Span(0, 3, 2, "passage"),))


def test_gain_and_kind_reach_the_span():
    _, spans = flatten(["a ", highlight("b", gain=-0.5, kind="instruction")])
    assert spans == (Span(2, 3, -0.5, "instruction"),)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_highlight_is_refused(text):
    with pytest.raises(HighlightError, match="is empty: highlight at least one visible character"):
        highlight(text)


@pytest.mark.parametrize("gain", [math.nan, math.inf, -math.inf, "2", True])
def test_a_gain_that_is_no_finite_number_is_refused(gain):
    with pytest.raises(HighlightError, match="give a finite number"):
        highlight("text", gain=gain)


def test_an_unknown_kind_is_refused():
    with pytest.raises(HighlightError, match="unknown kind 'tool'"):
        highlight("text", kind="tool")


def test_what_is_no_segment_is_refused():
    with pytest.raises(HighlightError, match="a segment is int"):
        flatten(["a", 3])
    with pytest.raises(HighlightError, match="a highlight holds text, but this is bytes"):
        highlight(b"a")


def test_only_the_first_occurrence_is_highlighted():
    assert highlight_in("a b a b", "b", gain=2) == ("a ", highlight("b", gain=2), " a b")


def test_several_highlights_can_be_put_into_one_text():
    once = highlight_in("who wrote it, and when", "who")
    assert highlight_in(once, "when") == (
        highlight("who"),
        " wrote it, and ",
        highlight("when"),
    )


def test_an_absent_text_is_named():
    with pytest.raises(HighlightError, match="'Rome' does not occur in the prompt"):
        highlight_in("Paris", "Rome")


def test_a_text_that_overlaps_a_highlight_is_refused():
    with pytest.raises(HighlightError, match="'New York' overlaps another highlight"):
        highlight_in(highlight_in("in New York", "York"), "New York")
