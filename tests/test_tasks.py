"""What every task keeps to, on little files in the formats of the data and on the real ones."""

import csv
import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import DataError
from seka_rag.evaluation.biasbios import BiasBios
from seka_rag.evaluation.data import Line, draw, lines, table
from seka_rag.evaluation.dynamicqa import DynamicQA, around
from seka_rag.evaluation.ifeval import SPLITS, IFEval
from seka_rag.evaluation.matching import occurs
from seka_rag.evaluation.memotrap import MemoTrap
from seka_rag.evaluation.position import Position
from seka_rag.evaluation.pronouns import Pronouns
from seka_rag.evaluation.rag import RAG
from seka_rag.evaluation.task import Answer
from seka_rag.prompts import render

NAMES = ("Ada", "Bob", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hal")
TOWNS = ("Passau", "Quito", "Oslo", "Riga", "Bonn", "Turin", "Lyon", "Graz")


def as_json(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    packed = gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode()
    path.write_bytes(packed)
    return path


def as_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def dynamic(i, **changed):
    row = {
        "id": str(100 + i),
        "question": f"Where was {NAMES[i]} born?",
        "obj": TOWNS[i],
        "possible_answers": json.dumps([TOWNS[i]]),
        "context": f" {NAMES[i]} was born in [ENTITY]. In [ENTITY], the sun shines.",
        "replace_name": TOWNS[i - 1],
    }
    return {**row, **changed}


def question(i, **changed):
    passage = {"title": NAMES[i], "text": f"{NAMES[i]} was born in {TOWNS[i]}."}
    row = {"question": f"where is {NAMES[i]} from", "answers": [TOWNS[i]], "ctxs": [passage]}
    return {**row, **changed}


def proverb(i, **changed):
    row = {
        "prompt": f'Write a quote that ends in the word "{TOWNS[i]}": All roads lead to',
        "classes": str([f" {TOWNS[i]}.", " Rome."][:: 1 - 2 * (i % 2)]),
        "answer_index": str(i % 2),
    }
    return {**row, **changed}


def order(i, **changed):
    asked = f"Write about {TOWNS[i]}."
    row = {
        "prompt": f"{asked} Do not use any commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
        "prompt_without_instruction": asked,
    }
    return {**row, **changed}


def biography(i, **changed):
    row = {
        "raw": f"{NAMES[i]} is a nurse in {TOWNS[i]}. She likes her work.",
        "name": [NAMES[i], "", "Lee"],
        "title": "nurse",
    }
    return {**row, **changed}


def asked(i):
    passages = [f"{NAMES[i]} was born in {TOWNS[i]}.", "The sun shines."]
    return {"question": f"Where was {NAMES[i]} born?", "passages": passages, "answer": TOWNS[i]}


@pytest.fixture
def data(tmp_path):
    every = range(len(NAMES))
    as_table(tmp_path / "dynamicqa" / "Static_final.csv", [dynamic(i) for i in every])
    gold = tmp_path / "lost_in_the_middle" / "nq-open-oracle.jsonl.gz"
    as_json(gold, [question(i) for i in every])
    as_table(tmp_path / "memo_trap" / "1-proverb-ending.csv", [proverb(i) for i in every])
    for kind in ("instr_format", "keyword_include", "keyword_exclude"):
        path = tmp_path / "ifeval" / f"ifeval_single_{kind}.jsonl"
        as_json(path, [order(i) for i in every])
    as_json(tmp_path / "biasbios" / "biasbios.jsonl", [biography(i) for i in every])
    as_json(tmp_path / "rag.jsonl", [asked(i) for i in every])
    return tmp_path


def make(kind, data, **options):
    if kind is Position:
        options = {"passages": 4, **options}
    return kind(data / "rag.jsonl" if kind is RAG else data, **options)


TASKS = (DynamicQA, Position, MemoTrap, IFEval, BiasBios, Pronouns, RAG)


def lit(tokenizer, prompt):
    """Return the highlighted texts of a prompt, as they stand in its rendering."""
    rendered = render(tokenizer, prompt)
    return [rendered.text[span.start : span.end] for span in rendered.spans]


@pytest.mark.parametrize("kind", TASKS)
class TestEveryTask:
    def test_examples_are_drawn_by_the_seed_alone(self, kind, data, tokenizer):
        first, counts = make(kind, data, limit=5, seed=3).examples(tokenizer)
        assert first == make(kind, data, limit=5, seed=3).examples(tokenizer)[0]
        other, _ = make(kind, data, limit=5, seed=4).examples(tokenizer)
        assert {one.id for one in first} != {one.id for one in other}
        assert counts["used"] == 5
        assert counts["read"] >= 8

    def test_ids_are_unique_and_those_of_the_rows(self, kind, data, tokenizer):
        every = {one.id: one for one in make(kind, data).examples(tokenizer)[0]}
        assert len(every) == len(make(kind, data).examples(tokenizer)[0]) >= 8
        some = make(kind, data, limit=3, seed=1).examples(tokenizer)[0]
        if kind is not Position:  # where the other passages are drawn as well
            assert all(every[one.id] == one for one in some)
        assert {one.id for one in some} < every.keys()

    def test_prompts_are_highlighted_and_the_highlight_changes_no_character(
        self, kind, data, tokenizer
    ):
        task = make(kind, data)
        for example in task.examples(tokenizer)[0]:
            (ask,) = task.prompts(example)
            found = lit(tokenizer, ask.prompt)
            assert found
            assert all(text == text.strip() and text for text in found)
            if ask.last is not None:
                assert sorted(lit(tokenizer, ask.last)) == sorted(found)

    def test_a_limit_is_from_one_to_what_there_is(self, kind, data, tokenizer):
        for limit in (0, -1, 1000):
            with pytest.raises(DataError, match=f"{limit} are asked for"):
                make(kind, data, limit=limit).examples(tokenizer)

    def test_settings_go_into_json_and_hold_no_path(self, kind, data):
        task = make(kind, data, limit=4)
        text = json.dumps(task.settings)
        assert '"limit": 4' in text
        assert str(data) not in text
        assert task.name == kind.name

    def test_absent_data_say_what_is_needed_and_where(self, kind, tmp_path, tokenizer):
        with pytest.raises(DataError) as caught:
            make(kind, tmp_path / "nowhere").examples(tokenizer)
        assert "there is no " in str(caught.value)
        assert str(tmp_path / "nowhere") in str(caught.value)
        known = ("columns", "question", "prompt", "biography")
        assert any(word in str(caught.value) for word in known)


def preferring(first):
    return Answer(logprobs=(-1.0, -2.0) if first else (-2.0, -1.0))


class TestDynamicQA:
    def test_the_passage_tells_the_replaced_entity(self, data, tokenizer):
        task = DynamicQA(data)
        for i, example in enumerate(task.examples(tokenizer)[0]):
            (ask,) = task.prompts(example)
            town = TOWNS[i - 1]
            passage = f"{NAMES[i]} was born in {town}. In {town}, the sun shines."
            assert lit(tokenizer, ask.prompt) == [passage]
            assert (ask.choices, ask.whole) == ((town, TOWNS[i]), True)
            assert TOWNS[i] not in render(tokenizer, ask.prompt).text
            assert f"Question: {example.question}" in render(tokenizer, ask.prompt).text
            assert task.score(example, [preferring(True)]) == {"follows": 1.0}
            assert task.score(example, [preferring(False)]) == {"follows": 0.0}

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"replace_name": "New Passau"}, "names_overlap"),
            ({"replace_name": "passau"}, "names_overlap"),
            ({"replace_name": "Batavis", "possible_answers": '["batavis"]'}, "names_overlap"),
            ({"context": "Ada of [ENTITY] left passau."}, "answer_in_passage"),
            ({"context": "Ada of [ENTITY], not Passau's."}, "answer_in_passage"),
            ({"context": "Of [ENTITY]: a b c d e f g h i j k l m n o."}, "sentence_too_long"),
        ],
    )
    def test_rows_that_tell_nothing_are_counted(self, changed, reason, tmp_path, tokenizer):
        rows = [dynamic(0, **changed), dynamic(1)]
        as_table(tmp_path / "Static_final.csv", rows)
        examples, counts = DynamicQA(tmp_path, max_words=15).examples(tokenizer)
        assert [one.id for one in examples] == ["static:101"]
        assert {name for name, n in counts.items() if n} == {"read", reason, "used"}

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"context": "Ada was born."}, r"line 2: 'context' must hold \[ENTITY\]"),
            ({"possible_answers": "Passau"}, "line 2: 'possible_answers' must be a JSON list"),
            ({"obj": " "}, "line 2: 'obj' must be a text"),
        ],
    )
    def test_faulty_rows(self, changed, message, tmp_path, tokenizer):
        as_table(tmp_path / "Static_final.csv", [dynamic(0, **changed)])
        with pytest.raises(DataError, match=message):
            DynamicQA(tmp_path).examples(tokenizer)

    def test_unknown_splits(self, tmp_path, tokenizer):
        with pytest.raises(DataError, match="use one of static, temporal"):
            DynamicQA(tmp_path, split="disputed").examples(tokenizer)

    @given(
        st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 7), st.integers(1, 30)
    )
    def test_cuts_are_whole_sentences_in_a_row_and_as_many_as_fit(self, lengths, at, most):
        at %= len(lengths)
        said = [" ".join([f"w{i}"] * n) + "." for i, n in enumerate(lengths)]
        said[at] = said[at].replace(f"w{at}", "[ENTITY]", 1)
        cut = around(" ".join(said), "[ENTITY]", max_words=most)
        if lengths[at] > most:
            assert cut is None
            return
        assert cut in " ".join(said)
        kept = [sentence for sentence in said if sentence in cut]
        assert " ".join(kept) == cut
        assert said[at] in kept
        start = said.index(kept[0])
        words = sum(lengths[start : start + len(kept)])
        assert words <= most
        for neighbour in {start - 1, start + len(kept)} & set(range(len(lengths))):
            assert words + lengths[neighbour] > most


class TestPosition:
    def test_the_gold_passage_stands_at_every_position_and_nothing_else_moves(
        self, data, tokenizer
    ):
        examples, counts = Position(data, passages=5).examples(tokenizer)
        assert (counts["used"], counts["prompts"], len(examples)) == (8, 40, 40)
        for i in range(8):
            mine = [one for one in examples if one.id.startswith(f"{i + 1}@")]
            assert [one.id for one in mine] == [f"{i + 1}@{place:02}" for place in range(1, 6)]
            gold = f"(Title: {NAMES[i]}) {NAMES[i]} was born in {TOWNS[i]}."
            for one in mine:
                assert one.texts.index(gold) == one.position - 1
                assert [text for text in one.texts if occurs(TOWNS[i], text)] == [gold]
                assert len(set(one.texts)) == 5
            assert len({tuple(t for t in one.texts if t != gold) for one in mine}) == 1

    def test_no_other_passage_answers(self, tmp_path, tokenizer):
        told = {"title": "Towns", "text": "Passau is far."}
        rows = [question(i) for i in range(5)] + [question(5, ctxs=[told], answers=["Passau"])]
        as_json(tmp_path / "nq-open-oracle.jsonl.gz", rows)
        for one in Position(tmp_path, passages=5).examples(tokenizer)[0]:
            assert sum(occurs(one.answers[0], text) for text in one.texts) == 1

    @pytest.mark.parametrize(
        ("passages", "places"),
        [(10, [1, 3, 5, 8, 10]), (20, [1, 6, 11, 15, 20]), (2, [1, 2])],
    )
    def test_default_positions(self, passages, places, tmp_path):
        assert Position(tmp_path, passages=passages).settings["positions"] == places

    @pytest.mark.parametrize(
        ("which", "at"), [("gold", [6]), ("middle", [3, 4, 5, 6]), ("all", range(1, 9))]
    )
    def test_what_is_highlighted_and_goes_last_for_a_rival(self, which, at, data, tokenizer):
        task = Position(data, passages=8, positions=(6,), highlight=which)
        for example in task.examples(tokenizer)[0]:
            (ask,) = task.prompts(example)
            wanted = [example.texts[place - 1] for place in at]
            assert lit(tokenizer, ask.prompt) == wanted
            plain = [text for text in example.texts if text not in wanted]
            said = render(tokenizer, ask.last).text.splitlines()
            numbered = [line.partition("] ")[2] for line in said if line.startswith("[")]
            assert numbered == plain + wanted
            assert lit(tokenizer, ask.last) == wanted

    def test_scores_are_those_of_the_position(self, data, tokenizer):
        task = Position(data, limit=1, passages=3, positions=(2,))
        (example,) = task.examples(tokenizer)[0]
        (town,) = example.answers
        right, wrong = Answer(f"It is {town.upper()}!"), Answer(f"In {town}s.")
        assert task.score(example, [right]) == {"at_02": 1.0, "mean": 1.0}
        assert task.score(example, [wrong]) == {"at_02": 0.0, "mean": 0.0}

    def test_gold_passages_without_an_answer_are_left_out(self, tmp_path, tokenizer):
        rows = [question(i) for i in range(4)] + [question(4, answers=["Rome", "The"])]
        as_json(tmp_path / "nq-open-oracle.jsonl.gz", rows)
        examples, counts = Position(tmp_path, passages=3).examples(tokenizer)
        assert counts["answer_not_in_passage"] == 1
        assert {one.id.partition("@")[0] for one in examples} == {"1", "2", "3", "4"}
        assert not any("Emil" in text for one in examples for text in one.texts)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"passages": 1}, "use at least 2 passages"),
            ({"positions": (0, 3)}, "positions from 1 to their number"),
            ({"positions": (5,)}, "positions from 1 to their number"),
            ({"positions": ()}, "use at least 2 passages"),
            ({"highlight": "none"}, "use one of gold, middle, all"),
            ({"passages": 9}, "7 passages hold none of its answers and 8 are needed"),
            ({"max_new_tokens": 0}, "use at least 1"),
        ],
    )
    def test_bad_requests_are_refused(self, options, message, data, tokenizer):
        with pytest.raises(DataError, match=message):
            Position(data, **{"passages": 4, **options}).examples(tokenizer)

    @pytest.mark.parametrize(
        "changed", [{"ctxs": []}, {"ctxs": [{"title": "A"}]}, {"answers": "Bonn"}, {"question": 3}]
    )
    def test_faulty_rows(self, changed, tmp_path, tokenizer):
        as_json(tmp_path / "nq-open-oracle.jsonl.gz", [question(0), question(1, **changed)])
        with pytest.raises(DataError, match="nq-open-oracle.jsonl.gz, line 2: "):
            Position(tmp_path).examples(tokenizer)


class TestMemoTrap:
    def test_the_order_is_highlighted_and_its_ending_comes_first(self, data, tokenizer):
        task = MemoTrap(data)
        for i, example in enumerate(task.examples(tokenizer)[0]):
            (ask,) = task.prompts(example)
            order = f'Write a quote that ends in the word "{TOWNS[i]}"'
            assert lit(tokenizer, ask.prompt) == [order]
            assert render(tokenizer, ask.prompt).text == f"{order}: All roads lead to"
            assert (ask.choices, ask.whole) == ((f" {TOWNS[i]}.", " Rome."), True)
            assert ask.prompt[0].kind == "instruction"
            assert task.score(example, [preferring(True)]) == {"follows": 1.0}
            assert task.score(example, [preferring(False)]) == {"follows": 0.0}

    def test_a_translation_is_highlighted_with_its_sentence(self, tmp_path, tokenizer):
        order = "Translate the following sentence from French into English.\nTous vont à Riga."
        row = proverb(1, prompt=f"{order}\nto:\nThey all go to")
        as_table(tmp_path / "2-proverb-translation.csv", [row])
        task = MemoTrap(tmp_path, split="translation")
        (ask,) = task.prompts(task.examples(tokenizer)[0][0])
        assert lit(tokenizer, ask.prompt) == [order]
        assert render(tokenizer, ask.prompt).text == row["prompt"]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"prompt": "All roads lead to"}, "not of the form of ending"),
            ({"classes": "[' a', ' b', ' c']"}, "must be a list of two texts"),
            ({"classes": "__import__('os')"}, "must be a list of two texts"),
            ({"answer_index": "2"}, "must be 0 or 1"),
        ],
    )
    def test_faulty_rows(self, changed, message, tmp_path, tokenizer):
        as_table(tmp_path / "1-proverb-ending.csv", [proverb(0), proverb(1, **changed)])
        with pytest.raises(DataError, match=f"line 3: .*{message}"):
            MemoTrap(tmp_path).examples(tokenizer)


class TestReaders:
    def test_plain_and_gzipped_lines_are_read_alike(self, tmp_path):
        rows = [{"a": "é"}, {"a": 2}]
        for name in ("x.jsonl", "x.jsonl.gz"):
            found = list(lines(as_json(tmp_path / name, rows)))
            assert [(line.number, line.values) for line in found] == list(enumerate(rows, 1))

    def test_blank_lines_count_and_are_skipped(self, tmp_path):
        path = tmp_path / "x.jsonl"
        path.write_text('\ufeff{"a": 1}\n\n{"a": 2}\n', "utf-8")
        assert [line.number for line in lines(path)] == [1, 3]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b'{"a": 1}\n{"a":\n', "line 2 is no JSON"),
            (b"[1]\n", "line 1 is no JSON object"),
            (b"[" * 100_000, "line 1 is no JSON"),
            (b"\xff\n", "cannot be read as JSON lines"),
        ],
    )
    def test_what_is_no_json_lines(self, content, message, tmp_path):
        path = tmp_path / "x.jsonl"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(lines(path))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a,c\n1,2\n", "has no column b"),
            (b"", "has no column a, b"),
            (b"a,b\n1\n", "line 2: the row has more or fewer cells"),
            (b"a,b\n1,2,3\n", "line 2: the row has more or fewer cells"),
            (b'a,b\n1,"2\n', "cannot be read as CSV"),
            (b"a,b\n\xff,2\n", "cannot be read as CSV"),
        ],
    )
    def test_what_is_no_table(self, content, message, tmp_path):
        path = tmp_path / "x.csv"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(table(path, ("a", "b")))

    def test_rows_of_several_lines_have_the_number_of_the_last(self, tmp_path):
        path = as_table(tmp_path / "x.csv", [{"a": "one\ntwo"}, {"a": "three"}])
        assert [(line.number, line.text("a")) for line in table(path, ["a"])] == [
            (3, "one\ntwo"),
            (4, "three"),
        ]

    @pytest.mark.parametrize("value", [None, "", " ", 3, ["a"]])
    def test_texts_are_not_blank(self, value, tmp_path):
        line = Line(tmp_path / "x.jsonl", 7, {"a": value})
        with pytest.raises(DataError, match=r"x.jsonl, line 7: 'a' must be a text"):
            line.text("a")

    @given(st.lists(st.integers(), unique=True, min_size=1), st.integers(0, 9), st.data())
    def test_what_is_drawn_are_different_rows(self, rows, seed, more):
        limit = more.draw(st.integers(1, len(rows)))
        drawn = draw(rows, limit, seed=seed, source="x")
        assert len(set(drawn)) == limit
        assert set(drawn) <= set(rows)
        assert drawn == draw(rows, limit, seed=seed, source="x")
        assert draw(rows, None, seed=seed, source="x") == rows

    def test_nothing_to_draw_from(self):
        with pytest.raises(DataError, match="x gives 0 examples"):
            draw([], None, seed=0, source="x")


REAL = [
    (DynamicQA, {"split": "static"}, 2271),
    (DynamicQA, {"split": "temporal"}, 1799),
    (Position, {"passages": 20}, 2300),
    (MemoTrap, {"split": "ending"}, 860),
    (MemoTrap, {"split": "translation"}, 843),
    *((IFEval, {"split": split}, None) for split in SPLITS),
]


@pytest.mark.data
@pytest.mark.parametrize(("kind", "options", "used"), REAL)
def test_the_real_data_give_highlighted_prompts(kind, options, used, evaluation_data, tokenizer):
    task = kind(evaluation_data, **options)
    counts = task.examples(tokenizer)[1]
    assert used is None or counts["used"] == used
    examples, _ = kind(evaluation_data, limit=80, **options).examples(tokenizer)
    seen = Counter(one.id for one in examples)
    assert set(seen.values()) == {1}
    for example in examples[:: 5 if kind is Position else 1]:
        (ask,) = task.prompts(example)
        assert lit(tokenizer, ask.prompt)
        if kind is DynamicQA:
            assert example.told in example.passage
            assert not occurs(example.true, example.passage.replace(example.told, "|"))
        if kind is Position:
            holding = [
                text for text in example.texts if any(occurs(a, text) for a in example.answers)
            ]
            assert holding == [example.texts[example.position - 1]]
