import json
import os
from dataclasses import replace

import pytest
import torch
from conftest import make_bank, make_model
from safetensors import safe_open
from safetensors.torch import save_file

from seka_rag.architecture import key_sites
from seka_rag.bank import FILE_NAME, Bank, fingerprint
from seka_rag.errors import BankError, BankMismatchError
from seka_rag.heads import HeadFilter, LayerSubspaces

NOTHING = torch.empty(0)


def heads_of(shifts, discriminations):
    """Return layers of which nothing but their heads is known."""
    return {
        layer: LayerSubspaces(*[NOTHING] * 4, torch.tensor(shift), told)
        for (layer, shift), told in zip(shifts.items(), discriminations, strict=True)
    }


SHIFTS = {3: [0.1, 0.4], 5: [0.3, 0.2]}
LAYERS = heads_of(SHIFTS, [torch.tensor([0.95, 0.4]), torch.tensor([0.75, 0.9])])


@pytest.fixture
def bank(qwen3):
    return make_bank(qwen3, negative_gain=0.5, gain_evidence={"es": 0.9, "split": "val"})


def same(one, other):
    described = {name: value for name, value in vars(one).items() if name != "layers"}
    assert described == {name: value for name, value in vars(other).items() if name != "layers"}
    assert one.layers.keys() == other.layers.keys()
    for layer, learned in one.layers.items():
        for name, tensor in vars(learned).items():
            assert tensor is getattr(other.layers[layer], name) or torch.equal(
                tensor, getattr(other.layers[layer], name)
            )


def test_a_bank_comes_back_as_it_was(bank, tmp_path):
    path = bank.save_pretrained(tmp_path / "new" / "folder")
    assert path.name == FILE_NAME
    same(bank, Bank.from_pretrained(path))
    same(bank, Bank.from_pretrained(str(path.parent)))


def test_saving_twice_gives_the_same_bytes(bank, tmp_path):
    first = bank.save_pretrained(tmp_path / "a").read_bytes()
    again = Bank.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b").read_bytes()
    assert first == again
    assert bank.digest() == Bank.from_pretrained(tmp_path / "b").digest()
    assert bank.digest() != bank.replace(gain=9.0).digest()


def test_an_interrupted_save_leaves_the_old_file(bank, tmp_path, monkeypatch):
    old = bank.save_pretrained(tmp_path).read_bytes()

    def fail(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        bank.replace(gain=9.0).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).read_bytes() == old


def test_layers_keep_their_own_numbers(qwen3, tmp_path):
    whole = make_bank(qwen3)
    last = Bank({2: whole.layers[2]}, whole.fingerprint, rank=2, heads="all")
    last.save_pretrained(tmp_path)
    operators = Bank.from_pretrained(tmp_path).operators()
    assert list(operators) == [2]
    assert torch.equal(operators[2].basis, whole.operators()[2].basis)
    assert not torch.equal(operators[2].basis, whole.operators()[0].basis)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated_files_are_refused(bank, tmp_path, kept):
    path = bank.save_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BankError, match="truncated"):
        Bank.from_pretrained(tmp_path)


def rewritten(path, change_tensors=None, **changes):
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["seka_bank"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    described.update(changes)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata={"seka_bank": json.dumps(described)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "upgrade seka-rag"),
        ({"surprise": 1}, "damaged"),
        ({"gain": "high"}, "damaged"),
        ({"gain": float("nan")}, "finite"),
        ({"method": "magic"}, "must be one of"),
        ({"fingerprint": {}}, "damaged"),
        ({"heads": "best"}, "names no heads"),
        ({"change_tensors": lambda t: t.clear()}, "no layers"),
        ({"change_tensors": lambda t: t.pop("layers.1.basis")}, "damaged"),
        ({"change_tensors": lambda t: t["layers.1.spectrum"].fill_(float("nan"))}, "finite"),
        ({"change_tensors": lambda t: t.update({"layers.x.basis": torch.ones(1)})}, "damaged"),
        ({"change_tensors": lambda t: t.update({"layers.1.basis": torch.ones(2)})}, "shape"),
    ],
)
def test_damaged_files_are_refused(bank, tmp_path, changes, message):
    path = bank.save_pretrained(tmp_path)
    rewritten(path, **changes)
    with pytest.raises(BankError, match=message):
        Bank.from_pretrained(path)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / FILE_NAME, metadata={"format": "pt"})
    with pytest.raises(BankError, match="not a bank"):
        Bank.from_pretrained(tmp_path)


def test_says_that_there_is_no_bank(tmp_path):
    with pytest.raises(BankError, match="there is no bank at"):
        Bank.from_pretrained(tmp_path / "nowhere")


def test_says_what_differs_from_another_model(bank, qwen3):
    model = fingerprint(qwen3, key_sites(qwen3))
    bank.check(model)
    other = make_model("qwen3")
    with torch.no_grad():
        other.model.layers[0].self_attn.k_proj.weight *= 1.1
    with pytest.raises(BankMismatchError, match="weights of the key projections"):
        bank.check(fingerprint(other, key_sites(other)))
    smaller = type(model)("small", 2, 4, model.head_dim, "")
    with pytest.raises(BankMismatchError, match="3 layers against 2, 2 KV heads against 4"):
        bank.check(smaller)


def test_quantised_weights_are_judged_by_their_shapes(bank, qwen3):
    model = fingerprint(qwen3, key_sites(qwen3))
    bank.check(type(model)("quantised", 3, 2, model.head_dim, digest=""))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fingerprint_does_not_depend_on_the_dtype(dtype):
    half = make_model("qwen3").bfloat16()  # as it lies on disk
    expected = fingerprint(half, key_sites(half))
    loaded = half.to(dtype)
    assert fingerprint(loaded, key_sites(loaded)) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("all", {(3, 0), (3, 1), (5, 0), (5, 1)}),
        ("quantile:0.5", {(3, 1), (5, 0)}),
        ("quantile:0", {(3, 0), (3, 1), (5, 0), (5, 1)}),
        ("threshold:0.4", {(3, 1)}),
        ("top:3", {(3, 1), (5, 0), (5, 1)}),
        ("top:99", {(3, 0), (3, 1), (5, 0), (5, 1)}),
        ("only:3.0,5.1", {(3, 0), (5, 1)}),
        ("discrimination:0.9", {(3, 0), (5, 1)}),
        ("discrimination:quantile:0.5", {(3, 0), (5, 1)}),
        ("discrimination:top:1", {(3, 0)}),
        ("smooth", {(3, 0), (5, 0), (5, 1)}),
    ],
)
def test_heads_are_chosen_over_all_layers_at_once(text, kept):
    weights = HeadFilter.parse(text).weights(LAYERS)
    assert {(layer, i) for layer, each in weights.items() for i, w in enumerate(each) if w} == kept


def test_smooth_weights_grow_with_discrimination():
    weights = HeadFilter.parse("smooth").weights(LAYERS)
    assert torch.allclose(torch.cat([weights[3], weights[5]]), torch.tensor([0.9, 0.0, 0.5, 0.8]))


@pytest.mark.parametrize("text", ["", "top:0", "top:1.5", "quantile:1", "threshold:nan", "only:7"])
def test_says_how_heads_are_named(text):
    with pytest.raises(BankError, match="quantile:Q"):
        HeadFilter.parse(text)


def test_keeping_no_head_is_an_error():
    with pytest.raises(BankError, match=r"between 0.1 and 0.4"):
        HeadFilter.parse("threshold:9").weights(LAYERS)
    with pytest.raises(BankError, match=r"no head 4.0"):
        HeadFilter.parse("only:4.0").weights(LAYERS)
    with pytest.raises(BankError, match=r"discrimination of at least 0.99: .* 0.4 and 0.95"):
        HeadFilter.parse("discrimination:0.99").weights(LAYERS)


def test_heads_of_unknown_discrimination_cannot_be_chosen_by_it():
    with pytest.raises(BankError, match="how heads discriminate"):
        HeadFilter.parse("smooth").weights(heads_of(SHIFTS, [None, None]))


def test_head_weights_weigh_the_projection(bank):
    told = {
        layer: replace(learned, discrimination=torch.tensor([0.8, 0.3]))
        for layer, learned in bank.layers.items()
    }
    smooth = replace(bank, layers=told, heads="smooth", negative_gain=0.0)
    whole = bank.replace(negative_gain=0.0)
    for method in ("seka", "scaling", "random"):
        one = matrix(smooth.replace(method=method).operators()[1])
        other = matrix(whole.replace(method=method).operators()[1])
        assert torch.allclose(one[0], 0.6 * other[0], atol=1e-6)
        assert not one[1].any()


def test_a_discrimination_comes_back_as_it_was(bank, tmp_path):
    told = {
        layer: replace(learned, discrimination=torch.tensor([0.8, 0.3]))
        for layer, learned in bank.layers.items()
    }
    whole = replace(bank, layers=told)
    same(whole, Bank.from_pretrained(whole.save_pretrained(tmp_path)))


def test_what_was_learned_one_way_is_not_called_another(bank):
    with pytest.raises(BankError, match="learned by seka: learn again for differential"):
        bank.replace(method="differential")
    learned = replace(bank, method="differential")
    assert learned.replace(method="scaling").method == "scaling"
    with pytest.raises(BankError, match="learned by differential"):
        learned.replace(method="seka")


def matrix(operator):
    return (operator.basis * operator.weights.unsqueeze(1)) @ operator.basis.mT


def test_operators_are_the_projections_of_the_definition(bank):
    learned = bank.layers[1]
    top, bottom = learned.basis[..., :2], learned.negative_basis[..., 2:]
    expected = top @ top.mT + 0.5 * bottom @ bottom.mT
    assert torch.allclose(matrix(bank.operators()[1]), expected, atol=1e-5)


def test_each_head_has_the_rank_of_its_own_energy(bank):
    learned = bank.layers[0]
    learned.spectrum[0] = torch.tensor([9.0, 1, 0, 0, 0, 0, 0, 0])
    learned.spectrum[1] = torch.ones(8)
    operator = bank.replace(rank=None, energy=0.85, negative_gain=0.0).operators()[0]
    assert operator.weights.sum(1).tolist() == [1, 7]
    assert operator.basis.shape == (2, 8, 7)


def test_layers_without_a_kept_head_are_absent(bank):
    operators = bank.replace(heads="only:1.0").operators()
    assert list(operators) == [1]
    assert operators[1].weights.any(1).tolist() == [True, False]


def test_scaling_is_the_identity_on_the_same_heads(bank):
    operator = bank.replace(method="scaling", heads="only:2.1").operators()[2]
    assert torch.equal(matrix(operator)[0], torch.zeros(8, 8))
    assert torch.equal(matrix(operator)[1], torch.eye(8))


def test_random_has_the_same_rank_and_is_seeded(bank):
    first = bank.replace(method="random").operators()[0]
    projection = matrix(first)
    assert torch.allclose(projection @ projection, projection, atol=1e-5)
    assert torch.allclose(projection.diagonal(dim1=1, dim2=2).sum(1), torch.tensor([2.0, 2.0]))
    assert torch.equal(first.basis, bank.replace(method="random").operators()[0].basis)
    assert not torch.equal(first.basis, bank.replace(method="random", seed=1).operators()[0].basis)
    assert not torch.equal(first.basis, bank.replace(method="random").operators()[1].basis)


@pytest.mark.parametrize(
    "settings", [{"energy": 0.0}, {"rank": 0}, {"energy": None, "rank": None}, {"heads": "top"}]
)
def test_settings_are_checked(bank, settings):
    with pytest.raises(BankError):
        bank.replace(**settings)
