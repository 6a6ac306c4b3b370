import logging

import pytest
import torch
from conftest import make_model

from seka_rag.architecture import key_sites
from seka_rag.bank import Bank
from seka_rag.contrast import Triplet, grounding_triplet
from seka_rag.errors import TripletError
from seka_rag.highlight import highlight
from seka_rag.hooks import editing, recording
from seka_rag.learning import learn
from seka_rag.steering import SteeredModel
from seka_rag.subspace import decompose

PLACES = ("Paris", "Rome", "Oslo", "New York", "Lima", "Accra", "Turin", "Bern", "Kyiv", "Basel")
TRIPLETS = [
    grounding_triplet(
        f"{'In winter ' * (i % 3)}Ada Lovelace moved to {place} with her mother.",
        "Where did Ada Lovelace move?",
        "What is the capital of France, and who says so?",
        place,
    )
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
    bank = learn((model, tokenizer), TRIPLETS, batch_size=4)
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
    one = learn((qwen3, tokenizer), TRIPLETS, batch_size=1)
    all_at_once = learn((qwen3, tokenizer), TRIPLETS, batch_size=99)
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
        editing(steered.sites, steered.bank.operators(), [gains]),
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
    assert "1 of 11 triplets were skipped" in caplog.text


def test_texts_beyond_the_context_are_skipped(qwen3, tokenizer):
    long = grounding_triplet("word " * 300 + "Rome", "Where?", "Who?", "Rome")
    assert learn((qwen3, tokenizer), [*TRIPLETS, long]).n_skipped == 1


def test_too_few_triplets_are_an_error(qwen3, tokenizer):
    with pytest.raises(TripletError, match="7 of 7 triplets can be used and 8 are needed"):
        learn((qwen3, tokenizer), TRIPLETS[:7])
    with pytest.raises(TripletError, match="0 of 0"):
        learn((qwen3, tokenizer), [])


def test_progress_is_told(qwen3, tokenizer):
    seen = []
    learn((qwen3, tokenizer), TRIPLETS, batch_size=4, progress=lambda *told: seen.append(told))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_the_model_is_left_as_it_was(tokenizer):
    model = make_model("qwen3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn((model, tokenizer), TRIPLETS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
