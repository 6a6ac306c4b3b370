"""The command `route`: which experts the highlights of a prompt use."""

import argparse
import sys

from seka_rag.cli.answers import load, marked_prompt, message
from seka_rag.cli.printing import BOLD, WIDTH, painter, print_json, shorten, wrap

_KIND = 13  # columns


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
    paint = painter(sys.stdout)
    for span in found:
        print(paint(span.kind.ljust(_KIND) + shorten(span.text, WIDTH - _KIND), BOLD))
        means, gates = span.mean(), span.gates.mean(0).tolist()
        used = (span.coefficients != 0).flatten(0, 1).any(0).tolist()
        for name, gate, edits in zip(span.experts, gates, used, strict=True):
            if edits:
                print(" " * _KIND + f"{name:<24}{means[name]:8.2f}{gate:8.2f}")
    print()
    print(
        wrap(
            "For each expert that serves the highlight: its mean coefficient over the layers and "
            "heads that it edits, and its mean gate, which is in the coefficient: how far the "
            "question is found to be about the text."
        )
    )
    if options.png:
        print(f"\nDrawn: {options.png}")
