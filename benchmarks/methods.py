"""The table of methods: ours and every rival, on every task, each rival at its best strength.

    python benchmarks/methods.py --data DATA [--out benchmarks/results] [--device cuda] [--jobs 6]

On `val` every rival is tried at several strengths, and that is taken at which it helps most: the
mean of `ps`, `gold`, the positions' `mean` and `complied`, whatever it harms. The bank's gain was
chosen on `val` too, for help and harm (mini/choose_gain.py). Then everything is measured on
`train`, once. Tasks run side by side, each by `seka-rag eval`; a run that was stopped goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ORDERS = os.path.relpath(Path(__file__).parents[1] / "mini" / "orders.txt")
OURS = ("seka", "seka:override", "seka:grounding", "seka:instruction")
GRID = {
    "unweighed": (0.1, 0.2, 0.45, 0.85),
    "scaling": (0.1, 0.2, 0.45, 0.85),
    "random": (0.5, 1, 2, 4),
    "pasta": (0.3, 0.1, 0.03, 0.01),
    "pasta:all": (0.7, 0.5, 0.2, 0.05),
    "spotlight": (0.05, 0.1, 0.2, 0.35, 0.5),
    "spotlight:paper": (0.05, 0.1, 0.2, 0.35, 0.5),
    "spa": (1.4, 2, 3, 5),
    "cad": (0.5, 1, 2, 4),
}
HELP = ("ps", "gold", "mean", "complied")
Arguments = Mapping[str, Sequence[str]]  # of the tasks, by the name of the result

_MINIS = ["--orders", ORDERS]
TRIED: Arguments = {
    "counterfact": ["counterfact", "--limit", "200"],
    "conflicts": ["conflicts", "--limit", "100"],
    "position-facts": ["position-facts", "--limit", "12"],
    "orders": ["instructions", "--limit", "160", *_MINIS],
}
MEASURED: Arguments = {
    "counterfact": ["counterfact", "--limit", "1000", "--split", "train"],
    "conflicts": ["conflicts", "--limit", "1000", "--split", "train"],
    "position-facts": ["position-facts", "--limit", "50", "--split", "train"],
    "orders": ["instructions", "--limit", "320", "--split", "train", *_MINIS],
    "instructions": ["instructions", "--limit", "320", "--split", "train"],
    "dynamicqa": ["dynamicqa", "--limit", "1000"],
    "memotrap": ["memotrap"],
    "position": ["position", "--limit", "150", "--passages", "10"],
}
WITH_PASSAGES = ("conflicts", "position-facts", "position")


def run_all(tasks: Arguments, methods: Sequence[str], options: argparse.Namespace) -> dict:
    """Return the figures of all tasks, {task: {method: {figure: value}}}, each task a process."""
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda name: run(name, tasks[name], methods, options), tasks)
        return dict(zip(tasks, found, strict=True))


def run(
    name: str, task: Sequence[str], methods: Sequence[str], options: argparse.Namespace
) -> dict:
    split = "train" if task in MEASURED.values() else "val"
    file = options.out / f"methods-{name}-{split}.json"
    given = [*methods, "reorder"] if name in WITH_PASSAGES else methods
    command = [sys.executable, "-m", "seka_rag", "eval", *task, "--data", str(options.data)]
    command += ["--methods", ",".join(given), "--batch-size", "128", "--json", str(file)]
    command += ["--device", options.device] if options.device else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr[-2000:]}")
    print(f"{name}, {split}\n{done.stdout}", flush=True)
    result = json.loads(file.read_text("utf-8"))
    for row in result["rows"]:
        row["scores"] = {}  # of single examples: megabytes, which only a run needs
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return {
        row["method"]: {name: found["value"] for name, found in row["figures"].items()}
        for row in result["rows"]
    }


def best(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Return every rival at the strength at which it helps most."""
    helps = {
        f"{name}@{strength:g}": _help(f"{name}@{strength:g}", found)
        for name, strengths in GRID.items()
        for strength in strengths
    }
    return [
        max((f"{name}@{strength:g}" for strength in strengths), key=lambda each: helps[each])
        for name, strengths in GRID.items()
    ]


def _help(method: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> float:
    figures = {name: value for task in found.values() for name, value in task[method].items()}
    return sum(figures[name] for name in HELP) / len(HELP)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--device")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    every = [f"{name}@{strength:g}" for name, grid in GRID.items() for strength in grid]
    tried = run_all(TRIED, ["none", "marks", "seka", *every], options)
    chosen = best(tried)
    print("chosen:", ", ".join(chosen), flush=True)
    run_all(MEASURED, ["none", "marks", *OURS, *chosen], options)


if __name__ == "__main__":
    main()
