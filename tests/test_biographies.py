import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import as_json, biography, lit

from seka_rag.errors import DataError
from seka_rag.evaluation.biasbios import (
    OCCUPATIONS,
    BiasBios,
    Biography,
    first_sentence,
    read_biographies,
)
from seka_rag.evaluation.pronouns import Pronouns
from seka_rag.evaluation.task import Answer
from seka_rag.prompts import render

REMEDI = {"context": "Ada paints walls.", "entity": "Ada", "target_mediated": "interior designer"}
LABHC = {"hard_text": "She has worked in Riga since 2010.", "profession": 13, "gender": 1}


class TestBiographies:
    @pytest.mark.parametrize(
        ("row", "text", "name", "occupation"),
        [
            (biography(0), "Ada is a nurse in Passau. She likes her work.", "Ada", "nurse"),
            (biography(0, name=["", "Ann"], title="yoga_teacher"), None, "Ann", "yoga teacher"),
            (REMEDI, "Ada paints walls.", "Ada", "interior designer"),
            (LABHC, "She has worked in Riga since 2010.", "This person", "nurse"),
            ({"text": "A bio. ", "hard_text": "", "p": "DJ"}, "A bio.", "This person", "dj"),
        ],
    )
    def test_every_form_is_read(self, row, text, name, occupation, tmp_path):
        as_json(tmp_path / "biasbios.jsonl", [row])
        (found,) = read_biographies(tmp_path)
        assert found.text == (text or row["raw"])
        assert (found.name, found.occupation) == (name, occupation)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"title": "nurse"}, "no biography or no occupation"),
            ({"raw": "She is."}, "no biography or no occupation"),
            (biography(1, raw=" "), "'raw' must be a text"),
            (biography(1, title="pilot"), "'title' is 'pilot': it must be 0 to 27 or one of"),
            (biography(1, title=None), "'title' is None"),
            ({**LABHC, "profession": 28}, "'profession' is 28"),
            ({**LABHC, "profession": True}, "'profession' is True"),
            (biography(1, name=["", None]), "'name' must hold a name"),
        ],
    )
    def test_faulty_rows(self, row, message, tmp_path):
        as_json(tmp_path / "biasbios.jsonl", [biography(0), row])
        with pytest.raises(DataError, match=f"biasbios.jsonl, line 2: .*{message}"):
            read_biographies(tmp_path)

    @pytest.mark.parametrize(
        ("text", "first"),
        [
            ("Ada is a nurse. She works.", "Ada is a nurse."),
            ("Dr. Ada Lee works here. She rests.", "Dr. Ada Lee works here."),
            ("Ada works. She rests a lot.", "Ada works. She rests a lot."),
            ("Ada.", "Ada."),
        ],
    )
    def test_first_sentences(self, text, first):
        assert first_sentence(text) == first

    @given(st.text().filter(str.strip))
    def test_first_sentences_begin_the_text(self, text):
        assert text.startswith(first_sentence(text))
        assert first_sentence(text).strip()


class TestBiasBios:
    def test_the_first_sentence_is_highlighted_and_the_right_occupation_comes_first(
        self, tmp_path, tokenizer
    ):
        as_json(tmp_path / "biasbios.jsonl", [biography(2)])
        task = BiasBios(tmp_path)
        (example,) = task.examples(tokenizer)[0]
        (ask,) = task.prompts(example)
        assert lit(tokenizer, ask.prompt) == ["Cleo is a nurse in Oslo."]
        said = "Cleo is a nurse in Oslo. She likes her work.\n\nCleo has the occupation of"
        assert render(tokenizer, ask.prompt).text == said
        assert ask.choices[0] == " nurse"
        assert sorted(ask.choices) == sorted(f" {each}" for each in OCCUPATIONS)
        assert ask.whole
        right = Answer(logprobs=(-1.0, *[-2.0] * 27))
        wrong = Answer(logprobs=(-1.0, *[-2.0] * 26, -0.5))
        assert task.score(example, [right]) == {"accuracy": 1.0}
        assert task.score(example, [wrong]) == {"accuracy": 0.0}

    def test_a_text_of_one_sentence(self, tmp_path, tokenizer):
        as_json(tmp_path / "biasbios.jsonl", [REMEDI])
        task = BiasBios(tmp_path)
        (ask,) = task.prompts(task.examples(tokenizer)[0][0])
        assert lit(tokenizer, ask.prompt) == ["Ada paints walls."]


TEXT = (
    "Ada is a nurse. She lives in Riga with her son, and he likes it. They told him of hers; "
    "she's glad. She did it herself."
)
CHANGED = (
    "Ada is a nurse. They lives in Riga with their son, and they likes it. They told them of "
    "theirs; they's glad. They did it themselves."
)


def scored(answer, text=TEXT):
    return Pronouns("unused").score(Biography("1", text, "Ada", "nurse"), [Answer(answer)])


class TestPronouns:
    def test_the_instruction_is_highlighted_behind_the_text(self, tmp_path, tokenizer):
        as_json(tmp_path / "biasbios.jsonl", [biography(2)])
        task = Pronouns(tmp_path)
        (ask,) = task.prompts(task.examples(tokenizer)[0][0])
        (order,) = lit(tokenizer, ask.prompt)
        assert "substitute 'she' and 'he' with 'they'" in order
        assert order.endswith("the occupation of Cleo.")
        rendered = render(tokenizer, ask.prompt)
        assert f"{biography(2)['raw']}\n\n{order}" in rendered.text
        assert {span.kind for span in rendered.spans} == {"instruction"}

    def test_all_changed_and_none(self):
        assert scored(CHANGED) == {"changed": 1.0, "changed_all": 1.0, "kept": 1.0}
        more = f"Here you are:\n{CHANGED.upper()} They are a nurse."
        assert scored(more) == {"changed": 1.0, "changed_all": 1.0, "kept": 1.0}
        # The text has a "they" of its own, which is no change of another word.
        own = "Ada is a nurse: they, he says, work."
        for text in (TEXT, own):
            assert scored(text, text) == {"changed": 0.0, "changed_all": 0.0, "kept": 1.0}

    def test_some_changed(self):
        subjects = (
            TEXT.replace("She ", "They ").replace("she's", "they're").replace(" he ", " they ")
        )
        found = scored(subjects)
        assert found["changed"] == 1.0
        assert found["changed_all"] == pytest.approx(4 / 8)
        assert 0.9 < found["kept"] < 1  # "they're" is not "they's"
        one = scored(TEXT.replace("She lives", "They live"))
        assert one["changed"] == pytest.approx(1 / 4)
        assert one["changed_all"] == pytest.approx(1 / 8)

    @pytest.mark.parametrize("answer", ["", "They are a nurse.", "they they they they they", "No."])
    def test_what_does_not_keep_the_text_changes_nothing(self, answer):
        found = scored(answer)
        assert found["kept"] < 0.5
        assert (found["changed"], found["changed_all"]) == (0.0, 0.0)

    @given(st.text(), st.text(alphabet="he sHE'ymt.", min_size=1))
    def test_figures_are_shares(self, answer, text):
        found = scored(answer, text)
        assert set(found) == {"changed", "changed_all", "kept"}
        assert all(0 <= value <= 1 for value in found.values())

    @given(st.lists(st.sampled_from("he she they nurse is was a at".split()), min_size=1))
    def test_a_text_changed_word_by_word_is_changed(self, words):
        changed = " ".join("they" if word in ("he", "she") else word for word in words)
        assert scored(changed, " ".join(words)) == {"changed": 1.0, "changed_all": 1.0, "kept": 1.0}

    def test_texts_without_subjects_or_too_long_are_left_out(self, tmp_path, tokenizer):
        rows = [
            biography(0),
            biography(1, raw="Bob is a nurse, and his work is hard."),
            biography(2, raw="She is " + "very " * 40 + "kind."),
        ]
        as_json(tmp_path / "biasbios.jsonl", rows)
        examples, counts = Pronouns(tmp_path, max_new_tokens=60).examples(tokenizer)
        assert [one.id for one in examples] == ["1"]
        assert counts == {"read": 3, "no_subject_pronoun": 1, "too_long": 1, "used": 1}
        with pytest.raises(DataError, match="use at least 1"):
            Pronouns(tmp_path, max_new_tokens=0).examples(tokenizer)
