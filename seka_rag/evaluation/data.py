"""Readers of the evaluation data, which are never part of the package.

Files are JSON lines, gzipped or not, and CSV. What is absent or wrong is a DataError that says
which file and line, and for a whole file where to get it and how a line of it looks.
"""

import csv
import gzip
import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO, TypeVar

from seka_rag.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One line of a file: an object of JSON, or a row of a table by the names of its columns."""

    path: Path
    number: int  # from 1; of the last line where a row has several
    values: Mapping[str, object]

    def fault(self, what: str) -> DataError:
        """Return the error that says what is wrong with this line."""
        return DataError(f"{self.path}, line {self.number}: {what}")

    def text(self, name: str) -> str:
        """Return a text that is not blank."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"{name!r} must be a text, and is {value!r:.60}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, none blank and at least one."""
        value = self.values.get(name)
        if not _are_texts(value):
            raise self.fault(f"{name!r} must be a list of texts, and is {value!r:.60}")
        return tuple(value)  # type: ignore[arg-type]


def _are_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) and item.strip() for item in value)
    )


def draw(rows: Sequence[T], limit: int | None, *, seed: int, source: str) -> list[T]:
    """Return `limit` of the rows, drawn by the seed; without a limit, all in their order."""
    if limit is None and rows:
        return list(rows)
    if limit is None or not 1 <= limit <= len(rows):
        asked = "some" if limit is None else limit
        raise DataError(f"{source} gives {len(rows)} examples, and {asked} are asked for")
    return random.Random(seed).sample(list(rows), limit)


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
    path = find(Path(data), "counterfact", f"{split}.jsonl.gz", needed=", ".join(names))
    rows = []
    for line in lines(path):
        try:
            texts = {name: line.values[name] for name in names}
            case_id = int(str(texts.pop("case_id")))
        except (KeyError, ValueError) as error:
            raise line.fault(
                f"{error} is missing or wrong; each line needs {', '.join(names)}"
            ) from error
        rows.append(Edit(case_id, **{name: str(text) for name, text in texts.items()}))
    return rows


def read_relations(data: str | Path) -> dict[tuple[str, str], frozenset[str]]:
    """Return the relations of each (subject, object) in `pararel/facts.jsonl.gz` of the folder."""
    path = find(Path(data), "pararel", "facts.jsonl.gz", needed="relation, subject, object")
    found: dict[tuple[str, str], set[str]] = {}
    for line in lines(path):
        row = line.values
        try:
            pair = (str(row["subject"]), str(row["object"]))
            found.setdefault(pair, set()).add(str(row["relation"]))
        except KeyError as error:
            raise line.fault(
                f"{error} is missing; each line needs relation, subject and object"
            ) from error
    return {pair: frozenset(relations) for pair, relations in found.items()}


_SOURCES = {
    "counterfact": "CounterFact (ROME, rome.baulab.info) in the compact form that EasyEdit and "
    "MEMIT's followers use",
    "pararel": "ParaRel (github.com/yanaiela/pararel)",
    "dynamicqa": "DynamicQA (github.com/copenlu/dynamicqa)",
    "lost_in_the_middle": "NQ-open questions with their gold passages "
    "(github.com/nelson-liu/lost-in-the-middle, qa_data)",
    "memo_trap": "MemoTrap (github.com/liujch1998/memo-trap, dataset)",
    "ifeval": "IFEval (google-research/instruction_following_eval), whole or with the instruction "
    "set apart",
    "biasbios": "Bias in Bios (github.com/microsoft/biosbias, or huggingface.co/datasets/"
    "LabHC/bias_in_bios) written as JSON lines",
}
_FORMS = {".gz": "gzipped JSON lines", ".jsonl": "JSON lines", ".csv": "CSV"}


def find(data: Path, folder: str, name: str, *, needed: str) -> Path:
    """Return the path of a file in the data's subfolder, or in the data folder itself."""
    for path in (data / folder / name, data / name, data.parent / folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"there is no {name} in {data} or {data / folder}: it holds {_SOURCES[folder]}, "
        f"{_FORMS[Path(name).suffix]} with {needed}"
    )


def lines(path: Path) -> Iterator[Line]:
    """Yield the objects of a file of JSON lines, gzipped if so named; blank lines are skipped."""
    try:
        with _open(path) as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield Line(path, number, _object(path, number, text))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        form = "gzipped JSON lines" if path.suffix == ".gz" else "JSON lines"
        raise DataError(f"{path} cannot be read as {form}: {error}") from error


def table(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """Yield the rows of a CSV file whose first line names its columns, `columns` among them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            absent = [name for name in columns if name not in (reader.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{path} has no column {', '.join(absent)}: its first line names them"
                )
            for row in reader:
                line = Line(path, reader.line_num, row)
                if None in row or None in row.values():
                    raise line.fault("the row has more or fewer cells than there are columns")
                yield line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _object(path: Path, number: int, text: str) -> dict[str, object]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} is no JSON object: {text[:40]!r}")
    return row
