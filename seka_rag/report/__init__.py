"""Reports: results as one HTML file, which asks for no other file, no network and no script.

Tables of figures, curves over numbers and strengths, and samples with what is attended to. Reads
results, and runs nothing. The same results give the same file, and whatever text they hold stays
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.errors import DataError
from seka_rag.files import write_beside
from seka_rag.report.charts import colours_of, over_numbers, over_strengths
from seka_rag.report.samples import READING, shown_sample
from seka_rag.report.settings import shown_settings
from seka_rag.report.tables import table
from seka_rag.report.texts import curves_of, names_of, text

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Result

__all__ = ["write_report"]


def write_report(results: Sequence[Result], path: str | Path) -> Path:
    """Write one HTML file about all the results, and return where it is."""
    if not results:
        raise DataError("there is no result to report: give at least one")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_beside(target, _page(results).encode("utf-8"))
    return target


def _page(results: Sequence[Result]) -> str:
    several = len(results) > 1
    title = f"{len(results)} evaluations" if several else _title(results[0])
    head = f"<h1>{text(title)}</h1>"
    if several:
        links = (
            f'<li><a href="#r{number}">{text(_title(result))}</a></li>'
            for number, result in enumerate(results, start=1)
        )
        head += f'<nav aria-label="Evaluations"><ul>{"".join(links)}</ul></nav>'
    else:
        head += _lead(results[0])
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    sections = (
        _section(result, number, level=3 if several else 2)
        for number, result in enumerate(results, start=1)
    )
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>{head}</header>\n<main>\n{body}\n</main>\n"
        "<footer><p>A report of seka-rag.</p></footer>\n</body>\n</html>\n"
    )


def _section(result: Result, number: int, *, level: int) -> str:
    """Return one result, whose headings begin at a level: below 2 it has one of its own."""
    colours = colours_of(result)
    curves = curves_of(names_of(result))
    in_curves = {name for curve in curves.values() for _, name in curve}
    others = [name for name in names_of(result) if name not in in_curves]
    parts = [] if level == 2 else [f"<h2>{text(_title(result))}</h2>{_lead(result)}"]
    if others:
        said = "Scores in per cent"
        parts.append(
            f"<h{level}>Figures</h{level}>{table(result.rows, others, f't{number}', said)}"
        )
        parts.append(over_strengths(result.rows, others, colours, f"s{number}", level=level))
    parts += [
        over_numbers(result.rows, stem, curve, colours, f"c{number}-{place}", level=level)
        for place, (stem, curve) in enumerate(curves.items())
    ]
    if result.samples:
        parts.append(f"<h{level}>Samples</h{level}>{READING}")
        parts += [shown_sample(sample, level=level + 1) for sample in result.samples]
    parts.append(f"<h{level}>How it was run</h{level}>{shown_settings(result)}")
    return f'<section id="r{number}">\n' + "\n".join(filter(None, parts)) + "\n</section>"


def _title(result: Result) -> str:
    model = result.settings.get("model")
    return result.task if model is None else f"{result.task} on {model}"


def _lead(result: Result) -> str:
    n = max((figure.n for row in result.rows for figure in row.figures.values()), default=0)
    methods = f"{len(result.rows)} method{'s' * (len(result.rows) != 1)}"
    date = str(result.settings.get("date", ""))[:10]
    said = f"{methods}, {n} example{'s' * (n != 1)}{date and ', '}{date}"
    return f'<p class="lead">{text(said)}</p>'
