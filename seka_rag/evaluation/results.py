"""Results as plain data: figures with their intervals, and the settings that produced them."""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seka_rag import __version__
from seka_rag.bank import Bank
from seka_rag.errors import DataError
from seka_rag.experts import as_experts
from seka_rag.steering import SteeredModel

_RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """The mean of `n` scores in [0, 1], with its 95 % interval: percentiles of 1,000 bootstraps.

    Where all scores are the same, so are all resamples: the interval is then too narrow.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, scores: Iterable[float]) -> "Figure":
        """Return the mean of the scores; not a number where there are none."""
        found = np.fromiter(scores, dtype=float)
        if not len(found):
            return cls(math.nan, math.nan, math.nan, 0)
        levels, counts = np.unique(found, return_counts=True)
        drawn = np.random.default_rng(0).multinomial(len(found), counts / len(found), _RESAMPLES)
        low, high = np.percentile(drawn @ levels / len(found), (2.5, 97.5))
        mean = float(counts @ levels / len(found))
        # Rounding alone may put the mean outside.
        return cls(mean, min(mean, float(low)), max(mean, float(high)), len(found))


@dataclass(frozen=True)
class Row:
    """The figures of one method, as it was written."""

    method: str
    figures: Mapping[str, Figure]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by example

    @property
    def name(self) -> str:
        """The method without its strength: rows that share it are one curve."""
        return self.method.partition("@")[0]

    @property
    def strength(self) -> float | None:
        """The strength that was asked for; None where it is the method's own, if it has one."""
        _, at, strength = self.method.partition("@")
        return float(strength) if at else None


@dataclass(frozen=True)
class Look:
    """What the last token of a prompt attends to under one method, and what is written then.

    Attention is None where it cannot be told, or where other tokens are read.
    """

    answer: str
    attention: tuple[float, ...] | None = None  # share on each token, mean over layers and heads
    mass: float | None = None  # on all that is highlighted


@dataclass(frozen=True)
class Sample:
    """One prompt in full, as a report shows it."""

    example: str
    tokens: tuple[str, ...]  # as text; together they are the prompt as the model reads it
    highlighted: tuple[bool, ...]
    looks: Mapping[str, Look]  # by method


@dataclass(frozen=True)
class Result:
    """What a task found, ready for JSON."""

    task: str
    settings: Mapping[str, object]
    counts: Mapping[str, int]  # rows used, and left out by reason
    rows: tuple[Row, ...]
    samples: tuple[Sample, ...] = ()

    def row(self, method: str) -> Row:
        """Return the row of one method, as it was written."""
        for row in self.rows:
            if row.method == method:
                return row
        raise DataError(f"the result has no row for {method}: run it again")

    def to_dict(self) -> dict[str, object]:
        """Return the result as JSON's own types."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, beside the path and then in its place."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
            beside.write_text(text + "\n", encoding="utf-8")
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Return a result that was saved."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = tuple(
                Row(
                    row["method"],
                    {name: Figure(**figure) for name, figure in row["figures"].items()},
                    row["scores"],
                )
                for row in found["rows"]
            )
            samples = tuple(_sample(each) for each in found["samples"])
            return cls(found["task"], found["settings"], found["counts"], rows, samples)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is no result of an evaluation ({error!r}): write one with "
                "`seka-rag eval … --json FILE`"
            ) from error

    def table(self, width: int = 80) -> str:
        """Return the figures as lines of text, one for each method, in per cent.

        Columns that do not fit into `width` characters go into further tables below.
        """
        first = max(8, *(len(row.method) for row in self.rows)) if self.rows else 8
        names = list(dict.fromkeys(name for row in self.rows for name in row.figures))
        blocks: list[list[str]] = [[]]
        room = width - first
        for name in names:
            needed = _column(name)
            if needed > room and blocks[-1]:
                blocks.append([])
                room = width - first
            blocks[-1].append(name)
            room -= needed
        return "\n\n".join(self._block(block, first) for block in blocks)

    def _block(self, names: Sequence[str], first: int) -> str:
        lines = ["method".ljust(first) + "".join(name.rjust(_column(name)) for name in names)]
        for row in self.rows:
            cells = (_cell(row.figures.get(name)).rjust(_column(name)) for name in names)
            lines.append(row.method.ljust(first) + "".join(cells))
        return "\n".join(lines)


def _column(name: str) -> int:
    return max(len(name), 5) + 2


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None or figure.n == 0 else f"{100 * figure.value:.1f}"


def _sample(found: Mapping[str, Any]) -> Sample:
    looks = {
        method: Look(
            look["answer"],
            None if look["attention"] is None else tuple(look["attention"]),
            look["mass"],
        )
        for method, look in found["looks"].items()
    }
    return Sample(found["example"], tuple(found["tokens"]), tuple(found["highlighted"]), looks)


def describe(model: SteeredModel, *, command: str) -> dict[str, object]:
    """Return what it takes to run an evaluation again: model, bank, versions, machine, date."""
    device = model.model.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "model": Path(str(model.model.name_or_path)).name or type(model.model).__name__,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "experts": None
        if model.bank is None
        else {name: _described(bank) for name, bank in as_experts(model.bank).banks.items()},
        "routing": asdict(model.routing),
        "versions": {
            "python": platform.python_version(),
            "seka-rag": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "machine": gpu or f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _described(bank: Bank) -> dict[str, object]:
    return {
        "digest": bank.digest(),
        "kind": bank.kind,
        "method": bank.method,
        "energy": bank.energy,
        "rank": bank.rank,
        "heads": bank.heads,
        "kv_heads": sum(int(kept.sum()) for kept in bank.selected().values()),
        "gain": bank.gain,
        "negative_gain": bank.negative_gain,
    }
