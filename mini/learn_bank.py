"""Learn the bank that ships with mini, weigh its directions, and choose its gain on `val` alone.

    python -m mini.learn_bank --data DATA [--model FOLDER] --out FOLDER

The directions are those of the package's triplets; their weights are found on `mini.highlights`, in the words of
training. The gain: the greatest mean of PS (counterfact) and gold (conflicts) among
those at which neither locality nor absent loses more than 5 points; wrong is looked at, not bounded.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mini import facts, highlights
from seka_rag import SteeredModel, builtin_triplets, learn, weigh
from seka_rag.evaluation import conflicts, counterfact
from seka_rag.evaluation.results import Row

GAINS = (0.3, 0.5, 0.7, 0.75, 0.8, 0.85, 1.0, 1.2, 1.5)
MAX_LOSS = 0.05


def scan(
    model: SteeredModel,
    data: Path,
    *,
    rows: int,
    cases: int,
    gains: Sequence[float] = GAINS,
) -> list[dict[str, float]]:
    """Return all rates on val, {rate: value} and the gain, for each gain; a gain of 0 is plain."""
    first = counterfact.run(model, data, limit=rows, methods=["seka"], gains=gains, batch_size=256)
    second = conflicts.run(model, data, cases=cases, methods=["seka"], gains=gains, batch_size=128)
    return [
        {"gain": one.gain, **values(one), **values(other)}
        for one, other in zip(first.rows, second.rows, strict=True)
    ]


def values(row: Row) -> dict[str, float]:
    return {name: round(rate.value, 4) for name, rate in row.rates.items()}


def helped(rates: Mapping[str, float]) -> float:
    """Return the mean of PS and gold, in [0, 1]."""
    return (rates["ps"] + rates["gold"]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn, weigh and tune the bank of mini.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder (default: the embedded mini)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bank")
    parser.add_argument("--situations", type=int, default=1500, help="five examples each")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--per-step", type=int, default=48, help="examples of each kind")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="1024 is faster on a CPU")
    parser.add_argument("--rows", type=int, default=500, help="CounterFact rows of a scan")
    parser.add_argument("--cases", type=int, default=300, help="conflicts of each kind of a scan")
    parser.add_argument("--json", type=Path, help="where to write the scan")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else None
    loaded = SteeredModel.from_pretrained(
        options.model, None, dtype=torch.float32, device_map=device
    )
    learned = learn(loaded, builtin_triplets())
    taught = highlights.examples(facts.load(options.data), options.situations)
    print(f"{len(taught)} examples, {sum(one.related for one in taught)} related", flush=True)
    bank = weigh(
        loaded,
        learned,
        taught,
        steps=options.steps,
        per_step=options.per_step,
        batch_tokens=options.batch_tokens,
        progress=lambda step, steps: print(f"step {step} of {steps}", flush=True),
    )
    bank.save_pretrained(options.out)  # whatever becomes of the scan

    sizes = {"rows": options.rows, "cases": options.cases}
    plain = scan(loaded.with_bank(bank), options.data, gains=[0.0], **sizes)[0]
    print("plain", plain)
    curve = scan(loaded.with_bank(bank), options.data, **sizes)
    for rates in curve:
        print({name: rate for name, rate in rates.items() if "top1" not in name}, flush=True)
    within = [
        rates
        for rates in curve
        if all(rates[name] >= plain[name] - MAX_LOSS for name in ("locality", "absent"))
    ]
    chosen = max(within, key=helped)
    evidence = {
        "split": "val",
        "rule": f"greatest mean(PS, gold), locality and absent within {MAX_LOSS}",
        "plain": plain,
        "steered": chosen,
        "gains": list(GAINS),
        "command": shlex.join(["python", "-m", "mini.learn_bank", *sys.argv[1:]]),
        **sizes,
    }
    tuned = bank.replace(gain=chosen["gain"], gain_evidence=evidence)
    print("chosen", chosen)
    print("written", tuned.save_pretrained(options.out))
    if options.json:
        options.json.write_text(json.dumps({"plain": plain, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    main()
