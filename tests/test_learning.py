import logging
from dataclasses import replace

import pytest
import torch
from conftest import make_model

from seka_rag.architecture import key_sites
from seka_rag.bank import Bank
from seka_rag.contrast import Triplet, grounding_triplet
from seka_rag.errors import TripletError, UnsteerableError
from seka_rag.highlight import highlight
from seka_rag.hooks import editing, recording
from seka_rag.learning import learn
from seka_rag.steering import SteeredModel
from seka_rag.subspace import decompose

PLACES = ("Paris", "Rome", "Oslo", "New York", "Lima", "Accra", "Turin", "Bern", "Kyiv", "Basel")
TRIPLETS = [
    grounding_triplet(
        f"{'In winter ' * (i % 3)}{name} moved to {place} with her mother.",
        f"Where did {name} move?",
        "What is the capital of France, and who says so?",
        place,
    )
    for name in ("Ada Lovelace", "Emmy Noether")
    for i, place in enumerate(PLACES)
]


@torch.no_grad()
def keys_one_by_one(model, tokenizer, triplets):
    """Return {layer: float64 keys (3, n, H, D)} of the answers, each text alone in its pass."""
    found = {}
    for triplet in triplets:
        forms = []
        for text, (start, end) in triplet.parts():
            encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
            inside = [b > start and a < end for a, b in encoded.pop("offset_mapping")[0].tolist()]
            with recording(key_sites(model)) as keys:
                model(encoded["input_ids"])
            forms.append({layer: tensor[0, inside].double() for layer, tensor in keys.items()})
        for layer in forms[0]:
            found.setdefault(layer, []).append(torch.stack([form[layer] for form in forms]))
    return {layer: torch.cat(parts, dim=1) for layer, parts in found.items()}


def test_the_sums_equal_those_over_all_keys_at_once(model, tokenizer):
    bank = learn((model, tokenizer), TRIPLETS, batch_tokens=700)
    expected = keys_one_by_one(model, tokenizer, TRIPLETS)
    assert bank.layers.keys() == expected.keys()
    for layer, (h, positive, negative) in expected.items():
        learned = bank.layers[layer]
        assert bank.n_tokens == len(h)
        for moved, basis, spectrum in (
            (positive, learned.basis, learned.spectrum),
            (negative, learned.negative_basis, learned.negative_spectrum),
        ):
            omega = torch.einsum("nhd,nhe->hde", h, moved) / len(h)
            _, values = decompose(omega, moved.mean(0))
            assert torch.allclose(spectrum.double(), values, rtol=1e-3, atol=1e-5)
            # UᵀΩΩᵀU is diagonal with the squared singular values, whatever the signs of U.
            turned = basis.double().mT @ omega @ omega.mT @ basis.double()
            assert torch.allclose(
                turned, torch.diag_embed(values**2), atol=1e-4 * values.max() ** 2
            )
            assert (torch.einsum("hdr,hd->hr", basis.double(), moved.mean(0)) > -1e-5).all()
        shift = (positive - negative).norm(dim=-1).mean(0)
        assert torch.allclose(learned.key_shift.double(), shift, rtol=1e-4)


def test_the_batch_size_changes_nothing(qwen3, tokenizer):
    one = learn((qwen3, tokenizer), TRIPLETS, batch_tokens=1)
    all_at_once = learn((qwen3, tokenizer), TRIPLETS, batch_tokens=99_999)
    for layer, learned in one.layers.items():
        other = all_at_once.layers[layer]
        assert torch.allclose(learned.spectrum, other.spectrum, rtol=1e-4, atol=1e-6)
        assert torch.allclose(learned.key_shift, other.key_shift, rtol=1e-4)


def test_a_steered_model_will_do_and_its_own_bank_plays_no_part(qwen3, tokenizer):
    bank = learn((qwen3, tokenizer), TRIPLETS, rank=2, heads="all", gain=5.0)
    again = learn(SteeredModel(qwen3, tokenizer, bank), TRIPLETS)
    assert torch.equal(bank.layers[1].basis, again.layers[1].basis)
    assert (bank.rank, bank.heads, bank.gain) == (2, "all", 5.0)
    assert bank.triplets_digest == again.triplets_digest


def test_learned_for_all_layers_and_applied_to_the_last(qwen3, tokenizer, tmp_path):
    bank = learn((qwen3, tokenizer), TRIPLETS, rank=2, gain=3.0)
    bank = bank.replace(heads="only:2.0,2.1")
    bank.save_pretrained(tmp_path)
    steered = SteeredModel(qwen3, tokenizer, Bank.from_pretrained(tmp_path))
    basis = bank.layers[2].basis[..., :2]
    prompt = ["Ada moved to ", highlight("Rome"), "."]
    with recording(steered.sites) as plain:
        steered.next_token_logprobs([prompt], gain=0.0)
    encoded = tokenizer("Ada moved to Rome.", return_offsets_mapping=True)
    gains = [3.0 if a < 17 and b > 13 else 0.0 for a, b in encoded["offset_mapping"]]
    # A recorder that is registered after the edit sees what attention sees.
    with (
        torch.no_grad(),
        editing(steered.sites, steered.bank.operators(), torch.tensor([gains])),
        recording(steered.sites) as edited,
    ):
        qwen3(torch.tensor([encoded["input_ids"]]))
    for layer in (0, 1):
        assert torch.equal(plain[layer], edited[layer])
    keys = plain[2].double()
    moved = torch.einsum("hde,bthe->bthd", (basis @ basis.mT).double(), keys)
    expected = keys + torch.tensor(gains).double()[None, :, None, None] * moved
    assert torch.allclose(edited[2].double(), expected, atol=1e-5)
    assert not torch.allclose(edited[2], plain[2])


def test_triplets_whose_tokens_differ_are_skipped_and_counted(qwen3, tokenizer, caplog):
    # Glued to the word before it, the answer is cut into other tokens than after a space.
    odd = Triplet("at Paris", "of Paris", "xParis", answers=((3, 8), (3, 8), (1, 6)))
    texts = [text for text, _ in odd.parts()]
    assert len({len(tokenizer(text).input_ids) for text in texts}) > 1
    with caplog.at_level(logging.WARNING):
        bank = learn((qwen3, tokenizer), [*TRIPLETS, odd])
    assert (bank.n_triplets, bank.n_skipped) == (len(TRIPLETS), 1)
    assert "1 of 21 triplets were skipped" in caplog.text


def test_texts_beyond_the_context_are_skipped(qwen3, tokenizer):
    long = grounding_triplet("word " * 300 + "Rome", "Where?", "Who?", "Rome")
    assert learn((qwen3, tokenizer), [*TRIPLETS, long]).n_skipped == 1


def test_too_few_triplets_are_an_error(qwen3, tokenizer):
    with pytest.raises(TripletError, match="19 of 19 triplets can be used and 20 are needed"):
        learn((qwen3, tokenizer), TRIPLETS[:19])
    with pytest.raises(TripletError, match="0 of 0"):
        learn((qwen3, tokenizer), [])


def test_progress_is_told(qwen3, tokenizer):
    seen = []
    learn((qwen3, tokenizer), TRIPLETS, progress=lambda *told: seen.append(told))
    assert seen == [(20, 20)]
    seen.clear()
    learn((qwen3, tokenizer), TRIPLETS, batch_tokens=1, progress=lambda *told: seen.append(told))
    assert seen == [(i + 1, 20) for i in range(20)]


def test_differential_directions_are_those_of_the_difference(model, tokenizer):
    bank = learn((model, tokenizer), TRIPLETS, method="differential", heads="all")
    for layer, (h, positive, negative) in keys_one_by_one(model, tokenizer, TRIPLETS).items():
        omega = torch.einsum("nhd,nhe->hde", h, positive - negative) / len(h)
        _, values = decompose(omega, positive.mean(0))
        learned = bank.layers[layer]
        assert torch.allclose(learned.spectrum.double(), values, rtol=1e-3, atol=1e-5)
        turned = learned.basis.double().mT @ omega @ omega.mT @ learned.basis.double()
        assert torch.allclose(turned, torch.diag_embed(values**2), atol=1e-4 * values.max() ** 2)


def test_layers_above_the_last_one_wanted_are_not_run(model, tokenizer):
    ran = []
    handles = [
        layer.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, layer in enumerate(model.model.layers)
    ]
    try:
        bank = learn((model, tokenizer), TRIPLETS, layers=[1])
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {0}  # the layer wanted is left as soon as its keys are made
    whole = learn((model, tokenizer), TRIPLETS)
    assert list(bank.layers) == [1]
    assert torch.equal(bank.layers[1].basis, whole.layers[1].basis)
    assert torch.equal(bank.layers[1].discrimination, whole.layers[1].discrimination)
    assert bank.fingerprint == whole.fingerprint
    with pytest.raises(TripletError, match=r"layers \[7\] are not in the model, which has 0 to 2"):
        learn((model, tokenizer), TRIPLETS, layers=[1, 7])


@torch.no_grad()
def test_a_head_that_looks_for_the_question_discriminates(tokenizer):
    """Layer 0 gets queries and keys that agree where the same token stands in both."""
    model = make_model("llama")
    torch.manual_seed(0)
    attention = model.model.layers[0].self_attn
    bank = learn((model, tokenizer), TRIPLETS)
    shares = torch.cat([learned.discrimination for learned in bank.layers.values()])
    assert ((shares >= 0) & (shares <= 1)).all()
    # Without a question that differs there is nothing to tell apart.
    attention.q_proj.weight.zero_()
    blind = learn((model, tokenizer), TRIPLETS).layers[0].discrimination
    assert torch.allclose(blind, torch.full((2,), blind[0].item()))


def test_triplets_without_a_question_behind_teach_no_discrimination(qwen3, tokenizer):
    bare = [replace(triplet, asked=None) for triplet in TRIPLETS]
    bank, whole = learn((qwen3, tokenizer), bare), learn((qwen3, tokenizer), TRIPLETS)
    assert all(learned.discrimination is None for learned in bank.layers.values())
    for layer, learned in whole.layers.items():
        assert torch.allclose(bank.layers[layer].spectrum, learned.spectrum, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_that_are_not_numbers_are_an_error_that_names_the_layer(tokenizer, value):
    model = make_model("qwen3")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_norm.weight[0] = value
    with pytest.raises(UnsteerableError, match="layer 1 makes keys that are not numbers"):
        learn((model, tokenizer), TRIPLETS)


def test_the_model_is_left_as_it_was(tokenizer):
    model = make_model("qwen3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn((model, tokenizer), TRIPLETS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def sine_of_largest_angle(one, other):
    """Return how far apart two subspaces of one dimension are: (H,), 0 is the same."""
    outside = one - other @ (other.mT @ one)
    return torch.linalg.matrix_norm(outside, ord=2)


def test_the_subspaces_are_those_of_the_naive_way_in_float64(model, tokenizer):
    """Principal angles to 1e-3, where the singular values leave the subspace no choice."""
    bank = learn((model, tokenizer), TRIPLETS)
    for layer, (h, positive, _) in keys_one_by_one(model, tokenizer, TRIPLETS).items():
        omega = torch.einsum("nhd,nhe->hde", h, positive) / len(h)
        basis, values = decompose(omega, positive.mean(0))
        for rank in (1, 2, 4):
            apart = values[:, rank - 1] > 1.2 * values[:, rank]
            ours = bank.layers[layer].basis[..., :rank].double()
            assert (sine_of_largest_angle(ours, basis[..., :rank])[apart] < 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_nearly_the_same(tokenizer, dtype):
    exact = learn((make_model("qwen3"), tokenizer), TRIPLETS)
    half = learn((make_model("qwen3").to(dtype), tokenizer), TRIPLETS)
    for layer, learned in exact.layers.items():
        other = half.layers[layer]
        assert other.basis.dtype == torch.float32
        first = sine_of_largest_angle(other.basis[..., :1], learned.basis[..., :1])
        assert (first < 0.1).all()
        assert torch.allclose(other.key_shift, learned.key_shift, rtol=0.1, atol=0.05)
