import gzip
import json
import math
from importlib.metadata import version

import pytest
import torch
from conftest import SHAPE, make_bank
from transformers import AutoModelForCausalLM, Qwen3Config

from seka_rag.errors import BankError, DataError
from seka_rag.evaluation import conflicts, counterfact
from seka_rag.evaluation.data import Edit, read_counterfact, read_relations
from seka_rag.evaluation.facts import join
from seka_rag.evaluation.methods import METHODS, first_token, settings
from seka_rag.evaluation.relations import RELATIONS, ask, tell
from seka_rag.evaluation.results import Rate, Result
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


class TestMethods:
    def test_plain_methods_have_no_gain(self):
        planned = settings(METHODS, [1.0, 2.0])
        assert len(planned) == 2 + 3 * 2
        assert [s.gain for s in planned if s.method in ("none", "marks")] == [0.0, 0.0]

    def test_unknown_methods_are_refused(self):
        with pytest.raises(DataError, match="no method pasta: choose from none, marks"):
            settings(["none", "pasta"], [1.0])

    def test_first_tokens_follow_their_context(self, steered):
        tokenizer = steered.tokenizer
        raw = first_token(steered, " Paris", before="is")
        assert raw == tokenizer("is Paris")["input_ids"][len(tokenizer("is")["input_ids"])]
        opening = render(tokenizer, [{"role": "user", "content": "?"}]).text
        chat = first_token(steered, "Paris", before=opening)
        assert tokenizer.decode([chat]) == "Paris"[: len(tokenizer.decode([chat]))]

    def test_text_without_a_token_is_an_error(self, steered):
        with pytest.raises(DataError, match="no token of its own"):
            first_token(steered, "", before="is")


class TestCounterfact:
    def test_the_prompt_is_the_papers(self, tokenizer):
        segments = counterfact.prompt(Edit(**EDITS[0]), "Ada comes from", marked=False)
        rendered = render(tokenizer, segments)
        assert rendered.text == (
            "Previously Ada was born in Passau. Currently Ada was born in Wherwell. Ada comes from"
        )
        (span,) = rendered.spans
        assert rendered.text[span.start : span.end] == "Ada was born in Wherwell."
        marked = counterfact.prompt(Edit(**EDITS[0]), "Ada comes from", marked=True)
        assert marked == (
            "Previously Ada was born in Passau. "
            "Currently **Ada was born in Wherwell.** Ada comes from"
        )

    def test_rates_are_those_of_single_prompts(self, steered, data):
        methods = [*METHODS, "unweighed"]
        result = counterfact.run(steered, data, gains=[2.0], batch_size=5, methods=methods)
        cases, _ = counterfact.usable(steered, [Edit(**row) for row in EDITS])
        for method, bank in (
            ("seka", steered.bank),
            ("scaling", steered.bank.replace(method="scaling")),
            ("random", steered.bank.replace(method="random")),
            ("unweighed", steered.bank.replace(heads="quantile:0.5")),
        ):
            model = steered.with_bank(bank)
            wins = []
            for case in cases:
                prompt = counterfact.prompt(case.edit, case.edit.rephrase_prompt, marked=False)
                new, true = model.score(
                    prompt,
                    [f" {case.edit.target_new}", f" {case.edit.ground_truth}"],
                    gain=2.0,
                    first_token_only=True,
                )
                wins.append(new > true)
            assert result.row(method, 2.0).rates["ps"].value == pytest.approx(sum(wins) / len(wins))
        memory = []
        for case in cases:
            true, new = steered.score(
                case.edit.prompt,
                [f" {case.edit.ground_truth}", f" {case.edit.target_new}"],
                first_token_only=True,
            )
            memory.append(true > new)
        assert result.settings["memory"]["memory"] == pytest.approx(sum(memory) / len(memory))

    def test_gain_nought_is_no_highlight(self, steered, data):
        result = counterfact.run(steered, data, methods=["none", "seka"], gains=[0.0])
        assert result.row("none").rates == result.row("seka").rates

    def test_rows_that_say_nothing_are_left_out_and_counted(self, steered, data):
        named = {**EDITS[0], "subject": "Hotel Passau", "prompt": "Hotel Passau is in"}
        same = {**EDITS[1], "target_new": EDITS[1]["ground_truth"] + " East"}
        local = {**EDITS[2], "locality_ground_truth": EDITS[2]["target_new"]}
        write(data / "counterfact" / "val.jsonl.gz", [named, same, local, *EDITS[3:]])
        counts = counterfact.run(steered, data, methods=["none"]).counts
        assert counts == {
            "read": 12,
            "used": 10,
            "locality": 9,
            "answer_in_subject": 1,
            "same_first_token": 1,
        }

    def test_a_rate_without_cases_is_left_out(self, steered, data):
        local = {**EDITS[2], "locality_ground_truth": EDITS[2]["target_new"]}
        write(data / "counterfact" / "val.jsonl.gz", [local])
        result = counterfact.run(steered, data, methods=["none"])
        assert set(result.row("none").rates) == {"es", "ps"}

    def test_the_rows_drawn_depend_on_the_seed_alone(self, steered, data):
        def rows(**options):
            found = counterfact.run(steered, data, methods=["none"], limit=5, **options)
            assert found.counts["used"] == 5
            return found.settings["rows_digest"]

        assert rows(seed=1) == rows(seed=1, batch_size=2)
        assert rows(seed=1) != rows(seed=2)

    def test_progress_counts_every_prompt(self, steered, data):
        seen = []
        counterfact.run(steered, data, gains=[1.0], progress=lambda *told: seen.append(told))
        total = 12 + 5 * (12 + 12 + 12)
        assert seen[-1] == (total, total)
        assert all(one[0] < two[0] for one, two in zip(seen, seen[1:], strict=False))

    def test_edits_need_a_bank_and_the_others_do_not(self, steered, data):
        plain = steered.with_bank(None)
        result = counterfact.run(plain, data, methods=["none", "marks"])
        assert result.settings["experts"] is None
        with pytest.raises(BankError, match="seka needs a bank"):
            counterfact.run(plain, data)

    @pytest.mark.parametrize("options", [{"limit": 0}, {"split": "test"}])
    def test_bad_requests_are_refused(self, steered, data, options):
        with pytest.raises(DataError):
            counterfact.run(steered, data, **options)


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
        case = built[0]
        rendered = render(tokenizer, conflicts.messages(case, marked=False))
        (span,) = rendered.spans
        assert rendered.text[span.start : span.end] == case.passages[case.highlighted]
        marked = render(tokenizer, conflicts.messages(case, marked=True))
        assert not marked.spans
        assert marked.text.replace("**", "") == rendered.text
        assert f"**{case.passages[case.highlighted]}**" in marked.text

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

    def test_rates_of_a_run(self, steered, data):
        result = conflicts.run(steered, data, cases=4, passages=2, gains=[0.0, 2.0], batch_size=3)
        assert set(result.row("none").rates) == {
            f"{kind}{end}" for kind in conflicts.KINDS for end in ("", "_top1")
        }
        assert result.row("none").rates == result.row("seka", 0.0).rates
        assert all(rate.n == 4 for row in result.rows for rate in row.rates.values())
        again = conflicts.run(steered, data, cases=4, passages=2, gains=[0.0, 2.0], batch_size=8)
        assert again.rows == result.rows

    def test_too_few_rows_are_an_error_that_says_how_many_there_are(self, steered, data):
        with pytest.raises(DataError, match="val gives 12 cases of each kind and 13 were asked"):
            conflicts.run(steered, data, cases=13, passages=2)
        with pytest.raises(DataError, match="too few facts for 39 further passages"):
            conflicts.run(steered, data, cases=2, passages=40)


def ord_of_first(value):
    return ord(value[0])


class TestResults:
    def test_the_interval_is_wilsons(self):
        rate = Rate.of([True] * 8 + [False] * 2)
        assert (rate.value, rate.n) == (0.8, 10)
        assert (rate.low, rate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
        assert Rate.of([True] * 10).high == pytest.approx(1.0)
        assert math.isnan(Rate.of([]).value)

    def test_a_result_comes_back_from_its_file(self, steered, data, tmp_path):
        result = counterfact.run(steered, data, gains=[1.0], command="seka-rag eval counterfact")
        path = tmp_path / "results" / "run.json"
        result.save(path)
        assert Result.load(path) == result
        assert sorted(p.name for p in path.parent.iterdir()) == ["run.json"]
        described = json.loads(path.read_text())["settings"]
        assert described["experts"]["default"]["digest"] == steered.bank.digest()
        assert described["experts"]["default"]["kv_heads"] == 6
        assert described["command"] == "seka-rag eval counterfact"
        assert described["versions"]["torch"] == version("torch")

    def test_the_table_has_a_line_for_each_setting(self, steered, data):
        lines = counterfact.run(steered, data, gains=[1.0, 2.5]).table().splitlines()
        assert lines[0].split() == ["method", "gain", "es", "ps", "locality"]
        assert [line.split()[:2] for line in lines[1:4]] == [
            ["none", "-"],
            ["marks", "-"],
            ["seka", "1"],
        ]
        assert len(lines) == 1 + 2 + 3 * 2

    def test_other_files_are_no_results(self, tmp_path):
        path = tmp_path / "other.json"
        for text in ("{}", "[]", "not json"):
            path.write_text(text)
            with pytest.raises(DataError, match="is no result of an evaluation"):
                Result.load(path)

    def test_missing_rows_are_an_error(self):
        with pytest.raises(DataError, match="no row for seka at gain 2"):
            Result("counterfact", {}, {}, ()).row("seka", 2.0)


@pytest.mark.data
@pytest.mark.parametrize("split", ["val", "train"])
def test_the_real_data_give_three_hundred_cases(split, evaluation_data):
    edits = read_counterfact(evaluation_data, split)
    facts, left_out = join(edits, read_relations(evaluation_data))
    built, _ = conflicts.build(facts, cases=300, passages=6, seed=0, first=hash)
    assert len(built) == 900
    assert {fact.relation for fact in facts} == set(RELATIONS)
    assert left_out["no_relation"] < 0.05 * len(facts)
