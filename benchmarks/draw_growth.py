"""Draw what steering adds to reading a prompt, as prompts and batches grow.

    python benchmarks/draw_growth.py

Reads benchmarks/results/bench-growth-*.json.
"""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

ROOT = Path(__file__).parents[1]
DRAWN = {"seka:e0": ("one expert", "#0072B2", "-"), "seka": ("four, routed", "#D55E00", "--")}
MARKERS = {1: "o", 4: "s", 16: "^"}


def main() -> None:
    costs = [
        cost
        for path in sorted((ROOT / "benchmarks/results").glob("bench-growth-*.json"))
        for cost in json.loads(path.read_text("utf-8"))["costs"]
    ]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for method, (title, colour, line) in DRAWN.items():
        for rows, marker in MARKERS.items():
            found = [each for each in costs if (each["method"], each["rows"]) == (method, rows)]
            ratios = [each["prefill_ratio"] for each in found]
            middle = [100 * (ratio["median"] - 1) for ratio in ratios]
            below = [100 * (ratio["median"] - ratio["low"]) for ratio in ratios]
            above = [100 * (ratio["high"] - ratio["median"]) for ratio in ratios]
            axes.errorbar(
                [each["tokens"] for each in found],
                middle,
                [below, above],
                color=colour,
                linestyle=line,
                marker=marker,
                capsize=3,
                label=f"{title}, {rows} row{'s' * (rows > 1)}",
            )
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set_xscale("log")
    sizes = sorted({each["tokens"] for each in costs})
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{size:,}" for size in sizes]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("symlog", linthresh=5)
    axes.yaxis.set_major_locator(FixedLocator([-2, 0, 1, 2, 3, 5, 10, 20, 40]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens of a prompt, three quarters of them highlighted")
    axes.set_ylabel("reading takes longer by, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(ROOT / "docs/figures/cost-growth.png", dpi=130)


if __name__ == "__main__":
    main()
