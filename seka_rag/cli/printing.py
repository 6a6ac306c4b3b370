"""Text for a terminal: 80 columns, two answers side by side, colours that suit light and dark."""

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from seka_rag.steering import EditReport, Generation

WIDTH = 80
BOLD = "1"
COLOUR = "35"  # magenta


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is to be told the units done, and in all: a bar on stderr, if a terminal."""
    from tqdm import tqdm

    with tqdm(file=sys.stderr, unit=f" {unit}", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def print_json(result: object) -> None:
    """Print `result` as JSON."""
    print(json.dumps(result, indent=2, ensure_ascii=False))


def print_answers(
    plain: "Generation", steered: "Generation", paint: Callable[[str, str], str]
) -> None:
    """Print both answers side by side, then what was edited."""
    column = (WIDTH - 3) // 2
    print(paint(f"{'Plain':{column}} | Highlighted", BOLD))
    for left, right in zip_longest(
        lines_of(plain.text, column), lines_of(steered.text, column), fillvalue=""
    ):
        print(f"{left:{column}} | {right}".rstrip())
    print()
    print(wrap(edited(steered.report)))


def edited(report: "EditReport") -> str:
    """Return in words what was edited."""
    if not report.highlighted_tokens:
        return "Edited: nothing, because nothing was highlighted."
    low, high = f"{report.min_gain:.3g}", f"{report.max_gain:.3g}"
    return (
        f"Edited: {report.highlighted_tokens} of the prompt's tokens with gain "
        f"{low if low == high else f'{low} to {high}'}, {report.kv_heads} KV heads in layers "
        f"{', '.join(ranges(report.layers))}."
    )


def ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Yield runs of rising numbers as "3-6", others as they are."""
    start = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            first = numbers[start]
            yield str(first) if first == number else f"{first}-{number}"
            start = i + 1


def lines_of(text: str, width: int) -> list[str]:
    """Return `text` wrapped to `width`, its own line breaks kept."""
    return [
        line
        for part in _harmless(text).strip().splitlines()
        for line in textwrap.wrap(part, width) or [""]
    ]


def wrap(text: str) -> str:
    """Return `text` in lines that fit."""
    return textwrap.fill(_harmless(text), WIDTH)


def shorten(text: str, width: int) -> str:
    """Return `text` in one line of at most `width` characters."""
    line = " ".join(_harmless(text).split())
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def _harmless(text: str) -> str:
    """Return `text` without the characters that a document could command the terminal with."""
    return "".join(
        c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def painter(stream: TextIO) -> Callable[[str, str], str]:
    """Return what wraps a text in a colour: on a terminal, unless NO_COLOR is set."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda text, code: f"\x1b[{code}m{text}\x1b[0m" if coloured and code else text
