import gzip
import json
import math
import random
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import pytest
import torch
from conftest import SHAPE, make_bank
from transformers import AutoModelForCausalLM, Qwen3Config

from seka_rag.errors import DataError
from seka_rag.evaluation import conflicts, counterfact
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.conflicts import Conflicts
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.data import Edit, read_counterfact, read_relations
from seka_rag.evaluation.facts import join
from seka_rag.evaluation.firsts import first_token
from seka_rag.evaluation.relations import RELATIONS, ask, tell
from seka_rag.evaluation.results import Figure, Result, Row
from seka_rag.evaluation.runner import run
from seka_rag.evaluation.task import Ask
from seka_rag.prompts import render
from seka_rag.steering import SteeredModel

PEOPLE = ("Ada", "Bob", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lou")
# Their first tokens differ, which takes words that the tokenizer has seen.
CITIES = ("Passau", "France", "Quito", "Wherwell", "island", "Lovetown", "capital")


def edit(i):
    city = CITIES[i % len(CITIES)]
    return {
        "case_id": i,
        "prompt": f"{PEOPLE[i]} was born in",
        "subject": PEOPLE[i],
        "ground_truth": city,
        "target_new": CITIES[(i + 3) % len(CITIES)],
        "rephrase_prompt": f"{PEOPLE[i]} comes from",
        "locality_prompt": "Zoe was born in",
        "locality_ground_truth": CITIES[(i + 5) % len(CITIES)],
    }


EDITS = [edit(i) for i in range(len(PEOPLE))]
FACTS = [
    {"relation": "P19", "subject": row["subject"], "object": row["ground_truth"]} for row in EDITS
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def reader_of_long_prompts(tokenizer):
    """Return a random model that reads 4096 tokens, steered by a random bank."""
    config = Qwen3Config(**{**SHAPE, "max_position_embeddings": 4096}, initializer_range=0.3)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return SteeredModel(model, tokenizer, make_bank(model))


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "counterfact" / "val.jsonl.gz", EDITS)
    write(tmp_path / "pararel" / "facts.jsonl.gz", FACTS)
    return tmp_path


@pytest.fixture(scope="module")
def steered(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, make_bank(qwen3))


class TestData:
    def test_reads_the_folder_or_its_subfolder(self, data):
        rows = read_counterfact(data, "val")
        assert rows == read_counterfact(data / "counterfact", "val")
        assert rows[1] == Edit(**EDITS[1])
        assert read_relations(data) == read_relations(data / "counterfact")
        assert read_relations(data)["Ada", "Passau"] == {"P19"}

    def test_says_what_is_absent_and_what_it_holds(self, tmp_path):
        with pytest.raises(DataError, match=r"no train.jsonl.gz .* CounterFact .* rephrase_prompt"):
            read_counterfact(tmp_path, "train")

    def test_says_which_line_is_wrong(self, tmp_path):
        write(tmp_path / "val.jsonl.gz", [EDITS[0], {"case_id": 1}])
        with pytest.raises(DataError, match="line 2: 'prompt' is missing"):
            read_counterfact(tmp_path, "val")

    def test_files_that_are_not_gzipped_json_lines(self, tmp_path):
        path = tmp_path / "val.jsonl.gz"
        path.write_text("plain")
        with pytest.raises(DataError, match="cannot be read as gzipped JSON lines"):
            read_counterfact(tmp_path, "val")
        write(path, EDITS)
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(DataError, match="cannot be read as gzipped JSON lines"):
            read_counterfact(tmp_path, "val")
        write(path, [["a list"]])
        with pytest.raises(DataError, match="line 1 is no JSON object"):
            read_counterfact(tmp_path, "val")

    def test_answers_in_the_subject_are_seen_in_any_case(self):
        assert Edit(**{**EDITS[0], "subject": "Radio PASSAU"}).names_its_answer()
        assert Edit(**{**EDITS[0], "subject": "Rome", "target_new": "rome"}).names_its_answer()
        assert not Edit(**EDITS[0]).names_its_answer()


@pytest.mark.parametrize("name", RELATIONS)
def test_every_template_tells_both_and_gives_nothing_away(name):
    relation = RELATIONS[name]
    assert len(set(relation.passages)) == 3
    assert len(set(relation.questions)) == 2
    for template in relation.passages:
        text = tell(template, "SUBJECT", "value")
        assert "SUBJECT" in text
        assert "value" in text
        assert "{" not in text
    for template in relation.questions:
        assert ask(template, "SUBJECT").endswith("?")
        assert "SUBJECT" in ask(template, "SUBJECT")


def test_values_get_their_article():
    template = RELATIONS["P106"].passages[0]
    assert tell(template, "Ada", "actor").endswith("as an actor.")
    assert tell(template, "Ada", "poet").endswith("as a poet.")


class TestFirsts:
    def test_first_tokens_follow_their_context(self, tokenizer):
        raw = first_token(tokenizer, " Paris", before="is")
        assert raw == tokenizer("is Paris")["input_ids"][len(tokenizer("is")["input_ids"])]
        opening = render(tokenizer, [{"role": "user", "content": "?"}]).text
        chat = first_token(tokenizer, "Paris", before=opening)
        assert tokenizer.decode([chat]) == "Paris"[: len(tokenizer.decode([chat]))]

    def test_text_without_a_token_is_an_error(self, tokenizer):
        with pytest.raises(DataError, match="no token of its own"):
            first_token(tokenizer, "", before="is")


class TestCounterfact:
    def test_the_prompt_is_the_papers(self, tokenizer):
        segments = counterfact.prompt(Edit(**EDITS[0]), "Ada comes from")
        rendered = render(tokenizer, segments)
        assert rendered.text == (
            "Previously Ada was born in Passau. Currently Ada was born in Wherwell. Ada comes from"
        )
        (span,) = rendered.spans
        assert rendered.text[span.start : span.end] == "Ada was born in Wherwell."
        assert parse("marks").prompt(Ask(segments)) == (
            "Previously Ada was born in Passau. "
            "Currently **Ada was born in Wherwell.** Ada comes from"
        )

    def test_figures_are_those_of_single_prompts(self, steered, data):
        models = {
            "none": steered.with_bank(None),
            "seka@2.0": steered,
            "seka": steered,
            "scaling@2.0": steered.with_bank(steered.bank.replace(method="scaling")),
            "random@2.0": steered.with_bank(steered.bank.replace(method="random", seed=5)),
            "unweighed@2.0": steered.with_bank(steered.bank.replace(heads="quantile:0.5")),
        }
        task = CounterFact(data)
        result = run(steered, task, [*models, "marks"], batch_size=5, seed=5)
        cases, _ = task.examples(steered.tokenizer)
        assert len(cases) == 12
        differing = set()
        for name, model in models.items():
            gain = {"none": 0.0, "seka": steered.bank.gain}.get(name, 2.0)
            row = result.row(name)
            for case in cases:
                edit = case.edit
                new, true, local = (
                    f" {text}"
                    for text in (edit.target_new, edit.ground_truth, edit.locality_ground_truth)
                )
                wins = {
                    figure: one > other
                    for figure, asked, answers in (
                        ("es", counterfact.prompt(edit, edit.prompt), (new, true)),
                        ("ps", counterfact.prompt(edit, edit.rephrase_prompt), (new, true)),
                        ("locality", counterfact.prompt(edit, edit.locality_prompt), (local, new)),
                        ("memory", edit.prompt, (true, new)),
                    )
                    for one, other in [
                        model.score(asked, answers, gain=gain, first_token_only=True)
                    ]
                }
                found = dict(row.scores[case.id])
                assert found.pop("memory_top1") in (False, True)
                assert found == wins
            for figure, found in row.figures.items():
                mean = fmean(row.scores[case.id][figure] for case in cases)
                assert found.value == pytest.approx(mean)
                assert found.n == 12
            differing.add(tuple(scores["ps"] for scores in row.scores.values()))
        assert len(differing) > 2

    def test_memory_is_the_same_under_every_method(self, steered, data):
        result = run(steered, CounterFact(data), ["none", "marks", "seka@6", "random@6"])
        for name in ("memory", "memory_top1"):
            assert len({row.figures[name] for row in result.rows}) == 1

    def test_gain_nought_is_no_highlight(self, steered, data):
        result = run(steered, CounterFact(data), ["none", "seka@0.0"])
        assert result.row("none").scores == result.row("seka@0.0").scores
        assert result.row("none").figures == result.row("seka@0.0").figures

    def test_rows_that_say_nothing_are_left_out_and_counted(self, steered, data):
        named = {**EDITS[0], "subject": "Hotel Passau", "prompt": "Hotel Passau is in"}
        same = {**EDITS[1], "target_new": EDITS[1]["ground_truth"] + " East"}
        local = {**EDITS[2], "locality_ground_truth": EDITS[2]["target_new"]}
        write(data / "counterfact" / "val.jsonl.gz", [named, same, local, *EDITS[3:]])
        result = run(steered, CounterFact(data), ["none"])
        assert result.counts == {
            "read": 12,
            "used": 10,
            "locality": 9,
            "answer_in_subject": 1,
            "same_first_token": 1,
        }
        assert {name: found.n for name, found in result.row("none").figures.items()} == {
            "es": 10,
            "ps": 10,
            "memory": 10,
            "memory_top1": 10,
            "locality": 9,
        }

    def test_a_figure_without_cases_is_left_out(self, steered, data):
        local = {**EDITS[2], "locality_ground_truth": EDITS[2]["target_new"]}
        write(data / "counterfact" / "val.jsonl.gz", [local])
        result = run(steered, CounterFact(data), ["none"])
        assert set(result.row("none").figures) == {"es", "ps", "memory", "memory_top1"}

    def test_the_rows_drawn_depend_on_the_seed_alone(self, steered, data):
        def rows(seed, **options):
            result = run(steered, CounterFact(data, limit=5, seed=seed), ["none"], **options)
            assert result.counts["used"] == 5
            assert len(result.row("none").scores) == 5
            return result.settings["examples"]

        assert rows(1) == rows(1, batch_size=2)
        assert rows(1) != rows(2)

    @pytest.mark.parametrize("options", [{"limit": 0}, {"split": "test"}])
    def test_bad_requests_are_refused(self, steered, data, options):
        with pytest.raises(DataError):
            run(steered, CounterFact(data, **options), ["none"])


class TestConflicts:
    @pytest.fixture
    def built(self):
        facts, left_out = join(
            [Edit(**row) for row in EDITS],
            {(row["subject"], row["object"]): frozenset({"P19"}) for row in FACTS},
        )
        assert not any(left_out.values())
        return conflicts.build(facts, cases=8, passages=4, seed=0, first=ord_of_first)[0]

    def test_each_row_gives_one_case_of_every_kind(self, built):
        assert [case.kind for case in built] == list(conflicts.KINDS) * 8
        for i in range(0, len(built), 3):
            assert len({case.case_id for case in built[i : i + 3]}) == 1
            assert built[i].question == built[i + 1].question

    def test_the_highlight_is_where_its_kind_says(self, built):
        for case in built:
            row = EDITS[case.case_id]
            assert len(set(case.passages)) == 4
            assert case.subject in case.question
            assert (case.subject == row["subject"]) is (case.kind != "wrong")
            lit = case.passages[case.highlighted]
            about = [text for text in case.passages if row["subject"] in text]
            wanted = [text for text in case.passages if case.wanted in text]
            rival = [text for text in case.passages if case.rival in text]
            if case.kind == "gold":
                assert about == wanted == [lit]
                assert (case.wanted, case.rival) == (row["target_new"], row["ground_truth"])
                assert rival == []
            elif case.kind == "absent":
                assert about == wanted == []
                assert rival == [lit]
                assert case.wanted == row["ground_truth"]
            else:
                assert about == []
                assert [text for text in case.passages if case.subject in text] == wanted
                assert rival == [lit] != wanted
                assert case.wanted == row["target_new"]

    def test_the_position_of_the_highlight_varies(self, built):
        assert {case.highlighted for case in built} == {0, 1, 2, 3}

    def test_highlighting_changes_no_character_and_marks_do(self, built, tokenizer):
        for case in built:
            (ask,) = Conflicts(Path()).prompts(case)
            rendered = render(tokenizer, ask.prompt)
            (span,) = rendered.spans
            assert rendered.text[span.start : span.end] == case.passages[case.highlighted]
            marked = render(tokenizer, parse("marks").prompt(ask))
            assert not marked.spans
            assert marked.text == (
                f"{rendered.text[: span.start]}**{case.passages[case.highlighted]}**"
                f"{rendered.text[span.end :]}"
            )

    def test_reordered_the_highlighted_passage_is_the_last(self, built, tokenizer):
        for case in built:
            (ask,) = Conflicts(Path()).prompts(case)
            (given, last) = (
                [line.partition("] ")[2] for line in render(tokenizer, each).text.splitlines()]
                for each in (ask.prompt, parse("reorder").prompt(ask))
            )
            lit = case.passages[case.highlighted]
            others = [text for text in case.passages if text != lit]
            assert [text for text in last if text in case.passages] == [*others, lit]
            assert sorted(given) == sorted(last)

    def test_unknown_and_several_relations_are_counted(self):
        edits = [Edit(**row) for row in EDITS[:3]]
        relations = {
            ("Ada", "Passau"): frozenset({"P19", "P20"}),
            ("Bob", "France"): frozenset({"P361"}),
            ("Cleo", "Quito"): frozenset({"P361", "P19"}),
        }
        facts, left_out = join(edits, relations)
        assert [(fact.edit.subject, fact.relation) for fact in facts] == [("Cleo", "P19")]
        assert left_out == {"answer_in_subject": 0, "no_relation": 1, "several_relations": 1}

    def test_figures_of_a_run(self, steered, data):
        task, methods = Conflicts(data, cases=4, passages=2), ["none", "marks", "seka@0", "seka@2"]
        result = run(steered, task, methods, batch_size=3)
        assert set(result.row("none").figures) == {
            f"{kind}{end}" for kind in conflicts.KINDS for end in ("", "_top1")
        }
        assert result.row("none").scores == result.row("seka@0").scores
        assert all(found.n == 4 for row in result.rows for found in row.figures.values())
        assert run(steered, task, methods, batch_size=8).rows == result.rows

    def test_figures_are_those_of_single_prompts(self, steered, data):
        task = Conflicts(data, cases=4, passages=2)
        row = run(steered, task, ["seka@2"], batch_size=5).row("seka@2")
        for case in task.examples(steered.tokenizer)[0]:
            (ask,) = task.prompts(case)
            wanted, rival = steered.score(
                ask.prompt, [case.wanted, case.rival], gain=2.0, first_token_only=True
            )
            top = steered.next_token_logprobs([ask.prompt], gain=2.0).max().item()
            assert row.scores[case.id] == {
                case.kind: wanted > rival,
                f"{case.kind}_top1": wanted >= top - 1e-6,
            }

    def test_too_few_rows_are_an_error_that_says_how_many_there_are(self, steered, data):
        with pytest.raises(DataError, match="val gives 12 cases of each kind and 13 were asked"):
            run(steered, Conflicts(data, cases=13, passages=2), ["none"])
        with pytest.raises(DataError, match="too few facts for 39 further passages"):
            run(steered, Conflicts(data, cases=2, passages=40), ["none"])

    @pytest.mark.parametrize("options", [{"cases": 0}, {"passages": 1}])
    def test_bad_requests_are_refused(self, data, options):
        with pytest.raises(DataError, match="at least 1 and 2 are needed"):
            Conflicts(data, **options)


def ord_of_first(value):
    return ord(value[0])


def resampled(scores):
    """Return the mean of the scores, and the 95 % interval of means of explicit resamples."""
    rng = random.Random(1)
    means = sorted(fmean(rng.choices(scores, k=len(scores))) for _ in range(4000))
    return fmean(scores), means[100], means[-100]


class TestResults:
    @pytest.mark.parametrize(
        "scores",
        [
            [True] * 8 + [False] * 2,
            [True] * 3 + [False] * 497,
            [0.0, 0.25, 0.5, 1.0, 0.9, 0.3] * 20,
            [i / 89 for i in range(90)],
        ],
    )
    def test_the_interval_is_that_of_resamples(self, scores):
        found = Figure.of(scores)
        mean, low, high = resampled(scores)
        assert found.n == len(scores)
        assert found.value == pytest.approx(mean)
        assert found.low <= found.value <= found.high
        width = high - low
        assert found.low == pytest.approx(low, abs=0.08 * width)
        assert found.high == pytest.approx(high, abs=0.08 * width)

    @pytest.mark.parametrize("score", [0.0, 0.1, 1 / 3, 0.7, 1.0])
    @pytest.mark.parametrize("n", [1, 3, 10, 49])
    def test_scores_that_are_all_the_same_have_no_width(self, score, n):
        found = Figure.of([score] * n)
        assert (found.value, found.low, found.high) == pytest.approx((score,) * 3)
        assert 0 <= found.low <= found.value <= found.high <= 1

    def test_the_interval_is_the_same_again_and_in_any_order(self):
        scores = [0.2, 0.4, 0.4, 1.0, 0.0, 0.9]
        assert Figure.of(scores) == Figure.of(iter(scores))
        assert Figure.of(scores) == Figure.of(scores[::-1])

    def test_the_mean_of_none_is_no_number(self):
        found = Figure.of([])
        assert found.n == 0
        assert all(math.isnan(value) for value in (found.value, found.low, found.high))

    @pytest.mark.parametrize(
        ("method", "name", "strength"),
        [
            ("none", "none", None),
            ("seka", "seka", None),
            ("seka@0.8", "seka", 0.8),
            ("seka:override@2", "seka:override", 2.0),
        ],
    )
    def test_a_row_knows_its_strength(self, method, name, strength):
        row = Row(method, {})
        assert (row.name, row.strength) == (name, strength)

    def test_a_result_comes_back_from_its_file(self, steered, data, tmp_path):
        result = run(
            steered,
            CounterFact(data),
            ["none", "marks", "seka@1.0"],
            samples=2,
            command="seka-rag eval counterfact",
        )
        path = tmp_path / "results" / "run.json"
        result.save(path)
        assert Result.load(path) == result
        assert [set(sample.looks) for sample in result.samples] == [
            {"none", "marks", "seka@1.0"}
        ] * 2
        assert sorted(p.name for p in path.parent.iterdir()) == ["run.json"]
        described = json.loads(path.read_text())["settings"]
        assert described["experts"]["default"]["digest"] == steered.bank.digest()
        assert described["experts"]["default"]["kv_heads"] == 6
        assert described["command"] == "seka-rag eval counterfact"
        assert described["versions"]["torch"] == version("torch")

    def test_the_table_has_a_line_for_each_method(self, steered, data):
        methods = ["none", "marks", "seka@1", "seka@2.5", "unweighed@2.5"]
        lines = run(steered, CounterFact(data), methods).table().splitlines()
        assert lines[0].split() == ["method", "es", "ps", "locality", "memory", "memory_top1"]
        assert [line.split()[0] for line in lines[1:]] == methods
        assert len({len(line) for line in lines}) == 1

    def test_figures_that_a_row_lacks_are_dashes_in_the_table(self):
        rows = (Row("none", {"a": Figure.of([1.0])}), Row("marks", {"b": Figure.of([0.5])}))
        lines = Result("task", {}, {}, rows).table().splitlines()
        assert [line.split() for line in lines] == [
            ["method", "a", "b"],
            ["none", "100.0", "-"],
            ["marks", "-", "50.0"],
        ]
        assert Result("task", {}, {}, ()).table() == "method  "

    def test_wide_tables_are_cut_into_several(self):
        figures = {f"figure_{i:02}": Figure(i / 100, 0, 1, 9) for i in range(40)}
        rows = (Row("a method of many words", figures), Row("none", figures))
        table = Result("task", {}, {}, rows).table()
        assert all(len(line) <= 80 for line in table.splitlines())
        blocks = [block.splitlines() for block in table.split("\n\n")]
        assert all(len(block) == 3 for block in blocks)
        assert [name for block in blocks for name in block[0].split()[1:]] == list(figures)
        shown = [cell for block in blocks for cell in block[2].split()[1:]]
        assert shown == [f"{i:.1f}" for i in range(40)]

    def test_other_files_are_no_results(self, tmp_path):
        path = tmp_path / "other.json"
        for text in ("{}", "[]", "not json"):
            path.write_text(text)
            with pytest.raises(DataError, match="is no result of an evaluation"):
                Result.load(path)

    def test_missing_rows_are_an_error(self):
        with pytest.raises(DataError, match="no row for seka@2"):
            Result("counterfact", {}, {}, ()).row("seka@2")


@pytest.mark.data
@pytest.mark.parametrize("split", ["val", "train"])
def test_the_real_data_give_three_hundred_cases(split, evaluation_data):
    edits = read_counterfact(evaluation_data, split)
    facts, left_out = join(edits, read_relations(evaluation_data))
    built, _ = conflicts.build(facts, cases=300, passages=6, seed=0, first=hash)
    assert len(built) == 900
    assert {fact.relation for fact in facts} == set(RELATIONS)
    assert left_out["no_relation"] < 0.05 * len(facts)
