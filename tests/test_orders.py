"""Orders about form: every one can be obeyed and checked, and competing ones not together."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seka_rag.errors import DataError
from seka_rag.evaluation.orders import (
    IDLE,
    KINDS,
    Asked,
    Order,
    compete,
    draw,
    holds,
    read_wordings,
)

ASKED = Asked("Where was Mira Talvik born?", "Mira Talvik was born in Oslo.", "Oslo")
PAIR = Asked("Who makes Balenton?", "The maker of Balenton is General Motors.", "General Motors")
TRAINED = Path(__file__).parents[1] / "mini" / "orders.txt"


def every_order(asked):
    for name, kind in KINDS.items():
        for word in kind.words(asked):
            for wording in kind.wordings:
                yield Order(name, word, wording.replace("{w}", word))


def letters(text):
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


@pytest.mark.parametrize("asked", [ASKED, PAIR], ids=lambda asked: asked.value)
def test_an_obedient_answer_passes_and_a_wrong_or_plain_one_does_not(asked):
    for order in every_order(asked):
        assert order.obeyed(order.obey(asked.value, asked), asked), order
        assert order.obeyed(f" {order.obey(asked.value, asked)}\n", asked), order
        assert not order.obeyed(order.obey("Bergen", asked), asked), order
        assert not order.obeyed("", asked), order
        for plain in (asked.value, f"{asked.value}."):
            assert order.obeyed(plain, asked) is (order.kind == "at_most"), order


@pytest.mark.parametrize("asked", [ASKED, PAIR], ids=lambda asked: asked.value)
@pytest.mark.parametrize("name", KINDS)
def test_enough_orders_compete_with_each_kind_and_obeying_them_disobeys_it(name, asked):
    rng = random.Random(0)
    order = draw(name, asked, rng)
    others = [draw(kind, asked, rng) for kind in KINDS if kind != name]
    competing = [other for other in others if compete(order, other, asked)]
    assert len(competing) >= 4
    for other in competing:
        assert compete(other, order, asked)
        assert not order.obeyed(other.obey(asked.value, asked), asked)
        assert not other.obeyed(order.obey(asked.value, asked), asked)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("upper", "lower", True),
        ("upper", "json", True),
        ("upper", "quotes", False),
        ("upper", "sentence", False),
        ("bullet", "quotes", True),
        ("at_most", "sentence", True),
        ("at_most", "bold", False),
        ("prefix", "suffix", False),
        ("upper", "upper", False),
    ],
)
def test_which_kinds_compete(one, other, expected):
    rng = random.Random(1)
    assert compete(draw(one, ASKED, rng), draw(other, ASKED, rng), ASKED) is expected


@pytest.mark.parametrize(
    ("kind", "word", "good", "bad"),
    [
        ("upper", "", ["OSLO", "IT IS OSLO."], ["Oslo", "OSLOO", "BERGEN"]),
        ("lower", "", ["oslo."], ["Oslo", "cooslo"]),
        (
            "sentence",
            "",
            ["She was born in Oslo.", "Oslo is her birthplace. She left it early."],
            ["Oslo, Chief.", "Found: it is Oslo.", "she was born in Oslo.", "She was born in Oslo"],
        ),
        (
            "json",
            "fact",
            ['{"fact": "Oslo"}', '{"a": 1, "fact": "oslo."}'],
            ['{"Fact": "Oslo"}', '{"fact": "Bergen", "b": "Oslo"}', '["fact", "Oslo"]', '{"fact"'],
        ),
        ("quotes", "", ['"Oslo."'], ['"Oslo', "Oslo", '"Oslo" it is', "'Oslo'"]),
        ("bullet", "", ["- Oslo"], ["-Oslo", "* Oslo", "Oslo - Norway"]),
        ("prefix", "Noted:", ["Noted: Oslo."], ["noted: Oslo", "Oslo. Noted:"]),
        ("suffix", "The desk.", ["Oslo. The desk."], ["The desk. Oslo", "Oslo. the desk."]),
        ("tag", "note", ["<note>Oslo</note>"], ["<note>Oslo", "<fact>Oslo</fact>"]),
        ("bold", "", ["**Oslo**"], ["*Oslo*", "It is **Oslo**."]),
        ("brackets", "", ["[Oslo]"], ["(Oslo)", "[Oslo"]),
        ("twice", "", ["Oslo. Oslo.", "Oslo, Oslo", "OSLO OSLO"], ["Oslo", "Oslo Oslo Oslo"]),
        ("address", "Chief", ["Oslo, Chief.", "Oslo, Chief!"], ["Chief, Oslo.", "Oslo, chief"]),
        ("without", "is", ["It says Oslo here."], ["The answer is Oslo.", "Oslo."]),
        ("at_most", "2", ["Oslo", "In Oslo."], ["It is Oslo.", "Bergen"]),
        (
            "echo",
            "",
            ["Where was Mira Talvik born? Oslo."],
            ["Oslo. Where was Mira Talvik born?", "Where was Mira Talvik born?"],
        ),
    ],
)
def test_the_checks_are_strict(kind, word, good, bad):
    order = Order(kind, word, "")
    assert [said for said in good if not order.obeyed(said, ASKED)] == []
    assert [said for said in bad if order.obeyed(said, ASKED)] == []


@given(st.text(), st.text(min_size=1))
def test_whatever_is_said_can_be_checked(said, value):
    asked = Asked("Who?", f"It was {value}.", value)
    for order in every_order(asked):
        order.obeyed(said, asked)


@given(st.from_regex(r"[A-Z][a-zéü]{2,9}( [A-Z][a-z]{2,9})?", fullmatch=True), st.data())
def test_obedience_passes_for_any_name(value, data):
    asked = Asked("Who was it?", f"It was {value}.", value)
    order = data.draw(st.sampled_from(list(every_order(asked))))
    obedient = order.obey(value, asked)
    assume(len(re.findall(rf"(?i)\b{value}\b", obedient)) == (2 if order.kind == "twice" else 1))
    assert order.obeyed(obedient, asked)


@given(st.text(alphabet="aB. -'", min_size=1).filter(lambda text: text.strip(". ")), st.text())
def test_a_value_is_found_whole_and_in_any_case(value, around):
    assert holds(f"«{value.upper()}» {around}", value)
    assert not holds(f"x{value}x", value)


def test_orders_and_idle_sentences_are_many_and_differ():
    wordings = [wording for kind in KINDS.values() for wording in kind.wordings]
    assert min(len(kind.wordings) for kind in KINDS.values()) >= 5
    assert len(IDLE) == 60
    assert len({*wordings, *IDLE}) == len(wordings) + 60
    assert all(text.endswith((".", '".')) for text in (*wordings, *IDLE))


def test_training_does_not_use_these_wordings():
    trained = [letters(line.rpartition("|")[2]) for line in TRAINED.read_text().splitlines()]
    source = (TRAINED.parent / "instructions.py").read_text()
    for kind in KINDS.values():
        assert not {letters(wording) for wording in kind.wordings} & set(trained)
    assert not [text for text in IDLE if text in source]


def test_orders_can_be_worded_by_a_file():
    found = read_wordings(TRAINED)
    assert set(found) == set(KINDS)
    assert not any("|" in line for lines in found.values() for line in lines)
    order = draw("prefix", ASKED, random.Random(1), found)
    assert order.word in order.text
    assert "{w}" not in order.text
    assert order.text not in {each.text for each in every_order(ASKED)}
    assert order.obeyed(order.obey("Oslo", ASKED), ASKED)


def test_a_file_that_lacks_a_kind_or_cannot_be_read_is_an_error(tmp_path):
    path = tmp_path / "orders.txt"
    path.write_text("upper\nIn capitals.\n\nat most\nUse {w} words.\n", encoding="utf-8")
    with pytest.raises(DataError, match="no wording for lower, sentence"):
        read_wordings(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_wordings(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_wordings(tmp_path / "absent.txt")
