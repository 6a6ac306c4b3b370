"""Tables of methods × figures, in which the highest of each column stand out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seka_rag.report.texts import interval, is_told, percent, text

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Figure, Row

_FEW = 5  # columns that leave room for a figure and its interval on one line
_LEGEND = (
    '<p class="legend"><b>Bold</b>: the highest of its column. ≈: its interval reaches the '
    "highest.</p>"
)


def table(rows: Sequence[Row], names: Sequence[str], ident: str, caption: str) -> str:
    """Return a table of the figures, in a box that scrolls where it is too wide."""
    columns = {name: [row.figures.get(name) for row in rows] for name in names}
    marks = {name: _marks(column) for name, column in columns.items()}
    common = {name: _common_n(column) for name, column in columns.items()}
    heads = (f'<th scope="col">{text(name)}{_n(common[name])}</th>' for name in names)
    lines = []
    for i, row in enumerate(rows):
        cells = (
            _cell(columns[name][i], marks[name][i], with_n=common[name] is None) for name in names
        )
        lines.append(f'<tr><th scope="row">{text(row.method)}</th>{"".join(cells)}</tr>')
    legend = _LEGEND if any(any(each) for each in marks.values()) else ""
    return (
        f'<div class="scroll" role="region" aria-labelledby="{ident}" tabindex="0">'
        f"<table{' class=few' if len(names) <= _FEW else ''}>"
        f'<caption id="{ident}">{text(caption)}, with 95 % intervals</caption>'
        f'<thead><tr><th scope="col">method</th>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{legend}"
    )


def _common_n(column: Sequence[Figure | None]) -> int | None:
    """Return the n of all figures of a column, if it is the same."""
    found = {figure.n for figure in column if figure is not None}
    return found.pop() if len(found) == 1 else None


def _n(n: int | None) -> str:
    return "" if n is None else f" <small>n = {n}</small>"


def _marks(column: Sequence[Figure | None]) -> list[str]:
    """Return "best", "near" or nothing for each figure; nothing at all where they do not differ."""
    told = [figure for figure in column if figure is not None and is_told(figure)]
    if len({percent(figure.value) for figure in told}) < 2:
        return ["" for _ in column]
    best = max(figure.value for figure in told)
    return [_mark(figure, best) if is_told(figure) else "" for figure in column]


def _mark(figure: Figure | None, best: float) -> str:
    assert figure is not None
    if percent(figure.value) == percent(best):  # as far as anybody sees
        return "best"
    return "near" if figure.high >= best else ""


def _cell(figure: Figure | None, mark: str, *, with_n: bool) -> str:
    if figure is None or not is_told(figure):
        return "<td>–</td>"
    value = percent(figure.value)
    shown = f"<b>{value}</b>" if mark == "best" else value
    sign = "≈" if mark == "near" else ""
    return (
        f'<td>{shown}<span class="sign">{sign}</span> <small>{interval(figure)}</small>'
        f"{_n(figure.n) if with_n else ''}</td>"
    )
