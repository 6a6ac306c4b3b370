"""The examples run offline on the embedded model, and their documents say what they should."""

import json
import runpy
from pathlib import Path

import pytest

from seka_rag.retrieval import Retriever, read_folder

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
QUESTIONS = [
    json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture(scope="module")
def retriever():
    return Retriever.from_folder(EXAMPLES / "documents")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_example_runs(program, capsys):
    runpy.run_path(str(program), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_the_demo_shows_answers_that_change(capsys):
    runpy.run_path(str(EXAMPLES / "demo.py"), run_name="__main__")
    assert "3 of 3 answers follow" in capsys.readouterr().out


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row["subject"])
def test_a_notice_updates_its_fact_and_is_found_first(row, retriever):
    best, second = retriever.search(row["question"], 2)
    assert best.source == row["file"]
    assert best.score > second.score
    sentence = next(part for part in best.text.split(". ") if row["updated"] in part)
    assert row["subject"] in " ".join(sentence.split())
    assert row["remembered"] not in best.text


def test_notices_and_distractors_are_short_passages():
    passages = read_folder(EXAMPLES / "documents")
    notices = {row["file"] for row in QUESTIONS}
    assert notices < {passage.source for passage in passages}
    for passage in passages:
        fewest, most = (10, 30) if passage.source in notices else (40, 70)
        assert fewest <= len(passage.text.split()) <= most, passage.source


def test_the_readme_quotes_programs_and_outputs_as_they_are(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = (ROOT / "README.md").read_text("utf-8")
    refreshed = runpy.run_path(str(ROOT / "docs" / "readme.py"))["refreshed"](text)
    # Python versions wrap usage lines differently.
    assert text.split() == refreshed.split(), "run `python docs/readme.py`"
