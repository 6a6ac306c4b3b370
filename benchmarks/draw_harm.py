"""Draw help against harm for what was tried: benchmarks/results/help_without_harm.json.

python benchmarks/draw_harm.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
DRAWN = {
    "static": ("#555555", "s"),
    "running gate": ("#0072B2", "o"),
    "gate and focus": ("#D55E00", "D"),
    "gate and values": ("#009E73", "^"),
    "gate, focus and values": ("#CC79A7", "v"),
    "gate and competing tokens": ("#E69F00", "P"),
}


def main() -> None:
    found = json.loads((ROOT / "benchmarks/results/help_without_harm.json").read_text())
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, harm in zip(panels, ("absent", "wrong"), strict=True):
        for name, (colour, marker) in DRAWN.items():
            points = found["curves"][name]
            axes.plot(
                [point[harm] for point in points],
                [point["gold"] for point in points],
                color=colour,
                marker=marker,
                markersize=5,
                label=name,
            )
        axes.set_xlabel(f"{harm}: kept where the highlight does not answer")
        axes.set_ylabel("gold: the highlighted passage is followed")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(
        "Up and right is better. Each line starts at the plain model; the gain rises along it."
    )
    figure.savefig(ROOT / "docs/figures/help-without-harm.png", dpi=130)


if __name__ == "__main__":
    main()
