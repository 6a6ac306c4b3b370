import math

import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model

from seka_rag.bank import Bank
from seka_rag.calibration import tune
from seka_rag.errors import BankError, CalibrationError
from seka_rag.highlight import highlight
from seka_rag.labelled import Example, read_choices
from seka_rag.steering import SteeredModel
from seka_rag.weighing import weigh

WORDS = ("Paris", "Rome", "Oslo", "Lima")


def examples(n=10):
    return [
        Example(
            ["Ada ", highlight(f"moved to {WORDS[i % 4]}"), f" and {'so ' * (i % 3)}went to "],
            WORDS[i % 4],
            WORDS[(i + 1) % 4],
            related,
        )
        for i in range(n)
        for related in (True, False)
    ]


def steered_of(name, tokenizer, **settings):
    model = make_model(name)
    return SteeredModel(model, tokenizer, make_bank(model, **settings))


def objective(steered, given, harm):
    """Return what weighing minimises, over all the examples, each alone."""
    total = {True: 0.0, False: 0.0}
    choices = read_choices(steered.tokenizer, given)
    for example, choice in zip(given, choices, strict=True):
        edited = steered.next_token_logprobs([example.prompt], gain=1.0)[0].double()
        plain = steered.next_token_logprobs([example.prompt], gain=0.0)[0].double()
        if example.related:
            total[True] += math.log1p(math.exp(edited[choice.rival] - edited[choice.wanted]))
        else:
            total[False] += (plain.exp() * (plain - edited)).sum().item()
    n = len(given) / 2
    return total[True] / n + harm * total[False] / n


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_objective_falls_on_every_architecture(name, tokenizer):
    steered = steered_of(name, tokenizer, gain=1.0)
    given = examples()
    nothing = {layer: 1e-9 * f.spectrum for layer, f in steered.bank.layers.items()}
    before = objective(steered.with_bank(steered.bank.weighed(nothing, examples=0)), given, 0.3)
    bank = weigh(steered, steered.bank, given, steps=12, harm=0.3)
    after = objective(steered.with_bank(bank), given, 0.3)
    assert after < before
    assert (bank.heads, bank.gain, bank.weighed_on) == ("weighed", 1.0, 20)


def test_the_gradient_is_that_of_the_objective(tokenizer):
    """One step from the start goes down along the finite differences of every weight it moves."""
    steered = steered_of("llama", tokenizer, gain=1.0)
    given = examples()
    bank = weigh(steered, steered.bank, given, steps=1, per_step=10, harm=0.5)
    start = {layer: torch.full_like(f.spectrum, 0.03) for layer, f in bank.layers.items()}
    half_open = {
        layer: (torch.zeros_like(f.gate), torch.full((1,), 0.5), torch.zeros_like(f.focus))
        for layer, f in bank.layers.items()
    }

    def at(layer, head, column, step):
        moved = {number: weights.clone() for number, weights in start.items()}
        moved[layer][head, column] += step
        under = steered.with_bank(steered.bank.weighed(moved, half_open, examples=0))
        return objective(under, given, 0.5)

    checked = 0
    for layer, head, column in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)):
        slope = at(layer, head, column, 0.05) - at(layer, head, column, -0.05)
        moved = bank.layers[layer].weights[head, column] - 0.03
        if abs(slope) > 1e-4:
            assert moved * slope < 0
            checked += 1
    assert checked > 0


def test_the_model_is_left_as_it_was(tokenizer):
    steered = steered_of("qwen3", tokenizer)
    parameters = list(steered.model.parameters())
    parameters[0].requires_grad_(False)
    before = [(p.clone(), p.requires_grad) for p in parameters]
    weigh(steered, steered.bank, examples(), steps=2)
    for parameter, (value, asked) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad is asked
        assert parameter.grad is None


def test_batches_do_not_matter(tokenizer):
    steered = steered_of("gemma3", tokenizer)
    one, other = (
        weigh(steered, steered.bank, examples(), steps=3, batch_tokens=tokens)
        for tokens in (20, 10_000)
    )
    for layer, found in one.layers.items():
        assert torch.allclose(found.weights, other.layers[layer].weights, atol=1e-4)


def test_the_weights_come_back_from_the_file(tokenizer, tmp_path):
    steered = steered_of("qwen3", tokenizer)
    bank = weigh(steered, steered.bank, examples(), steps=2)
    back = Bank.from_pretrained(bank.save_pretrained(tmp_path))
    assert back.digest() == bank.digest() != steered.bank.digest()
    for layer, found in bank.layers.items():
        assert torch.equal(found.weights, back.layers[layer].weights)
    found = tune(
        steered, back, examples(), heads=("all", "weighed"), max_loss=1.0, max_divergence=1e9
    )
    assert {point.heads for point in found.points} == {"all", "weighed"}


def test_the_edit_is_the_weighed_sum_of_projections(tokenizer):
    steered = steered_of("qwen3", tokenizer)
    weights = {layer: torch.randn_like(f.spectrum) for layer, f in steered.bank.layers.items()}
    bank = steered.bank.weighed(weights, examples=1)
    for layer, operator in bank.operators().items():
        for head, basis in enumerate(bank.layers[layer].basis):
            expected = sum(
                weight * torch.outer(column, column)
                for weight, column in zip(weights[layer][head], basis.T, strict=True)
            )
            found = operator.basis[head] @ operator.weights[head].diag() @ operator.basis[head].T
            assert torch.allclose(found, expected, atol=1e-5)


def test_heads_are_as_strong_as_their_weights(tokenizer):
    steered = steered_of("qwen3", tokenizer)
    weights = {layer: torch.zeros_like(f.spectrum) for layer, f in steered.bank.layers.items()}
    weights[0][0, :2] = torch.tensor([3.0, -4.0])
    weights[1][1, 0] = 1.0
    bank = steered.bank.weighed(weights, examples=1)
    strengths = bank.head_weights()
    assert strengths[0].tolist() == pytest.approx([1.0, 0.0])
    assert strengths[1].tolist() == pytest.approx([0.0, 0.2])
    assert set(bank.operators()) == {0, 1}


def test_a_bank_without_weights_cannot_be_weighed_by_name(tokenizer):
    steered = steered_of("qwen3", tokenizer)
    with pytest.raises(BankError, match="has no weights"):
        steered.bank.replace(heads="weighed").operators()
    with pytest.raises(BankError, match="no negative gain"):
        steered.bank.replace(heads="weighed", negative_gain=0.5)


def test_numbers_that_overflow_are_an_error(tokenizer):
    steered = steered_of("llama", tokenizer)
    with torch.no_grad():
        steered.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(CalibrationError, match="the loss is nan at step 1"):
        weigh(steered, steered.bank, examples(), steps=2)


def test_too_few_examples_are_an_error(tokenizer):
    steered = steered_of("llama", tokenizer)
    with pytest.raises(CalibrationError, match="9 related and 9 unrelated"):
        weigh(steered, steered.bank, examples(9))
