"""Samples: a prompt, what each method attends to in it, and what is written then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from seka_rag.report.texts import PLAIN, percent, text

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Look, Sample

READING = (
    "<p>Underlined is what is highlighted. The shade of a token is the share of attention that the "
    "last token gives to it, the mean over all layers and heads. In numbers: what falls on the "
    "highlight, without the method and with it.</p>"
)
_SHADES, _CURVE = 9, 0.7  # a shade is a share to this power, in ninths of the darkest


def shown_sample(sample: Sample, *, level: int) -> str:
    """Return one sample, under a heading of that level."""
    plain = sample.looks.get(PLAIN)
    cards = "".join(_card(method, look, plain) for method, look in sample.looks.items())
    return (
        f'<article class="sample"><h{level}>{text(sample.example)}</h{level}>'
        f'<dl class="answers">{cards}</dl>{_maps(sample)}</article>'
    )


def _card(method: str, look: Look, plain: Look | None) -> str:
    """Return an answer, and how it and the attention differ from those of the plain model."""
    other = None if look is plain else plain
    notes = []
    if other is not None:
        said = "same as" if look.answer == other.answer else "differs from"
        notes.append(f"{said} {PLAIN}")
    if look.mass is not None:
        before = "" if other is None or other.mass is None else f"{_share(other.mass)} → "
        notes.append(f"on the highlight {before}{_share(look.mass)}")
    changed = " class=changed" if other is not None and look.answer != other.answer else ""
    answer = text(look.answer.strip()) or "<i>nothing</i>"
    return (
        f'<div{changed}><dt>{text(method)}</dt><dd class="answer" dir="auto">{answer}</dd>'
        f'<dd class="note">{"<br>".join(notes)}</dd></div>'
    )


def _maps(sample: Sample) -> str:
    """Return the prompt as each method attends to it; the plain and the first other are open."""
    shown = [
        (method, look, look.attention)
        for method, look in sample.looks.items()
        if look.attention is not None
    ]
    if not shown:
        return f'<div class="prompt" dir="auto">{_shaded(sample, None, 1.0)}</div>'
    cap = _cap(share for _, _, attention in shown for share in attention)
    opened = {PLAIN, *[method for method, _, _ in shown if method != PLAIN][:1]}
    maps = []
    for method, look, attention in shown:
        mass = "" if look.mass is None else f" <small>{_share(look.mass)} on the highlight</small>"
        maps.append(
            f"<details{' open' * (method in opened)}><summary>{text(method)}{mass}</summary>"
            f'<div class="prompt" dir="auto">{_shaded(sample, attention, cap)}</div></details>'
        )
    return f'<div class="maps">{"".join(maps)}</div>{_legend(cap)}'


def _legend(cap: float) -> str:
    """Return the shades, with the shares of the lightest, the middle one and the darkest."""
    middle = cap * ((_SHADES + 1) / 2 / _SHADES) ** (1 / _CURVE)
    swatches = [f'<span class="h{i}">&nbsp;</span>' for i in range(1, _SHADES + 1)]
    half = _SHADES // 2 + 1
    return (
        f'<p class="scale">0 % {"".join(swatches[:half])} {_share(middle)} '
        f"{''.join(swatches[half:])} {_share(cap)} or more</p>"
    )


def _cap(shares: Iterable[float]) -> float:
    """Return the share of the darkest shade: a few tokens, such as the first, may be beyond it."""
    found = sorted(share for share in shares if math.isfinite(share))
    return max(found[int(0.98 * (len(found) - 1))], 1e-6) if found else 1.0


def _shaded(sample: Sample, attention: Sequence[float] | None, cap: float) -> str:
    """Return the prompt, its highlights marked, and its tokens shaded by their attention."""
    shares = [0.0] * len(sample.tokens) if attention is None else attention
    parts, inside = [], False
    for token, on, share in zip(sample.tokens, sample.highlighted, shares, strict=True):
        if on != inside:
            parts.append("<mark>" if on else "</mark>")
            inside = on
        shown = text(token)
        part = min(1.0, share / cap) if share > 0 else 0.0
        if token and (shade := round(_SHADES * part**_CURVE)):
            shown = f'<span class="h{shade}" title="{_share(share)}">{shown}</span>'
        parts.append(shown)
    return "".join(parts) + "</mark>" * inside


def _share(value: float) -> str:
    return f"{percent(value)}\N{NO-BREAK SPACE}%"
