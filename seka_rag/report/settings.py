"""How a result was made, as lists of names and values; whatever the settings hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from seka_rag.report.texts import text

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Result


def shown_settings(result: Result) -> str:
    """Return the command, and behind a fold the settings and counts."""
    rest = {name: value for name, value in result.settings.items() if name != "command"}
    if result.counts:
        rest["rows"] = dict(result.counts)
    command = result.settings.get("command")
    shown = f'<pre class="command"><code>{text(command)}</code></pre>' if command else ""
    return f"{shown}<details><summary>Settings</summary>{_facts(rest)}</details>"


def _facts(facts: Mapping[str, object]) -> str:
    rows = (
        f"<div><dt>{text(name)}</dt><dd>{_value(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return _alike(value) or _facts(value)
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None or value == "" else text(value)


def _alike(value: Mapping[str, object]) -> str:
    """Return mappings that hold things of the same names as a table; nothing for any others."""
    inner = [each for each in value.values() if isinstance(each, Mapping)]
    if not inner or len(inner) < len(value) or any(list(each) != list(inner[0]) for each in inner):
        return ""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in inner[0])
    lines = (
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(f"<td>{_value(cell)}</td>" for cell in each.values())
        + "</tr>"
        for name, each in zip(value, inner, strict=True)
    )
    return (
        f'<div class="scroll" role="region" aria-label="values" tabindex="0"><table class="small">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
