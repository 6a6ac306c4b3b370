import pytest

from seka_rag.contrast import Triplet, digest_of, grounding_triplet
from seka_rag.errors import TripletError


def test_the_question_stands_before_the_context():
    triplet = grounding_triplet("Ada was born in Rome.", "Where?", "When?", "Rome")
    assert triplet.neutral == "Context: Ada was born in Rome."
    assert triplet.relevant == "Question: Where?\nContext: Ada was born in Rome."
    assert triplet.irrelevant == "Question: When?\nContext: Ada was born in Rome."
    assert [text[start:end] for text, (start, end) in triplet.parts()] == ["Rome"] * 3


def test_the_answer_is_looked_for_in_the_context_alone():
    triplet = grounding_triplet("He lives in Rome, not Rome, Ohio.", "Is it Rome?", "Who?", "Rome")
    for text, (start, _) in triplet.parts():
        assert start == text.index("in Rome") + 3


@pytest.mark.parametrize(
    ("answer", "message"), [("Oslo", "'Oslo' is not in the context"), ("", "is empty")]
)
def test_says_that_the_answer_is_not_there(answer, message):
    with pytest.raises(TripletError, match=message):
        grounding_triplet("Ada was born in Rome.", "Where?", "When?", answer)


def test_refuses_answers_that_differ():
    with pytest.raises(TripletError, match="the same words"):
        Triplet("a b", "a b", "a b", answers=((0, 1), (0, 1), (2, 3)))


def test_the_digest_depends_on_texts_and_order():
    first = grounding_triplet("Ada was born in Rome.", "Where?", "When?", "Rome")
    second = grounding_triplet("Ada was born in Oslo.", "Where?", "When?", "Oslo")
    assert digest_of([first, second]) == digest_of([first, second])
    assert digest_of([first, second]) != digest_of([second, first])
