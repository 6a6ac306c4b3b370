"""Scenes and events: what they tell can be answered, what they leave out cannot."""

from random import Random

import pytest

from mini import events, scene
from mini.facts import Facts

FOUNDED = """
- {c:company} was founded in {y:year} by {p:person}.
| In {y:year} {p:person} founded {c:company}.
? Who founded {c}? => {p}
- It makes {g:=boots|bells|tiles}.
? What does {c} make? => {g}
! Where is {c}?
"""


@pytest.fixture(scope="module")
def nothing():
    """No facts, and a few words."""
    return Facts({}, [], {}, [], [], words=["anchor", "bottle", "candle", "meadow"])


def test_every_scene_of_the_corpus_is_well_formed():
    assert len(scene.scenes()) > 300


def test_what_a_scene_answers_stands_in_its_passage(nothing):
    rng = Random(1)
    for found in scene.scenes():
        told = scene.tell(rng, nothing, found)
        assert told.asked
        for question, answer in told.asked:
            assert answer.lower() in told.passage.lower(), question
            assert "{" not in question + told.passage


def test_a_sentence_left_out_leaves_its_questions_unanswered(nothing):
    (found,) = scene.read(FOUNDED)
    told = scene.tell(Random(1), nothing, found, dropped=1.0)
    assert [answer in told.passage for _, answer in told.asked] == [True]
    assert len(told.untold) == 2
    assert "makes" not in told.passage


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("=> {p}", "=> {z}", "not in the sentence"),
        ("=> {p}", "", "no «=>"),
        ("{c:company} was", "{c:firm} was", "unknown kind"),
        ("In {y:year} {p", "{p", "other slots"),
        ("Who founded {c}", "Who is {p}", "holds its answer"),
        ("Where is {c}", "Where is it", "names nobody"),
        ("Where is {c}", "Who sells {g}", "first sentence does not have"),
        ("! Where", "Where", "begins with none of"),
    ],
)
def test_a_wrong_scene_is_refused(old, new, complaint):
    with pytest.raises(scene.SceneError, match=complaint):
        scene.read(FOUNDED.replace(old, new, 1))


def test_what_events_answer_stands_in_their_passage(nothing):
    rng = Random(2)
    for _ in range(300):
        told = events.tell(rng, nothing)
        for question, answer in told.asked:
            assert answer.lower() in told.passage.lower(), question
        assert not {question for question, _ in told.asked} & set(told.untold)
