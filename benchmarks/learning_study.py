"""How a bank depends on what it is learned from and how: CounterFact `val`, the embedded model.

    python benchmarks/learning_study.py --data DATA --json FILE

One thing is varied at a time, the others as by default, over several seeds: the number of triplets,
the energy γ, the heads, the method. Each bank is judged at several gains, by ES, PS and locality
and by gold, absent and wrong; of a curve, what counts is the help at equal harm.
"""

import argparse
import json
import platform
import random
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from seka_rag import Bank, SteeredModel, builtin_triplets, learn
from seka_rag.evaluation import conflicts, counterfact

SIZES = (25, 50, 100, 200, 400, 800)
ENERGIES = (0.7, 0.8, 0.9, 0.95, 0.99)
HEADS = (
    "quantile:0.25", "quantile:0.5", "quantile:0.75", "quantile:0.9", "discrimination:quantile:0.5",
    "discrimination:quantile:0.75", "discrimination:quantile:0.9", "smooth", "all",
)  # fmt: skip
METHODS = ("seka", "differential", "scaling")
CHOSEN = ("quantile:0.75", "discrimination:quantile:0.75")  # heads of the other comparisons
GAINS = (0.2, 0.4, 0.8, 1.6)


def judged(model: SteeredModel, bank: Bank, options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the rates of a bank at every gain."""
    under = model.with_bank(bank)
    method = "scaling" if bank.method == "scaling" else "seka"
    given = {"methods": [method], "gains": GAINS}
    first = counterfact.run(under, options.data, limit=options.rows, batch_size=256, **given)
    second = conflicts.run(under, options.data, cases=options.cases, batch_size=128, **given)
    return [
        {"gain": one.gain} | {name: round(rate.value, 4) for name, rate in rates.items()}
        for one, other in zip(first.rows, second.rows, strict=True)
        for rates in [{**one.rates, **other.rates}]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else None
    model = SteeredModel.from_pretrained(bank=None)
    if device:
        model.model.to(device)
    every = builtin_triplets()
    rows: list[dict[str, object]] = []

    def note(varied: str, value: object, seed: int, bank: Bank) -> None:
        curve = judged(model, bank, options)
        rows.append(
            {"varied": varied, "value": value, "seed": seed, "heads": bank.heads, "curve": curve}
        )
        print(varied, value, "seed", seed, bank.heads, curve[1], flush=True)

    for seed in range(options.seeds):
        rng = random.Random(seed)
        for size in SIZES:
            # Beyond what there is, all of them.
            bank = learn(model, rng.sample(every, min(size, len(every))))
            for heads in CHOSEN:
                note("triplets", min(size, len(every)), seed, bank.replace(heads=heads))
    learned = {method: learn(model, every, method=method) for method in METHODS}
    for heads in HEADS:
        for method, bank in learned.items():
            note("heads", f"{method} {heads}", 0, bank.replace(heads=heads))
    for energy in ENERGIES:
        for heads in CHOSEN:
            note("energy", energy, 0, learned["seka"].replace(energy=energy, heads=heads))
    found = {
        "command": shlex.join(["python", "benchmarks/learning_study.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
