"""Labelled examples: prompts with highlights, the answer wanted, and the one that should lose.

In a related example the highlighted span answers: there a highlight is to help. In an unrelated one
the span has nothing to do with the question: there nothing is to change. The help and the harm of a
gain are measured on them, and the weights of directions are found on them.

Only the token at which the two answers part is compared, so that one forward pass tells all.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from seka_rag.errors import CalibrationError, SekaError
from seka_rag.highlight import Segments, highlight_in
from seka_rag.inputs import Batch, Row, continuation_ids, pad, padding_id, read_prompt
from seka_rag.prompts import Prompt

MIN_EXAMPLES = 10  # of each kind


@dataclass(frozen=True)
class Example:
    """A prompt with highlights, the answer wanted, and the one that should lose."""

    prompt: Prompt
    wanted: str
    rival: str
    related: bool = True  # whether the highlighted span has to do with the question


@dataclass(frozen=True)
class Choice:
    """An example as the model reads it, up to where the answers part."""

    row: Row
    wanted: int  # token ids
    rival: int
    related: bool


def read_choices(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Choice]:
    """Return the examples as a model reads them, each tokenised once.

    Fewer than 10 of either kind, and examples that tell nothing, are a CalibrationError.
    """
    choices = [_choice(tokenizer, example) for example in examples]
    related = sum(choice.related for choice in choices)
    if min(related, len(choices) - related) < MIN_EXAMPLES:
        raise CalibrationError(
            f"there are {related} related and {len(choices) - related} unrelated examples: at "
            f"least {MIN_EXAMPLES} of each are needed, to see help and harm"
        )
    return choices


def _choice(tokenizer: PreTrainedTokenizerBase, example: Example) -> Choice:
    """Return the example with what its answers have in common put behind the prompt."""
    row = read_prompt(tokenizer, example.prompt, gain=None, default_gain=1.0)
    if not any(row.gains):
        raise CalibrationError(f"nothing is highlighted in {row.rendered.text[:60]!r}")
    wanted, rival = (
        continuation_ids(tokenizer, row, text) for text in (example.wanted, example.rival)
    )
    common = len(commonprefix([wanted, rival]))
    if common in (len(wanted), len(rival)):
        raise CalibrationError(
            f"of the answers {example.wanted!r} and {example.rival!r} one begins with the other: "
            "nothing tells them apart"
        )
    longer = row.followed_by(wanted[:common])
    return Choice(longer, wanted[common], rival[common], example.related)


def batches(choices: Sequence[Choice], batch_tokens: int) -> Iterator[list[Choice]]:
    """Yield batches of like length, of about `batch_tokens` with their padding."""
    batch: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: len(choice.row.ids)):
        if batch and (len(batch) + 1) * len(choice.row.ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(choice)
    yield batch


def padded(
    batch: Sequence[Choice],
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: torch.device,
    gain: float,
) -> Batch:
    """Return the prompts of a batch, each highlight's own gain multiplied by `gain`."""
    rows = [choice.row.scaled(gain) for choice in batch]
    return pad(rows, pad_id=padding_id(tokenizer), device=device)


def halves(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return the examples in two halves, drawn by chance; those with the same answers together."""
    groups: dict[tuple[bool, frozenset[str]], list[Example]] = {}
    for example in examples:
        answers = frozenset((example.wanted, example.rival))
        groups.setdefault((example.related, answers), []).append(example)
    order = random.Random(0).sample(list(groups.values()), len(groups))
    found: tuple[list[Example], list[Example]] = ([], [])
    for group in order:
        counts = [sum(one.related is group[0].related for one in half) for half in found]
        found[counts[0] > counts[1]].extend(group)
    return found


def read_examples(path: str | Path) -> list[Example]:
    """Return the examples of a file of JSON lines; a CalibrationError names a wrong line.

    A line holds "prompt" (a text, or messages), "highlight" (a text of it, or several), "wanted",
    "rival", and "related": false where the highlight has nothing to do with the question.
    """
    source = Path(path)
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{source} cannot be read as UTF-8 text: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_example_of(json.loads(line)))
            except (ValueError, SekaError) as error:
                raise CalibrationError(f"{source}, line {number}: {error}") from error
    return found


def _example_of(entry: object) -> Example:
    if not isinstance(entry, dict):
        raise CalibrationError("a line must be a JSON object")
    marked = entry.get("highlight")
    needles = [marked] if isinstance(marked, str) else marked
    wanted, rival, related = entry.get("wanted"), entry.get("rival"), entry.get("related", True)
    if not isinstance(needles, list) or not all(isinstance(text, str) for text in needles):
        raise CalibrationError("highlight must be a text, or a list of texts")
    if not isinstance(wanted, str) or not isinstance(rival, str):
        raise CalibrationError("wanted and rival must be texts")
    if not isinstance(related, bool):
        raise CalibrationError(f"related is {related!r}: it must be true or false")
    prompt = entry.get("prompt")
    if isinstance(prompt, str):
        return Example(_highlighted(prompt, needles), wanted, rival, related)
    if not isinstance(prompt, list) or not all(isinstance(message, dict) for message in prompt):
        raise CalibrationError("prompt must be a text or a list of messages")
    return Example(_highlighted_chat(prompt, needles), wanted, rival, related)


def _highlighted(text: str, needles: Sequence[str]) -> Segments:
    """Return the text with all the needles highlighted."""
    segments: Segments = (text,)
    for needle in needles:
        segments = highlight_in(segments, needle)
    return segments


def _highlighted_chat(
    messages: Sequence[Mapping[str, object]], needles: Sequence[str]
) -> list[Mapping[str, object]]:
    """Return the messages, each needle highlighted in the last one that holds it."""
    chat = [dict(message) for message in messages]
    marked: dict[int, list[str]] = {}
    for needle in needles:
        holding = [i for i, message in enumerate(chat) if needle in str(message.get("content"))]
        if not holding:
            raise CalibrationError(f"the highlight {needle[:60]!r} is in none of the messages")
        marked.setdefault(holding[-1], []).append(needle)
    for i, found in marked.items():
        chat[i]["content"] = _highlighted(str(chat[i]["content"]), found)
    return list(chat)
