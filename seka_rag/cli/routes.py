"""The command `route`: which experts the highlights of a prompt use."""

import argparse
import sys

from seka_rag.cli.answers import load, marked_prompt, message
from seka_rag.cli.printing import BOLD, WIDTH, painter, print_json, shorten, wrap


def route(options: argparse.Namespace) -> None:
    """Print how much every expert counts for each highlighted text."""
    _, segments = marked_prompt(options)
    model = load(options)
    found = model.explain(segments if options.raw else message(segments))
    if options.png:
        from seka_rag.plots import plot_route

        plot_route(found, options.png)
    if options.json:
        print_json(
            {
                "spans": [
                    {
                        "text": span.text,
                        "kind": span.kind,
                        "mean": span.mean(),
                        "gate": span.gates.mean(0).tolist(),
                        "experts": span.experts,
                        "layers": span.layers,
                        "coefficients": span.coefficients.tolist(),
                    }
                    for span in found
                ]
            }
        )
        return
    experts = found[0].experts if found else ()
    wide = max(map(len, experts), default=0) + 2
    room = WIDTH - 12 - (wide + 7) * len(experts)
    head = "".join(name.rjust(wide) + "   gate" for name in experts)
    paint = painter(sys.stdout)
    print(paint("text".ljust(max(room, 8)) + "kind".ljust(12) + head, BOLD))
    for span in found:
        means, gates = span.mean(), span.gates.mean(0).tolist()
        figures = "".join(
            f"{means[name]:{wide}.2f}{gate:7.2f}" if used else "-".rjust(wide) + "-".rjust(7)
            for name, gate, used in zip(
                experts, gates, (span.coefficients != 0).flatten(0, 1).any(0).tolist(), strict=True
            )
        )
        print(
            shorten(span.text, max(room, 8) - 1).ljust(max(room, 8)) + span.kind.ljust(12) + figures
        )
    print()
    print(
        wrap(
            "Means over the layers and heads that an expert edits. gate: how far the question is "
            "found to be about the text; it multiplies the coefficient."
        )
    )
    if options.png:
        print(f"\nDrawn: {options.png}")
