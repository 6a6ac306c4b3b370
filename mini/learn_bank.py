"""Learn the bank that ships with mini, weigh its directions, and choose its gain on `val` alone.

    python -m mini.learn_bank --data DATA [--model FOLDER] --out FOLDER

The directions are those of the package's triplets; their weights are found on `mini.highlights`, whose subjects and
sentences are not those of the evaluation. The knee: at every gain, help is the mean of PS (counterfact) and gold
(conflicts), and unharmed the mean of locality, absent and wrong; chosen is the greatest help + unharmed.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mini import facts, highlights
from seka_rag import Bank, SteeredModel, builtin_triplets, learn, weigh
from seka_rag.evaluation import conflicts, counterfact
from seka_rag.evaluation.results import Row

GAINS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)


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


def balance(rates: Mapping[str, float]) -> float:
    """Return help + unharmed, in [0, 2]."""
    helped = (rates["ps"] + rates["gold"]) / 2
    return helped + (rates["locality"] + rates["absent"] + rates["wrong"]) / 3


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
    curves: dict[str, list[dict[str, float]]] = {}
    for heads, gains in ((bank.heads, GAINS), (learned.heads, (0.1, 0.2, 0.3, 0.45, 0.6, 1.0))):
        curves[heads] = scan(
            loaded.with_bank(bank.replace(heads=heads)), options.data, gains=gains, **sizes
        )
        for rates in curves[heads]:
            shown = {name: rate for name, rate in rates.items() if "top1" not in name}
            print(heads, shown, f"{balance(rates):.3f}", flush=True)
    knee = max(curves[bank.heads], key=balance)
    evidence = {
        "split": "val",
        "rule": "greatest mean(PS, gold) + mean(locality, absent, wrong)",
        "plain": plain,
        "steered": knee,
        "gains": list(GAINS),
        "command": shlex.join(["python", "-m", "mini.learn_bank", *sys.argv[1:]]),
        **sizes,
    }
    chosen: Bank = bank.replace(gain=knee["gain"], gain_evidence=evidence)
    print("chosen", knee)
    print("written", chosen.save_pretrained(options.out))
    if options.json:
        whole = [{"heads": heads, "curve": curve} for heads, curve in curves.items()]
        options.json.write_text(json.dumps({"plain": plain, "settings": whole}, indent=1) + "\n")


if __name__ == "__main__":
    main()
