"""Learn the bank that ships with mini, on `edit`, and choose its settings and gain on `val` alone.

    python -m mini.learn_bank --data DATA [--model FOLDER] --out FOLDER

A triplet's context is one of CounterFact's false facts and one about another subject, in either
order; its questions are the fact's own prompt and a third row's.

The knee. At every gain of every setting, help is the mean of PS (counterfact) and gold (conflicts),
and unharmed the mean of locality, absent and wrong. Chosen is the greatest help + unharmed, among
settings whose curve reaches ES 0.95 with PS 0.85 at some gain, and gains that raise gold by 0.33
or more (0.30 is promised; val is a sample); where nothing does, among those that come nearest.
"""

import argparse
import json
import random
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from seka_rag import Bank, SteeredModel, Triplet, grounding_triplet, learn
from seka_rag.evaluation import conflicts, counterfact
from seka_rag.evaluation.data import Edit, read_counterfact
from seka_rag.evaluation.results import Row

SPANS: tuple[dict[str, float | None], ...] = (
    {"rank": 1, "energy": None},
    {"rank": None, "energy": 0.8},
    {"rank": None, "energy": 0.9},
)
HEADS = ("quantile:0.75", "quantile:0.5", "discrimination:top:6", "discrimination:top:10")
GAINS = (0.3, 0.45, 0.6, 0.8, 1.0, 1.5, 2.0)  # beyond, harm only grows
GOLD = 0.33


def triplets(edits: Sequence[Edit], n: int, rng: random.Random) -> list[Triplet]:
    """Return n triplets over different subjects."""
    rows = [edit for edit in edits if not edit.names_its_answer()]
    found: list[Triplet] = []
    for edit in rng.sample(rows, len(rows)):
        other, third = rng.sample(rows, 2)
        fact, beside = (f"{row.prompt} {row.target_new}." for row in (edit, other))
        texts = (beside, third.prompt, third.subject)
        if edit.subject in "".join(texts) or edit.target_new in f"{edit.prompt} {beside}":
            continue
        context = " ".join(rng.sample([fact, beside], 2))
        found.append(grounding_triplet(context, edit.prompt, third.prompt, edit.target_new))
        if len(found) == n:
            break
    return found


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


def shortfall(curve: Sequence[Mapping[str, float]]) -> float:
    """Return how far a curve stays from ES 0.95 with PS 0.85; 0 where it reaches both at once."""
    return min(max(0.0, 0.95 - rates["es"]) + max(0.0, 0.85 - rates["ps"]) for rates in curve)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn and tune the bank of mini.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder (default: the embedded mini)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bank")
    parser.add_argument("--triplets", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500, help="CounterFact rows of a scan")
    parser.add_argument("--cases", type=int, default=300, help="conflicts of each kind of a scan")
    parser.add_argument("--json", type=Path, help="where to write the whole scan")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else None
    loaded = SteeredModel.from_pretrained(options.model, dtype=torch.float32, device_map=device)
    edits = read_counterfact(options.data, "edit")
    taught = triplets(edits, options.triplets, random.Random(0))
    learned = learn(loaded, taught, rank=1, energy=None)
    print(f"learned on {learned.n_triplets} triplets, {learned.n_skipped} skipped")

    sizes = {"rows": options.rows, "cases": options.cases}
    model = loaded.with_bank(learned)
    plain = scan(model, options.data, gains=[0.0], **sizes)[0]
    print("plain", plain)
    scanned: list[tuple[Bank, list[dict[str, float]]]] = []
    for span in SPANS:
        for heads in HEADS:
            bank = learned.replace(heads=heads, **span)  # type: ignore[arg-type]
            curve = scan(model.with_bank(bank), options.data, **sizes)
            scanned.append((bank, curve))
            print(span, heads, f"short of ES and PS by {shortfall(curve):.3f}", flush=True)
            for rates in curve:
                print("   ", {name: rate for name, rate in rates.items() if "top1" not in name})

    nearest = min(shortfall(curve) for _, curve in scanned)
    points = [
        (bank, rates) for bank, curve in scanned if shortfall(curve) <= nearest for rates in curve
    ]
    most = max(rates["gold"] for _, rates in points)
    enough = min(plain["gold"] + GOLD, most)
    bank, knee = max(
        (point for point in points if point[1]["gold"] >= enough),
        key=lambda point: balance(point[1]),
    )
    evidence = {
        "split": "val",
        "rule": "greatest mean(PS, gold) + mean(locality, absent, wrong)",
        "plain": plain,
        "steered": knee,
        "gains": list(GAINS),
        "command": shlex.join(["python", "-m", "mini.learn_bank", *sys.argv[1:]]),
        **sizes,
    }
    bank = bank.replace(gain=knee["gain"], gain_evidence=evidence)
    print("chosen", bank.rank, bank.energy, bank.heads, knee)
    print("written", bank.save_pretrained(options.out))
    if options.json:
        whole = [
            {"rank": b.rank, "energy": b.energy, "heads": b.heads, "curve": curve}
            for b, curve in scanned
        ]
        options.json.write_text(json.dumps({"plain": plain, "settings": whole}, indent=1) + "\n")


if __name__ == "__main__":
    main()
