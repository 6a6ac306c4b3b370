"""Banks from the projection files of the SEKA authors' code: read safely, bound to their layers.

    L  layers of a file      H  KV heads      D  head_dim

A file is `{"layers": [L], "proj": (L, H, D, D)}`, one for P⁺ and perhaps one for P⁻, or
`{"layers": [L], "U_matrices": (L, H, D, D), "singular_values": (L, H, D)}`, the whole SVD. Heads
that their filter dropped are zero. Their layers are the model's own numbers; the code that wrote
the files binds them by position instead, which ours does not repeat.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from seka_rag.bank import Bank, Fingerprint
from seka_rag.errors import BankError, BankMismatchError
from seka_rag.heads import LayerSubspaces

_FORMS = 'a dict with "layers" and "proj", or with "layers", "U_matrices" and "singular_values"'


def import_reference(
    positive: str | Path,
    negative: str | Path | None = None,
    *,
    model: Fingerprint,
    gain: float = 1.0,
    negative_gain: float = 0.0,
) -> Bank:
    """Return the bank of one or two reference files, for the model of that fingerprint.

    `gain` and `negative_gain` are those of the reference's command line. With a negative file it
    applies (g⁺P⁺k + g⁻P⁻k)/2, so both are halved; without one it applies g⁺P⁺k.
    """
    layers, basis, spectrum = _read(Path(positive), model)
    weak = _weak_directions(Path(negative), layers, model) if negative is not None else None
    D = model.head_dim
    found = {}
    for i, layer in enumerate(layers):
        # A head without a direction was dropped by the filter that the file was written with.
        kept = spectrum[i].abs().sum(-1) > 0
        unused = (torch.eye(D).expand_as(basis[i]), torch.zeros_like(spectrum[i]))
        negatives = unused if weak is None else (weak[0][i], weak[1][i])
        found[layer] = LayerSubspaces(basis[i], spectrum[i], *negatives, kept.float())
    if not any(learned.key_shift.any() for learned in found.values()):
        raise BankError(f"{positive} keeps no head: every projection in it is zero")
    halved = 0.5 if negative is not None else 1.0
    return Bank(
        layers=found,
        fingerprint=model,
        # Of a projection every direction counts; of a whole SVD those that the authors keep.
        energy=1.0 if _is_flat(spectrum) else 0.9,
        heads="threshold:0.5",
        gain=halved * gain,
        negative_gain=negative_gain / gain if negative is not None and gain else 0.0,
        gain_evidence={"split": "the reference files", "rule": "as given, in this library's units"},
    )


def _read(path: Path, model: Fingerprint) -> tuple[list[int], Tensor, Tensor]:
    """Return a file's layers, bases (L, H, D, D), strongest first, and spectra (L, H, D)."""
    held = _load(path)
    layers = _layers(path, held, model)
    shape = (len(layers), model.n_kv_heads, model.head_dim, model.head_dim)
    if "proj" in held:
        return layers, *_eigen(path, _tensor(path, held, "proj", shape))
    basis = _tensor(path, held, "U_matrices", shape)
    return layers, basis, _tensor(path, held, "singular_values", shape[:-1])


def _weak_directions(path: Path, layers: list[int], model: Fingerprint) -> tuple[Tensor, Tensor]:
    """Return P⁻ as `Bank` keeps it: its directions last, and a spectrum of 1 on those before."""
    found, basis, spectrum = _read(path, model)
    if found != layers:
        raise BankMismatchError(
            f"{path} has layers {found} and the positive file {layers}: give files of one run"
        )
    return basis.flip(-1), (1 - spectrum.flip(-1)).clamp(min=0)


def _load(path: Path) -> Mapping[str, object]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BankError(f"there is no file {path}: name a projection file") from error
    except Exception as error:  # torch raises what its unpickler met
        reason = " ".join(str(error).split())[:120]
        raise BankError(
            f"{path} cannot be read as tensors alone ({reason}): a projection file is {_FORMS}"
        ) from error
    known = isinstance(held, dict) and "layers" in held
    if not known or not ("proj" in held or {"U_matrices", "singular_values"} <= held.keys()):
        raise BankError(f"{path} is no projection file: it must be {_FORMS}")
    return cast(Mapping[str, object], held)


def _layers(path: Path, held: Mapping[str, object], model: Fingerprint) -> list[int]:
    given = held["layers"]
    layers = given.tolist() if isinstance(given, Tensor) else given
    if not isinstance(layers, list | tuple) or not all(isinstance(n, int) for n in layers):
        raise BankError(f"{path}: its layers are {given!r}, and must be whole numbers")
    if (
        not layers
        or len(set(layers)) < len(layers)
        or not all(0 <= n < model.n_layers for n in layers)
    ):
        raise BankMismatchError(
            f"{path} is for layers {list(layers)}, and {model.name} has {model.n_layers}: it "
            "belongs to another model"
        )
    return list(layers)


def _tensor(path: Path, held: Mapping[str, object], name: str, shape: tuple[int, ...]) -> Tensor:
    found = held[name]
    if not isinstance(found, Tensor):
        raise BankError(f"{path}: {name!r} is no tensor; a projection file is {_FORMS}")
    if tuple(found.shape) != shape:
        raise BankMismatchError(
            f"{path} has {name} of shape {tuple(found.shape)}, and {shape} is needed: it belongs "
            "to another model"
        )
    if not found.isfinite().all():
        raise BankError(f"{path}: {name!r} holds numbers that are not finite")
    return found.float()


def _eigen(path: Path, projections: Tensor) -> tuple[Tensor, Tensor]:
    """Return bases and eigenvalues, 1 or 0, of orthogonal projections, the ones first."""
    values, basis = torch.linalg.eigh((projections + projections.mT).double() / 2)
    values, basis = values.flip(-1), basis.flip(-1)
    flat = values.round()
    # Files in half precision are exact to three digits.
    if (values - flat).abs().max() > 0.05 or flat.min() < 0 or flat.max() > 1:
        raise BankError(f"{path}: its matrices are no orthogonal projections UUᵀ")
    return basis.float(), flat.float()


def _is_flat(spectrum: Tensor) -> bool:
    return bool(((spectrum == 0) | (spectrum == 1)).all())
