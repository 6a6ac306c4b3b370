from hypothesis import given
from hypothesis import strategies as st

from seka_rag.writing import Pieces, StopFinder, Writer

TEXTS = st.text(st.sampled_from("ab\n "), max_size=30)
STOPS = st.lists(st.text(st.sampled_from("ab\n "), min_size=1, max_size=5), max_size=3)


def cut(text, stops):
    """Return the text up to the stop text that is complete first, letter by letter."""
    for end in range(len(text) + 1):
        if done := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, done))]
    return text


@given(TEXTS, STOPS, st.data())
def test_stop_texts_are_found_whatever_the_pieces(text, stops, data):
    finder = StopFinder(stops)
    shown, at = "", 0
    while at < len(text):
        end = data.draw(st.integers(at + 1, len(text)))
        shown += finder.push(text[at:end])
        # What was let out is never taken back, and nothing is held that could not be a stop text.
        assert cut(text, stops).startswith(shown)
        at = end
    assert shown + finder.finish() == cut(text, stops)
    assert (finder.found is not None) is any(stop in text for stop in stops)


@given(st.text(max_size=40))
def test_pieces_make_the_decoded_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Pieces(tokenizer)
    shown = [pieces.push(token_id) for token_id in ids]
    # A finished piece never ends in an unfinished character.
    assert not any(piece.endswith("\ufffd") for piece in shown) or "\ufffd" in text
    assert "".join(shown) + pieces.finish() == tokenizer.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(3, 400), max_size=20), STOPS)
def test_any_tokens_are_written_up_to_a_stop(tokenizer, ids, stops):
    writer = Writer(tokenizer, stops)
    shown = ""
    for token_id in ids:
        shown += writer.push(token_id)
    if not writer.stopped:
        shown += writer.finish()
    assert shown == cut(tokenizer.decode(ids, skip_special_tokens=True), stops)


def test_an_unfinished_character_is_marked_at_the_end(tokenizer):
    ids = tokenizer("a👍", add_special_tokens=False)["input_ids"]
    writer = Writer(tokenizer, ())
    shown = "".join(writer.push(token_id) for token_id in ids[:-1])
    assert shown == "a"
    assert writer.finish() == "\ufffd"
