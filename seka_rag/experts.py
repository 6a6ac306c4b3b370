"""Experts: the banks of one model, each learned for a task and used for a kind of highlight.

A folder of experts holds one bank a folder, `experts/NAME/seka_bank.safetensors`: adding one leaves
the bytes of the others alone. A bank by itself is one expert, which serves every kind.

    H  KV heads      D  head_dim      M  experts      r  columns of the widest      K  directions
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, Unpack, get_args

import torch
from torch import Tensor

from seka_rag.bank import FILE_NAME, Bank, Fingerprint, KeyOperator, Settings
from seka_rag.errors import BankError
from seka_rag.files import on_hub
from seka_rag.heads import LayerSubspaces
from seka_rag.highlight import Kind
from seka_rag.routing import Edit, Gate, Mode, Route, Score

FOLDER = "experts"
DIRECTIONS = 5  # K, or the smallest rank where that is less
_ALIGNED = 8  # columns: matrices of 16-bit numbers whose rows begin every 16 bytes are fast on GPUs

Choice: TypeAlias = Literal["auto"] | Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Experts:
    """Banks of the same layers of one model, by name.

    Banks of different models or layers, and none at all, are a BankError.
    """

    banks: Mapping[str, Bank]

    def __post_init__(self) -> None:
        if not self.banks:
            raise BankError("there are no experts: learn one with `seka-rag learn --expert NAME`")
        (first, reference), *others = self.banks.items()
        for name, bank in others:
            if differences := reference.fingerprint.differences(bank.fingerprint):
                raise BankError(
                    f"the experts {first} and {name} were learned on different models: "
                    f"{', '.join(differences)}; learn one of them again"
                )
            if set(bank.layers) != set(reference.layers):
                raise BankError(
                    f"the expert {first} has layers {_listed(reference)} and {name} has layers "
                    f"{_listed(bank)}: learn both for the same"
                )

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Experts":
        """Return the experts in a folder, or in a repository of the Hugging Face hub.

        A file, a folder or a repository that holds one bank alone is the expert "default".
        """
        return as_experts(load(source))

    def save_pretrained(self, folder: str | Path) -> list[Path]:
        """Return the paths of the files written, one for each expert; others are left alone."""
        return [save_expert(bank, folder, name) for name, bank in self.banks.items()]

    def replace(self, **settings: Unpack[Settings]) -> "Experts":
        """Return the experts, each under other settings, as `Bank.replace`."""
        return Experts({name: bank.replace(**settings) for name, bank in self.banks.items()})

    def check(self, model: Fingerprint) -> None:
        """Raise BankMismatchError unless they were learned on `model`."""
        for bank in self.banks.values():
            bank.check(model)

    @property
    def gain(self) -> float:
        """The gain of a highlight that has none of its own: that of the first expert.

        The others are edited in proportion, so that each has its own gain there.
        """
        return next(iter(self.banks.values())).gain

    def chosen(self, choice: Choice = "auto") -> dict[str, tuple[str, ...]]:
        """Return the experts that serve each kind of highlight.

        "auto" takes those that were learned for the kind, and all where none was; a list takes
        these for every kind; a mapping names them kind by kind. What is not there is a BankError.
        """
        kinds = get_args(Kind)
        if isinstance(choice, str):
            if choice != "auto":
                raise BankError(f'experts is {choice!r}: give "auto", a list of names or a mapping')
            own = {
                kind: tuple(name for name, bank in self.banks.items() if bank.kind == kind)
                for kind in kinds
            }
            return {kind: names or tuple(self.banks) for kind, names in own.items()}
        if isinstance(choice, Mapping):
            if unknown := set(choice) - set(kinds):
                raise BankError(f"there is no kind {_joined(unknown)}: use {_joined(kinds)}")
            found = {kind: tuple(choice.get(kind, ())) for kind in kinds}
        else:
            found = {kind: tuple(choice) for kind in kinds}
        if unknown := {name for names in found.values() for name in names} - set(self.banks):
            raise BankError(
                f"there is no expert {_joined(unknown)}: the bank has {_joined(self.banks)}"
            )
        if not any(found.values()):
            raise BankError(f"no expert is chosen: name some of {_joined(self.banks)}")
        return found

    def edit(
        self,
        choice: Choice = "auto",
        *,
        score: Score = "energy",
        abstain: bool = True,
        directions: int | None = None,
    ) -> Edit:
        """Return what the chosen experts do to keys, and what routes between them.

        Without `abstain`, gates stay open. `directions` is K; more than a rank of an expert is a
        BankError. A single expert without a gate needs no routing.
        """
        if score not in get_args(Score):
            raise BankError(f"the score is {score!r}: use one of {_joined(get_args(Score))}")
        by_kind = self.chosen(choice)
        names = [name for name in self.banks if any(name in each for each in by_kind.values())]
        used = [self.banks[name] for name in names]
        operators = _side_by_side(used, self.gain)
        serves = {kind: [name in each for name in names] for kind, each in by_kind.items()}
        gated = abstain and any(bank.gated for bank in used)
        if not gated and len(used) == 1 and all(map(all, serves.values())):
            return Edit(operators, {}, serves, score)
        k = _directions(dict(zip(names, used, strict=True)), directions)
        routes = {layer: _route(used, layer, k, gated=gated) for layer in operators}
        return Edit(operators, routes, serves, score)


@dataclass(frozen=True)
class Routing:
    """How a prompt chooses among experts. The defaults are those that were measured best.

    `experts`: "auto" by the kind of highlight, a list of names, or {kind: names}. `mode`: "inline"
    in the prompt's own pass, or "two_pass" from an unsteered pass before it, as the paper does;
    chunked prefill always takes two. `score`: "signed" as in the paper, or "energy", which no sign
    turns round. Without `abstain` the gates of the experts stay open. `directions` is K, at least 1
    and no more than any rank; 5, or the smallest rank if that is less, unless given.
    """

    experts: Choice = "auto"
    mode: Mode = "inline"
    score: Score = "energy"
    abstain: bool = True
    directions: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise BankError(f'routing is {self.mode!r}: use "inline" or "two_pass"')

    def edit(self, experts: Experts) -> Edit:
        """Return what the experts do under this routing."""
        return experts.edit(
            self.experts, score=self.score, abstain=self.abstain, directions=self.directions
        )


def as_experts(found: Bank | Experts) -> Experts:
    """Return the experts; a bank by itself is the expert "default"."""
    return found if isinstance(found, Experts) else Experts({"default": found})


def load(source: str | Path) -> Bank | Experts:
    """Return what is in a folder, a file or a hub repository: experts, or one bank."""
    names = expert_names(source)
    if not names:
        return Bank.from_pretrained(source)
    return Experts({name: Bank.from_pretrained(source, expert=name) for name in names})


def expert_names(source: str | Path) -> list[str]:
    """Return the names of the experts in a folder or a hub repository; none where there is none."""
    path = Path(source).expanduser()
    if path.exists():
        return sorted(file.parent.name for file in path.glob(f"{FOLDER}/*/{FILE_NAME}"))
    files = on_hub(source) if isinstance(source, str) else ()
    found = (re.fullmatch(rf"{FOLDER}/([^/]+)/{FILE_NAME}", name) for name in files)
    return sorted(match[1] for match in found if match)


def save_expert(bank: Bank, folder: str | Path, name: str) -> Path:
    """Return the path of the file written for the expert `name`; the others are not touched.

    A bank that does not fit the others in the folder is a BankError, and nothing is written.
    """
    check_name(name)
    if others := [other for other in expert_names(folder) if other != name]:
        Experts({others[0]: Bank.from_pretrained(folder, expert=others[0]), name: bank})
    return bank.save_pretrained(Path(folder) / FOLDER / name)


def check_name(name: str) -> None:
    """Raise BankError unless the name can be that of a folder everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise BankError(f"{name!r} cannot be an expert's name: use letters, digits, - and _")


def _side_by_side(banks: Sequence[Bank], gain: float) -> dict[int, KeyOperator]:
    """Return {layer: the columns of all experts, each as wide as the widest}."""
    every = [bank.operators() for bank in banks]
    found = {}
    for layer in sorted(set().union(*every)):
        present = [operators.get(layer) for operators in every]
        widest = max(operator.basis.shape[-1] for operator in present if operator is not None)
        width = -(-widest // _ALIGNED) * _ALIGNED
        heads, size, _ = banks[0].layers[layer].basis.shape
        basis = torch.zeros(heads, len(banks), size, width)
        weights = torch.zeros(heads, len(banks), width)
        for m, (operator, bank) in enumerate(zip(present, banks, strict=True)):
            if operator is not None:
                columns = operator.basis.shape[-1]
                basis[:, m, :, :columns] = operator.basis
                weights[:, m, :columns] = operator.weights * (bank.gain / gain if gain else 1.0)
        found[layer] = KeyOperator(basis.transpose(1, 2).flatten(2), weights.flatten(1))
    return found


def _directions(banks: Mapping[str, Bank], wanted: int | None) -> int:
    """Return K, which no expert's rank at a head that it edits may fall short of."""
    least = {
        name: min(
            int(bank.ranks(layer)[kept].min())
            for layer, kept in bank.selected().items()
            if kept.any()
        )
        for name, bank in banks.items()
    }
    name = min(least, key=lambda each: least[each])
    if wanted is None:
        return min(DIRECTIONS, least[name])
    if not 1 <= wanted <= least[name]:
        raise BankError(
            f"{wanted} directions are asked, and the expert {name} has a head of rank "
            f"{least[name]}: use 1 to {least[name]}, or a larger energy or rank"
        )
    return wanted


def _route(banks: Sequence[Bank], layer: int, k: int, *, gated: bool) -> Route:
    learned = [bank.layers[layer] for bank in banks]
    edited = torch.stack([bank.selected()[layer] for bank in banks], dim=1)
    return Route.of(
        torch.stack([found.basis[..., :k] for found in learned], dim=1),
        torch.stack([found.spectrum[..., :k] for found in learned], dim=1),
        edited,
        _gates(learned, edited.shape[0]) if gated else None,
    )


def _gates(learned: Sequence[LayerSubspaces], n_kv_heads: int) -> Gate:
    """Return the experts' gates: one without is always open, and no token counts more in it."""
    shape = next(found.gate.shape for found in learned if found.gate is not None)

    def stacked(parts: Sequence[Tensor | None], otherwise: Tensor) -> Tensor:
        return torch.stack([otherwise if part is None else part for part in parts])

    weights = stacked([found.gate for found in learned], torch.zeros(shape))  # (M, Q, 2)
    return Gate(
        weights.mT.flatten(1).mT.contiguous(),
        stacked([found.gate_bias for found in learned], torch.tensor([torch.inf])).squeeze(1),
        stacked([found.focus for found in learned], torch.zeros(n_kv_heads, 2)),
    )


def _listed(bank: Bank) -> str:
    return ", ".join(map(str, sorted(bank.layers)))


def _joined(names: Mapping[str, object] | Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names))
