import json
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from conftest import ARCHITECTURES, CONFIGS, make_model

from seka_rag.bank import FILE_NAME, Bank
from seka_rag.calibration import tune
from seka_rag.contrast import BUILTIN, builtin_triplets
from seka_rag.errors import BankError, BankMismatchError
from seka_rag.highlight import highlight
from seka_rag.preparation import cache_folder, prepared_bank
from seka_rag.steering import SteeredModel


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A few of the package's triplets, an empty cache, and context for them."""
    lines = BUILTIN.read_text("utf-8").splitlines()
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(lines[:40]), "utf-8")
    monkeypatch.setattr("seka_rag.contrast.BUILTIN", path)
    monkeypatch.setattr("seka_rag.builtin.BUILTIN", path)
    monkeypatch.setattr("seka_rag.preparation._SITUATIONS", 12)
    monkeypatch.setattr("seka_rag.preparation._STEPS", 2)
    cache = tmp_path / "cache"

    def assets(library, *, namespace, subfolder):
        folder = cache / library / namespace / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    monkeypatch.setattr("seka_rag.preparation.cached_assets_path", assets)
    for name in ARCHITECTURES:
        roomy = CONFIGS[name]()
        roomy.max_position_embeddings = 4096
        monkeypatch.setitem(CONFIGS, name, lambda roomy=roomy: roomy)
    return path


def test_the_package_has_four_hundred_triplets_in_two_families():
    entries = [json.loads(line) for line in BUILTIN.read_text("utf-8").splitlines()]
    assert len(builtin_triplets()) == len(entries) >= 400
    kinds = [entry["kind"] for entry in entries]
    assert min(kinds.count("grounding"), kinds.count("instruction")) >= 200
    assert len({entry["context"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry["context"].count(entry["answer"]) == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_nobody_prepared_gets_a_bank_once(name, few, tokenizer, tmp_path, caplog):
    folder = tmp_path / "model"
    make_model(name).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    first = SteeredModel.from_pretrained(folder)
    assert "learning one" in caplog.text
    assert first.bank.n_triplets > 20
    result = first.generate(["Ada is ", highlight("in Rome"), "."], max_new_tokens=2)
    assert result.report.kv_heads > 0
    caplog.clear()
    again = SteeredModel.from_pretrained(folder)
    assert "learning" not in caplog.text
    assert again.bank.digest() == first.bank.digest()
    assert not (folder / FILE_NAME).exists()  # the model's own folder is left alone


def test_none_refuses_highlights(few, tokenizer, tmp_path):
    folder = tmp_path / "model"
    make_model("qwen3").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = SteeredModel.from_pretrained(folder, None)
    assert plain.generate("Ada is", max_new_tokens=1).report.highlighted_tokens == 0
    with pytest.raises(BankError, match="there is no bank"):
        plain.generate([highlight("Ada"), " is"], max_new_tokens=1)


def test_other_weights_are_another_model(few, tokenizer):
    one, other = (SteeredModel(make_model("qwen3", seed=s), tokenizer, None) for s in (1, 2))
    first = prepared_bank(one)
    with pytest.raises(BankMismatchError):
        other.with_bank(first)
    assert prepared_bank(other).fingerprint != first.fingerprint


def test_a_gain_that_keeps_no_bound_is_said(few, tokenizer, monkeypatch, caplog):
    strict = partial(tune, max_divergence=0.0)
    monkeypatch.setattr("seka_rag.preparation.tune", strict)
    bank = prepared_bank(SteeredModel(make_model("qwen3"), tokenizer, None))
    assert bank.gain == 1.0
    assert "was not tuned" in caplog.text


def test_a_damaged_bank_in_the_cache_is_an_error(few, tokenizer):
    model = SteeredModel(make_model("qwen3"), tokenizer, None)
    bank = prepared_bank(model)
    path = cache_folder(bank.fingerprint) / FILE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BankError, match="cannot be read"):
        prepared_bank(model)


def test_of_two_processes_one_learns_and_the_other_waits(few, tokenizer, tmp_path):
    model = SteeredModel(make_model("qwen3"), tokenizer, None)
    bank = prepared_bank(model)
    folder = cache_folder(bank.fingerprint)
    kept = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).unlink()
    # Another process holds the lock, and writes the bank before it lets go.
    (tmp_path / "bank").write_bytes(kept)
    script = (
        "import shutil, sys, time\nfrom filelock import FileLock\n"
        f"with FileLock({str(folder / 'lock')!r}):\n"
        "    print('held', flush=True); time.sleep(0.5)\n"
        f"    shutil.copy({str(tmp_path / 'bank')!r}, {str(folder / FILE_NAME)!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        began = time.monotonic()
        found = prepared_bank(model)
        assert time.monotonic() - began > 0.2
    assert found.digest() == bank.digest()
    assert torch.equal(found.layers[0].basis, bank.layers[0].basis)
    assert isinstance(found, Bank)
