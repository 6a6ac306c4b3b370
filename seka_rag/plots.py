"""Drawings of results: figures against the strength, help against harm; and of a bank's heads.

Reads results and banks, and runs nothing. Needs matplotlib, which the extra `plots` installs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.bank import Bank
from seka_rag.calibration import Calibration
from seka_rag.errors import DataError, MissingExtraError
from seka_rag.evaluation.results import Result, Row
from seka_rag.explanation import SpanRouting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

_TITLES = {
    "es": "ES: the new fact, as it was put",
    "ps": "PS: the new fact, in other words",
    "locality": "locality: another subject's fact",
    "gold": "gold: the highlighted passage answers",
    "absent": "absent: memory alone answers",
    "wrong": "wrong: a plain passage answers",
    "mean": "mean over the positions",
    "complied": "complied: the order is obeyed",
}
# Okabe and Ito's colours, which most colour-blind readers can tell apart, and a shape for each.
_STYLES = {
    "seka": ("#0072B2", "o"),
    "scaling": ("#D55E00", "s"),
    "random": ("#009E73", "^"),
    "none": ("#555555", "*"),
    "marks": ("#CC79A7", "D"),
    "unweighed": ("#E69F00", "v"),
}
_OTHERS = (("#56B4E9", "P"), ("#B8A900", "X"), ("#000000", "x"), ("#882255", "<"), ("#8C6D31", ">"))
_FRONTIERS = {"counterfact": ("locality", "ps"), "conflicts": ("absent", "gold")}
# Of tasks with more figures than a drawing can hold, those that sum them up.
_DRAWN = {
    "counterfact": ("es", "ps", "locality"),
    "instructions": ("complied",),
}


def plot_gains(result: Result, path: str | Path) -> Path:
    """Return the path of a drawing of the figures against the strength, one panel a figure.

    Shaded: 95 % intervals. Methods without a strength are horizontal lines. Of positions, and of
    instructions, only the figures over all of them are drawn.
    """
    names = _summary(result)
    curves = _curves(result)
    styles = _styles(curves)
    drawing = _drawing(width=4.2 * len(names), height=3.8)
    for place, name in enumerate(names, start=1):
        axes = drawing.add_subplot(1, len(names), place)
        for method, rows in curves.items():
            colour, marker = styles[method]
            known = [row for row in rows if name in row.figures]
            if not known:
                continue
            figures = [row.figures[name] for row in known]
            if known[0].strength is not None:
                strengths = [_strength(row) for row in known]
                values = [figure.value for figure in figures]
                axes.plot(
                    strengths, values, color=colour, marker=marker, markersize=4, label=method
                )
                axes.fill_between(
                    strengths,
                    [figure.low for figure in figures],
                    [figure.high for figure in figures],
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
            else:
                style = "--" if method == "none" else ":"
                axes.axhline(figures[0].value, color=colour, linestyle=style, label=method)
        axes.set_title(_TITLES.get(name, name), fontsize=10)
        axes.set_xlabel("strength")
        axes.set_ylabel("share of cases" if place == 1 else "")
        _finish(axes)
        axes.set_xlim(left=0)
    drawing.axes[0].legend(fontsize=8, loc="best")
    return _save(drawing, path)


def plot_frontier(
    result: Result, path: str | Path, *, x: str | None = None, y: str | None = None
) -> Path:
    """Return the path of a drawing of one figure against another, a curve a method.

    By default what is kept, left to right, and what is gained, upwards: locality and PS, or absent
    and gold. The numbers along a curve are strengths.
    """
    harm, gained = _FRONTIERS.get(result.task, (None, None))
    x, y = x or harm, y or gained
    names = _figures(result)
    if x not in names or y not in names:
        raise DataError(f"the result has no figures {x} and {y}: choose from {', '.join(names)}")
    curves = _curves(result)
    styles = _styles(curves)
    drawing = _drawing(width=5.2, height=4.6)
    axes = drawing.add_subplot(1, 1, 1)
    for method, rows in curves.items():
        colour, marker = styles[method]
        known = [row for row in rows if x in row.figures and y in row.figures]
        if not known:
            continue
        points = [(row.figures[x].value, row.figures[y].value) for row in known]
        along = known[0].strength is not None
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            marker=marker,
            markersize=5 if along else 9,
            linestyle="-" if along else "none",
            label=method,
        )
        for row, point in zip(known, points, strict=True):
            if row.strength is not None:
                axes.annotate(
                    f"{row.strength:g}",
                    point,
                    textcoords="offset points",
                    xytext=(5, 4),
                    fontsize=7,
                    color=colour,
                )
    axes.set_xlabel(_TITLES.get(x, x))
    axes.set_ylabel(_TITLES.get(y, y))
    _finish(axes)
    axes.set_xlim(0, 1.02)
    axes.legend(fontsize=8, loc="best")
    return _save(drawing, path)


def plot_bank(bank: Bank, path: str | Path) -> Path:
    """Return the path of a figure of a bank: key shifts, discrimination if known, and spectra.

    Layers upwards, KV heads across; the heads that are edited are outlined, or the length of their
    weights is shown, where directions are weighed. The spectra are each head's singular values as
    shares of their sum, summed up, edited heads in colour; dots are the ranks.
    """
    shifts = [found.key_shift.tolist() for found in bank.layers.values()]
    told = [found.discrimination for found in bank.layers.values()]
    known = [part.tolist() for part in told if part is not None]
    maps: list[tuple[str, list[list[float]], float | None]] = [("key shift", shifts, None)]
    if known:
        maps.append(("discrimination (AUC)", known, 1.0))
    weighed = bank.heads == "weighed"
    if weighed:
        strengths = [each.tolist() for each in bank.head_weights().values()]
        maps.append(("length of the weights", strengths, 1.0))
    height = max(3.4, 0.22 * len(shifts) + 1.4)
    figure = _drawing(width=3.2 * len(maps) + 4.2, height=height)
    for place, (title, rows, highest) in enumerate(maps, start=1):
        axes = figure.add_subplot(1, len(maps) + 1, place)
        image = axes.imshow(
            rows, aspect="auto", origin="lower", cmap="cividis", vmin=0.0, vmax=highest
        )
        figure.colorbar(image, ax=axes)
        for y, edited in enumerate(bank.selected().values()):
            for x, on in enumerate(edited.tolist()):
                if on and not weighed:
                    axes.add_patch(_outline(x, y))
        axes.set_yticks(range(len(shifts)), [str(layer) for layer in bank.layers], fontsize=7)
        axes.set_xticks(range(len(shifts[0])))
        axes.set_xlabel("KV head")
        axes.set_ylabel("layer" if place == 1 else "")
        axes.set_title(title, fontsize=10)
    _draw_spectra(figure.add_subplot(1, len(maps) + 1, len(maps) + 1), bank)
    return _save(figure, path)


def plot_calibration(found: Calibration, path: str | Path) -> Path:
    """Return the path of a figure of help and harm against the gain, a curve for each of the heads.

    Grey lines are the plain model and the bounds; the ring is what is recommended.
    """
    figure = _drawing(width=11.5, height=3.8)
    names = (("help", "help: the wanted answer wins"), ("kept", "unrelated answers kept"))
    for place, (name, title) in enumerate((*names, ("divergence", "KL from plain, nats")), start=1):
        axes = figure.add_subplot(1, 3, place)
        for number, heads in enumerate(dict.fromkeys(point.heads for point in found.points)):
            curve = [point for point in found.points if point.heads == heads]
            colour = list(_STYLES.values())[number % len(_STYLES)][0]
            values = [getattr(point, name) for point in curve]
            axes.plot([p.gain for p in curve], values, color=colour, marker="o", label=heads)
        axes.plot(
            [found.chosen.gain],
            [getattr(found.chosen, name)],
            "o",
            markersize=12,
            fillstyle="none",
            color="black",
        )
        bounds = {"kept": found.plain.kept - found.max_loss, "divergence": found.max_divergence}
        axes.axhline(getattr(found.plain, name), color="#777777", linestyle="--", linewidth=0.9)
        if name in bounds:
            axes.axhline(bounds[name], color="#777777", linestyle=":", linewidth=0.9)
        axes.set_xscale("log")
        axes.set_xlabel("gain")
        axes.set_title(title, fontsize=10)
        _finish(axes)
        if name == "divergence":
            highest = max(point.divergence for point in found.points)
            axes.set_ylim(0, max(1.1 * highest, 1.2 * found.max_divergence))
    figure.axes[0].legend(fontsize=8, loc="best")
    return _save(figure, path)


def plot_route(found: Sequence[SpanRouting], path: str | Path) -> Path:
    """Return the path of a figure of the experts' coefficients, layers × experts, for each span.

    A cell is the mean over the KV heads that the expert edits in the layer, gates included.
    """
    if not found:
        raise DataError("nothing is highlighted, so there is nothing to draw")
    figure = _drawing(width=1.6 + 3.2 * len(found), height=1.6 + 0.24 * len(found[0].layers))
    for place, span in enumerate(found, start=1):
        axes = figure.add_subplot(1, len(found), place)
        used = (span.coefficients != 0).sum(1).clamp(min=1)
        cells = span.coefficients.sum(1) / used  # (L, M)
        image = axes.imshow(cells.numpy(), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_xticks(range(len(span.experts)), span.experts, rotation=20, ha="right")
        axes.set_yticks(range(len(span.layers)), [str(layer) for layer in span.layers])
        axes.set_ylabel("layer" if place == 1 else "")
        text = " ".join(span.text.split())
        axes.set_title(f"{text[:28]}{'…' if len(text) > 28 else ''}\n({span.kind})", fontsize=9)
        for layer, row in enumerate(cells.tolist()):
            for expert, value in enumerate(row):
                shade = "white" if abs(value) > 0.6 else "black"
                axes.text(
                    expert, layer, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade
                )
        if place == len(found):
            figure.colorbar(image, ax=axes, label="coefficient × gate")
    return _save(figure, path)


def _outline(x: int, y: int) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=2)


def _draw_spectra(axes: Axes, bank: Bank) -> None:
    selected = bank.selected()
    for layer, found in bank.layers.items():
        for head, spectrum in enumerate(found.spectrum):
            shares = (spectrum.cumsum(0) / spectrum.sum().clamp(min=1e-30)).tolist()
            edited = bool(selected[layer][head])
            colour = "#D55E00" if edited else "#777777"
            axes.plot(range(1, len(shares) + 1), shares, color=colour, alpha=0.5, linewidth=0.8)
            rank = int(bank.ranks(layer)[head])
            if edited:
                axes.plot([rank], [shares[rank - 1]], color=colour, marker="o", markersize=3)
    axes.set_xlabel("directions")
    axes.set_title("spectrum, summed up", fontsize=10)
    _finish(axes)


def _figures(result: Result) -> list[str]:
    names = [name for row in result.rows[:1] for name in row.figures if not name.endswith("_top1")]
    if not names:
        raise DataError("the result has no rows to draw: run the evaluation again")
    return names


def _summary(result: Result) -> list[str]:
    """Return the figures that sum a result up: not those of single kinds, or of a series."""
    names = _figures(result)
    drawn = _DRAWN.get(result.task, names)
    return [name for name in names if name in drawn and not name[-1].isdigit()] or names


def _curves(result: Result) -> dict[str, list[Row]]:
    """Return the rows of each method, by rising strength."""
    swept = {row.name for row in result.rows if row.strength is not None}
    curves: dict[str, list[Row]] = {}
    for row in sorted(result.rows, key=_strength):
        # A strength of the method's own is not known here, so it has no place on the curve.
        apart = row.strength is None and row.name in swept
        curves.setdefault(f"{row.name}, default" if apart else row.name, []).append(row)
    return curves


def _strength(row: Row) -> float:
    return 0.0 if row.strength is None else row.strength


def _styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a shape for each method: the rivals get theirs by their order."""
    others = cycle(_OTHERS)
    return {method: _STYLES.get(method) or next(others) for method in methods}


def _drawing(*, width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'figures need matplotlib, which is not installed: pip install "seka-rag[plots]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _finish(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | Path) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.suffix.removeprefix(".") or "png"
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        figure.savefig(beside, format=kind)
        beside.replace(target)
    except ValueError as error:
        raise DataError(f"{target} cannot be drawn: {error}; use .png, .pdf or .svg") from error
    finally:
        beside.unlink(missing_ok=True)
    return target
