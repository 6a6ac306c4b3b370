"""The least relevant passages go until the prompt fits; the question stays."""

from collections import Counter
from copy import deepcopy

import pytest
from conftest import CHATML
from hypothesis import given
from hypothesis import strategies as st
from test_offsets import ENCODINGS, WRAPPER, texts

from seka_rag.budget import Fitted, fit
from seka_rag.errors import PromptError
from seka_rag.highlight import flatten
from seka_rag.prompts import Passage, rag_messages
from seka_rag.steering import SteeredModel

QUESTION = "Where was Ada born?"
scores = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 2.0]), st.floats(-9, 9))
bodies = texts.filter(lambda text: any(line.strip() for line in text.splitlines()))
passage_lists = st.lists(
    st.builds(lambda text, score: Passage(text, score=score), bodies, scores), max_size=6
)
systems = st.one_of(st.none(), texts)


def as_text(messages):
    return "\n\n".join(flatten(message["content"])[0] for message in messages)


@pytest.fixture(scope="module")
def counters(qwen3, tokenizer):
    """Everything that can count, with how it must count the messages."""
    model = SteeredModel(qwen3, tokenizer, None)
    bare = deepcopy(tokenizer)
    bare.chat_template = None
    wrapped = SteeredModel(qwen3, WRAPPER, None)
    return {
        "model": (model, model.count_tokens),
        "chat template": (tokenizer, model.count_tokens),
        "no chat template": (bare, lambda messages: len(bare(as_text(messages))["input_ids"])),
        "encoding": (
            ENCODINGS["words"],
            lambda messages: len(
                ENCODINGS["words"].encode(as_text(messages), disallowed_special=())
            ),
        ),
        "wrapped encoding": (WRAPPER, wrapped.count_tokens),
    }


every_counter = pytest.mark.parametrize(
    "name", ["model", "chat template", "no chat template", "encoding", "wrapped encoding"]
)


def one_by_one(passages, fits):
    """Return those kept and those dropped when the worst goes until the rest fits, or None."""
    kept, dropped = list(enumerate(passages)), []
    while not fits([passage for _, passage in kept]):
        if not kept:
            return None
        worst = min(
            kept,
            key=lambda pair: (
                float("-inf") if pair[1].score is None else pair[1].score,
                -pair[0],
            ),
        )
        kept.remove(worst)
        dropped.append(worst[1])
    return tuple(passage for _, passage in kept), tuple(dropped)


@every_counter
@given(passage_lists, systems, st.integers(0, 300))
def test_bisection_keeps_what_dropping_one_by_one_keeps(
    counters, name, passages, system, max_tokens
):
    counter, count = counters[name]

    def used(kept):
        return count(rag_messages(QUESTION, kept, gains=None, system=system))

    expected = one_by_one(passages, lambda kept: used(kept) <= max_tokens)
    if expected is None:
        with pytest.raises(PromptError, match=f"question alone .* {max_tokens} are allowed"):
            fit(passages, QUESTION, max_tokens, counter=counter, system=system)
    else:
        fitted = fit(passages, QUESTION, max_tokens, counter=counter, system=system)
        assert (fitted.kept, fitted.dropped) == expected
        assert fitted.tokens == used(fitted.kept)


def place_of(passage, passages):
    return next(i for i, each in enumerate(passages) if each is passage)


@given(passage_lists, st.integers(0, 60))
def test_what_is_kept_fits_and_what_was_dropped_last_does_not(passages, allowance):
    # No pattern parts these tokens: they join across passages, and a longer text may have fewer.
    encoding = ENCODINGS["anything"]

    def used(kept):
        return len(encoding.encode_ordinary(as_text(rag_messages(QUESTION, kept, gains=None))))

    max_tokens = used([]) + allowance
    fitted = fit(passages, QUESTION, max_tokens, counter=encoding)
    assert used(fitted.kept) == fitted.tokens <= max_tokens
    assert Counter(fitted.kept + fitted.dropped) == Counter(passages)
    places = [place_of(passage, passages) for passage in fitted.kept]
    assert places == sorted(places)
    if fitted.dropped:
        places = sorted([*places, place_of(fitted.dropped[-1], passages)])
        assert used([passages[i] for i in places]) > max_tokens


class Words:
    """Counts words, and how often it was asked."""

    def __init__(self):
        self.asked = 0

    def count_tokens(self, prompt):
        self.asked += 1
        return len(as_text(prompt).split())


def test_the_least_relevant_passages_go_first_and_the_rest_keep_their_order():
    a, b, c, d = (
        Passage(text, score=score) for text, score in zip("abcd", (2, 0.5, None, 1), strict=True)
    )
    fitted = fit([a, b, c, d], "Where?", 7, counter=Words())
    assert fitted == Fitted((a, d), (c, b), 7)
    assert fit([a, b], "Where?", 7, counter=Words()) == Fitted((a, b), (), 7)


def test_without_scores_and_among_equals_the_last_passages_go():
    a, b, c = (Passage(text) for text in "abc")
    assert fit([a, b, c], "Where?", 5, counter=Words()) == Fitted((a,), (c, b), 5)
    a, b, c = (Passage(text, score=1.0) for text in "abc")
    assert fit([a, b, c], "Where?", 5, counter=Words()) == Fitted((a,), (c, b), 5)


def test_no_passage_need_fit_but_the_question_must():
    passages = [Passage("a long passage")]
    assert fit(passages, "Where?", 2, counter=Words()) == Fitted((), tuple(passages), 2)
    with pytest.raises(PromptError, match="a prompt of 2 tokens, and 1 are allowed: shorten it"):
        fit(passages, "Where?", 1, counter=Words())
    assert fit([], "Where?", 2, counter=Words()) == Fitted((), (), 2)


def test_the_system_message_is_counted():
    assert fit([], "Where?", 9, counter=Words(), system="Be brief.").tokens == 4


@pytest.mark.parametrize("kept", [0, 1, 500, 999, 1000])
def test_a_thousand_passages_are_counted_a_dozen_times(kept):
    passages = [Passage("word", score=-i) for i in range(1000)]
    words = Words()
    max_tokens = 2 + (kept > 0) + 2 * kept
    assert len(fit(passages, "Where?", max_tokens, counter=words).kept) == kept
    assert words.asked <= (1 if kept == 1000 else 12)


def test_a_chat_is_counted_as_its_template_renders_it(tokenizer):
    assert tokenizer.chat_template == CHATML
    text = f"<|im_start|>user\nQuestion: {QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert fit([], QUESTION, 99, counter=tokenizer).tokens == len(tokenizer(text)["input_ids"])


def test_a_control_token_in_a_passage_is_counted_as_text():
    passage = Passage("<|im_end|>")
    for counter in (WRAPPER, ENCODINGS["words"]):
        alone = fit([], QUESTION, 999, counter=counter).tokens
        assert fit([passage], QUESTION, 999, counter=counter).tokens > alone + 20
