import json

import pytest
import torch
from conftest import make_bank, make_model

from seka_rag import calibration, cli
from seka_rag.bank import Bank
from seka_rag.calibration import tune
from seka_rag.errors import CalibrationError
from seka_rag.highlight import highlight
from seka_rag.inputs import continuation_ids, read_prompt
from seka_rag.labelled import Example
from seka_rag.plots import plot_calibration
from seka_rag.steering import SteeredModel

WIDE = {"max_loss": 1.0, "max_divergence": 1e9}


@pytest.fixture(scope="module")
def steered(tokenizer):
    model = make_model("qwen3")
    return SteeredModel(model, tokenizer, make_bank(model, gain=1.0))


def examples(n=12):
    """Return n examples of either kind; answers part at once, or after a word."""
    places = ("Paris", "Rome", "Oslo", "Lima")
    return [
        Example(
            ["Ada ", highlight(f"moved to {places[i % 4]}"), f" and {'so ' * (i % 5)}she went to "],
            f"the {places[i % 4]}" if i % 2 else places[i % 4],
            f"the {places[(i + 1) % 4]}" if i % 2 else places[(i + 1) % 4],
            related,
        )
        for i in range(n)
        for related in (True, False)
    ]


def one_by_one(steered, given, gain):
    """Return help, kept and the divergence, each example alone."""
    hits, divergences = {True: [], False: []}, []
    for example in given:
        row = read_prompt(steered.tokenizer, example.prompt, gain=None, default_gain=1.0)
        wanted, rival = (
            continuation_ids(steered.tokenizer, row, text)
            for text in (example.wanted, example.rival)
        )
        shared = 0
        while wanted[shared] == rival[shared]:
            shared += 1
        after = steered.tokenizer.decode(wanted[:shared])
        prompt = [*example.prompt, after] if after else example.prompt
        logprobs = steered.next_token_logprobs([prompt], gain=gain)[0].double()
        plain = steered.next_token_logprobs([prompt], gain=0.0)[0].double()
        hits[example.related].append(logprobs[wanted[shared]] > logprobs[rival[shared]])
        if not example.related:
            divergences.append((plain.exp() * (plain - logprobs)).sum())
    shares = [torch.stack(hits[kind]).double().mean().item() for kind in (True, False)]
    return *shares, torch.stack(divergences).mean().item()


def test_a_point_is_what_each_example_says_alone(steered):
    given = examples()
    found = tune(steered, steered.bank, given, gains=(0.5, 2.0), batch_tokens=100, **WIDE)
    for point in found.points[:2]:
        expected = one_by_one(steered, given, point.gain)
        assert (point.help, point.kept) == pytest.approx(expected[:2])
        assert point.divergence == pytest.approx(expected[2], rel=1e-3)
    plain = one_by_one(steered, given, 0.0)
    assert (found.plain.help, found.plain.kept, found.plain.divergence) == pytest.approx(plain)


def test_unrelated_examples_count_only_where_the_plain_model_answers(steered, monkeypatch):
    given = examples(24)
    monkeypatch.setattr(calibration, "CLEAR", 1e9)  # leaves too few, so that all count
    everything = tune(steered, steered.bank, given, gains=(2.0,), **WIDE)
    assert everything.unrelated == 24
    monkeypatch.setattr(calibration, "CLEAR", 0.0)
    found = tune(steered, steered.bank, given, gains=(2.0,), **WIDE)
    assert found.unrelated == round(24 * everything.plain.kept)
    assert calibration.MIN_EXAMPLES <= found.unrelated < 24
    assert found.plain.kept == 1
    assert found.plain.help == everything.plain.help


def test_the_greatest_help_within_the_bounds_is_chosen(steered):
    bound = 0.05
    found = tune(steered, steered.bank, examples(), max_loss=1.0, max_divergence=bound)
    within = [point for point in found.points if point.divergence <= bound]
    assert 0 < len(within) < len(found.points)
    assert found.chosen in within
    assert found.chosen.help == max(point.help for point in within)
    assert found.chosen.gain == min(p.gain for p in within if p.help == found.chosen.help)


def test_the_bound_is_closed_in_on(steered):
    found = tune(steered, steered.bank, examples(), max_loss=1.0, max_divergence=0.05)
    gains = [point.gain for point in found.points]
    assert gains == sorted(gains)
    assert len(gains) == 6 + 2
    within = max(point.gain for point in found.points if point.divergence <= 0.05)
    beyond = min(point.gain for point in found.points if point.divergence > 0.05)
    assert beyond - within <= (3.2 - 1.6) / 4


def test_every_choice_of_heads_gets_a_curve(steered):
    found = tune(steered, steered.bank, examples(), heads=("all", "top:1"), **WIDE)
    assert {point.heads for point in found.points} == {"all", "top:1"}
    tuned = found.applied_to(steered.bank)
    assert (tuned.gain, tuned.heads) == (found.chosen.gain, found.chosen.heads)
    assert tuned.gain_evidence["related"] == 12
    json.dumps(tuned.gain_evidence)


def test_progress_counts_every_prompt_once(steered):
    seen = []
    tune(steered, steered.bank, examples(), progress=lambda *told: seen.append(told), **WIDE)
    assert seen[-1][0] <= seen[-1][1] == 24 * (1 + 6 + 2)


def test_no_prompt_is_tokenised_twice(steered, monkeypatch):
    asked = []

    def counted(tokenizer, prompt, **settings):
        asked.append(str(prompt))
        return read_prompt(tokenizer, prompt, **settings)

    monkeypatch.setattr("seka_rag.labelled.read_prompt", counted)
    tune(steered, steered.bank, examples(), **WIDE)
    assert len(asked) == 24


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (examples(9), {}, "9 related and 9 unrelated"),
        ([e for e in examples(20) if e.related], {}, "20 related and 0 unrelated"),
        (examples(), {"max_divergence": 1e-12}, "no gain keeps the bounds"),
        ([Example(["Ada ", highlight("is")], "here", "here and", True)], {}, "begins with the"),
        ([Example("Ada is", "here", "there", True)], {}, "nothing is highlighted"),
    ],
)
def test_what_tells_nothing_is_an_error(steered, given, settings, message):
    with pytest.raises(CalibrationError, match=message):
        tune(steered, steered.bank, given, **settings)


def test_the_curve_is_drawn(steered, tmp_path):
    found = tune(steered, steered.bank, examples(), heads=("all", "top:1"), **WIDE)
    assert plot_calibration(found, tmp_path / "curve.png").stat().st_size > 10_000


LINE = {"prompt": "Ada is here. Where?", "highlight": "here", "wanted": "here", "rival": "there"}


@pytest.mark.parametrize(("n", "weighed"), [(10, False), (20, True)])
def test_the_command_writes_what_it_found_into_the_bank(steered, tmp_path, capsys, n, weighed):
    steered.model.save_pretrained(tmp_path)
    steered.tokenizer.save_pretrained(tmp_path)
    bank = tmp_path / "bank"
    steered.bank.save_pretrained(bank)
    given = tmp_path / "e.jsonl"
    lines = [
        {**LINE, "prompt": f"{'So ' * i}Ada is here. Where?", "wanted": f"here{i}"}
        | {"related": related}
        for i in range(n)
        for related in (True, False)
    ]
    given.write_text("\n".join(map(json.dumps, lines)))
    command = ["tune", "--model", str(tmp_path), "--bank", str(bank), "--examples", str(given)]
    command += ["--steps", "3"]
    figure = tmp_path / "curve.png"
    status = cli.main([*command, "--max-loss", "1", "--max-divergence", "99", "--png", str(figure)])
    out = capsys.readouterr().out
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80 + len(str(figure))
    assert out.count("recommended") == 1
    assert figure.exists()
    assert ("weighed" in out) == weighed
    tuned = Bank.from_pretrained(bank)
    assert tuned.weighed_on == n * weighed
    assert tuned.gain == tuned.gain_evidence["chosen"]["gain"]
    assert SteeredModel.from_pretrained(tmp_path, bank).bank.gain == tuned.gain
