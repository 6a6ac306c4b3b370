import hashlib

import pytest
import torch
from conftest import make_bank, make_model

from seka_rag.errors import BankError, BankMismatchError
from seka_rag.experts import Experts, Routing, expert_names, load, save_expert
from seka_rag.forward import edited
from seka_rag.highlight import highlight
from seka_rag.hooks import recording
from seka_rag.steering import SteeredModel

PROMPT = ("Note: ", highlight("the ferry leaves at noon"), ". When? ")


def experts_of(model, **changes):
    return Experts(
        {
            "grounding": make_bank(model),
            "override": make_bank(model, rank=3, gain=6.0),
            "orders": make_bank(model, kind="instruction", **changes),
        }
    )


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.safetensors")
    }


def test_an_expert_is_added_or_replaced_and_the_others_bytes_stay(qwen3, tmp_path):
    experts_of(qwen3).save_pretrained(tmp_path)
    before = digests(tmp_path)
    save_expert(make_bank(qwen3, rank=4), tmp_path, "extra")
    save_expert(make_bank(qwen3, rank=4), tmp_path, "override")
    after = digests(tmp_path)
    changed = {path.parent.name for path in after if after[path] != before.get(path)}
    assert changed == {"extra", "override"}
    assert expert_names(tmp_path) == ["extra", "grounding", "orders", "override"]
    assert load(tmp_path).banks["override"].rank == 4


def test_what_was_saved_comes_back(qwen3, tmp_path):
    experts = experts_of(qwen3)
    experts.save_pretrained(tmp_path)
    back = Experts.from_pretrained(tmp_path)
    for name, bank in experts.banks.items():
        assert back.banks[name].digest() == bank.digest()
    make_bank(qwen3).save_pretrained(tmp_path / "alone")
    assert list(Experts.from_pretrained(tmp_path / "alone").banks) == ["default"]


def test_experts_are_chosen_by_kind_by_name_or_by_both(qwen3):
    experts = experts_of(qwen3)
    assert experts.chosen() == {
        "passage": ("grounding", "override"),
        "instruction": ("orders",),
    }
    assert experts.chosen(["override"]) == {
        "passage": ("override",),
        "instruction": ("override",),
    }
    assert experts.chosen({"passage": ["orders"]}) == {"passage": ("orders",), "instruction": ()}
    passages = Experts({"only": make_bank(qwen3)})
    assert passages.chosen() == {"passage": ("only",), "instruction": ("only",)}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("grounding", "experts is 'grounding': give \"auto\""),
        (["grounding", "nobody"], "no expert nobody: the bank has grounding, orders, override"),
        ({"sentence": ["orders"]}, "no kind sentence: use instruction, passage"),
        ([], "no expert is chosen"),
    ],
)
def test_a_choice_that_cannot_be_is_an_error(choice, message, qwen3, tokenizer):
    with pytest.raises(BankError, match=message):
        SteeredModel(qwen3, tokenizer, experts_of(qwen3), routing=Routing(experts=choice))


def test_a_highlight_that_no_expert_serves_is_an_error(qwen3, tokenizer):
    steered = SteeredModel(
        qwen3, tokenizer, experts_of(qwen3), routing=Routing(experts={"instruction": ["orders"]})
    )
    with pytest.raises(BankError, match="no expert serves highlights of the kind 'passage'"):
        steered.generate(PROMPT, max_new_tokens=1)


def test_other_models_and_other_layers_do_not_fit_together(qwen3, tmp_path):
    save_expert(make_bank(qwen3), tmp_path, "one")
    before = digests(tmp_path)
    other = make_bank(make_model("qwen3", seed=8))
    with pytest.raises(BankError, match="one and other were learned on different models"):
        save_expert(other, tmp_path, "other")
    bank = make_bank(qwen3)
    fewer = make_bank(qwen3)
    object.__setattr__(fewer, "layers", {0: bank.layers[0]})
    with pytest.raises(BankError, match="has layers 0, 1, 2 and other has layers 0"):
        save_expert(fewer, tmp_path, "other")
    assert digests(tmp_path) == before


def test_experts_of_another_model_are_refused(qwen3, tokenizer):
    with pytest.raises(BankMismatchError, match="does not fit"):
        SteeredModel(make_model("qwen3", seed=8), tokenizer, experts_of(qwen3))


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a/b", "."])
def test_names_that_could_not_be_folders_are_refused(name, qwen3, tmp_path):
    with pytest.raises(BankError, match="cannot be an expert's name"):
        save_expert(make_bank(qwen3), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_more_directions_than_a_rank_are_an_error(qwen3, tokenizer):
    steered = SteeredModel(qwen3, tokenizer, experts_of(qwen3), routing=Routing(directions=3))
    with pytest.raises(BankError, match="3 directions are asked, and the expert grounding"):
        steered.generate(PROMPT, max_new_tokens=1)


def test_unknown_scores_and_routings_are_errors(qwen3):
    with pytest.raises(BankError, match="the score is 'cosine'"):
        experts_of(qwen3).edit(score="cosine")
    with pytest.raises(BankError, match="routing is 'later'"):
        Routing(mode="later")


def test_a_head_without_an_expert_is_not_edited(qwen3, tokenizer):
    heads = "only:0.0,2.1"
    experts = Experts(
        {name: make_bank(qwen3, heads=heads, rank=r) for name, r in (("a", 2), ("b", 3))}
    )
    steered = SteeredModel(qwen3, tokenizer, experts)
    batch = steered._pad([steered.read(PROMPT, gain=1.0)])
    with torch.no_grad():
        with recording(steered.sites) as plain:
            qwen3(input_ids=batch.ids, use_cache=False)
        with edited(steered.sites, steered._edit, batch), recording(steered.sites) as keys:
            qwen3(input_ids=batch.ids, use_cache=False)
    assert torch.equal(keys[0][:, :, 1], plain[0][:, :, 1])
    assert not torch.equal(keys[0][:, :, 0], plain[0][:, :, 0])
    assert [span.coefficients[0, 1].tolist() for span in steered.explain(PROMPT)] == [[0.0, 0.0]]


def test_every_expert_has_its_own_gain_at_the_default(qwen3, tokenizer):
    """Of two copies of a bank, one with twice the gain does what twice the weight does."""
    twice = SteeredModel(
        qwen3,
        tokenizer,
        Experts({"first": make_bank(qwen3, gain=2.0), "second": make_bank(qwen3, gain=4.0)}),
        routing=Routing(experts=["second"]),
    )
    alone = SteeredModel(qwen3, tokenizer, make_bank(qwen3, gain=4.0))
    one, other = (each.next_token_logprobs([PROMPT]) for each in (twice, alone))
    torch.testing.assert_close(one, other)


def test_the_same_expert_twice_is_one_expert(qwen3, tokenizer):
    bank = make_bank(qwen3)
    one, two = (
        SteeredModel(qwen3, tokenizer, each) for each in (bank, Experts({"a": bank, "b": bank}))
    )
    torch.testing.assert_close(
        two.next_token_logprobs([PROMPT]), one.next_token_logprobs([PROMPT]), atol=1e-4, rtol=1e-4
    )
