"""Answers: what a model makes of many asks under one method, in batches of like length.

A choice is scored, and an answer written, the same way for all methods: read the prompts, then go
on token by token, with the choice's own tokens or with the likeliest ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seka_rag.evaluation.methods import Method, Prepared
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.inputs import Row, continuation_ids
from seka_rag.steering import SteeredModel


@dataclass
class _Line:
    """One row of a batch: an ask, or one of its whole choices."""

    ask: int
    row: Row
    steps: int  # tokens to go on with, beyond what is read off the prompt
    firsts: tuple[int, ...] = ()  # first tokens whose probability is wanted
    forced: tuple[int, ...] = ()  # the tokens of a whole choice
    written: list[int] = field(default_factory=list)
    ended: bool = False
    logprobs: list[float] = field(default_factory=list)
    first: bool = False


def answers(
    model: SteeredModel,
    method: Method,
    prepared: Prepared,
    asks: Sequence[Ask],
    *,
    batch_size: int,
    done: Callable[[int], None] = lambda lines: None,
) -> list[Answer]:
    """Return the answer to every ask; `done` is told of the rows of each batch."""
    rows = prepared.rows([method.prompt(ask) for ask in asks])
    lines = [
        line
        for i, (ask, row) in enumerate(zip(asks, rows, strict=True))
        for line in _lines(model, i, ask, row)
    ]
    order = sorted(range(len(lines)), key=lambda i: (lines[i].steps, len(lines[i].row.ids)))
    for start in range(0, len(order), batch_size):
        batch = [lines[i] for i in order[start : start + batch_size]]
        _run(model, prepared, batch)
        done(len(batch))
    return [
        _answer(model, ask, [line for line in lines if line.ask == i]) for i, ask in enumerate(asks)
    ]


def _lines(model: SteeredModel, i: int, ask: Ask, row: Row) -> list[_Line]:
    if not ask.choices:
        return [_Line(i, row, ask.max_new_tokens - 1)]
    followed = [tuple(continuation_ids(model.tokenizer, row, text)) for text in ask.choices]
    if not ask.whole:
        return [_Line(i, row, 0, firsts=tuple(ids[0] for ids in followed))]
    return [_Line(i, row, len(ids) - 1, forced=ids) for ids in followed]


@torch.no_grad()
def _run(model: SteeredModel, prepared: Prepared, lines: Sequence[_Line]) -> None:
    ends = _ends(model)
    reading = prepared.reading([line.row for line in lines])
    logits = reading.read()
    _look(logits.log_softmax(-1).cpu(), lines)
    step = 0
    while True:
        tokens = [_next(line, step, row, ends) for line, row in zip(lines, logits, strict=True)]
        if all(line.ended or step >= line.steps for line in lines):
            return
        logits = reading.step(tokens)
        step += 1
        logprobs = logits.log_softmax(-1).cpu() if any(line.forced for line in lines) else logits
        for line, row in zip(lines, logprobs, strict=True):
            if step < len(line.forced):
                line.logprobs[0] += row[line.forced[step]].item()


def _look(logprobs: Tensor, lines: Sequence[_Line]) -> None:
    """Take what is wanted of the distribution behind the prompts, (B, V)."""
    for line, row in zip(lines, logprobs, strict=True):
        wanted = line.firsts or line.forced[:1]
        line.logprobs = [row[token].item() for token in wanted]
        if wanted:
            line.first = row[wanted[0]].item() >= row.max().item()


def _next(line: _Line, step: int, logits: Tensor, ends: frozenset[int]) -> int:
    """Return the token that a line goes on with, and note it where it is an answer's."""
    if line.forced:
        return line.forced[min(step, len(line.forced) - 1)]
    token = int(logits.argmax())
    if not line.firsts and not line.ended and step <= line.steps:
        line.ended = token in ends
        if not line.ended:
            line.written.append(token)
    return token


def _ends(model: SteeredModel) -> frozenset[int]:
    found = model.model.generation_config.eos_token_id
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


def _answer(model: SteeredModel, ask: Ask, lines: Sequence[_Line]) -> Answer:
    if not ask.choices:
        written = lines[0].written
        return Answer(str(model.tokenizer.decode(written, skip_special_tokens=True)))
    return Answer(
        logprobs=tuple(value for line in lines for value in line.logprobs), first=lines[0].first
    )
