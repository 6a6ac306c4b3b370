import pickle

import pytest
import torch
from conftest import make_model

from seka_rag import cli
from seka_rag.architecture import key_sites
from seka_rag.bank import Bank, fingerprint
from seka_rag.errors import BankError, BankMismatchError
from seka_rag.reference import import_reference

LAYERS, HEADS, DIM = [1, 2], 2, 8


@pytest.fixture
def model(qwen3):
    return fingerprint(qwen3, key_sites(qwen3))


def projections(seed, ranks=((2, 3), (0, 8))):
    """Return U (L, H, D, D) and the projections on the first columns, of the given ranks."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(2, HEADS, DIM, DIM, generator=generator)).Q
    kept = (torch.arange(DIM) < torch.tensor(ranks).unsqueeze(-1)).float()
    return basis, basis @ torch.diag_embed(kept) @ basis.mT


def saved(path, **held):
    torch.save({"layers": LAYERS, **held}, path)
    return path


def matrices(bank):
    return {
        layer: (operator.basis * operator.weights.unsqueeze(1)) @ operator.basis.mT
        for layer, operator in bank.operators().items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_positive_file_is_applied_as_it_is(model, tmp_path, dtype):
    _, proj = projections(0)
    bank = import_reference(saved(tmp_path / "p.pt", proj=proj.to(dtype)), model=model, gain=0.8)
    assert bank.gain == 0.8
    for i, layer in enumerate(LAYERS):
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        assert torch.allclose(matrices(bank)[layer], proj[i], atol=tolerance)
    assert [mask.tolist() for mask in bank.selected().values()] == [[True, True], [False, True]]


def test_with_a_negative_file_both_gains_are_halved(model, tmp_path):
    """The reference applies (g⁺P⁺k + g⁻P⁻k)/2."""
    _, positive = projections(0, ((2, 3), (1, 4)))
    _, negative = projections(1, ((5, 1), (2, 3)))
    paths = (saved(tmp_path / "p.pt", proj=positive), saved(tmp_path / "n.pt", proj=negative))
    bank = import_reference(*paths, model=model, gain=0.8, negative_gain=-0.3)
    assert bank.gain == 0.4
    for i, layer in enumerate(LAYERS):
        expected = (0.8 * positive[i] - 0.3 * negative[i]) / 2
        assert torch.allclose(bank.gain * matrices(bank)[layer], expected, atol=1e-5)


def test_a_whole_svd_is_taken_over(model, tmp_path):
    basis, _ = projections(0)
    spectrum = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25, 0.1, 0.05]).repeat(2, HEADS, 1)
    path = saved(tmp_path / "p.pt", U_matrices=basis, singular_values=spectrum)
    bank = import_reference(path, model=model)
    assert bank.energy == 0.9
    top = basis[0, :, :, :4]  # 15 of 15.9
    assert torch.allclose(matrices(bank)[1], top @ top.mT, atol=1e-5)


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        ({"proj": torch.zeros(2, 2, 8, 8)}, BankError, "keeps no head"),
        ({"proj": torch.zeros(2, 4, 8, 8)}, BankMismatchError, "another model"),
        ({"proj": torch.zeros(2, 2, 8, 8), "layers": [1, 3]}, BankMismatchError, "qwen3|Qwen3"),
        ({"proj": torch.zeros(2, 2, 8, 8), "layers": [1, 1]}, BankMismatchError, "another model"),
        ({"proj": torch.full((2, 2, 8, 8), 0.5)}, BankError, "no orthogonal projections"),
        ({"proj": torch.full((2, 2, 8, 8), torch.nan)}, BankError, "not finite"),
        ({"proj": "P"}, BankError, "no tensor"),
        ({"U_matrices": torch.zeros(2, 2, 8, 8)}, BankError, "no projection file"),
        ({"proj": torch.zeros(2, 2, 8, 8), "layers": "all"}, BankError, "whole numbers"),
    ],
)
def test_misfits_are_refused(model, tmp_path, held, error, message):
    path = saved(tmp_path / "p.pt", **held)
    with pytest.raises(error, match=message):
        import_reference(path, model=model)


def test_files_of_two_runs_are_refused(model, tmp_path):
    _, proj = projections(0)
    first = saved(tmp_path / "p.pt", proj=proj)
    second = saved(tmp_path / "n.pt", proj=proj, layers=[0, 2])
    with pytest.raises(BankMismatchError, match="files of one run"):
        import_reference(first, second, model=model)


class _Command:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_would_run_code_is_refused(model, tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"layers": LAYERS, "proj": _Command()}, path)
    with pytest.raises(BankError, match="tensors alone"):
        import_reference(path, model=model)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(_Command()))
    with pytest.raises(BankError, match="tensors alone"):
        import_reference(tmp_path / "bare.pt", model=model)
    assert capsys.readouterr().out == ""


def test_the_command_writes_a_bank_that_steers(tokenizer, tmp_path, capsys):
    folder = tmp_path / "model"
    make_model("qwen3").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _, proj = projections(0)
    path, out = saved(tmp_path / "p.pt", proj=proj), tmp_path / "bank"
    given = ["import-reference", str(path), "--model", str(folder), "--out", str(out)]
    assert cli.main([*given, "--gain", "0.8"]) == 0
    assert "3 of 4 KV heads" in " ".join(capsys.readouterr().out.split())
    assert Bank.from_pretrained(out).gain == 0.8
    assert cli.main(given) == 2
    assert "use --force" in capsys.readouterr().err
