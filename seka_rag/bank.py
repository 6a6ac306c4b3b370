"""Banks: everything that was learned for one model, as plain data and one safetensors file.

    H  KV heads of a layer      D  head_dim      r  columns of an operator

Whole spectra are kept, so that energy, rank, heads and gain are settings: changing one needs no
second look at the model. Layers carry the model's own numbers, never a position in a list.
A bank does not know how keys are edited; it hands out operators.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, Unpack, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from seka_rag import __version__
from seka_rag.architecture import KeySite
from seka_rag.errors import BankError, BankMismatchError
from seka_rag.files import locate, write_beside
from seka_rag.heads import HeadFilter, LayerSubspaces
from seka_rag.highlight import Kind
from seka_rag.subspace import rank_for_energy

FILE_NAME = "seka_bank.safetensors"
FORMAT_VERSION = 1
# One metadata entry only: safetensors writes several in no fixed order, and files would differ.
_METADATA_KEY = "seka_bank"

_GATES = ("gate", "gate_bias", "focus")

Method = Literal["seka", "differential", "scaling", "random"]


@dataclass(frozen=True)
class Fingerprint:
    """What a model must have in common with the one a bank was learned on."""

    name: str  # informative only: the same weights live in many folders
    n_layers: int
    n_kv_heads: int
    head_dim: int
    digest: str  # of a few key projections; empty when they are quantised or not loaded

    def differences(self, other: "Fingerprint") -> list[str]:
        """Return what differs, in words; an empty list when a bank fits both."""
        found = [
            f"{getattr(self, name)} {words} against {getattr(other, name)}"
            for name, words in (
                ("n_layers", "layers"),
                ("n_kv_heads", "KV heads"),
                ("head_dim", "dimensions a head"),
            )
            if getattr(self, name) != getattr(other, name)
        ]
        if not found and self.digest and other.digest and self.digest != other.digest:
            found.append("the weights of the key projections")
        return found


def fingerprint(model: nn.Module, sites: Sequence[KeySite]) -> Fingerprint:
    """Return the fingerprint of a model, read from its config and its first, middle and last site.

    The digest is the same for a checkpoint loaded in float32, bfloat16 or float16.
    """
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}
    sha = hashlib.sha256()
    known = True
    for site in (sites[0], sites[len(sites) // 2], sites[-1]):
        # k_norm weights are much alike in all models: its neighbour k_proj tells them apart.
        owner = getattr(parents.get(id(site.module)), "k_proj", site.module)
        weights = next(owner.parameters(), None)
        if weights is None or weights.is_meta or not weights.is_floating_point():
            known = False
            break
        rows = weights.detach().reshape(len(weights), -1)[:4].cpu().to(torch.bfloat16).float()
        # Below 2⁻¹⁴ float16 has fewer bits than bfloat16.
        rows = torch.where(rows.abs() < 2**-14, 0.0, rows).contiguous()
        sha.update(rows.numpy().tobytes())
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    return Fingerprint(
        # A folder's own name: where it lies on this machine is nobody's business.
        name=Path(name).name if Path(name).is_dir() else name,
        n_layers=int(getattr(config, "num_hidden_layers", len(sites))),
        n_kv_heads=sites[0].n_kv_heads,
        head_dim=sites[0].head_dim,
        digest=sha.hexdigest() if known else "",
    )


@dataclass(frozen=True, eq=False)
class KeyOperator:
    """The edit of one layer: a key k becomes k + w·U diag(weights) Uᵀ k, head by head.

    Heads that are not to be edited, and columns beyond a head's rank, have weight 0.
    """

    basis: Tensor  # U (H, D, r), float32
    weights: Tensor  # (H, r), float32

    @property
    def back(self) -> Tensor:
        """The way back from columns to keys, diag(weights) Uᵀ: (H, r, D)."""
        return self._scaled() if self.weights.requires_grad else self._back

    @cached_property
    def _back(self) -> Tensor:
        return self._scaled()

    @cached_property
    def edited_heads(self) -> Tensor:
        """The KV heads that are edited at all: (h,) int32. Looking waits for the device, once."""
        return self.weights.any(dim=1).nonzero().flatten().int()

    def _scaled(self) -> Tensor:
        return (self.basis * self.weights.unsqueeze(1)).mT.contiguous()


class Settings(TypedDict, total=False):
    """What of a bank may be changed without learning again."""

    method: Method
    energy: float | None
    rank: int | None
    heads: str
    gain: float
    negative_gain: float
    gain_evidence: Mapping[str, object]
    seed: int
    kind: Kind


@dataclass(frozen=True, eq=False)
class Bank:
    """Subspaces for some layers of one model, and the settings that turn them into an edit.

    With the heads "weighed", every direction has the weight that was found for it, and energy and
    rank do not count. `method` says how the bases were learned, "seka" from Ω⁺ or "differential"
    from Ω⁺ − Ω⁻; or it puts the identity ("scaling") or a random projection of the same ranks
    ("random") in their place, on the same heads: baselines. `negative_gain` ρ is a multiple of the
    gain, k' = k + w(P⁺ + ρP⁻)k, and belongs to "seka" alone.
    """

    layers: Mapping[int, LayerSubspaces]
    fingerprint: Fingerprint
    method: Method = "seka"
    energy: float | None = 0.9  # γ, fraction in (0, 1] of the singular values' sum
    rank: int | None = None  # directions a head; where given, it counts instead of `energy`
    heads: str = "quantile:0.5"  # a HeadFilter
    gain: float = 1.0  # what a highlight without a gain of its own gets
    negative_gain: float = 0.0
    gain_evidence: Mapping[str, object] = field(default_factory=dict)  # how `gain` was found
    n_triplets: int = 0
    n_skipped: int = 0  # triplets left out of learning
    n_tokens: int = 0
    triplets_digest: str = ""
    weighed_on: int = 0  # examples from which the weights of the directions were found
    seed: int = 0  # of method "random"
    kind: Kind = "passage"  # of the highlights for which it was learned
    version: str = __version__
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.layers:
            raise BankError("the bank has no layers: learn it again")
        if self.method not in get_args(Method):
            raise BankError(
                f"the method is {self.method!r}: it must be one of {', '.join(get_args(Method))}"
            )
        if self.rank is None and self.energy is None:
            raise BankError("the bank has neither an energy nor a rank: give one of them")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise BankError(f"the energy is {self.energy}: it must be a fraction in (0, 1]")
        if self.rank is not None and self.rank < 1:
            raise BankError(f"the rank is {self.rank}: it must be at least 1")
        for name, number in (("gain", self.gain), ("negative gain", self.negative_gain)):
            if not math.isfinite(number):
                raise BankError(f"the {name} is {number}: it must be a finite number")
        if self.kind not in get_args(Kind):
            raise BankError(f"the kind is {self.kind!r}: use one of {', '.join(get_args(Kind))}")
        HeadFilter.parse(self.heads)
        if self.heads == "weighed" and self.negative_gain:
            raise BankError("a bank of weighed directions has no negative gain: leave it at 0")

    def replace(self, **settings: Unpack[Settings]) -> "Bank":
        """Return this bank under other settings; what was learned is shared, not copied.

        Between "seka" and "differential" there is no way but to learn again: a BankError.
        """
        learned = ("seka", "differential")
        wanted = settings.get("method", self.method)
        if self.method in learned and wanted in learned and wanted != self.method:
            raise BankError(f"the bank was learned by {self.method}: learn again for {wanted}")
        return replace(self, **settings)

    @property
    def gated(self) -> bool:
        """Whether the edit asks if the question is about the span."""
        return self.heads == "weighed" and any(
            found.gate is not None for found in self.layers.values()
        )

    def weighed(
        self,
        weights: Mapping[int, Tensor],
        gates: Mapping[int, tuple[Tensor, Tensor, Tensor]] | None = None,
        *,
        examples: int,
    ) -> "Bank":
        """Return this bank with a weight for every direction, and with gates if there are any.

        `weights` are {layer: (H, D)} for every layer, `gates` {layer: (gate, gate_bias, focus)}.
        """

        def kept(tensor: Tensor) -> Tensor:
            return tensor.detach().float().cpu()

        layers = {
            layer: replace(
                found,
                weights=kept(weights[layer]),
                **dict(zip(_GATES, map(kept, (gates or {}).get(layer, ())), strict=False)),
            )
            for layer, found in self.layers.items()
        }
        return replace(self, layers=layers, heads="weighed", weighed_on=examples)

    def selected(self) -> dict[int, Tensor]:
        """Return which KV heads are edited: {layer: bool (H,)}, for every layer of the bank."""
        return {layer: weights > 0 for layer, weights in self.head_weights().items()}

    def head_weights(self) -> dict[int, Tensor]:
        """Return how much the KV heads are edited: {layer: (H,) in [0, 1]}, for every layer."""
        return HeadFilter.parse(self.heads).weights(self.layers)

    def operators(self) -> dict[int, KeyOperator]:
        """Return {layer: operator}; layers of which no head is edited are absent."""
        return {
            layer: self._operator(layer, weights)
            for layer, weights in self.head_weights().items()
            if weights.any()
        }

    def ranks(self, layer: int) -> Tensor:
        """Return the rank of every KV head of a layer, whether it is edited or not: int (H,)."""
        return self._ranks(self.layers[layer].spectrum)

    def _ranks(self, spectrum: Tensor) -> Tensor:
        if self.rank is not None:
            heads, head_dim = spectrum.shape
            return torch.full((heads,), min(self.rank, head_dim))
        assert self.energy is not None
        return rank_for_energy(spectrum, self.energy)

    def _operator(self, layer: int, head_weights: Tensor) -> KeyOperator:
        learned = self.layers[layer]
        n_kv_heads, head_dim, _ = learned.basis.shape
        each, kept = head_weights.unsqueeze(-1), head_weights > 0
        if self.method == "scaling":
            basis = torch.eye(head_dim).expand(n_kv_heads, -1, -1).contiguous()
            return KeyOperator(basis, each.expand(-1, head_dim).contiguous())
        basis = learned.basis
        if self.method == "random":
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + layer)
            basis = torch.linalg.qr(torch.randn(basis.shape, generator=generator)).Q
        elif self.heads == "weighed" and learned.weights is not None:
            used = max(learned.weights.any(0).nonzero().flatten().tolist(), default=0) + 1
            basis, weights = basis[..., :used], learned.weights[:, :used]
            return KeyOperator(basis.float().contiguous(), weights.contiguous())
        ranks = self.ranks(layer)
        width = int(ranks[kept].max())
        basis, weights = basis[..., :width], (torch.arange(width) < ranks.unsqueeze(-1)) * each
        if self.negative_gain and self.method == "seka":
            first = self._ranks(learned.negative_spectrum)
            start = int(first[kept].min())
            weak = (torch.arange(start, head_dim) >= first.unsqueeze(-1)) * each
            basis = torch.cat([basis, learned.negative_basis[..., start:]], dim=-1)
            weights = torch.cat([weights, self.negative_gain * weak], dim=-1)
        return KeyOperator(basis.float().contiguous(), weights.contiguous())

    def digest(self) -> str:
        """Return a short digest of what was learned and of the settings, not of the evidence."""
        bare = replace(self.fingerprint, name="")
        content = replace(self, fingerprint=bare, gain_evidence={}, version="")
        return hashlib.sha256(content._serialised()).hexdigest()[:16]

    def check(self, model: Fingerprint) -> None:
        """Raise BankMismatchError, saying what differs, unless the bank was learned on `model`."""
        if differences := self.fingerprint.differences(model):
            raise BankMismatchError(
                f"the bank was learned on {self.fingerprint.name} and does not fit {model.name}: "
                f"{', '.join(differences)}; learn a bank on this model"
            )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Return the path of the file written; an interrupted call leaves an old file as it was."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, self._serialised())
        return path

    def _serialised(self) -> bytes:
        tensors = {
            f"layers.{layer}.{entry.name}": found.contiguous()
            for layer, learned in self.layers.items()
            for entry in fields(LayerSubspaces)
            if (found := getattr(learned, entry.name)) is not None
        }
        described = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name != "layers"
        }
        described["fingerprint"] = asdict(self.fingerprint)
        text = json.dumps(described, sort_keys=True, ensure_ascii=False)
        return save(tensors, metadata={_METADATA_KEY: text})

    @classmethod
    def from_pretrained(cls, source: str | Path, *, expert: str | None = None) -> "Bank":
        """Return the bank in a folder, in a file, or in a repository of the Hugging Face hub.

        Of several experts it is the one named `expert`.
        """
        path = locate(source, FILE_NAME if expert is None else f"experts/{expert}/{FILE_NAME}")
        tensors, described = _read(path)
        version = described.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise BankError(
                f"{path} has format version {version}, and seka-rag {__version__} reads "
                f"{FORMAT_VERSION}: upgrade seka-rag or learn the bank again"
            )
        try:
            model = Fingerprint(**cast(dict[str, object], described.pop("fingerprint")))  # type: ignore[arg-type]
            return cls(layers=_layers(tensors, model), fingerprint=model, **described)  # type: ignore[arg-type]
        except BankError as error:
            raise BankError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise BankError(f"{path} is damaged ({error}): copy it or learn it again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise BankError(
            f"{path} cannot be read ({error}): it is truncated or no safetensors file; copy it "
            "again or learn the bank again"
        ) from error
    try:
        described = json.loads(metadata[_METADATA_KEY])
    except (KeyError, ValueError):
        described = None
    if not isinstance(described, dict):
        raise BankError(
            f"{path} is a safetensors file but not a bank: it does not say {_METADATA_KEY!r} in "
            "its metadata; learn a bank on this model"
        )
    return tensors, described


def _layers(tensors: Mapping[str, Tensor], model: Fingerprint) -> dict[int, LayerSubspaces]:
    heads, head_dim = model.n_kv_heads, model.head_dim
    shapes = {
        "basis": (heads, head_dim, head_dim),
        "spectrum": (heads, head_dim),
        "negative_basis": (heads, head_dim, head_dim),
        "negative_spectrum": (heads, head_dim),
        "key_shift": (heads,),
    }
    optional: dict[str, tuple[int | None, ...]] = {
        "discrimination": (heads,),
        "weights": (heads, head_dim),
        "gate": (None, 2),  # the number of query heads is not in the fingerprint
        "gate_bias": (1,),
        "focus": (heads, 2),
    }
    numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
    layers = {}
    for layer in numbers:
        parts = {name: tensors[f"layers.{layer}.{name}"] for name in shapes}
        parts |= {
            name: found
            for name in optional
            if (found := tensors.get(f"layers.{layer}.{name}")) is not None
        }
        for name, found in parts.items():
            shape = optional.get(name) or shapes[name]
            fits = len(found.shape) == len(shape) and all(
                wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
            )
            if not fits or not found.isfinite().all():
                raise BankError(
                    f"layer {layer} has a {name} of shape {tuple(found.shape)} where finite "
                    f"numbers of shape {shape} belong: learn the bank again"
                )
        layers[layer] = LayerSubspaces(**{name: part.float() for name, part in parts.items()})
    return layers
