import json
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from conftest import make_bank
from test_evaluation import EDITS, FACTS, write

from seka_rag.errors import BankError, DataError
from seka_rag.evaluation import runner
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.runner import finish, run
from seka_rag.experts import Routing
from seka_rag.steering import SteeredModel

METHODS = ("none", "marks", "seka@2.0")
BATCH = 3  # twelve prompts, those of three cases, are kept at a time


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "counterfact" / "val.jsonl.gz", EDITS)
    write(tmp_path / "pararel" / "facts.jsonl.gz", FACTS)
    return tmp_path


@pytest.fixture(scope="module")
def steered(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, make_bank(qwen3))


class Stopped(Exception):
    pass


@dataclass(frozen=True)
class Counted:
    """A task that counts how often each example is scored."""

    task: CounterFact
    scored: Counter

    name = "counterfact"

    @property
    def settings(self):
        return self.task.settings

    def examples(self, tokenizer):
        return self.task.examples(tokenizer)

    def prompts(self, example):
        return self.task.prompts(example)

    def score(self, example, answers):
        self.scored[example.id] += 1
        return self.task.score(example, answers)


@pytest.fixture
def task(data):
    return Counted(CounterFact(data), Counter())


def stopping_after(batches):
    """Return a progress that stops a run which has done so many batches."""
    calls = iter(range(batches + 1))

    def progress(done, total):
        if next(calls) == batches:
            raise Stopped

    return progress


def undated(result):
    settings = {name: told for name, told in result.settings.items() if name != "date"}
    return replace(result, settings=settings)


@pytest.fixture
def go(steered, task, tmp_path):
    """Return what runs the task, and keeps what is done beside a file."""

    def start(model=steered, task=task, methods=METHODS, **options):
        given = {"batch_size": BATCH, "keep": tmp_path / "out" / "r.json", **options}
        return undated(run(model, task, methods, **given))

    return start


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "out" / "r.json.partial"


class TestResuming:
    @pytest.mark.parametrize("batches", [0, 1, 3, 4, 5, 11])
    def test_a_run_that_was_stopped_goes_on_and_asks_nothing_twice(
        self, go, task, partial, monkeypatch, batches
    ):
        whole = go(keep=None)
        assert set(task.scored.values()) == {len(METHODS)}
        task.scored.clear()
        asked = []
        inner = runner.answers
        monkeypatch.setattr(
            runner,
            "answers",
            lambda *given, **more: asked.append(given[3]) or inner(*given, **more),
        )
        with pytest.raises(Stopped):
            go(progress=stopping_after(batches))
        assert sum(task.scored.values()) == 3 * batches
        seen = []
        assert go(progress=lambda *told: seen.append(told)) == whole
        assert set(task.scored.values()) == {len(METHODS)}
        assert sum(map(len, asked)) == 4 * len(METHODS) * len(EDITS)
        assert seen[0] == (3 * batches, 36)
        assert seen[-1] == (36, 36)
        assert partial.exists()

    def test_a_run_can_be_stopped_again_and_again(self, go, task):
        whole = go(keep=None)
        task.scored.clear()
        for _ in range(12):
            with pytest.raises(Stopped):
                go(progress=stopping_after(1))
        assert go() == whole
        assert set(task.scored.values()) == {len(METHODS)}

    def test_what_is_done_needs_no_model_again(self, go, task):
        whole = go()
        task.scored.clear()
        assert go() == whole
        assert not task.scored

    def test_methods_can_be_added_and_put_in_another_order(self, go, task):
        whole = go(keep=None)
        task.scored.clear()
        go(methods=["seka@2.0"])
        assert go() == whole
        assert set(task.scored.values()) == {len(METHODS)}

    @pytest.mark.parametrize("cut", [1, 5, 40])
    def test_a_line_that_was_cut_off_is_done_again(self, go, task, partial, cut):
        whole = go(keep=None)
        with pytest.raises(Stopped):
            go(progress=stopping_after(5))
        text = partial.read_text()
        partial.write_text(text[:-cut])
        task.scored.clear()
        assert go() == whole
        assert sum(task.scored.values()) == 36 - 12
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        assert [len(line.get("scores", ())) for line in lines] == [0, *[3] * 12]

    @pytest.mark.parametrize("left", [0, 10])
    def test_a_run_of_which_nothing_was_kept_begins_anew(self, go, partial, left):
        whole = go(keep=None)
        with pytest.raises(Stopped):
            go(progress=stopping_after(0))
        partial.write_text(partial.read_text()[:left])
        assert go() == whole
        assert len(partial.read_text().splitlines()) == 13
        assert go() == whole

    def test_what_was_kept_of_another_run_is_refused_and_stays(
        self, go, steered, data, task, partial
    ):
        go()
        kept = partial.read_text()
        others = [
            {"task": CounterFact(data, limit=5)},
            {"task": CounterFact(data, limit=12)},
            {"seed": 1},
            {"model": steered.with_bank(steered.bank.replace(gain=1.0))},
            {"model": steered.with_bank(None), "methods": ["none"]},
            {"model": steered.with_routing(Routing(abstain=False))},
        ]
        for other in others:
            with pytest.raises(DataError, match="kept of another run: delete it, or write"):
                go(**other)
            assert partial.read_text() == kept
        write(data / "counterfact" / "val.jsonl.gz", EDITS[:11])
        with pytest.raises(DataError, match=r"r.json.partial is what was kept of another run"):
            go()

    @pytest.mark.parametrize("text", ["notes\n", "[]\n", "3\n", '{"other": 1}\n', "\nx\n"])
    def test_a_file_that_is_no_such_thing_is_refused_and_stays(self, go, partial, text):
        partial.parent.mkdir()
        partial.write_text(text + "cut")
        with pytest.raises(DataError, match="kept of another run"):
            go()
        assert partial.read_text() == text + "cut"

    def test_a_finished_run_leaves_nothing_beside_its_result(self, go, partial, tmp_path):
        path = tmp_path / "out" / "r.json"
        go().save(path)
        finish(path)
        assert list(path.parent.iterdir()) == [path]
        finish(path)

    def test_nothing_is_kept_unless_it_is_asked_for(self, go, partial):
        go(keep=None)
        assert not partial.exists()


class TestRun:
    def test_progress_counts_every_example_under_every_method(self, go):
        seen = []
        go(progress=lambda *told: seen.append(told))
        assert seen[0] == (0, 36)
        assert seen[-1] == (36, 36)
        assert all(one[0] < two[0] for one, two in zip(seen, seen[1:], strict=False))

    def test_the_batch_size_changes_no_score(self, go):
        rows = [go(keep=None, batch_size=size).rows for size in (1, 5, 64)]
        assert rows[0] == rows[1] == rows[2]

    def test_rows_are_in_the_order_of_the_methods_and_scores_in_that_of_the_examples(
        self, go, task
    ):
        methods = METHODS[::-1]
        result = go(methods=methods)
        assert tuple(row.method for row in result.rows) == methods
        assert all(
            list(row.scores) == [str(row["case_id"]) for row in EDITS] for row in result.rows
        )
        assert result.row("marks").scores.keys() == task.scored.keys()

    def test_settings_tell_how_to_run_it_again(self, go, steered):
        result = go(seed=3, command="seka-rag eval counterfact")
        told = result.settings
        assert (told["seed"], told["batch_size"]) == (3, BATCH)
        assert (told["split"], told["limit"]) == ("val", None)
        assert told["command"] == "seka-rag eval counterfact"
        assert told["experts"]["default"]["digest"] == steered.bank.digest()
        assert result.counts["used"] == 12

    def test_the_seed_is_for_methods_that_draw(self, go):
        methods = ["none", "seka@4", "random@4"]
        one, other = (go(keep=None, methods=methods, seed=seed) for seed in (0, 1))
        assert one.row("none").scores == other.row("none").scores
        assert one.row("seka@4").scores == other.row("seka@4").scores
        assert one.row("random@4").scores != other.row("random@4").scores

    def test_samples_are_looked_at_closely(self, go):
        result = go(samples=2)
        assert [sample.example for sample in result.samples] == ["0", "1"]
        assert all(tuple(sample.looks) == METHODS for sample in result.samples)
        assert go(keep=None).samples == ()

    @pytest.mark.parametrize(
        ("methods", "message"),
        [
            (["none", "none"], "the methods are none, none: name each once"),
            (["none", "another"], "no method another"),
            (["none", "reorder"], "this task has none to put: leave it out"),
        ],
    )
    def test_what_cannot_be_done_is_refused_before_anything_is_asked(
        self, go, task, partial, methods, message
    ):
        with pytest.raises(DataError, match=message):
            go(methods=methods)
        assert not task.scored
        assert not partial.exists()

    def test_edits_need_a_bank_and_the_others_do_not(self, go, steered, task):
        plain = steered.with_bank(None)
        with pytest.raises(BankError, match="seka needs a bank"):
            go(model=plain)
        assert not task.scored
        assert go(model=plain, methods=["none", "marks"]).settings["experts"] is None
