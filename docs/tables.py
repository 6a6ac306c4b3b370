"""Tables of README.md, made of the files in benchmarks/results, which commands wrote.

In a README a table stands between two comments, of which the first says what it is made of:

    <!-- table: counterfact.json | none: plain; seka: **highlighted** | es: ES; ps: PS -->
    <!-- end -->

A row is the name of one in the file, and its title; a column is a figure, and its title. Where a
table draws on several files, a row or a column is written FILE/name. Figures are in per cent, save
counts of answers and those of costs, which say what they are in.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """Return the text of a README with its tables as the results have them now."""
    return _TABLE.sub(lambda found: found[1] + _table(" ".join(found[2].split())) + found[4], text)


def _table(description: str) -> str:
    file, rows, columns = (part.strip() for part in description.split(" | "))
    titles = [_pair(column) for column in columns.split("; ")]
    lines = [
        "| | " + " | ".join(title for _, title in titles) + " |",
        "|---" + "|---:" * len(titles) + "|",
    ]
    for row, title in map(_pair, rows.split("; ")):
        cells = [_cell(*_place(file, name), row) for name, _ in titles]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(text: str) -> tuple[str, str]:
    # Names of rows may hold a colon ("seka:override"), but no space behind it.
    name, _, title = text.partition(": ")
    return name.strip(), title.strip()


def _place(file: str, name: str) -> tuple[str, str]:
    own, slash, figure = name.rpartition("/")
    return (own, figure) if slash else (file, name)


def _cell(file: str, figure: str, row: str) -> str:
    file, row = _place(file, row) if ".json/" in row else (file, row)
    found = cells(json.loads((RESULTS / file).read_text("utf-8")))
    if not any(figure in figures for figures in found.values()):
        raise KeyError(f"{file} has no figure {figure}")
    return found.get(row, {}).get(figure, "–")


def cells(result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the figures of a result as text, by row and name."""
    if "costs" in result:
        return {
            f"{each['method']} {each['rows']}x{each['tokens']}": _costs(each)
            for each in result["costs"]
        }
    if "counts" in result and "rows" not in result:  # of a framework's questions, by template
        return {
            f"{template} {row}": {name: str(count[row]) for name, count in counts.items()}
            for template, counts in result["counts"].items()
            for row in ("plain", "highlighted")
        }
    rows = result["rows"]
    if isinstance(rows, list):
        return {
            row["method"]: {name: _percent(each["value"]) for name, each in row["figures"].items()}
            for row in rows
        }
    return {
        row: {name: _percent(each) for name, each in found.items()} for row, found in rows.items()
    }


def _costs(cost: Mapping[str, Any]) -> dict[str, str]:
    prefill, decode = cost["prefill_ratio"]["median"], cost["decode_ratio"]["median"]
    return {
        "prefill_ms": f"{cost['prefill_ms']['median']:.1f}",
        "prefill": f"{100 * (prefill - 1):+.1f} %",
        "decode_ms": f"{cost['decode_ms']['median']:.1f}",
        "decode": f"{100 * (decode - 1):+.1f} %",
        "memory": "–" if cost["peak_gb"] is None else f"{cost['peak_gb']:+.3f}",
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
