"""What the parts of a report share: text that stays text, numbers as they are shown, names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Figure, Result

PLAIN = "none"  # the method that others are compared with


def text(value: object) -> str:
    """Return anything as text of a page, in which nothing is markup."""
    shown = re.sub("\r\n?", "\n", str(value))  # as browsers do
    return escape(re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", shown))


def percent(value: float) -> str:
    """Return a share in per cent, with one decimal; a dash if it is no number."""
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def interval(figure: Figure) -> str:
    """Return a figure's interval in per cent."""
    return f"[{percent(figure.low)}, {percent(figure.high)}]"


def is_told(figure: Figure | None) -> bool:
    """Return whether there is a figure, and of something."""
    return figure is not None and figure.n > 0 and math.isfinite(figure.value)


def names_of(result: Result) -> list[str]:
    """Return the names of all figures, in order."""
    return list(dict.fromkeys(name for row in result.rows for name in row.figures))


def curves_of(names: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """Return the figures that differ only in the number at their end, by what stands before it."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)_?(\d{1,9})", name, flags=re.ASCII | re.DOTALL):
            found.setdefault(match[1], {}).setdefault(int(match[2]), name)
    return {stem: sorted(each.items()) for stem, each in found.items() if len(each) > 1}


def family_of(method: str) -> str:
    """Return a method without its strength."""
    return method.partition("@")[0]


def strength_of(method: str) -> float | None:
    """Return the strength that a method was written with."""
    try:
        found = float(method.partition("@")[2])
    except ValueError:
        return None
    return found if math.isfinite(found) else None
