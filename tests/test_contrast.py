import json

import pytest

from seka_rag.contrast import (
    Triplet,
    digest_of,
    grounding_triplet,
    instruction_triplet,
    read_triplets,
)
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


def test_behind_the_context_the_question_changes_no_place():
    triplet = grounding_triplet("Ada was born in Rome.", "Where?", "When?", "Rome")
    assert triplet.asked == (
        "Context: Ada was born in Rome.\nQuestion: Where?\nAnswer:",
        "Context: Ada was born in Rome.\nQuestion: When?\nAnswer:",
    )
    (_, (start, end)) = triplet.parts()[0]
    assert {text[start:end] for text in triplet.asked} == {"Rome"}


def test_an_instruction_concerns_one_request():
    triplet = instruction_triplet(
        "Give prices in crowns.", "What is it?", "Who is it?", "in crowns"
    )
    assert triplet.relevant == "Request: What is it?\nInstruction: Give prices in crowns."
    assert triplet.asked[1] == "Instruction: Give prices in crowns.\nRequest: Who is it?\nAnswer:"
    with pytest.raises(TripletError, match="not in the instruction"):
        instruction_triplet("Give prices in crowns.", "What is it?", "Who is it?", "in francs")


def test_a_question_behind_another_context_is_refused():
    with pytest.raises(TripletError, match="begin with the neutral text"):
        Triplet("a b", "a b", "a b", answers=((0, 1),) * 3, asked=("a b c", "b a c"))


def test_a_file_of_triplets_and_of_pairs(tmp_path):
    told = {"context": "Ada was born in Rome.", "question": "Where?", "other_question": "When?"}
    rule = {"kind": "instruction", "context": "Give prices in crowns.", "answer": "in crowns"}
    pair = {
        "id": 1, "context_1": "The dog barks at night.", "context_2": "Rain fell in May.",
        "question_1": "When does it bark?", "answer_1": "at night",
        "question_2": "When did it rain?", "answer_2": "May",
    }  # fmt: skip
    path = tmp_path / "mixed.jsonl"
    asked = {"question": "What is the fare?", "other_question": "Who drives?"}
    lines = ({**told, "answer": "Rome"}, {**rule, **asked}, pair)
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_triplets(path) == [
        grounding_triplet("Ada was born in Rome.", "Where?", "When?", "Rome"),
        instruction_triplet(
            "Give prices in crowns.", "What is the fare?", "Who drives?", "in crowns"
        ),
        grounding_triplet(
            "The dog barks at night.", "When does it bark?", "When did it rain?", "at night"
        ),
        grounding_triplet("Rain fell in May.", "When did it rain?", "When does it bark?", "May"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[1]", "line 2: a line must be a JSON object"),
        ('{"context": "a b", "question": "c", "answer": "a"}', "'other_question' must be a text"),
        ('{"context": "a b", "question": "c", "other_question": "d", "answer": "z"}', "'z' is not"),
        ('{"kind": "joke"}', "the kind is 'joke'"),
        ('{"context_1": "a b"}', "line 2: 'question_1' must be a text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = tmp_path / "wrong.jsonl"
    good = '{"context": "a b", "question": "c", "other_question": "d", "answer": "a"}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(TripletError, match=message):
        read_triplets(path)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(TripletError, match="not UTF-8"):
        read_triplets(tmp_path / "latin.jsonl")
    with pytest.raises(TripletError, match="cannot be read"):
        read_triplets(tmp_path / "nowhere.jsonl")
