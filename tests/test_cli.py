"""The command line: what it prints, what it refuses in one line, and its help."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_bank, make_model

from seka_rag import cli
from seka_rag.cli import answers
from seka_rag.cli.answers import parse_highlight
from seka_rag.cli.options import parser
from seka_rag.cli.printing import painter, ranges
from seka_rag.cli.tasks import TASKS
from seka_rag.errors import HighlightError
from seka_rag.steering import SteeredModel


@pytest.fixture(scope="module")
def model_folder(tokenizer, tmp_path_factory):
    """A tiny random model with its bank, on disk."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model("qwen3")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_bank(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "born.txt").write_text("Ada Lovelace was born in Paris.")
    (folder / "capital.txt").write_text("The capital of France is Lovelace.")
    (folder / "other.txt").write_text("Nothing.")
    return str(folder)


@pytest.fixture
def run(capsys, model_folder, monkeypatch):
    """Run a command on the tiny model; return status, stdout and stderr."""

    def run(*arguments, stdin=None, model=model_folder):
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        given = [] if model is None else ["--model", model, "--max-new-tokens", "6"]
        status = cli.main([*arguments, *given])
        return status, *capsys.readouterr()

    return run


QUESTION = "Where was Ada Lovelace born?"


def test_ask_prints_passages_both_answers_and_what_was_edited(run, documents):
    status, out, _ = run("ask", QUESTION, "--docs", documents)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["Passages", "score", "gain"]
    assert lines[1].startswith("[1] born.txt")
    assert lines[1].endswith("3.00")
    assert lines[2] == "    Ada Lovelace was born in Paris."
    assert lines[3].startswith("[2] capital.txt")
    assert lines[3].endswith("-")
    assert any(line.split() == ["Plain", "|", "Highlighted"] for line in lines)
    assert "gain 3, 6 KV heads in layers 0-2." in " ".join(out.split())
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in out


def test_ask_prints_json(run, documents):
    status, out, _ = run("ask", QUESTION, "--docs", documents, "--json", "--policy", "score")
    result = json.loads(out)
    assert status == 0
    assert result["question"] == QUESTION
    first, second, third = result["passages"]
    assert (first["source"], first["gain"], first["dropped"]) == ("born.txt", 3.0, False)
    assert 0 < second["gain"] < 3
    assert third["gain"] == third["score"] == 0
    assert result["edited"]["layers"] == [0, 1, 2]
    assert result["edited"]["max_gain"] == 3.0
    assert {"plain", "highlighted", "settings", "prompt_tokens"} <= set(result)


def test_ask_agrees_with_the_library(run, documents, model_folder):
    from seka_rag import Retriever, rag_messages

    result = json.loads(run("ask", QUESTION, "--docs", documents, "--json", "--top-k", "2")[1])
    model = SteeredModel.from_pretrained(model_folder)
    passages = Retriever.from_folder(documents).search(QUESTION, 2)
    for name, gains in (("plain", None), ("highlighted", [3.0, 0.0])):
        prompt = rag_messages(QUESTION, passages, gains=gains)
        assert result[name] == model.generate(prompt, max_new_tokens=6, do_sample=False).text


def test_ask_names_the_passages_that_it_drops(run, tmp_path):
    (tmp_path / "short.txt").write_text("Ada Lovelace was born in Paris.")
    (tmp_path / "long.txt").write_text("Ada was somewhere. " + "word " * 100)
    _, out, _ = run("ask", QUESTION, "--docs", str(tmp_path))
    assert "Dropped, the prompt was too long: long.txt" in out
    assert "[1] short.txt" in out
    passages = json.loads(run("ask", QUESTION, "--docs", str(tmp_path), "--json")[1])["passages"]
    assert [passage["dropped"] for passage in passages] == [False, True]


def test_ask_refuses_when_no_passage_fits(run, tmp_path):
    (tmp_path / "long.txt").write_text("Ada was somewhere. " + "word " * 100)
    status, _, err = run("ask", QUESTION, "--docs", str(tmp_path))
    assert status == 2
    assert "not one of 1 passages fits the 256 tokens" in err


def test_a_document_cannot_command_the_terminal(run, tmp_path):
    (tmp_path / "born.txt").write_text("Ada \x1b[2J was born.")
    assert "\x1b" not in run("ask", QUESTION, "--docs", str(tmp_path))[1]


def test_ask_highlights_nothing_where_no_passage_shares_a_word(run, documents):
    _, out, _ = run("ask", "Why?", "--docs", documents)
    assert "Edited: nothing" in out


def test_generate_highlights_texts_of_the_prompt(run, tmp_path):
    (tmp_path / "prompt.txt").write_text("The capital of France is Paris.\nWhere was Ada born?\n")
    file = str(tmp_path / "prompt.txt")
    status, out, _ = run(
        "generate", "--file", file, "--highlight", "Paris", "--highlight", "Ada=-1"
    )
    assert status == 0
    lines = out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["Paris", "3.00"], ["Ada", "-1.00"]]
    assert "with gain -1 to 3," in " ".join(out.split())
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_generate_reads_standard_input_and_prints_json(run, model_folder, raw):
    prompt = "The capital of France is"
    given = ("generate", *raw, "--highlight", "France=2", "--json")
    result = json.loads(run(*given, stdin=prompt + "\n")[1])
    model = SteeredModel.from_pretrained(model_folder)
    whole = prompt if raw else [{"role": "user", "content": prompt}]
    assert result["prompt"] == prompt
    assert result["highlights"] == [{"text": "France", "gain": 2.0}]
    assert result["prompt_tokens"] == model.count_tokens(whole)
    assert result["plain"] == model.generate(whole, max_new_tokens=6, do_sample=False).text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ferry", ("ferry", None)),
        ("ferry=2", ("ferry", 2.0)),
        ("a=b", ("a=b", None)),
        ("a=b=-0.5", ("a=b", -0.5)),
        ("x=3=1e0", ("x=3", 1.0)),
        ("x=", ("x=", None)),
        ("=1.5", ("", 1.5)),
    ],
)
def test_only_a_number_after_the_last_equals_sign_is_a_gain(given, expected):
    assert parse_highlight(given) == expected


def test_a_gain_that_is_no_number_is_refused():
    with pytest.raises(HighlightError, match="nan"):
        parse_highlight("ferry=nan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "Q?", "--docs", "nowhere"], "there is no folder nowhere"),
        (["ask", " ", "--docs", "."], "the question is empty"),
        (["ask", "Q?", "--docs", ".", "--policy", "best"], "there is no policy 'best'"),
        (["ask", "Q?", "--docs", "{documents}", "--model", "/no/model"], "there is no folder /no"),
        (["generate", "--highlight", "dog"], "'dog' does not occur in the prompt"),
        (["generate", "--highlight", "cat=inf"], "the gain is inf"),
        (["generate", "--highlight", "=2"], "is empty"),
        (["generate", "--highlight", "cat", "--file", "missing"], "missing cannot be read"),
    ],
)
def test_an_error_is_one_line_and_status_2(run, documents, arguments, message):
    given = [argument.format(documents=documents) for argument in arguments]
    status, out, err = run(*given, stdin="a cat\n", model=None)
    assert status == 2
    assert out == ""
    assert err.startswith("seka-rag: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_empty_prompt_or_one_that_is_no_text_is_an_error(run, tmp_path):
    assert "holds no prompt" in run("generate", "--highlight", "x", stdin=" \n")[2]
    (tmp_path / "prompt").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in run("generate", "--highlight", "x", "--file", str(tmp_path / "prompt"))[2]


def test_a_model_without_a_bank_learns_one(run, documents, model_folder, tmp_path, monkeypatch):
    for file in Path(model_folder).iterdir():
        if "bank" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    made = []

    def prepared(model):
        made.append(model.model.name_or_path)
        return make_bank(model.model)

    monkeypatch.setattr("seka_rag.steering.prepared_bank", prepared)
    status, out, _ = run("ask", QUESTION, "--docs", documents, model=str(tmp_path))
    assert (status, made) == (0, [str(tmp_path)])
    assert "with gain 3" in out


@pytest.mark.parametrize("option", [["--gain", "nan"], ["--top-k", "0"], ["--max-new-tokens", "x"]])
def test_a_number_out_of_range_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ask", "Q?", "--docs", ".", *option])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option[1] in line


def test_arguments_that_are_no_text_are_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        cli.main(["ask", "caf\udcff", "--docs", "."])
    assert "not UTF-8" in capsys.readouterr().err


def test_an_interrupt_is_status_130(run, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(answers, "_read_prompt", interrupted)
    assert run("generate", "--highlight", "x", model=None)[0] == 130


def test_colours_only_on_a_terminal_and_never_with_no_color(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert painter(Terminal())("x", "1") == "\x1b[1mx\x1b[0m"
    assert painter(io.StringIO())("x", "1") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painter(Terminal())("x", "1") == "x"


def test_layers_are_named_in_runs():
    assert list(ranges((0, 1, 2, 5, 7, 8))) == ["0-2", "5", "7-8"]


def test_help_is_there_without_torch():
    code = (
        "import sys; from seka_rag import cli\n"
        "try: cli.main(['ask', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in shown.stdout
    assert shown.stdout.endswith("False False\n")


def test_the_package_runs_as_a_module():
    shown = subprocess.run(
        [sys.executable, "-m", "seka_rag", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("seka-rag ")


@pytest.fixture
def data(tmp_path):
    """A data folder with six rows of CounterFact's form."""
    rows = [
        {
            "case_id": i,
            "prompt": f"The capital of {subject} is",
            "subject": subject,
            "ground_truth": "Paris",
            "target_new": "Lovelace",
            "rephrase_prompt": f"Where was {subject}?",
            "locality_prompt": "The capital of France is",
            "locality_ground_truth": "Paris",
        }
        for i, subject in enumerate(("Ada", "France", "Where", "Question", "born", "of"))
    ]
    (tmp_path / "counterfact").mkdir()
    with gzip.open(tmp_path / "counterfact" / "val.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def test_eval_prints_a_table_and_keeps_the_result_with_its_settings(
    data, capsys, model_folder, tmp_path
):
    kept = tmp_path / "results" / "result.json"
    arguments = ["eval", "counterfact", "--data", str(data), "--limit", "4", "--json", str(kept)]
    arguments += ["--methods", "none,seka@0.5,cad", "--model", model_folder]
    assert cli.main(arguments) == 0
    table = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table] == ["method", "none", "seka@0.5", "cad"]
    assert table[0][1] == "es"
    result = json.loads(kept.read_text())
    assert result["counts"]["used"] == 4
    assert result["settings"]["command"].startswith("seka-rag eval counterfact --data")
    assert [path.name for path in kept.parent.iterdir()] == ["result.json"]


def test_eval_goes_on_where_it_was_stopped_and_writes_a_report(
    data, capsys, model_folder, tmp_path, monkeypatch
):
    from seka_rag.evaluation import runner

    kept, report = tmp_path / "result.json", tmp_path / "report.html"
    arguments = ["eval", "counterfact", "--data", str(data), "--json", str(kept)]
    arguments += ["--methods", "none,seka@2", "--model", model_folder, "--html", str(report)]
    with monkeypatch.context() as stopped:
        stopped.setattr(runner, "look", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(arguments)
    assert not kept.exists()
    with monkeypatch.context() as watched:
        watched.setattr(runner, "_scores", lambda *given, **named: pytest.fail("asked again"))
        assert cli.main(arguments) == 0
    assert json.loads(kept.read_text())["rows"][1]["method"] == "seka@2"
    assert "<title>" in report.read_text()
    assert sorted(path.name for path in tmp_path.glob("re*")) == ["report.html", "result.json"]


NEEDED = {"rag": "nowhere", "biasbios": "biasbios", "pronouns": "biasbios", "memotrap": "1-proverb"}


@pytest.mark.parametrize("task", TASKS)
def test_eval_says_that_data_are_missing(task, capsys, model_folder, tmp_path):
    kept = tmp_path / "result.json"
    arguments = ["eval", task, "--data", str(tmp_path / "nowhere"), "--model", model_folder]
    assert cli.main([*arguments, "--json", str(kept)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("seka-rag: ")
    assert NEEDED.get(task, "json" if task != "dynamicqa" else "csv") in last
    assert list(tmp_path.iterdir()) == [tmp_path / "model"] or not list(tmp_path.iterdir())


def test_eval_takes_positions_in_runs(capsys):
    parsed = parser().parse_args(["eval", "position-facts", "--data", "D", "--positions", "1-3,12"])
    task = TASKS["position-facts"].build(parsed)
    assert (task.positions, task.passages, task.cases) == ((1, 2, 3, 12), 12, 100)
    with pytest.raises(SystemExit):
        parser().parse_args(["eval", "position", "--data", "D", "--positions", "last"])
    assert "'last' is no position: write 12 or 12-20" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_a_task_reaches_it(name):
    command = TASKS[name]
    words = {"split": None, "highlight": "all", "policy": "all", "orders": "words.txt"}
    arguments = ["eval", name, "--data", "D", "--limit", "17", "--seed", "3"]
    wanted = {"data": Path("D"), "seed": 3}
    for option, settings in command.own.items():
        text = words.get(option) or (settings["choices"][-1] if option == "split" else "2")
        arguments += [f"--{option.replace('_', '-')}", text]
        wanted[option] = settings.get("type", str)(text)
    task = command.build(parser().parse_args(arguments))
    assert {option: getattr(task, option) for option in wanted} == wanted
    assert 17 in (getattr(task, "limit", None), getattr(task, "cases", None))
    plain = command.build(parser().parse_args(["eval", name, "--data", "D"]))
    assert plain == type(plain)(Path("D"))


def test_bench_prints_a_line_for_each_method_and_size(capsys, model_folder, tmp_path):
    kept = tmp_path / "costs.json"
    arguments = ["bench", "--model", model_folder, "--tokens", "20,40", "--rows", "1,2"]
    arguments += ["--new", "2", "--rounds", "2", "--methods", "seka@2,cad", "--json", str(kept)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    lines = [line.split()[:3] for line in printed.out.splitlines()[1:]]
    assert lines == [
        [rows, tokens, method]
        for rows in ("1", "2")
        for tokens in ("20", "40")
        for method in ("none", "seka@2", "cad")
    ]
    assert all(len(line) <= 80 for line in printed.out.splitlines())
    assert "warning" not in printed.err
    costs = json.loads(kept.read_text())["costs"]
    assert [cost["highlighted"] for cost in costs[:3]] == [0, 15, 15]
    assert all(cost["prefill_ratio"]["median"] == 1 for cost in costs if cost["method"] == "none")


def test_bench_warns_where_nothing_is_highlighted(capsys, model_folder):
    arguments = ["bench", "--model", model_folder, "--tokens", "20", "--highlighted", "0"]
    assert cli.main([*arguments, "--new", "0", "--rounds", "1"]) == 0
    assert "nothing is highlighted, so no method does anything" in capsys.readouterr().err


def test_eval_refuses_at_once_a_file_that_it_could_not_write(data, capsys, tmp_path):
    arguments = ["eval", "counterfact", "--data", str(data), "--json", str(tmp_path)]
    assert cli.main([*arguments, "--model", "/no/model"]) == 2
    assert "cannot be written: name a file" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_an_error(documents, capsys, model_folder):
    arguments = ["ask", QUESTION, "--docs", documents, "--model", model_folder]
    assert cli.main([*arguments, "--device", "nonsense"]) == 2
    assert "the device nonsense cannot be used" in capsys.readouterr().err


TRIPLET = {"question": "Where was Ada born?", "other_question": "Who is the king of France?"}
PLACES = ("Paris", "Rome", "Oslo", "Lima")
ENTRIES = [
    {**TRIPLET, "context": f"{'Now ' * i}Ada was born in {place}.", "answer": place}
    for i in range(6)
    for place in PLACES
]


@pytest.fixture
def triplet_file(tmp_path):
    path = tmp_path / "triplets.jsonl"
    path.write_text("\n".join(map(json.dumps, ENTRIES)))
    return str(path)


def test_a_bank_is_learned_shown_and_used(capsys, model_folder, triplet_file, documents, tmp_path):
    out, figure = tmp_path / "bank", tmp_path / "heads.png"
    given = ("learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(out))
    assert cli.main([*given, "--heads", "top:3", "--layers", "0-1"]) == 0
    said = capsys.readouterr().out
    assert "from 24 triplets by seka: 3 of 4 KV heads are edited (top:3)" in " ".join(said.split())
    assert cli.main(["inspect", str(out), "--png", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("*") == 1 + 3  # the heading, and the heads
    assert figure.stat().st_size > 10_000
    assert cli.main(["inspect", str(out), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in described["layers"]] == [0, 1]
    assert sum(map(sum, (layer["edited"] for layer in described["layers"]))) == 3
    asked = ("ask", "Ada born?", "--docs", documents, "--model", model_folder, "--bank", str(out))
    assert cli.main([*asked, "--max-new-tokens", "2"]) == 0


def test_experts_are_learned_one_by_one_routed_and_tuned(
    capsys, model_folder, triplet_file, documents, tmp_path
):
    out, figure = tmp_path / "bank", tmp_path / "route.png"
    given = ("learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(out))
    assert cli.main([*given, "--expert", "reading"]) == 0
    first = out / "experts" / "reading" / "seka_bank.safetensors"
    before = first.read_bytes()
    assert cli.main([*given, "--expert", "orders", "--kind", "instruction"]) == 0
    assert first.read_bytes() == before
    assert cli.main([*given, "--expert", "reading"]) == 2
    assert "use --force" in capsys.readouterr().err
    assert cli.main([*given, "--expert", "a b"]) == 2
    assert "cannot be an expert's name" in capsys.readouterr().err

    (tmp_path / "prompt.txt").write_text("Answer in French. Ada was born in Paris. Where?")
    prompt = ("--prompt-file", str(tmp_path / "prompt.txt"), "--model", model_folder)
    lit = ("--highlight", "born in Paris", "--instruction", "Answer in French.")
    bank = ("--bank", str(out))
    assert cli.main(["route", *prompt, *lit, *bank, "--png", str(figure)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[0].split() == "instruction Answer in French.".split()
    assert shown[1].split() == ["orders", "1.00", "1.00"]
    assert shown[2].split() == "passage born in Paris".split()
    assert shown[3].split() == ["reading", "1.00", "1.00"]
    assert figure.stat().st_size > 10_000
    assert cli.main(["route", *prompt, *lit, *bank, "--experts", "reading", "--json"]) == 0
    spans = json.loads(capsys.readouterr().out)["spans"]
    assert [span["experts"] for span in spans] == [["reading"], ["reading"]]
    assert cli.main(["route", *prompt, *lit, *bank, "--experts", "nobody"]) == 2
    assert "no expert nobody" in capsys.readouterr().err
    assert cli.main(["route", *prompt, *bank]) == 2
    assert "give --highlight or --instruction" in capsys.readouterr().err

    assert cli.main(["inspect", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "orders, for highlights of the kind instruction." in shown
    assert "reading, for highlights of the kind passage." in shown
    assert cli.main(["inspect", str(out), "--json"]) == 2
    assert "name one of them with --expert" in capsys.readouterr().err
    assert cli.main(["inspect", str(out), "--expert", "orders"]) == 0
    two = ("--two-pass", "--score", "signed", "--no-abstain")
    assert cli.main(["generate", *prompt, *lit, *bank, *two, "--max-new-tokens", "2"]) == 0


def test_a_bank_that_is_there_is_not_replaced_unless_told(
    capsys, model_folder, triplet_file, tmp_path
):
    given = ("learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(tmp_path))
    assert cli.main([*given]) == 0
    old = (tmp_path / "seka_bank.safetensors").read_bytes()
    assert cli.main([*given, "--heads", "all"]) == 2
    assert "use --force" in capsys.readouterr().err
    assert (tmp_path / "seka_bank.safetensors").read_bytes() == old
    assert cli.main([*given, "--heads", "all", "--force"]) == 0
    assert (tmp_path / "seka_bank.safetensors").read_bytes() != old


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--heads", "threshold:99"), "no head has a key shift of at least 99"),
        (("--heads", "best"), "names no heads"),
        (("--layers", "7"), "layers [7] are not in the model"),
        (("--triplets", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
    ],
)
def test_learning_says_what_is_wrong_and_writes_nothing(
    capsys, model_folder, triplet_file, tmp_path, arguments, message
):
    out = tmp_path / "bank"
    given = ("learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(out))
    assert cli.main([*given, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_full_disk_leaves_the_old_bank(capsys, model_folder, triplet_file, tmp_path, monkeypatch):
    given = ["learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(tmp_path)]
    assert cli.main(given) == 0
    old = (tmp_path / "seka_bank.safetensors").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert cli.main([*given, "--heads", "all", "--force"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "seka_bank.safetensors").read_bytes() == old
    assert len(list(tmp_path.glob("*bank*"))) == 1


def test_an_interrupt_while_learning_leaves_nothing(
    capsys, model_folder, triplet_file, tmp_path, monkeypatch
):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("seka_rag.learning._observe", stop)
    out = tmp_path / "bank"
    given = ("learn", "--model", model_folder, "--triplets", triplet_file, "--out", str(out))
    assert cli.main(given) == 130
    assert not out.exists()
