"""Relevance subspaces: the directions a key moves along when its token answers the question.

Pure mathematics over a stack of KV heads; nothing here knows of models, layers or files.

    n  tokens collected      H  KV heads      D  head_dim      r  rank of a subspace

Notation follows the SEKA paper: h (neutral), h⁺ (relevant), Ω = hᵀh⁺/n = U S Vᵀ.
Only sums are kept, in float64: the small singular values decide the rank, and the keys of a large
model would not fit. They stay where the keys are, so that no layer waits for the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def exact(keys: Tensor) -> Tensor:
    """Return the keys in float64: where they are, or on the CPU if their device has no float64."""
    return (keys.cpu() if keys.device.type == "mps" else keys).detach().double()


class CrossCovariance:
    """The running sum of Ω = hᵀh⁺/n for H heads, and of h⁺ alone, which fixes the signs of U."""

    def __init__(self, n_kv_heads: int, head_dim: int) -> None:
        self._products = torch.zeros(n_kv_heads, head_dim, head_dim, dtype=torch.float64)
        self._moved = torch.zeros(n_kv_heads, head_dim, dtype=torch.float64)
        self._count = 0

    @property
    def count(self) -> int:
        """Return n, the number of tokens seen so far."""
        return self._count

    def add(self, neutral: Tensor, relevant: Tensor) -> None:
        """Take in keys (n, H, D) of the same tokens under the two prompts, row by row."""
        shape = (len(neutral), *self._moved.shape)
        if tuple(neutral.shape) != shape or tuple(relevant.shape) != shape:
            raise ValueError(
                f"the keys are {tuple(neutral.shape)} and {tuple(relevant.shape)}: both must be "
                f"(n, {shape[1]}, {shape[2]}) with one row per token"
            )
        h, moved = exact(neutral), exact(relevant)
        self._products = self._products.to(h.device) + torch.einsum("nhd,nhe->hde", h, moved)
        self._moved = self._moved.to(h.device) + moved.sum(0)
        self._count += len(h)

    def matrix(self) -> Tensor:
        """Return Ω (H, D, D), float64."""
        return self._products / max(self._count, 1)

    def mean(self) -> Tensor:
        """Return the mean of the second argument's keys, h⁺, as (H, D), float64."""
        return self._moved / max(self._count, 1)


class KeyShift:
    """The running mean over tokens of ‖h⁺ − h⁻‖₂, one number per head.

    A mean of norms, not a norm over all tokens divided by their number: that one shrinks as
    tokens are added, so a threshold found on one data set would mean nothing on another.
    """

    def __init__(self, n_kv_heads: int) -> None:
        self._norms = torch.zeros(n_kv_heads, dtype=torch.float64)
        self._count = 0

    def add(self, relevant: Tensor, irrelevant: Tensor) -> None:
        """Take in keys (n, H, D) of the same tokens under the two questions, row by row."""
        moved = exact(relevant) - exact(irrelevant)
        self._norms = self._norms.to(moved.device) + moved.norm(dim=-1).sum(0)
        self._count += len(moved)

    def mean(self) -> Tensor:
        """Return the key shifts (H,), float64, in the units of a key."""
        return self._norms / max(self._count, 1)


def decompose(omega: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return U (..., D, D), strongest direction first, and the singular values S (..., D).

    An SVD leaves the sign of each direction open, and routing by q·u depends on it: each is turned
    so that the `mean` key (..., D) has no negative part along it.
    """
    basis, spectrum, _ = torch.linalg.svd(omega.double())
    along = torch.einsum("...dr,...d->...r", basis, mean.double())
    signs = torch.where(along < 0, -1.0, 1.0).to(basis.dtype)
    return basis * signs.unsqueeze(-2), spectrum


def rank_for_energy(spectrum: Tensor, energy: float) -> Tensor:
    """Return the fewest directions (...) whose singular values make up `energy` of their sum.

    `spectrum` (..., D) is in descending order; `energy` is a fraction in (0, 1]. Singular values,
    not their squares. A spectrum of zeros has rank 1.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy is {energy}: it must be a fraction in (0, 1]")
    running = spectrum.double().cumsum(-1)
    # Against the last running sum, not against .sum(): summed in another order it may be larger,
    # and an energy of 1 would never be reached.
    enough = running >= energy * running[..., -1:]
    return enough.int().argmax(-1) + 1


@dataclass(frozen=True, eq=False)
class Subspace:
    """An orthonormal basis, strongest direction first. P = UUᵀ is never formed."""

    basis: Tensor  # U (D, r)
    spectrum: Tensor  # S (r,)

    @property
    def rank(self) -> int:
        return self.basis.shape[-1]

    def project(self, keys: Tensor) -> Tensor:
        """Return the part of `keys` (..., D) inside the subspace, in the dtype of `keys`."""
        return (keys.to(self.basis.dtype) @ self.basis @ self.basis.mT).to(keys.dtype)
