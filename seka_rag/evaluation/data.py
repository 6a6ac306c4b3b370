"""Readers of the evaluation data, which are never part of the package."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from seka_rag.errors import DataError


@dataclass(frozen=True)
class Edit:
    """One row of CounterFact: a fact, a false object in its place, and three prompts."""

    case_id: int
    prompt: str  # asks for the object
    subject: str
    ground_truth: str
    target_new: str
    rephrase_prompt: str  # asks for the same in other words
    locality_prompt: str  # asks the same of another subject
    locality_ground_truth: str

    def names_its_answer(self) -> bool:
        """Return whether the subject contains either object, as "BBC One" contains "BBC"."""
        subject = self.subject.casefold()
        return any(text.casefold() in subject for text in (self.ground_truth, self.target_new))


def read_counterfact(data: str | Path, split: str) -> list[Edit]:
    """Return the rows of `{split}.jsonl.gz` in the folder, or in its subfolder `counterfact`."""
    names = [entry.name for entry in fields(Edit)]
    path = _find(Path(data), "counterfact", f"{split}.jsonl.gz", needed=", ".join(names))
    rows = []
    for number, row in _lines(path):
        try:
            texts = {name: row[name] for name in names}
            case_id = int(str(texts.pop("case_id")))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: {error} is missing or wrong; each line needs "
                f"{', '.join(names)}"
            ) from error
        rows.append(Edit(case_id, **{name: str(text) for name, text in texts.items()}))
    return rows


def read_relations(data: str | Path) -> dict[tuple[str, str], frozenset[str]]:
    """Return the relations of each (subject, object) in `pararel/facts.jsonl.gz` of the folder."""
    path = _find(Path(data), "pararel", "facts.jsonl.gz", needed="relation, subject, object")
    found: dict[tuple[str, str], set[str]] = {}
    for number, row in _lines(path):
        try:
            pair = (str(row["subject"]), str(row["object"]))
            found.setdefault(pair, set()).add(str(row["relation"]))
        except KeyError as error:
            raise DataError(
                f"{path}, line {number}: {error} is missing; each line needs relation, subject "
                "and object"
            ) from error
    return {pair: frozenset(relations) for pair, relations in found.items()}


_SOURCES = {
    "counterfact": "CounterFact (ROME, rome.baulab.info) in the compact form that EasyEdit and "
    "MEMIT's followers use",
    "pararel": "ParaRel (github.com/yanaiela/pararel)",
}


def _find(data: Path, folder: str, name: str, *, needed: str) -> Path:
    for path in (data / folder / name, data / name, data.parent / folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"there is no {name} in {data} or {data / folder}: it holds {_SOURCES[folder]}, gzipped "
        f"JSON lines with {needed}"
    )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number} is no JSON object: {line[:40]!r}")
                yield number, row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as gzipped JSON lines: {error}") from error
