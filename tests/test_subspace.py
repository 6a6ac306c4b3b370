import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.subspace import CrossCovariance, KeyShift, Subspace, decompose, rank_for_energy


def keys(n, seed=0, heads=2, dim=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, heads, dim, generator=generator)


def test_finds_the_planted_directions():
    planted = torch.linalg.qr(torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(1))).Q
    strength = torch.tensor([9.0, 4.0, 2.0])
    parts = keys(4000, heads=2, dim=3) * strength.sqrt()
    neutral = torch.einsum("hdr,nhr->nhd", planted, parts)
    noise = 0.01 * keys(4000, seed=2, heads=2, dim=16)
    sums = CrossCovariance(2, 16)
    sums.add(neutral, neutral + noise)
    basis, spectrum = decompose(sums.matrix(), sums.mean())
    assert rank_for_energy(spectrum, 0.99).tolist() == [3, 3]
    # One direction at a time: cosine 1 with the planted one, and its strength.
    cosines = torch.einsum("hdr,hdr->hr", basis[..., :3].float(), planted).abs()
    assert (cosines > 0.99).all()
    assert torch.allclose(spectrum[:, :3].float(), strength, rtol=0.1)


def test_running_sums_equal_one_sum_over_all_keys():
    neutral, relevant = keys(50), keys(50, seed=1)
    sums, shift = CrossCovariance(2, 8), KeyShift(2)
    for start in range(0, 50, 7):
        sums.add(neutral[start : start + 7], relevant[start : start + 7])
        shift.add(neutral[start : start + 7], relevant[start : start + 7])
    h, moved = neutral.double(), relevant.double()
    for head in range(2):
        omega = h[:, head].T @ moved[:, head] / 50
        assert torch.allclose(sums.matrix()[head], omega, rtol=1e-12, atol=1e-14)
    assert torch.allclose(sums.mean(), moved.mean(0), rtol=1e-12)
    assert torch.allclose(shift.mean(), (h - moved).norm(dim=-1).mean(0), rtol=1e-12)
    assert sums.count == 50


def test_key_shift_does_not_depend_on_how_many_tokens_there_are():
    once, often = KeyShift(2), KeyShift(2)
    once.add(keys(9), keys(9, seed=1))
    often.add(keys(9).repeat(40, 1, 1), keys(9, seed=1).repeat(40, 1, 1))
    assert torch.allclose(once.mean(), often.mean())


def test_small_singular_values_survive_float32_keys():
    # 10⁶ to 1 in keys is 10¹² to 1 in Ω, beyond float32.
    both = torch.tensor([[[1e3, 0.0]], [[0.0, 1e-3]]])
    sums = CrossCovariance(1, 2)
    sums.add(both, both)
    _, spectrum = decompose(sums.matrix(), sums.mean())
    assert spectrum[0].tolist() == pytest.approx([5e5, 5e-7])


def test_directions_point_with_the_mean_key():
    sums = CrossCovariance(2, 8)
    relevant = keys(30, seed=3) - 2.0
    sums.add(keys(30) - 1.0, relevant)
    basis, _ = decompose(sums.matrix(), sums.mean())
    assert (torch.einsum("hdr,hd->hr", basis, relevant.double().mean(0)) >= 0).all()
    assert torch.allclose(basis.mT @ basis, torch.eye(8).double().expand(2, 8, 8), atol=1e-12)


def test_says_which_keys_do_not_match():
    with pytest.raises(ValueError, match=r"\(3, 2, 8\) and \(4, 2, 8\)"):
        CrossCovariance(2, 8).add(keys(3), keys(4))


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(lambda s: sorted(s, reverse=True)),
    st.floats(0.01, 1.0),
)
def test_rank_is_the_fewest_that_hold_the_energy(spectrum, energy):
    values = torch.tensor(spectrum, dtype=torch.float64)
    rank = int(rank_for_energy(values, energy))
    running = values.cumsum(0)
    assert 1 <= rank <= len(spectrum)
    assert running[rank - 1] >= energy * running[-1]
    if rank > 1:
        assert running[rank - 2] < energy * running[-1]


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_more_energy_never_means_fewer_directions(one, other):
    spectrum = torch.tensor([[5.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    low, high = (rank_for_energy(spectrum, energy) for energy in sorted((one, other)))
    assert (low <= high).all()


def test_energy_is_a_fraction():
    with pytest.raises(ValueError, match="fraction in"):
        rank_for_energy(torch.ones(3), 0.0)


def test_projecting_twice_changes_nothing():
    basis = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0))).Q
    subspace = Subspace(basis, torch.ones(3))
    once = subspace.project(keys(5)[:, 0])
    assert subspace.rank == 3
    assert torch.allclose(subspace.project(once), once, atol=1e-6)
    assert subspace.project(keys(5).bfloat16()).dtype == torch.bfloat16
