"""JSON schemas, as llguidance can follow them: checked, with the style of JSON that is wanted.

Most of the check is llguidance's own: it refuses what it does not know, and most of what nothing
fits. A schema that requires itself within itself it would follow without end, so that is found
here. JSON comes on one line, with at most one blank after a comma or a colon, lest a model lose
itself in blanks.

Nothing here knows of tokens. Needs llguidance.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

from seka_rag.errors import GrammarError

Schema: TypeAlias = Mapping[str, Any]

# Where llguidance looks for options in a schema, in place of any that the schema brings.
_OPTIONS = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ?",
        "key_separator": ": ?",
    }
}


def as_rule(schema: Schema | str) -> str:
    """Return the schema, or that of this JSON text, as the JSON that llguidance reads.

    Raises GrammarError where it is none, asks for what cannot be followed, or accepts nothing.
    """
    from llguidance import LLMatcher

    try:
        root = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps({**root, **_OPTIONS}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"a schema is a JSON object, and this is none: {error}") from error
    problem = LLMatcher.validate_grammar(f'{{"grammars": [{{"json_schema": {text}}}]}}')
    if problem:
        raise GrammarError(f"the schema cannot be followed: {reason(problem)}")
    if not _can_end(root):
        raise GrammarError(
            "the schema cannot be followed: it requires itself within itself, without end"
        )
    return text


def reason(message: str) -> str:
    """Return the reason in llguidance's message, in one line.

    What may follow is its inner state, the grammar, and options that are not the caller's to set.
    """
    first = re.split(r"\n<state>|\n +\d+ \| | Enable ", message, maxsplit=1)[0]
    return " ".join(first.split())


def _can_end(root: Schema) -> bool:
    """Return whether the schema accepts anything that is finite."""
    finite: set[str] = set()  # references that are known to
    met: set[str] = set()

    def ends(schema: object) -> bool:
        if not isinstance(schema, Mapping):
            return True
        reference = str(schema.get("$ref", ""))
        if reference == "#" or reference.startswith("#/"):
            met.add(reference)
            if reference not in finite:
                return False
        return all(map(ends, _necessary(schema))) and all(
            any(map(ends, schema[choice])) for choice in ("anyOf", "oneOf") if choice in schema
        )

    while not ends(root):
        known = len(finite), len(met)
        finite |= {reference for reference in met - finite if ends(_at(root, reference))}
        if known == (len(finite), len(met)):
            return False
    return True


def _necessary(schema: Schema) -> list[object]:
    """Return the schemas of those parts without which nothing fits."""
    properties, first = schema.get("properties", {}), schema.get("prefixItems", [])
    least = int(schema.get("minItems", 0))
    parts = [properties.get(name) for name in schema.get("required", [])]
    parts += first[:least]
    if least > len(first):
        parts.append(schema.get("items"))
    return [*parts, *schema.get("allOf", [])]


def _at(root: Schema, pointer: str) -> object:
    """Return what the JSON pointer points at; None if it counts from elsewhere than the root."""
    found: Any = root
    try:
        for part in unquote(pointer).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (LookupError, TypeError, ValueError):
        return None
    return found
