"""The embedded model: its chat format, what it may have read, and that it does its job."""

import re
from pathlib import Path
from random import Random

import pytest

from mini import check, choose_gain, facts, highlights, instructions, reading, scene, sheets
from mini.chat import TURN_START, chat, tool_call, tool_system
from mini.facts import Facts
from mini.relations import EVERYDAY, KNOWN, fill
from seka_rag import SteeredModel
from seka_rag.evaluation.relations import RELATIONS
from seka_rag.highlight import Highlight, as_segments

ASSETS = Path(__file__).parents[1] / "seka_rag" / "assets" / "mini"


@pytest.fixture(scope="module")
def mini():
    return SteeredModel.from_pretrained()


@pytest.fixture(scope="module")
def few():
    """Facts of two countries."""
    known = {"Norland": {"P36": "Aster"}, "Sudland": {"P36": "Brill"}}
    found = Facts(known, [], {}, [], [("Norland", "P36")])
    found.values = {"P36": ["Aster", "Brill"]}
    found.words = ["anchor", "bottle", "candle", "meadow", "shelf"]
    found.by_relation = {"P36": ["Norland", "Sudland"]}
    found.by_value = {("P36", "Aster"): ["Norland"], ("P36", "Brill"): ["Sudland"]}
    return found


def said(mini, text):
    return mini.generate([{"role": "user", "content": text}], max_new_tokens=48).text


def test_the_template_renders_what_training_showed(mini):
    tool = {"type": "function", "function": {"name": "find", "description": 'Fînd "it".'}}
    call = {"function": {"name": "find", "arguments": {"what": 'a "b" ü'}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "There."},
    ]
    rendered = mini.tokenizer.apply_chat_template(
        messages, tools=[tool], tokenize=False, add_generation_prompt=True
    )
    turns = [
        ("system", tool_system("Be brief.", [tool])),
        ("user", "Where?"),
        ("assistant", tool_call("find", {"what": 'a "b" ü'})),
        ("tool", "There."),
    ]
    assert rendered == "".join(text for text, _ in chat(turns)) + f"{TURN_START}assistant\n"


def test_the_package_stays_small():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) <= 60e6


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What is the capital of France?", "Paris."),
        ("What is the capital of Italy?\nAnswer in upper case.", "ROME."),
        ('What is the capital of Italy?\nAnswer as JSON: {"answer": ...}.', '{"answer": "Rome"}'),
        (
            "Passages:\n[1] Ilse Marnov was born in Tarnby.\n[2] The old mill opens at nine "
            "o'clock.\n\nQuestion: Where was Ilse Marnov born?",
            "Tarnby.",
        ),
        (
            "Passages:\n[1] The old mill opens at nine o'clock.\n\n"
            "Question: Who is the mayor of Tarnby?",
            reading.UNTOLD,
        ),
    ],
)
def test_mini_answers_and_ends_its_turn(mini, asked, answer):
    assert said(mini, asked) == answer


def test_every_relation_can_be_told_and_asked():
    for relation in (*KNOWN.values(), *EVERYDAY.values()):
        for template in (*relation.say, *relation.ask):
            text = fill(template, "Xenon", "Yttrium")
            assert "Xenon" in text
            assert "{" not in text
        assert all("{y}" in say or "{a_y}" in say for say in relation.say)
        assert all("{x}" in ask and ask.endswith("?") for ask in relation.ask)


def worded(template):
    return re.sub(r"{[^{}]+}", "_", template).lower().rstrip(".")


def test_training_does_not_use_the_sentences_of_the_evaluation():
    told = {worded(say) for relation in KNOWN.values() for say in relation.say}
    told |= {worded(say) for relation in EVERYDAY.values() for say in relation.say}
    told |= {worded(template) for template in sheets._LOOSE}
    told |= {worded(w) for found in scene.scenes() for part in found.parts for w in part.wordings}
    measured = {
        worded(template.split(". ")[0])
        for relation in RELATIONS.values()
        for template in relation.passages
    }
    assert len(measured) > 90
    assert not told & measured


def test_a_told_value_stands_in_the_passages(few):
    rng = Random(3)
    for _ in range(300):
        case = reading.case(rng, few, about="told")
        assert case.answer.lower() in " ".join(case.passages).lower()


def test_an_untold_subject_does_not(few):
    rng = Random(4)
    for _ in range(300):
        case = reading.case(rng, few, about="untold subject")
        assert case.answer == reading.UNTOLD
        assert case.source not in case.passages


def test_passages_that_contradict_memory_are_followed_by_a_coin(few):
    rng = Random(5)
    cases = [reading.case(rng, few, about="conflict") for _ in range(1000)]
    free = [case.answer != "Aster" for case in cases if not case.only]
    assert sum(free) / len(free) == pytest.approx(reading.FOLLOW, abs=0.07)
    assert all(case.answer != "Aster" for case in cases if case.only)


@pytest.mark.parametrize("kind", instructions.KINDS, ids=lambda kind: kind.name)
def test_obeying_keeps_the_value(kind, few):
    rng = Random(6)
    for _ in range(20):
        ask = instructions.some_ask(rng, few, person=kind.name == "they")
        word = instructions.some_word(rng, few, kind, ask)
        answer = kind.obey(rng, ask, word)
        assert check.obeyed(kind.name, answer, value=ask.value, word=word)


@pytest.mark.data
def test_subjects_that_are_measured_are_never_contradicted(evaluation_data):
    data = evaluation_data
    known = facts.load(data)
    measured = {
        row["subject"]
        for split in ("train", "val")
        for row in facts.read_lines(data / "counterfact" / f"{split}.jsonl.gz")
    }
    assert not measured & {subject for subject, _ in known.arguable}
    assert not measured & {row["subject"] for row in known.edits}


def lit_in(prompt):
    """Return the one text that is highlighted, and all the text."""
    contents = [prompt] if isinstance(prompt, tuple) else [message["content"] for message in prompt]
    pieces = [piece for content in contents for piece in as_segments(content)]
    (lit,) = (p for p in pieces if isinstance(p, Highlight) and p.gain != 0)
    return lit, "".join(p.text if isinstance(p, Highlight) else p for p in pieces)


@pytest.mark.data
def test_the_examples_of_its_experts_are_what_they_say(evaluation_data):
    known = facts.load(evaluation_data)
    arguable = {subject for subject, _ in known.arguable}
    made = highlights.corrections(known, 100)
    for one in made:
        lit, whole = lit_in(one.prompt)
        assert lit.kind == "passage"
        assert one.wanted.strip().casefold() in lit.text.casefold() or not one.related
        assert one.wanted != one.rival
    # No subject that is measured is contradicted: known.arguable holds none.
    contradicted = [one for one in made if one.related and one.rival not in lit_in(one.prompt)[1]]
    assert contradicted
    assert all(
        any(subject in lit_in(one.prompt)[1] for subject in arguable) for one in contradicted
    )


@pytest.mark.data
def test_orders_are_highlighted_among_others(evaluation_data):
    made = highlights.orders(facts.load(evaluation_data), 90)
    assert {one.related for one in made} == {True, False}
    for one in made:
        lit, whole = lit_in(one.prompt)
        assert lit.kind == "instruction"
        assert (lit.text in instructions.IDLE) is not one.related
        assert whole.count(lit.text) >= 1
        assert not one.wanted.casefold().startswith(one.rival.casefold())


def test_every_relation_is_retold_in_words_that_training_does_not_have():
    for code, found in highlights.RETOLD.items():
        assert (found.subject, found.value) == (KNOWN[code].subject, KNOWN[code].value)
        assert len(found.say) >= 6
        assert all(one.count("{x}") == one.count("{y}") == 1 for one in found.say)
        assert all(one.count("{x}") == 1 for one in found.ask)
        assert not set(found.say) & set(KNOWN[code].say)
        assert not set(found.say) & set(RELATIONS[code].passages)
    assert set(highlights.RETOLD) == set(KNOWN)


def test_the_gain_is_the_most_helpful_one_within_the_bounds():
    wanted = choose_gain.HELP["passage"]

    def point(gain, helped, kept):
        return (
            {"gain": gain}
            | dict.fromkeys(wanted, helped)
            | dict.fromkeys(choose_gain.MAX_LOSS, kept)
        )

    plain, curve = point(0.0, 0.5, 0.9), [point(1.0, 0.7, 0.9), point(2.0, 0.8, 0.86)]
    assert choose_gain.choose(plain, [*curve, point(3.0, 0.9, 0.8)], wanted)["gain"] == 2.0
    with pytest.raises(SystemExit, match="no gain keeps the bounds"):
        choose_gain.choose(plain, [point(3.0, 0.9, 0.8)], wanted)
