from collections import Counter
from pathlib import Path

import pytest
from test_evaluation import EDITS, FACTS, reader_of_long_prompts, write

from seka_rag.errors import DataError
from seka_rag.evaluation import instructions
from seka_rag.evaluation.answering import answers
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.data import Edit, read_counterfact, read_relations
from seka_rag.evaluation.facts import join
from seka_rag.evaluation.instructions import Instructions
from seka_rag.evaluation.orders import IDLE, KINDS, compete
from seka_rag.evaluation.runner import run
from seka_rag.evaluation.task import Answer
from seka_rag.highlight import flatten
from seka_rag.inputs import read_prompt
from seka_rag.prompts import render

# The rows of test_evaluation three times over, with values that have letters of both cases.
ROWS = [
    {
        **row,
        "case_id": 12 * round + row["case_id"],
        "subject": f"{row['subject']} {'I' * (round + 1)}",
        "target_new": row["target_new"].capitalize(),
    }
    for round in range(3)
    for row in EDITS
]
RELATIONS_OF = [
    {**FACTS[0], "subject": row["subject"], "object": row["ground_truth"]} for row in ROWS
]


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "counterfact" / "val.jsonl.gz", ROWS)
    write(tmp_path / "pararel" / "facts.jsonl.gz", RELATIONS_OF)
    return tmp_path


@pytest.fixture(scope="module")
def facts():
    relations = {(row["subject"], row["object"]): frozenset({"P19"}) for row in RELATIONS_OF}
    return join([Edit(**row) for row in ROWS], relations)[0]


@pytest.fixture(scope="module")
def built(facts):
    return instructions.build(facts, cases=32, competing=2, seed=0)[0]


@pytest.fixture(scope="module")
def steered(tokenizer):
    return reader_of_long_prompts(tokenizer)


def system_of(case):
    opening, _ = instructions.messages(case)
    return flatten(opening["content"])[0]


class TestCases:
    def test_kinds_are_spread_evenly(self, built):
        assert Counter(case.order.kind for case in built) == dict.fromkeys(KINDS, 2)

    def test_the_order_stands_once_and_neither_first_nor_last(self, built):
        for case in built:
            assert system_of(case).count(case.order.text) == 1
            assert case.before
            assert case.after
            assert 12 <= len(case.before) + 1 + len(case.after) <= 20
        assert len({len(case.before) for case in built}) > 8

    def test_two_orders_of_other_kinds_compete_and_the_rest_is_idle(self, built):
        for case in built:
            kinds = {case.order.kind, *(other.kind for other in case.competing)}
            assert len(kinds) == 3
            competing = {other.text for other in case.competing}
            assert {*case.before, *case.after} - set(IDLE) == competing
            value = case.asked.value
            for other in case.competing:
                assert compete(case.order, other, case.asked)
                assert not case.order.obeyed(other.obey(value, case.asked), case.asked)

    def test_the_value_stands_in_the_passage_alone(self, built):
        for case in built:
            assert case.asked.value in case.asked.passage
            assert case.asked.value not in case.asked.question
            assert case.asked.value == ROWS[case.case_id]["target_new"]
            assert ROWS[case.case_id]["subject"] not in case.asked.question

    def test_highlighting_changes_no_token_and_marks_do(self, built, tokenizer):
        for case in built:
            rendered = render(tokenizer, instructions.messages(case))
            (span,) = rendered.spans
            assert rendered.text[span.start : span.end] == case.order.text
            assert span.kind == "instruction"
            opening, user = instructions.messages(case)
            text = " ".join((*case.before, case.order.text, *case.after))
            plain, lit = (
                read_prompt(tokenizer, [{**opening, "content": c}, user], gain=1, default_gain=1)
                for c in (text, opening["content"])
            )
            assert plain.ids == lit.ids
            assert not any(plain.gains)
            assert any(lit.gains)
            (ask,) = Instructions(Path()).prompts(case)
            marked = render(tokenizer, parse("marks").prompt(ask))
            assert not marked.spans
            assert marked.text == (
                f"{rendered.text[: span.start]}**{case.order.text}**{rendered.text[span.end :]}"
            )

    def test_cases_depend_on_the_seed(self, facts, built):
        again = instructions.build(facts, cases=32, competing=2, seed=0)[0]
        assert again == built != instructions.build(facts, cases=32, competing=2, seed=1)[0]

    def test_values_in_one_case_are_passed_over(self, facts):
        lower = [ROWS[0] | {"target_new": "island"}, ROWS[1] | {"target_new": "BBC"}]
        relations = {(row["subject"], row["object"]): frozenset({"P19"}) for row in RELATIONS_OF}
        few, _ = join([Edit(**row) for row in lower], relations)
        built, passed = instructions.build(few, cases=2, competing=2, seed=0)
        assert built == []
        assert passed == {"value_in_one_case": 2, "value_in_prompt": 0}

    def test_an_answer_counts_for_all_and_for_its_kind(self, built):
        task = Instructions(Path())
        for case in built:
            obedient = Answer(case.order.obey(case.asked.value, case.asked))
            assert task.score(case, [obedient]) == {"complied": 1, case.order.kind: 1}
            rival = Answer(case.competing[0].obey(case.asked.value, case.asked))
            assert task.score(case, [rival]) == {"complied": 0, case.order.kind: 0}


class TestRun:
    def test_figures_of_a_run(self, steered, data):
        seen = []
        result = run(
            steered,
            Instructions(data, cases=16),
            ["none", "seka@0", "marks"],
            batch_size=7,
            progress=lambda *told: seen.append(told),
        )
        assert result.row("none").scores == result.row("seka@0").scores
        assert list(result.row("none").figures) == ["complied", *KINDS]
        assert [row.figures["complied"].n for row in result.rows] == [16] * 3
        assert {row.figures[kind].n for row in result.rows for kind in KINDS} == {1}
        assert seen[-1] == (48, 48)
        assert result.settings["competing"] == 2
        assert result.counts["used"] == 16

    def test_answers_are_those_of_single_prompts(self, steered, built):
        task, method = Instructions(Path()), parse("seka@2.0")
        asks = [ask for case in built[:3] for ask in task.prompts(case)]
        prepared = method.prepare(steered, seed=0)
        said = answers(steered, method, prepared, asks, batch_size=2)
        for ask, answer in zip(asks, said, strict=True):
            single = steered.generate(ask.prompt, gain=2.0, do_sample=False, max_new_tokens=48)
            assert single.text == answer.text

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"cases": 37}, r"val gives 3\d cases and 37 were asked for"),
            ({"cases": 15}, "at least 16, one of each kind"),
            ({"cases": 16, "competing": 16}, "and 0 to 15 are needed"),
            ({"cases": 16, "competing": 15}, "orders compete with .*: ask for fewer"),
        ],
    )
    def test_bad_requests_are_refused(self, steered, data, options, message):
        with pytest.raises(DataError, match=message):
            run(steered, Instructions(data, **options), ["none"])


@pytest.mark.data
def test_the_real_data_give_as_many_cases_as_asked_for(evaluation_data):
    facts, _ = join(read_counterfact(evaluation_data, "val"), read_relations(evaluation_data))
    built, _ = instructions.build(facts, cases=320, competing=2, seed=0)
    assert Counter(case.order.kind for case in built) == dict.fromkeys(KINDS, 20)
    for case in built:
        obedient = case.order.obey(case.asked.value, case.asked)
        assert case.order.obeyed(obedient, case.asked)
        for other in case.competing:
            assert not case.order.obeyed(other.obey(case.asked.value, case.asked), case.asked)
