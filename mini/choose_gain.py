"""Choose the gains of mini's experts, on `val` alone, and write them into the experts.

    python -m mini.choose_gain FOLDER --data DATA

One scan, two gains. Experts for passages take the greatest mean of PS (counterfact), gold (conflicts) and the mean
over positions; experts for instructions the most obeyed orders, in the words of mini's training. Only gains count at
which neither locality nor absent loses more than 5 points, and wrong no more than 8.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from seka_rag import SteeredModel
from seka_rag.evaluation.conflicts import Conflicts
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.instructions import Instructions
from seka_rag.evaluation.position_facts import PositionFacts
from seka_rag.evaluation.runner import run
from seka_rag.experts import Experts

GAINS = (0.7, 1.0, 1.4, 2.0)
MAX_LOSS = {"locality": 0.05, "absent": 0.05, "wrong": 0.08}
HELP = {"passage": ("ps", "gold", "mean"), "instruction": ("complied",)}
_ORDERS = Path(__file__).parent / "orders.txt"


def scan(
    model: SteeredModel, data: Path, *, cases: int, gains: Sequence[float]
) -> list[dict[str, float]]:
    """Return the figures on val, {name: value} and the gain, for each gain; a gain of 0 is plain."""
    batch = 128 if model.model.device.type == "cuda" else 16
    tasks = (
        CounterFact(data, limit=cases),
        Conflicts(data, cases=cases),
        PositionFacts(data, cases=max(1, cases // 6)),
        Instructions(data, cases=max(16, cases), orders=_ORDERS),
    )
    methods = [f"seka@{gain}" for gain in gains]
    results = [run(model, task, methods, batch_size=batch) for task in tasks]
    wanted = {"es", *HELP["passage"], *HELP["instruction"], *MAX_LOSS}
    points = []
    for gain, *rows in zip(gains, *(result.rows for result in results), strict=True):
        found = {name: figure.value for row in rows for name, figure in row.figures.items()}
        worst = min(value for name, value in found.items() if re.fullmatch(r"at_\d+", name))
        kept = {name: value for name, value in found.items() if name in wanted}
        points.append({"gain": gain} | kept | {"worst": worst})
    return points


def choose(
    plain: Mapping[str, float], curve: Sequence[Mapping[str, float]], help_by: Sequence[str]
) -> Mapping[str, float]:
    """Return the point of the curve with the greatest help within the bounds."""
    within = [
        point
        for point in curve
        if all(point[name] >= plain[name] - loss for name, loss in MAX_LOSS.items())
    ]
    if not within:
        raise SystemExit("no gain keeps the bounds")
    return max(within, key=lambda point: fmean(point[name] for name in help_by))


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose one gain for all experts.")
    parser.add_argument("experts", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder (default: the embedded mini)")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--json", type=Path, help="where to write the scan")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else None
    # Every expert at the gain that is asked for, whatever was found before.
    experts = Experts.from_pretrained(options.experts).replace(gain=1.0)
    model = SteeredModel.from_pretrained(
        options.model, experts, dtype=torch.float32, device_map=device
    )
    points = scan(model, options.data, cases=options.cases, gains=(0.0, *GAINS))
    for point in points:
        print({name: round(value, 3) for name, value in point.items()}, flush=True)
    plain, *curve = points
    chosen = {}
    for name, bank in experts.banks.items():
        point = choose(plain, curve, HELP[bank.kind])
        evidence = {
            "split": "val",
            "rule": f"greatest mean of {', '.join(HELP[bank.kind])}, within {MAX_LOSS}",
            "plain": plain,
            "steered": point,
            "gains": list(GAINS),
            "cases": options.cases,
            "command": shlex.join(["python", "-m", "mini.choose_gain", *sys.argv[1:]]),
        }
        chosen[name] = bank.replace(gain=point["gain"], gain_evidence=evidence)
        print(f"{name}: gain {point['gain']:g}")
    print("written", Experts(chosen).save_pretrained(options.experts))
    if options.json:
        options.json.write_text(json.dumps({"plain": plain, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    main()
