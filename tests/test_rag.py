import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import as_json, lit

from seka_rag.errors import DataError, HighlightError
from seka_rag.evaluation.matching import exact_match, f1, normalised, occurs
from seka_rag.evaluation.rag import RAG
from seka_rag.evaluation.task import Answer
from seka_rag.prompts import render

PASSAGES = [
    "The sun shines. It is hot.",
    {"text": "Ada was born in Riga. She left.", "source": "a.txt"},
]
ROW = {
    "question": "Where was Ada born?",
    "passages": PASSAGES,
    "answer": ["Riga", "the city of Riga"],
}
words = st.lists(st.sampled_from("riga is the city An of Ada, Ada's".split()), max_size=6).map(
    " ".join
)


class TestMatching:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("The  Cat, an ANIMAL!", "cat animal"),
            ("A.N. Other's", "other s".replace(" ", "")),
            ("“Straße” — a road", "strasse road"),
            ("theatre and", "theatre and"),
            ("$5", "5"),
            ("the", ""),
        ],
    )
    def test_normalised(self, text, found):
        assert normalised(text) == found

    @given(st.text())
    def test_normalising_twice_changes_nothing(self, text):
        assert normalised(normalised(text)) == normalised(text)

    @given(words, words)
    def test_f1_is_symmetric_and_one_for_the_same_words_alone(self, one, two):
        assert f1(one, two) == f1(two, one)
        assert 0 <= f1(one, two) <= 1
        same = sorted(normalised(one).split()) == sorted(normalised(two).split())
        assert (f1(one, two) == 1) == same
        assert not exact_match(one, two) or f1(one, two) == 1

    @given(st.text())
    def test_every_text_matches_itself(self, text):
        assert exact_match(text, text)
        assert f1(text, text) == 1
        assert occurs(text, text) == bool(normalised(text))

    @given(words, words, words)
    def test_what_stands_between_others_occurs(self, before, wanted, after):
        assert occurs(wanted, f"{before} {wanted} {after}") == bool(normalised(wanted))

    def test_f1_by_hand(self):
        assert f1("Riga in Latvia", "the city of Riga") == pytest.approx(2 * (1 / 3) ** 2 / (2 / 3))
        assert f1("Riga", "Oslo") == f1("", "Oslo") == 0
        assert f1("the", "a") == 1

    def test_parts_of_words_do_not_occur(self):
        assert not occurs("Rig", "Riga")
        assert occurs("Riga", "In Riga's streets")
        assert occurs("McDonald's", "at McDonald’s!")
        assert not occurs("city Riga", "city of Riga")


def only(tmp_path, row, tokenizer, **options):
    task = RAG(as_json(tmp_path / "mine.jsonl", [row]), **options)
    (example,), counts = task.examples(tokenizer)
    return task, example, counts


class TestRAG:
    @pytest.mark.parametrize(
        ("row", "options", "found", "last"),
        [
            (ROW, {}, [], [0, 1]),  # the first shares no word with the question
            ({**ROW, "passages": PASSAGES[::-1]}, {}, ["Ada was born in Riga. She left."], [1, 0]),
            (ROW, {"policy": "all"}, ["The sun shines. It is hot.", PASSAGES[1]["text"]], [0, 1]),
            (ROW, {"policy": "sentences"}, ["Ada was born in Riga."], [0, 1]),
            (
                {**ROW, "passages": ["Ada ate. It is hot. Ada was born.", "Was Ada born?"]},
                {"policy": "sentences"},
                ["Ada ate.", "Ada was born.", "Was Ada born?"],
                [0, 1],
            ),
            ({**ROW, "highlight": 0}, {}, [PASSAGES[0]], [1, 0]),
            ({**ROW, "highlight": [1]}, {"policy": "all"}, [PASSAGES[1]["text"]], [0, 1]),
            ({**ROW, "highlight": [1, 0]}, {}, [PASSAGES[0], PASSAGES[1]["text"]], [0, 1]),
            ({**ROW, "highlight": []}, {}, [], [0, 1]),
        ],
    )
    def test_what_is_highlighted_and_goes_last_for_a_rival(
        self, row, options, found, last, tmp_path, tokenizer
    ):
        task, example, counts = only(tmp_path, row, tokenizer, **options)
        (ask,) = task.prompts(example)
        assert lit(tokenizer, ask.prompt) == found
        assert counts == {"read": 1, "used": 1, "without_highlight": int(not found)}
        texts = [each if isinstance(each, str) else each["text"] for each in row["passages"]]
        plain = "Passages:\n[1] {}\n[2] {}\n\nQuestion: Where was Ada born?"
        assert plain.format(*texts) in render(tokenizer, ask.prompt).text
        moved = plain.format(*(texts[i] for i in last))
        assert moved in render(tokenizer, ask.last).text
        assert lit(tokenizer, ask.last) == found

    def test_passages_of_several_lines(self, tmp_path, tokenizer):
        row = {**ROW, "passages": [" One \n\n two.\n", "Passages:"], "highlight": [0, 1]}
        task, example, _ = only(tmp_path, row, tokenizer)
        (ask,) = task.prompts(example)
        assert lit(tokenizer, ask.prompt) == ["One two.", "Passages:"]
        assert "\n[1] One two.\n[2] Passages:\n" in render(tokenizer, ask.prompt).text

    @pytest.mark.parametrize(
        ("text", "figures"),
        [
            ("The city of Riga.", (1, 1, 1)),
            ("riga", (1, 1, 1)),
            ("It was Riga!", (0, 0.5, 1)),
            ("Oslo", (0, 0, 0)),
            ("", (0, 0, 0)),
        ],
    )
    def test_figures(self, text, figures, tmp_path, tokenizer):
        task, example, _ = only(tmp_path, ROW, tokenizer)
        found = task.score(example, [Answer(text)])
        assert list(found) == ["exact_match", "f1", "grounded"]
        assert tuple(found.values()) == pytest.approx(figures)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"question": ""}, "'question' must be a text"),
            ({"passages": []}, "'passages' must be a list of at least one"),
            ({"passages": "text"}, "'passages' must be a list of at least one"),
            ({"passages": ["a", "\n "]}, "passage 1 must be a text"),
            ({"passages": [{"source": "a"}]}, "passage 0 must be a text"),
            ({"passages": [{"text": "a", "source": 1}]}, "passage 0 must be a text"),
            ({"answer": None}, "'answer' must be a text"),
            ({"answer": []}, "'answer' must be a list of texts"),
            ({"answer": ["Riga", "The!"]}, "the answer 'The!' is nothing but"),
            ({"highlight": 2}, "give indices of the 2 passages, from 0 to 1"),
            ({"highlight": [-1]}, "give indices of the 2 passages"),
            ({"highlight": [True]}, "give indices of the 2 passages"),
            ({"highlight": None}, "give indices of the 2 passages"),
            ({"highlight": "0"}, "give indices of the 2 passages"),
        ],
    )
    def test_faulty_lines(self, changed, message, tmp_path, tokenizer):
        path = as_json(tmp_path / "mine.jsonl", [ROW, {**ROW, **changed}])
        with pytest.raises(DataError, match=f"mine.jsonl, line 2: .*{message}"):
            RAG(path).examples(tokenizer)

    def test_policies_that_cannot_be_used(self, tmp_path, tokenizer):
        path = as_json(tmp_path / "mine.jsonl", [ROW])
        with pytest.raises(DataError, match="the policy score divides a gain"):
            RAG(path, policy="score").examples(tokenizer)
        with pytest.raises(HighlightError, match="there is no policy 'best'"):
            RAG(path, policy="best").examples(tokenizer)

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )

    @given(st.sampled_from(["question", "passages", "answer", "highlight"]), json_values)
    def test_a_line_is_read_or_told_to_be_faulty(self, tmp_path_factory, tokenizer, name, value):
        path = tmp_path_factory.getbasetemp() / "any.jsonl"
        path.write_text(json.dumps({**ROW, name: value}) + "\n")
        task = RAG(path)
        try:
            (example,), _ = task.examples(tokenizer)
            told = f"any.jsonl, line 1: {len(task.prompts(example))} prompt"
        except DataError as error:
            told = str(error)
        assert "any.jsonl, line 1: " in told
