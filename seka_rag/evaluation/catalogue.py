"""Every method by its name, ours and the rivals'.

A method is written `name`, `name:detail`, `name@strength` or `name:detail@strength`. Without a
strength it has its own default; for an edit of keys that is the bank's gain.
"""

import math
from collections.abc import Callable, Mapping

from seka_rag.errors import DataError
from seka_rag.evaluation.cad import Cad
from seka_rag.evaluation.methods import (
    EditedKeys,
    Method,
    Plain,
    as_it_is,
    marked,
    random,
    reordered,
    scaled,
    unweighed,
)
from seka_rag.evaluation.pasta import Pasta
from seka_rag.evaluation.spa import Spa
from seka_rag.evaluation.spotlight import Spotlight

_PLAIN = {"none": as_it_is, "marks": marked, "reorder": reordered}
_CHANGES = {"scaling": scaled, "random": random, "unweighed": unweighed}
_RIVALS: Mapping[str, Callable[[float | None, str | None], Method]] = {
    "pasta": Pasta.of,
    "spotlight": Spotlight.of,
    "spa": Spa.of,
    "cad": Cad.of,
}


def parse(text: str) -> Method:
    """Return the method that `text` names; what is wrong with it is a DataError."""
    named, at, number = text.partition("@")
    name, _, detail = named.partition(":")
    strength = _strength(text, number) if at else None
    if name in _RIVALS:
        return _RIVALS[name](strength, detail or None)
    if name == "seka":
        return EditedKeys(name, strength, expert=detail or None)
    if name in _CHANGES and not detail:
        return EditedKeys(name, strength, change=_CHANGES[name])
    if name in _PLAIN and text == name:
        return Plain(_PLAIN[name])
    known = ", ".join((*_PLAIN, "seka", *_CHANGES, *_RIVALS))
    raise DataError(
        f"there is no method {text}: write NAME, NAME@STRENGTH or NAME:DETAIL@STRENGTH, where NAME "
        f"is one of {known}"
    )


def _strength(text: str, number: str) -> float:
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise DataError(f"{text}: {number!r} is no strength: give a finite number, such as 1.0")
    return strength
