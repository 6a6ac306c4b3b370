"""Draw what `learning_study.py` measured: what a bank depends on, and help against harm.

    python benchmarks/draw_study.py STUDY.json BANK.json --png FILE

BANK.json is the scan of `mini.learn_bank`, whose weighed bank is drawn beside the others. Harm is
the greatest loss of locality, absent and wrong; dots are single seeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curve = list[dict[str, float]]
COLOURS = {"seka": "#0072B2", "differential": "#D55E00", "scaling": "#009E73"}
SHOWN = {"quantile:0.5": "-", "discrimination:quantile:0.75": "--"}


def help_within(curve: Curve, help_: str, harm: str, loss: float) -> float:
    """Return the most help at which `harm` has lost no more than `loss`, between the gains too."""
    bound = curve[0][harm] - loss
    best = max(point[help_] for point in curve if point[harm] >= bound)
    for one, two in zip(curve, curve[1:], strict=False):
        if one[harm] >= bound > two[harm]:
            share = (one[harm] - bound) / (one[harm] - two[harm])
            best = max(best, one[help_] + share * (two[help_] - one[help_]))
    return best


def harm(point: dict[str, float], plain: dict[str, float]) -> float:
    return max(plain[name] - point[name] for name in ("locality", "absent", "wrong"))


def draw_dots(axes: Axes, rows: list[dict], name: str, title: str) -> None:  # type: ignore[type-arg]
    """Draw gold with absent within 5 points, and with wrong within 10, against a setting."""
    for key, loss, colour in (("absent", 0.05, "#0072B2"), ("wrong", 0.1, "#D55E00")):
        found = defaultdict(list)
        for row in rows:
            found[row[name]].append(help_within(row["curve"], "gold", key, loss))
        places = list(found)
        for place, values in found.items():
            axes.plot([places.index(place)] * len(values), values, "o", color=colour, alpha=0.35)
        means = [sum(values) / len(values) for values in found.values()]
        label = f"gold, {key} within {loss * 100:.0f} points"
        axes.plot(range(len(places)), means, color=colour, label=label)
        labels = [str(place).replace("discrimination", "AUC") for place in places]
        axes.set_xticks(range(len(places)), labels, fontsize=8)
    axes.set_title(title, fontsize=10)


def mean_curve(rows: list[dict]) -> Curve:  # type: ignore[type-arg]
    """Return the mean over seeds."""
    curves = [row["curve"] for row in rows]
    return [
        {name: sum(curve[i][name] for curve in curves) / len(curves) for name in point}
        for i, point in enumerate(curves[0])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--png", type=Path, required=True)
    options = parser.parse_args()
    rows = json.loads(options.study.read_text())["rows"]
    scan = json.loads(options.bank.read_text())
    figure = Figure(figsize=(11, 8), layout="constrained", dpi=150)
    (one, two), (three, four) = figure.subplots(2, 2)
    attention = "discrimination:quantile:0.75"
    draw_dots(
        one,
        [r for r in rows if r["varied"] == "triplets" and r["heads"] == attention],
        "triplets",
        "number of triplets",
    )
    draw_dots(
        two,
        [r for r in rows if r["varied"] == "energy" and r["heads"] == attention],
        "energy",
        "energy γ",
    )
    compared = [r for r in rows if r["varied"] == "heads"]
    draw_dots(three, [r for r in compared if r["method"] == "seka"], "heads", "heads (seka)")
    three.tick_params(axis="x", labelrotation=35)
    for method, colour in COLOURS.items():
        for heads, line in SHOWN.items():
            curve = mean_curve(
                [r for r in compared if r["method"] == method and r["heads"] == heads]
            )
            points = [(harm(point, curve[0]), point["gold"]) for point in curve]
            four.plot(*zip(*points, strict=True), line, color=colour, label=f"{method}, {heads}")
    curve = [scan["plain"], *scan["curve"]]
    points = [(harm(point, scan["plain"]), point["gold"]) for point in curve]
    four.plot(*zip(*points, strict=True), "k-o", markersize=3, label="weighed directions")
    four.set(xlim=(0, 0.6), xlabel="greatest loss of locality, absent, wrong")
    four.set_title("help (gold) against harm, over gains", fontsize=10)
    for axes in (one, two, three, four):
        axes.set_ylim(0.45, 1.0)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(options.png)


if __name__ == "__main__":
    main()
