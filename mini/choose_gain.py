"""Choose one gain for all of mini's experts, on `val` alone, and write it into them.

    python -m mini.choose_gain FOLDER --data DATA

The gain: the greatest mean of PS (counterfact), gold (conflicts), the mean over positions and obeyed orders, in the
words of mini's training, among those at which neither locality nor absent loses more than 5 points, and wrong no more than 8.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from seka_rag import SteeredModel
from seka_rag.evaluation import conflicts, counterfact, instructions, positions
from seka_rag.experts import Experts

GAINS = (0.7, 1.0, 1.4, 2.0)
MAX_LOSS = {"locality": 0.05, "absent": 0.05, "wrong": 0.08}
HELP = ("ps", "gold", "mean", "complied")
_ORDERS = Path(__file__).parent / "orders.txt"


def scan(
    model: SteeredModel, data: Path, *, cases: int, gains: Sequence[float]
) -> list[dict[str, float]]:
    """Return the rates on val, {rate: value} and the gain, for each gain; a gain of 0 is plain."""
    batch = 128 if model.model.device.type == "cuda" else 16
    every = {"methods": ["seka"], "gains": gains, "batch_size": batch}
    results = (
        counterfact.run(model, data, limit=cases, **every),
        conflicts.run(model, data, cases=cases, **every),
        positions.run(model, data, cases=max(1, cases // 6), **every),
        instructions.run(model, data, cases=max(16, cases), orders=_ORDERS, **every),
    )
    wanted = ("es", *HELP, *MAX_LOSS, "worst")
    return [
        {"gain": rows[0].gain}
        | {name: rate.value for row in rows for name, rate in row.rates.items() if name in wanted}
        for rows in zip(*(result.rows for result in results), strict=True)
    ]


def choose(plain: Mapping[str, float], curve: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the point of the curve with the greatest help within the bounds."""
    within = [
        point
        for point in curve
        if all(point[name] >= plain[name] - loss for name, loss in MAX_LOSS.items())
    ]
    if not within:
        raise SystemExit("no gain keeps the bounds")
    return max(within, key=lambda point: fmean(point[name] for name in HELP))


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose one gain for all experts.")
    parser.add_argument("experts", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder (default: the embedded mini)")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--json", type=Path, help="where to write the scan")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else None
    experts = Experts.from_pretrained(options.experts)
    model = SteeredModel.from_pretrained(
        options.model, experts, dtype=torch.float32, device_map=device
    )
    points = scan(model, options.data, cases=options.cases, gains=(0.0, *GAINS))
    for point in points:
        print({name: round(value, 3) for name, value in point.items()}, flush=True)
    plain, *curve = points
    chosen = choose(plain, curve)
    evidence = {
        "split": "val",
        "rule": f"greatest mean of {', '.join(HELP)}, within {MAX_LOSS}",
        "plain": plain,
        "steered": chosen,
        "gains": list(GAINS),
        "cases": options.cases,
        "command": shlex.join(["python", "-m", "mini.choose_gain", *sys.argv[1:]]),
    }
    print("chosen", chosen)
    print(
        "written",
        experts.replace(gain=chosen["gain"], gain_evidence=evidence).save_pretrained(
            options.experts
        ),
    )
    if options.json:
        options.json.write_text(json.dumps({"plain": plain, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    main()
