"""Results as plain data: rates with their intervals, and the settings that produced them."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from seka_rag import __version__
from seka_rag.bank import Bank
from seka_rag.errors import DataError
from seka_rag.experts import as_experts
from seka_rag.steering import SteeredModel


@dataclass(frozen=True)
class Rate:
    """A share of `n` cases, in [0, 1], with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Rate":
        """Return the share of hits; not a number where there are no cases."""
        found = list(hits)
        n, z = len(found), 1.96
        if n == 0:
            return cls(math.nan, math.nan, math.nan, 0)
        share = sum(found) / n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half), n)


@dataclass(frozen=True)
class Row:
    """The rates of one method at one gain."""

    method: str
    gain: float
    rates: Mapping[str, Rate]


@dataclass(frozen=True)
class Result:
    """What a task found, ready for JSON."""

    task: str
    settings: Mapping[str, object]
    counts: Mapping[str, int]  # rows used, and left out by reason
    rows: tuple[Row, ...]

    def row(self, method: str, gain: float = 0.0) -> Row:
        """Return the row of one method at one gain."""
        for row in self.rows:
            if row.method == method and math.isclose(row.gain, gain, abs_tol=1e-9):
                return row
        raise DataError(f"the result has no row for {method} at gain {gain:g}: run it again")

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
                    row["gain"],
                    {name: Rate(**rate) for name, rate in row["rates"].items()},
                )
                for row in found["rows"]
            )
            return cls(found["task"], found["settings"], found["counts"], rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is no result of an evaluation ({error!r}): write one with "
                "`seka-rag eval … --json FILE`"
            ) from error

    def table(self) -> str:
        """Return the rates as lines of text, one for each method and gain, in per cent."""
        names = list(self.rows[0].rates) if self.rows else []
        width = max((len(name) for name in names), default=0) + 2
        lines = ["method    gain" + "".join(name.rjust(width) for name in names)]
        for row in self.rows:
            gain = f"{row.gain:g}" if row.gain else "-"
            rates = "".join(f"{100 * row.rates[name].value:.1f}".rjust(width) for name in names)
            lines.append(f"{row.method:<9}{gain:>5}{rates}")
        return "\n".join(lines)


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


def digest_of(case_ids: Sequence[int]) -> str:
    """Return a short digest of which rows were used, in order."""
    return hashlib.sha256(json.dumps(list(case_ids)).encode()).hexdigest()[:16]
