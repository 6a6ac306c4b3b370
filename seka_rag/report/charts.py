"""Line charts as inline SVG: figures over the numbers in their names, or over methods' strengths.

A line has a colour, dashes and a shape of its points, and its name at its end. Places are in the
chart's own units, in which a line of text is 14 high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from seka_rag.report.tables import table
from seka_rag.report.texts import (
    PLAIN,
    family_of,
    interval,
    is_told,
    percent,
    strength_of,
    text,
)

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Figure, Result, Row

_DASHES = ("", "7 3", "9 3 2 3", "4 2", "12 2", "9 2 2 2 2 2")
_DOTS = "2 3"  # the plain model
_SHAPES = {  # of points, by colour; about 6 wide
    "k0": "m-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z",
    "k1": "m-2.7,-2.7h5.4v5.4h-5.4z",
    "k2": "m0,-3.4l3.3,5.8h-6.6z",
    "k3": "m0,-3.8l3.8,3.8l-3.8,3.8l-3.8,-3.8z",
    "k4": "m0,3.4l3.3,-5.8h-6.6z",
    "k5": "m-3.2,-1h2.2v-2.2h2v2.2h2.2v2h-2.2v2.2h-2v-2.2h-2.2z",
    "kn": "m-2,0a2,2 0 1,0 4,0a2,2 0 1,0 -4,0z",  # the plain model
}
_WIDTH, _LEFT, _TOP, _BOTTOM = 460.0, 34.0, 12.0, 38.0
_LETTER, _LINE = 7.0, 14.0
_LOGARITHMIC = 8  # strengths of which one is so many times another stand on a logarithmic axis

_Points: TypeAlias = Sequence[tuple[float, "Figure"]]


@dataclass(frozen=True)
class _Line:
    name: str
    colour: str  # a class of the style sheet
    points: _Points
    dashes: str = ""
    level: bool = False  # of a method without a strength, the same at each

    @property
    def pieces(self) -> list[_Points]:
        """The points, cut where a figure is not told."""
        pieces: list[list[tuple[float, Figure]]] = [[]]
        for at, figure in self.points:
            if is_told(figure):
                pieces[-1].append((at, figure))
            else:
                pieces.append([])
        return [piece for piece in pieces if piece]


def colours_of(result: Result) -> dict[str, str]:
    """Return a colour for each method without its strength; SEKA's comes first."""
    families = dict.fromkeys(family_of(row.method) for row in result.rows)
    others = sorted(families.keys() - {PLAIN}, key=list(families).index)
    others.sort(key=lambda family: not family.startswith("seka"))
    return {PLAIN: "kn", **{family: f"k{i % 6}" for i, family in enumerate(others)}}


def over_strengths(
    rows: Sequence[Row],
    names: Sequence[str],
    colours: Mapping[str, str],
    ident: str,
    *,
    level: int,
) -> str:
    """Return a chart of each figure over the strength; nothing if no method has several."""
    strong: dict[str, dict[float, Row]] = {}
    for row in rows:
        if (strength := strength_of(row.method)) is not None:
            strong.setdefault(family_of(row.method), {}).setdefault(strength, row)
    strong = {
        family: dict(sorted(each.items())) for family, each in strong.items() if len(each) > 1
    }
    if not strong:
        return ""
    places = sorted({strength for each in strong.values() for strength in each})
    ends = (places[0], places[-1])
    charts = []
    for i, name in enumerate(names):
        lines = [
            _Line(
                family,
                colours[family],
                [(at, row.figures[name]) for at, row in each.items() if name in row.figures],
            )
            for family, each in strong.items()
        ]
        lines += [
            _Line(
                row.method,
                colours[family_of(row.method)],
                [(at, row.figures[name]) for at in ends],
                _DASHES[1],
                level=True,
            )
            for row in rows
            if strength_of(row.method) is None and name in row.figures
        ]
        logarithmic = ends[0] > 0 and ends[1] >= _LOGARITHMIC * ends[0]
        charts.append(
            _chart(
                name, "strength", lines, f"{ident}-{i}", "the table above", logarithmic=logarithmic
            )
        )
    alone = [
        row.method
        for row in rows
        if strength_of(row.method) is not None and family_of(row.method) not in strong
    ]
    rest = f" Of one strength, and in the table alone: {text(', '.join(alone))}." if alone else ""
    return (
        f"<h{level}>By strength</h{level}><p>Dashed are methods without a strength. The bands are "
        f'95 % intervals.{rest}</p><div class="charts">{"".join(charts)}</div>'
    )


def over_numbers(
    rows: Sequence[Row],
    stem: str,
    curve: Sequence[tuple[int, str]],
    colours: Mapping[str, str],
    ident: str,
    *,
    level: int,
) -> str:
    """Return a chart of figures over the numbers at the end of their names, and their table."""
    drawn: dict[str, int] = {}
    lines = []
    for row in rows:
        colour = colours[family_of(row.method)]
        drawn[colour] = drawn.get(colour, -1) + 1
        points = [(float(at), row.figures[name]) for at, name in curve if name in row.figures]
        dashes = _DOTS if row.method == PLAIN else _DASHES[drawn[colour] % len(_DASHES)]
        lines.append(_Line(row.method, colour, points, dashes))
    names = [name for _, name in curve]
    title = f"{names[0]} to {names[-1]}"
    chart = _chart(title, stem, lines, ident, "the table below")
    return (
        f"<h{level}>{text(title)}</h{level}><p>The bands are 95 % intervals.</p>"
        f'<div class="charts">{chart}</div><details><summary>The same as a table</summary>'
        f"{table(rows, names, f'{ident}-t', 'Scores in per cent')}</details>"
    )


def _chart(
    title: str,
    across: str,
    lines: Sequence[_Line],
    ident: str,
    where: str,
    *,
    logarithmic: bool = False,
) -> str:
    """Return a chart, whose text alternative says `where` the numbers are; nothing without any."""
    lines = [line for line in lines if line.pieces]
    if not lines:
        return ""
    longest = max(len(_short(line.name)) for line in lines)
    height = max(250.0, 1.2 * _LINE * len(lines) + _TOP + _BOTTOM)
    scale = _Scale.of(
        lines,
        right=_WIDTH - _LETTER * longest - 20,
        bottom=height - _BOTTOM,
        logarithmic=logarithmic,
    )
    drawn = [_axes(scale, across, lines)]
    drawn += [_band(line, scale) for line in lines]
    drawn += [_curve(line, scale) for line in reversed(lines)]  # the first, dotted, on top
    named = text(", ".join(line.name for line in lines))
    return (
        f"<figure><figcaption>{text(title)}, %</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" '
        f'aria-labelledby="{ident}-h {ident}-d"><title id="{ident}-h">{text(title)} over '
        f'{text(across)}, in per cent</title><desc id="{ident}-d">A line for each of {named}. '
        f"The numbers are in {where}.</desc>{''.join(drawn)}{_names(lines, scale)}</svg></figure>"
    )


@dataclass(frozen=True)
class _Scale:
    """From numbers and shares to places in a chart."""

    first: float
    last: float
    lowest: int  # of what is shown, in per cent
    highest: int
    right: float
    bottom: float
    logarithmic: bool

    @classmethod
    def of(
        cls, lines: Sequence[_Line], *, right: float, bottom: float, logarithmic: bool
    ) -> _Scale:
        """Return a scale that shows all the lines with their bands, to round numbers."""
        points = [point for line in lines for piece in line.pieces for point in piece]
        lowest = 10 * math.floor(10 * min(_low(figure) for _, figure in points))
        highest = 10 * math.ceil(10 * max(_high(figure) for _, figure in points))
        lowest = max(0, min(lowest, highest - 20))
        highest = min(100, max(highest, lowest + 20))
        places = [at for at, _ in points]
        return cls(min(places), max(places), lowest, highest, right, bottom, logarithmic)

    def x(self, at: float) -> float:
        first, last = self.first, self.last
        if self.logarithmic:
            first, last, at = math.log(first), math.log(last), math.log(at)
        share = 0.5 if first == last else (at - first) / (last - first)
        return _LEFT + 8 + share * (self.right - _LEFT - 8)

    def y(self, value: float) -> float:
        share = (100 * value - self.lowest) / (self.highest - self.lowest)
        return self.bottom - share * (self.bottom - _TOP)


def _low(figure: Figure) -> float:
    return max(0.0, min(1.0, figure.low if math.isfinite(figure.low) else figure.value))


def _high(figure: Figure) -> float:
    return max(0.0, min(1.0, figure.high if math.isfinite(figure.high) else figure.value))


def _axes(scale: _Scale, across: str, lines: Sequence[_Line]) -> str:
    step = next(step for step in (5, 10, 20) if scale.highest - scale.lowest <= 5 * step)
    parts = []
    for value in range(-(-scale.lowest // step) * step, scale.highest + 1, step):
        y = scale.y(value / 100)
        parts.append(
            f'<path class="grid" d="M{_LEFT:g},{y:.1f}H{scale.right:.1f}"/>'
            f'<text class="end" x="{_LEFT - 6:g}" y="{y + 4:.1f}">{value}</text>'
        )
    free = 0.0
    for at in sorted({at for line in lines for at, _ in line.points}):
        x, half = scale.x(at), _LETTER * len(f"{at:g}") / 2
        if x - half >= free:
            free = x + half + 6
            parts.append(f'<text class="mid" x="{x:.1f}" y="{scale.bottom + 16:.1f}">{at:g}</text>')
    middle = (_LEFT + 8 + scale.right) / 2
    parts.append(
        f'<text class="mid" x="{middle:.1f}" y="{scale.bottom + 33:.1f}">{text(across)}</text>'
    )
    return "".join(parts)


def _band(line: _Line, scale: _Scale) -> str:
    parts = []
    for piece in line.pieces:
        there = [f"{scale.x(at):.1f},{scale.y(_high(figure)):.1f}" for at, figure in piece]
        back = [f"{scale.x(at):.1f},{scale.y(_low(figure)):.1f}" for at, figure in reversed(piece)]
        parts.append(f'<path class="band {line.colour}" d="M{"L".join(there + back)}z"/>')
    return "".join(parts)


def _curve(line: _Line, scale: _Scale) -> str:
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    parts = []
    for piece in line.pieces:
        places = [f"{scale.x(at):.1f},{scale.y(figure.value):.1f}" for at, figure in piece]
        parts.append(f'<path class="line {line.colour}"{dashes} d="M{"L".join(places)}"/>')
        if not line.level:
            parts += [
                f'<path class="point {line.colour}" d="M{place}{_SHAPES[line.colour]}"><title>'
                f"{text(line.name)}, {at:g}: {percent(figure.value)} {interval(figure)}"
                "</title></path>"
                for place, (at, figure) in zip(places, piece, strict=True)
            ]
    return "".join(parts)


def _names(lines: Sequence[_Line], scale: _Scale) -> str:
    """Return the lines' names behind their ends, moved apart where they would overlap."""
    ends = sorted(
        (scale.y(figure.value), i)
        for i, line in enumerate(lines)
        for _, figure in line.pieces[-1][-1:]
    )
    places: list[float] = []
    for y, _ in ends:
        places.append(max(y, places[-1] + _LINE if places else _TOP))
    for i in range(len(places)):
        room = _LINE * (len(places) - 1 - i)
        places[i] = min(places[i], scale.bottom - room)
    parts = []
    for (y, i), place in zip(ends, places, strict=True):
        line = lines[i]
        x = scale.x(line.pieces[-1][-1][0])
        parts.append(
            f'<path class="lead {line.colour}" d="M{x + 5:.1f},{y:.1f}L{scale.right + 12:.1f},'
            f'{place:.1f}"/><text class="{line.colour}" x="{scale.right + 15:.1f}" '
            f'y="{place + 4:.1f}">{text(_short(line.name))}</text>'
        )
    return "".join(parts)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
