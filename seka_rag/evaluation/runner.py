"""The harness: one task under several methods, every example under each, kept as it goes.

A run that is given a file writes the scores of every batch beside it, and one that was stopped goes
on from there, if it is the same run: task, model, bank, routing, examples. `samples` examples are
looked at more closely: what is attended to and what is written.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from seka_rag.errors import DataError
from seka_rag.evaluation.answering import answers
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.looking import look
from seka_rag.evaluation.methods import Method, Prepared
from seka_rag.evaluation.results import Figure, Result, Row, describe
from seka_rag.evaluation.task import Identified, Task
from seka_rag.steering import SteeredModel

Progress = Callable[[int, int], None]  # examples done, examples in all
E = TypeVar("E", bound=Identified)
Scores = dict[str, dict[str, float]]  # figures, by example


def run(
    model: SteeredModel,
    task: Task[E],
    methods: Sequence[str],
    *,
    batch_size: int = 32,
    seed: int = 0,
    samples: int = 0,
    keep: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Return the figures of every method, each written as `methods.parse` takes it.

    `seed` is for methods that draw. `keep` is where the result will be saved: what is done is kept
    beside it, with `.partial` behind its name, until `finish` is called.
    """
    if len(set(methods)) < len(methods):
        raise DataError(f"the methods are {', '.join(methods)}: name each once")
    parsed = {name: parse(name) for name in methods}
    examples, counts = task.examples(model.tokenizer)
    prepared = {name: method.prepare(model, seed=seed) for name, method in parsed.items()}
    for method in parsed.values():  # what a method cannot ask is refused before the first batch
        for ask in (ask for example in examples[:1] for ask in task.prompts(example)):
            method.prompt(ask)
    described = describe(model, command=command)
    settings = {**task.settings, "seed": seed, "examples": _digest([one.id for one in examples])}
    same = [described[name] for name in ("model", "dtype", "experts", "routing")]
    kept = _Kept(keep, _digest([task.name, settings, *same]))
    done, total = 0, len(examples) * len(methods)
    rows = []
    for name, method in parsed.items():
        scores = kept.of(name)
        done += len(scores)
        left = [example for example in examples if example.id not in scores]
        for batch in _batches(task, left, size=batch_size):
            if progress is not None:
                progress(done, total)
            new = _scores(model, task, method, prepared[name], batch, batch_size=batch_size)
            kept.add(name, new)
            done += len(new)
        rows.append(_row(name, {example.id: scores[example.id] for example in examples}))
    if progress is not None:
        progress(total, total)
    looked = [
        look(model, {name: (parsed[name], prepared[name]) for name in methods}, example.id, ask)
        for example in examples[:samples]
        for ask in task.prompts(example)[:1]
    ]
    return Result(
        task.name,
        {**described, **settings, "batch_size": batch_size},
        counts,
        tuple(rows),
        tuple(looked),
    )


def finish(path: Path) -> None:
    """Let go of what was kept of a run whose result has been saved."""
    _beside(path).unlink(missing_ok=True)


def _row(name: str, scores: Scores) -> Row:
    figures: dict[str, list[float]] = {}
    for found in scores.values():
        for figure, score in found.items():
            figures.setdefault(figure, []).append(score)
    return Row(name, {figure: Figure.of(found) for figure, found in figures.items()}, scores)


def _batches(task: Task[E], examples: Sequence[E], *, size: int) -> Iterator[list[E]]:
    """Yield the examples in groups that ask about four batches: so much is lost by a stop."""
    group: list[E] = []
    asked = 0
    for example in examples:
        group.append(example)
        asked += len(task.prompts(example))
        if asked >= 4 * size:
            yield group
            group, asked = [], 0
    if group:
        yield group


def _scores(
    model: SteeredModel,
    task: Task[E],
    method: Method,
    prepared: Prepared,
    examples: Sequence[E],
    *,
    batch_size: int,
) -> Scores:
    asked = [list(task.prompts(example)) for example in examples]
    asks = [ask for each in asked for ask in each]
    found = iter(answers(model, method, prepared, asks, batch_size=batch_size))
    return {
        example.id: dict(task.score(example, [next(found) for _ in each]))
        for example, each in zip(examples, asked, strict=True)
    }


class _Kept:
    """The scores of a run so far, in memory and, where there is a file to come, beside it."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = None if path is None else _beside(path)
        self._scores: dict[str, Scores] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path, key)
        elif self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"run": key})

    def of(self, method: str) -> Scores:
        return self._scores.setdefault(method, {})

    def add(self, method: str, scores: Scores) -> None:
        self.of(method).update(scores)
        self._write({"method": method, "scores": scores})

    def _read(self, path: Path, key: str) -> None:
        text = path.read_text(encoding="utf-8")
        whole, end, cut = text.rpartition("\n")  # a line that was cut off is done again
        try:
            lines = [json.loads(line) for line in whole.split("\n")] if end else []
            if lines and lines[0]["run"] != key:
                raise KeyError(key)
            for line in lines[1:]:
                self.of(line["method"]).update(line["scores"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{path} is what was kept of another run: delete it, or write the result elsewhere"
            ) from None
        if cut:
            path.write_text(whole + end, encoding="utf-8")
        if not lines:
            self._write({"run": key})

    def _write(self, entry: Mapping[str, object]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
