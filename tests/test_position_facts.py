from pathlib import Path

import pytest
from test_evaluation import EDITS, FACTS, ord_of_first, reader_of_long_prompts, write

from seka_rag.errors import DataError
from seka_rag.evaluation import position_facts
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.data import Edit, read_counterfact, read_relations
from seka_rag.evaluation.facts import join
from seka_rag.evaluation.position_facts import Placed, PositionFacts
from seka_rag.evaluation.runner import run
from seka_rag.prompts import render


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "counterfact" / "val.jsonl.gz", EDITS)
    write(tmp_path / "pararel" / "facts.jsonl.gz", FACTS)
    return tmp_path


@pytest.fixture(scope="module")
def steered(tokenizer):
    return reader_of_long_prompts(tokenizer)


@pytest.fixture(scope="module")
def built():
    relations = {(row["subject"], row["object"]): frozenset({"P19"}) for row in FACTS}
    facts, _ = join([Edit(**row) for row in EDITS], relations)
    return position_facts.build(facts, cases=6, passages=5, seed=0, first=ord_of_first)[0]


def numbered(case, position, tokenizer):
    text = render(tokenizer, position_facts.messages(case, position)).text
    return [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[")]


class TestCases:
    def test_one_passage_answers_and_one_is_the_rivals(self, built):
        for case in built:
            row = EDITS[case.case_id]
            every = (case.passage, *case.others)
            assert len(set(every)) == 5
            assert [text for text in every if case.wanted in text] == [case.passage]
            assert [text for text in every if case.subject in text] == [case.passage]
            assert case.subject in case.question
            assert case.wanted == row["target_new"]
            (rival,) = (text for text in case.others if case.rival in text)
            assert any(f["subject"] in rival and f["object"] == case.rival for f in FACTS)

    @pytest.mark.parametrize("position", [1, 2, 5])
    def test_the_passage_stands_where_it_is_said_to(self, built, tokenizer, position):
        for case in built:
            texts = numbered(case, position, tokenizer)
            assert texts.index(case.passage) == position - 1
            assert tuple(text for text in texts if text != case.passage) == case.others
            rendered = render(tokenizer, position_facts.messages(case, position))
            (span,) = rendered.spans
            assert rendered.text[span.start : span.end] == case.passage

    def test_highlighting_changes_no_character_and_marks_do(self, built, tokenizer):
        (ask,) = PositionFacts(Path()).prompts(Placed(built[0], 3))
        plain = render(tokenizer, ask.prompt)
        marked = render(tokenizer, parse("marks").prompt(ask))
        assert not marked.spans
        assert marked.text.replace("**", "") == plain.text
        assert marked.text.count("**") == 2
        assert f"**{built[0].passage}**" in marked.text


class TestRun:
    METHODS = ("none", "marks", "reorder", "seka@0", "seka@2", "scaling@2")

    def test_figures_of_a_run(self, steered, data):
        def outcome(**options):
            return run(steered, PositionFacts(data, cases=4, passages=3), self.METHODS, **options)

        result = outcome(batch_size=5)
        none = result.row("none")
        assert list(none.figures) == ["mean", "at_01", "at_02", "at_03"]
        assert none.scores == result.row("seka@0").scores
        for row in result.rows:
            places = [row.figures[f"at_0{place}"] for place in (1, 2, 3)]
            assert [found.n for found in places] == [4, 4, 4]
            assert row.figures["mean"].n == 12
            assert row.figures["mean"].value == pytest.approx(sum(r.value for r in places) / 3)
        assert outcome(batch_size=32).rows == result.rows
        assert result.settings["positions"] == [1, 2, 3]
        assert result.counts["used"] == 4

    def test_reordered_every_position_is_the_last(self, steered, data):
        result = run(steered, PositionFacts(data, cases=4, passages=3), ["none", "reorder"])
        none, reorder = result.rows
        for name in ("at_01", "at_02", "at_03"):
            assert reorder.figures[name] == none.figures["at_03"]

    def test_some_positions_are_those_of_all(self, steered, data):
        methods = ["none", "seka@2"]
        every = run(steered, PositionFacts(data, cases=4, passages=4), methods)
        task = PositionFacts(data, cases=4, passages=4, positions=(4, 2, 4))
        for one, other in zip(every.rows, run(steered, task, methods).rows, strict=True):
            assert list(other.figures) == ["mean", "at_02", "at_04"]
            assert other.scores.items() <= one.scores.items()
            assert len(other.scores) == 8
            assert one.figures["at_02"] == other.figures["at_02"]
            assert one.figures["at_04"] == other.figures["at_04"]

    def test_the_rows_drawn_depend_on_the_seed(self, steered, data):
        def rows(seed):
            task = PositionFacts(data, cases=5, passages=2, positions=(1,), seed=seed)
            return run(steered, task, ["none"]).settings["examples"]

        assert rows(1) == rows(1) != rows(2)

    def test_progress_counts_every_position(self, steered, data):
        seen = []
        task = PositionFacts(data, cases=3, passages=2)
        run(steered, task, self.METHODS, progress=lambda *told: seen.append(told))
        assert seen[-1] == (6 * 3 * 2, 6 * 3 * 2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"cases": 13, "passages": 2}, "val gives 12 cases and 13 were asked for"),
            ({"cases": 2, "passages": 40}, "too few facts for 38 further passages"),
            ({"cases": 2, "passages": 3, "positions": (0, 1)}, "choose from 1 to 3"),
            ({"cases": 2, "passages": 3, "positions": (4,)}, "choose from 1 to 3"),
            ({"cases": 2, "passages": 3, "positions": ()}, "choose from 1 to 3"),
            ({"cases": 0}, "at least 1 and 2"),
            ({"cases": 1, "passages": 1}, "at least 1 and 2"),
        ],
    )
    def test_bad_requests_are_refused(self, steered, data, options, message):
        with pytest.raises(DataError, match=message):
            run(steered, PositionFacts(data, **options), ["none"])


@pytest.mark.data
def test_the_real_data_give_a_hundred_cases(evaluation_data):
    facts, _ = join(read_counterfact(evaluation_data, "val"), read_relations(evaluation_data))
    built, _ = position_facts.build(facts, cases=100, passages=12, seed=0, first=hash)
    assert len(built) == 100
    assert {len(case.others) for case in built} == {11}
    assert built == position_facts.build(facts, cases=100, passages=12, seed=0, first=hash)[0]
