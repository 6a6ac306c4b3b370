"""What a request says is highlighted: pieces of its prompt in tokens, read from `extra_args`.

    seka         [start, end, gain, start, end, gain, ...]: tokens [start, end) of the prompt; or
                 one [start, end, gain] a piece
    seka_kinds   "passage" or "instruction" for every piece; all are passages unless given
    seka_owners  the number of the highlight that every piece belongs to, from 0; each is its own
                 unless given. Only a routed bank asks.

The flat form is there because vLLM's HTTP server takes no lists of lists. Where pieces overlap, the
gain of greatest magnitude counts for a token, of equal ones the first, as in the core's `gain_map`.
Neither vLLM nor torch is known here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray
from seka_rag.highlight import Kind

PIECES, KINDS, OWNERS = "seka", "seka_kinds", "seka_owners"

T = TypeVar("T")


class HighlightsError(ValueError):
    """What a request says of highlights cannot be followed. The message begins with "seka:"."""

    def __init__(self, message: str) -> None:
        super().__init__(f"seka: {message}")


@dataclass(frozen=True, eq=False)
class Highlights:
    """The highlights of one prompt of T tokens."""

    gains: NDArray[np.float32]  # (T,); 0 is plain
    owners: NDArray[np.int64]  # (T,): number of the highlight, -1 for none
    kinds: tuple[Kind, ...]  # of every highlight

    @property
    def first(self) -> int:
        """The first token that is highlighted."""
        return int(np.argmax(self.gains != 0))

    @property
    def end(self) -> int:
        """The token behind the last that is highlighted."""
        return len(self.gains) - int(np.argmax(self.gains[::-1] != 0))

    def count(self, start: int, end: int) -> int:
        """Return how many of the tokens [start, end) are highlighted; they may pass the prompt."""
        return int(np.count_nonzero(self.gains[start:end]))


@dataclass(frozen=True)
class _Piece:
    start: int
    end: int
    gain: float
    kind: Kind
    owner: int


def mentions(extra_args: Mapping[str, Any] | None) -> bool:
    """Return whether the arguments speak of highlights at all; None is not given.

    Tables, such as Ray Data's, fill in None where a row lacks what another has.
    """
    return any((extra_args or {}).get(name) is not None for name in (PIECES, KINDS, OWNERS))


def read(extra_args: Mapping[str, Any] | None, n_tokens: int) -> Highlights | None:
    """Return the highlights of a prompt of so many tokens; None where nothing is highlighted.

    Pieces outside the prompt, empty ones, gains that are not finite numbers, and lists that do not
    fit each other are a HighlightsError.
    """
    if extra_args is None or not mentions(extra_args):
        return None
    pieces = _pieces({name: given for name, given in extra_args.items() if given is not None})
    for piece in pieces:
        if not 0 <= piece.start < piece.end <= n_tokens:
            raise HighlightsError(
                f"[{piece.start}, {piece.end}) are no tokens of the prompt, which has {n_tokens}: "
                "give 0 <= start < end <= the length of the prompt"
            )
    gains, owners = merged(((each.start, each.end, each.gain) for each in pieces), n_tokens)
    if not gains.any():
        return None
    # A piece's number becomes that of its highlight; the last place serves -1, no piece.
    number = np.array([each.owner for each in pieces] + [-1])
    kinds: dict[int, Kind] = {}
    for piece in pieces:
        if kinds.setdefault(piece.owner, piece.kind) != piece.kind:
            raise HighlightsError(f"the pieces of highlight {piece.owner} are of two kinds")
    if sorted(kinds) != list(range(len(kinds))):
        raise HighlightsError(f"{OWNERS} must count the highlights from 0, without gaps")
    return Highlights(gains, number[owners], tuple(kinds[i] for i in range(len(kinds))))


def merged(
    pieces: Iterable[tuple[int, int, float]], n_tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return one gain per token, and the number of the piece it comes from, -1 for none."""
    gains = np.zeros(n_tokens)
    owners = np.full(n_tokens, -1, dtype=np.int64)
    for number, (start, end, gain) in enumerate(pieces):
        stronger = np.abs(gains[start:end]) < abs(gain)
        gains[start:end][stronger] = gain
        owners[start:end][stronger] = number
    return gains.astype(np.float32), owners


def _pieces(extra_args: Mapping[str, Any]) -> list[_Piece]:
    rows = _triples(_listed(extra_args.get(PIECES, []), PIECES))
    n = len(rows)
    kinds = _one_each(extra_args.get(KINDS), ["passage"] * n, KINDS)
    owners = _one_each(extra_args.get(OWNERS), list(range(n)), OWNERS)
    if unknown := [kind for kind in kinds if kind not in get_args(Kind)]:
        raise HighlightsError(f"the kind {unknown[0]!r} is not one of {', '.join(get_args(Kind))}")
    found = []
    for (start, end, gain), kind, owner in zip(rows, kinds, owners, strict=True):
        places = _whole(start, "start"), _whole(end, "end")
        found.append(_Piece(*places, _finite(gain), cast(Kind, kind), _whole(owner, OWNERS)))
    return found


def _triples(listed: Sequence[object]) -> list[list[object]]:
    """Return [start, end, gain] for every piece, out of the flat or the nested form."""
    if any(isinstance(item, list | tuple) or hasattr(item, "tolist") for item in listed):
        rows = [list(_listed(item, PIECES)) for item in listed]
    else:
        rows = [list(listed[i : i + 3]) for i in range(0, len(listed), 3)]
    if any(len(row) != 3 for row in rows):
        raise HighlightsError(f"{PIECES} must hold start, end and gain for every piece")
    return rows


def _listed(value: object, name: str) -> Sequence[object]:
    if hasattr(value, "tolist"):  # arrays: what data frames make of lists
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise HighlightsError(f"{name} is {type(value).__name__}: give a list")
    return value


def _one_each(given: object, otherwise: Sequence[T], name: str) -> Sequence[T]:
    if given is None:
        return otherwise
    listed = _listed(given, name)
    if len(listed) != len(otherwise):
        raise HighlightsError(f"{name} has {len(listed)} entries for {len(otherwise)} pieces")
    return listed  # type: ignore[return-value]


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise HighlightsError(f"{name} is {value!r}: give a whole number of tokens")
    return int(value)


def _finite(value: object) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    # float32 is what the gains are kept in: beyond it they would be infinite.
    if not fits or not abs(value) <= float(np.finfo(np.float32).max):  # type: ignore[arg-type]
        raise HighlightsError(f"the gain is {value!r}: give a finite number")
    assert math.isfinite(value)  # type: ignore[arg-type]
    return float(value)  # type: ignore[arg-type]
