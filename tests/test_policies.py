"""Policies pick passages or sentences, and give each a share of the gain."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import HighlightError
from seka_rag.highlight import Highlight, flatten, highlight
from seka_rag.policies import DEFAULT_POLICY, check_policy, highlighted, shares
from seka_rag.prompts import Passage
from seka_rag.retrieval import Retriever, telling_words

POLICIES = ("all", "first:1", "first:3", "score", "sentences", "sentences:1", "sentences:2")
WHOLE = tuple(policy for policy in POLICIES if not policy.startswith("sentences"))
texts = st.text("ab.!? \n\u2028", max_size=30)
passages = st.lists(st.builds(Passage, texts, st.just(""), st.none() | st.floats(-9, 9)))
QUESTION = "Where was Ada Lovelace born?"


def scored(*scores):
    return [Passage("text", score=score) for score in scores]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("all", (1.0, 1.0, 1.0, 1.0)),
        ("first:1", (1.0, 0.0, 0.0, 0.0)),
        ("first:3", (1.0, 1.0, 1.0, 0.0)),
        ("first:9", (1.0, 1.0, 1.0, 0.0)),
        ("score", (1.0, 0.5, 0.25, 0.0)),
    ],
)
def test_whole_passages_get_shares_by_their_scores(policy, expected):
    assert shares(policy, scored(4.0, 2.0, 1.0, 0.0), QUESTION) == expected


@given(st.lists(st.floats(-50, 50), max_size=8).map(lambda scores: sorted(scores, reverse=True)))
def test_shares_are_between_nothing_and_the_whole_gain(scores):
    for policy in WHOLE:
        found = shares(policy, scored(*scores), QUESTION)
        assert len(found) == len(scores)
        assert all(0.0 <= share <= 1.0 for share in found)
        assert list(found) == sorted(found, reverse=True) or 0.0 in scores


def test_where_a_score_is_missing_the_words_in_common_are_counted():
    found = [
        Passage("Ada Lovelace was born in London."),
        Passage("Nothing.", score=7.0),
        Passage("Ada."),
    ]
    assert shares("first:2", found, QUESTION) == (1.0, 0.0, 0.0)
    assert shares("score", found, QUESTION) == (1.0, 0.0, pytest.approx(1 / 3))


@given(passages, texts)
def test_the_segments_of_a_passage_are_its_text(found, question):
    for policy in POLICIES:
        segments = highlighted(policy, found, question, gain=2.0)
        assert [flatten(each)[0] for each in segments] == [passage.text for passage in found]
        assert all(0 < h.gain <= 2 for each in segments for h in each if isinstance(h, Highlight))


@given(passages, texts)
def test_whole_passages_are_highlighted_by_their_shares(found, question):
    for policy in WHOLE:
        for each, share, passage in zip(
            highlighted(policy, found, question, gain=2.0),
            shares(policy, found, question),
            found,
            strict=True,
        ):
            is_plain = share == 0 or not passage.text.strip()
            assert flatten(each)[1] == () if is_plain else each[0].gain == 2 * share


@given(passages, texts)
def test_only_sentences_with_a_word_of_the_question_are_highlighted(found, question):
    asked = set(telling_words(question))
    for policy in ("sentences", "sentences:1", "sentences:3"):
        picked = [
            piece
            for each in highlighted(policy, found, question)
            for piece in each
            if isinstance(piece, Highlight)
        ]
        assert all(asked & set(telling_words(piece.text)) for piece in picked)
        assert all(piece.text == piece.text.strip() for piece in picked)
        assert len(picked) <= int(policy.partition(":")[2] or len(picked))


FOUND = [
    Passage("Ada was clever.\n\nAda Lovelace was born in London.  She died in 1852.", score=2.0),
    Passage("Nobody was born here.", score=1.0),
    Passage("Lovelace was born, said Ada!", score=0.5),
]


def test_sentences_need_half_of_the_words():
    first, second, third = highlighted("sentences", FOUND, QUESTION)
    assert first == (
        "Ada was clever.\n\n",
        highlight("Ada Lovelace was born in London."),
        "  She died in 1852.",
    )
    assert second == ("Nobody was born here.",)
    assert third == (highlight("Lovelace was born, said Ada!"),)


def test_the_best_sentences_are_the_first_of_equals():
    def picked(policy):
        return [
            piece.text
            for each in highlighted(policy, FOUND, QUESTION, gain=0.5)
            for piece in each
            if isinstance(piece, Highlight)
        ]

    assert picked("sentences:1") == ["Ada Lovelace was born in London."]
    assert picked("sentences:2") == [
        "Ada Lovelace was born in London.",
        "Lovelace was born, said Ada!",
    ]
    assert picked("sentences:3")[0] == "Ada was clever."
    assert len(picked("sentences:9")) == 4


@pytest.mark.parametrize("question", ["", "What is it?", "Which zebra?"])
def test_nothing_is_highlighted_where_no_sentence_matches(question):
    for policy in ("sentences", "sentences:2"):
        plain = [(passage.text,) for passage in FOUND]
        assert highlighted(policy, FOUND, question) == plain


def test_a_passage_on_two_places_is_highlighted_twice():
    twice = [FOUND[2], FOUND[2]]
    assert highlighted("sentences:2", twice, QUESTION) == [(highlight(FOUND[2].text),)] * 2


def test_the_default_highlights_what_the_retriever_found_best():
    found = Retriever([Passage("Nothing."), Passage("Ada was born.")]).search(QUESTION, 2)
    assert highlighted(DEFAULT_POLICY, found, QUESTION) == [
        (highlight("Ada was born."),),
        ("Nothing.",),
    ]


@pytest.mark.parametrize(
    "policy",
    ["", "best", "first", "first:0", "first:-1", "first:x", "first:²", "all:2", "all:", "score:1"]
    + ["sentences:", "sentences:0"],
)
def test_an_unknown_policy_is_an_error_that_lists_the_policies(policy):
    for call in (lambda: check_policy(policy), lambda: highlighted(policy, [], "")):
        with pytest.raises(HighlightError, match=r"use all, first:K .*, sentences or sentences:K"):
            call()


def test_known_policies_are_checked():
    assert [check_policy(policy) for policy in POLICIES] == list(POLICIES)


def test_whole_passages_have_no_shares_by_sentences():
    with pytest.raises(HighlightError, match="for whole ones use all, first:K or score"):
        shares("sentences:2", FOUND, QUESTION)


def test_scores_and_gains_must_be_numbers():
    with pytest.raises(HighlightError, match="scores must be finite"):
        shares("score", scored(math.nan, 1.0), QUESTION)
    with pytest.raises(HighlightError, match="give a finite number"):
        highlighted("all", FOUND, QUESTION, gain=math.inf)
    with pytest.raises(HighlightError, match="score divides a gain: give one"):
        highlighted("score", FOUND, QUESTION)
