"""The edit against arithmetic by hand: k + g·Pk in float64, and nothing else."""

import pytest
import torch

from seka_rag.bank import KeyOperator
from seka_rag.editing import EditPlan, edit_keys, placed

B, T, H, D, R = 2, 5, 3, 8, 4
GAINS = [[0, 2.0, 0, -0.5, 0], [0, 0, 0, 0, 7.5]]


def random_operator(seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(H, D, D, generator=generator)).Q[..., :R]
    weights = torch.rand(H, R, generator=generator)
    return KeyOperator(basis.contiguous(), weights)


def by_hand(keys, operator, gains):
    result = keys.double()
    for row in range(keys.shape[0]):
        for token in range(keys.shape[1]):
            for head in range(keys.shape[2]):
                basis = operator.basis[head].double()
                projection = basis @ torch.diag(operator.weights[head].double()) @ basis.T
                key = keys[row, token, head].double()
                result[row, token, head] = key + gains[row][token] * (projection @ key)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_keys_are_edited_as_by_hand(dtype):
    keys = torch.randn(B, T, H, D).to(dtype)
    edited = edit_keys(keys, random_operator(), EditPlan.from_gains(torch.tensor(GAINS), "cpu"))
    assert edited.dtype == dtype
    expected = by_hand(keys, random_operator(), GAINS).to(dtype)
    # Computed in the keys' own precision: a shift is known to its last bits only.
    torch.testing.assert_close(
        edited,
        expected,
        rtol=1e-4 if dtype == torch.float32 else 0.02,
        atol=1e-5 if dtype == torch.float32 else 0.07,
    )


def test_a_planted_key_moves_by_the_gain_along_the_basis_alone():
    along, across = torch.eye(D)[0], torch.eye(D)[1]
    operator = KeyOperator(along.view(1, D, 1), torch.ones(1, 1))
    keys = torch.stack([3 * along + across, across]).view(1, 2, 1, D)
    edited = edit_keys(keys, operator, EditPlan.from_gains(torch.tensor([[0.5, 0.5]]), "cpu"))
    assert torch.equal(edited[0, 0, 0], 4.5 * along + across)
    assert torch.equal(edited[0, 1, 0], across)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_without_a_gain_keep_every_bit(dtype):
    keys = torch.randn(B, T, H, D).to(dtype)
    before = keys.clone()
    edited = edit_keys(keys, random_operator(), EditPlan.from_gains(torch.tensor(GAINS), "cpu"))
    untouched = torch.tensor(GAINS) == 0
    assert torch.equal(edited[untouched], keys[untouched])
    assert torch.equal(keys, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_weight_zero_keep_every_bit(dtype):
    operator = random_operator()
    operator.weights[1] = 0
    keys = torch.randn(B, T, H, D).to(dtype)
    edited = edit_keys(keys, operator, EditPlan.from_gains(torch.tensor(GAINS), "cpu"))
    assert torch.equal(edited[:, :, 1], keys[:, :, 1])
    assert not torch.equal(edited[:, :, 0], keys[:, :, 0])


def test_keys_that_are_a_transposed_view_are_edited_alike():
    keys = torch.randn(B, H, T, D).transpose(1, 2)
    plan = EditPlan.from_gains(torch.tensor(GAINS), "cpu")
    expected = edit_keys(keys.contiguous(), random_operator(), plan)
    assert torch.equal(edit_keys(keys, random_operator(), plan), expected)


def test_a_plan_holds_the_tokens_with_a_gain():
    plan = EditPlan.from_gains(torch.tensor(GAINS), "cpu")
    assert plan.rows.tolist() == [0, 0, 1]
    assert plan.columns.tolist() == [1, 3, 4]
    assert plan.weights.tolist() == [2.0, -0.5, 7.5]
    assert len(EditPlan.from_gains(torch.zeros(1, 2), "cpu")) == 0


def test_an_operator_that_is_in_place_is_not_copied():
    operator = random_operator()
    assert placed(operator, torch.device("cpu")) is operator
    assert placed(operator, torch.device("meta")).basis.device.type == "meta"
