"""How a bank depends on what it is learned from and how: CounterFact `val`, the embedded model.

    python benchmarks/learning_study.py --data DATA --json FILE [--workers 8]

One thing is varied at a time, the others as by default, over several seeds, each of which draws
its own triplets of the package's and its own rows: the number of triplets, the energy γ, the heads
and the method. Each bank is judged at several gains, by ES, PS and locality and by gold, absent
and wrong; of a curve, what counts is the help at equal harm. Every bank's curve is written to
FILE.part as soon as it is known.
"""

import argparse
import json
import platform
import random
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch

from seka_rag import Bank, SteeredModel, builtin_triplets, learn
from seka_rag.evaluation.conflicts import Conflicts
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.runner import run

SIZES = (25, 50, 100, 200, 450)
SIZE = 400  # of the other comparisons
ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.99)
HEADS = (
    "quantile:0.25", "quantile:0.5", "quantile:0.75", "quantile:0.9", "discrimination:quantile:0.5",
    "discrimination:quantile:0.75", "discrimination:quantile:0.9", "smooth", "all",
)  # fmt: skip
METHODS: tuple[Literal["seka", "differential", "scaling"], ...] = (
    "seka", "differential", "scaling",
)  # fmt: skip
CHOSEN = ("quantile:0.75", "discrimination:quantile:0.75")  # heads of the other comparisons
GAINS = (0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Job:
    """One bank to learn, and the settings under which it is judged."""

    method: Literal["seka", "differential", "scaling"]
    size: int
    seed: int
    settings: tuple[tuple[str, str, float], ...]  # what is varied, heads, energy


def jobs(seeds: int) -> Iterator[Job]:
    """Yield all that is to be learned, what takes longest first."""
    for seed in range(seeds):
        for method in METHODS:
            settings = [("heads", heads, 0.9) for heads in HEADS]
            if method == "seka":
                settings += [("energy", heads, e) for e in ENERGIES for heads in CHOSEN]
            yield Job(method, SIZE, seed, tuple(settings))
    for size in SIZES:
        for seed in range(seeds):
            yield Job("seka", size, seed, tuple(("triplets", heads, 0.9) for heads in CHOSEN))


@cache
def loaded() -> SteeredModel:
    """Return the embedded model, once a process."""
    torch.set_num_threads(1)  # many processes share the cores
    model = SteeredModel.from_pretrained(bank=None)
    model.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model


def judged(bank: Bank, seed: int, options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the figures of a bank without a highlight and at every gain."""
    under = loaded().with_bank(bank)
    method = "scaling" if bank.method == "scaling" else "seka"
    methods = ["none", *(f"{method}@{gain}" for gain in GAINS)]
    told = CounterFact(options.data, limit=options.rows, seed=seed)
    asked = Conflicts(options.data, cases=options.cases, seed=seed)
    first = run(under, told, methods, batch_size=256, seed=seed)
    second = run(under, asked, methods, batch_size=128, seed=seed)
    return [
        {"gain": one.strength or 0.0}
        | {
            name: round(figure.value, 4)
            for name, figure in {**one.figures, **other.figures}.items()
            if not name.startswith("memory")
        }
        for one, other in zip(first.rows, second.rows, strict=True)
    ]


def work(job: Job, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for each setting of a job."""
    triplets = random.Random(job.seed).sample(builtin_triplets(), job.size)
    learned = learn(loaded(), triplets, method=job.method)
    rows: list[dict[str, object]] = []
    for varied, heads, energy in job.settings:
        bank = learned.replace(heads=heads, energy=energy)
        told = {"varied": varied, "method": job.method, "heads": heads, "energy": energy}
        told |= {"triplets": job.size, "seed": job.seed}
        rows.append(told | {"curve": judged(bank, job.seed, options)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    began = time.perf_counter()
    part = options.json.with_suffix(".part")
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool, part.open("w") as file:
        for done in as_completed(pool.submit(work, job, options) for job in jobs(options.seeds)):
            rows += done.result()
            file.writelines(json.dumps(row) + "\n" for row in done.result())
            file.flush()
            print(f"{len(rows)} banks in {time.perf_counter() - began:.0f} s", flush=True)
    part.unlink()
    on_gpu = torch.cuda.is_available()
    found = {
        "command": shlex.join(["python", "benchmarks/learning_study.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
