"""Explanations: how much every expert counted for a highlighted span, layer by layer, head by head.

L  layers      H  KV heads      M  experts
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seka_rag.inputs import Row
from seka_rag.router import Router
from seka_rag.routing import Edit


@dataclass(frozen=True, eq=False)
class SpanRouting:
    """What routing made of one highlighted span."""

    text: str
    kind: str
    experts: tuple[str, ...]
    layers: tuple[int, ...]
    coefficients: Tensor  # (L, H, M), in [-1, 1]; 0 where an expert does not edit the head
    gates: Tensor  # (L, M), in [0, 1]: how far the question was found to be about the span

    def mean(self) -> dict[str, float]:
        """Return each expert's mean coefficient, over the heads that it edits and the layers."""
        used = (self.coefficients != 0).flatten(0, 1).sum(0).clamp(min=1)
        means = self.coefficients.flatten(0, 1).sum(0) / used
        return dict(zip(self.experts, means.tolist(), strict=True))


def explained(
    row: Row, number: int, edit: Edit, names: Sequence[str], router: Router | None
) -> list[SpanRouting]:
    """Return what was found for the spans of a row, the batch's `number`-th; none if all is plain.

    An edit that is not routed has the coefficient 1 wherever it edits, and gates that are open.
    """
    found = []
    layers = tuple(sorted(edit.operators))
    for span_number, span in enumerate(row.rendered.spans):
        if not any(
            gain and owner == span_number for gain, owner in zip(row.gains, row.owners, strict=True)
        ):
            continue
        if router is None:
            edited = [edit.operators[layer].weights.any(-1, keepdim=True) for layer in layers]
            coefficients = torch.stack([each.float().cpu() for each in edited])
            gates = torch.ones(len(layers), 1)
        else:
            seen = [router.found[layer] for layer in layers]
            # The model may have seen every row several times, side by side.
            at = [number * (len(each.coefficients) // router.rows) for each in seen]
            places = list(zip(seen, at, strict=True))
            gates = torch.stack([each.gates(i, span_number) for each, i in places])
            parts = [each.coefficients[i, span_number].float().cpu() for each, i in places]
            coefficients = torch.stack(parts) * gates.unsqueeze(1)
        text = row.rendered.text[span.start : span.end]
        found.append(SpanRouting(text, span.kind, tuple(names), layers, coefficients, gates))
    return found
