"""IFEval: are orders about the form of an answer obeyed, if they are highlighted?

Prompts whose orders a program can check (Zhou et al., 2023, arXiv 2311.07911).

    split             prompts                                  what is highlighted
    single            the next three together                  what `prompt_without_instruction`
    format, include,  one order each, as others have rewritten  lacks, as an instruction
    exclude           them, with the prompt that lacks it
    full              the published ones, up to three orders   the sentences that seem to give them

    prompt       a chat of one message; the answer has up to `max_new_tokens` tokens
    strict       all orders of the prompt are followed
    instruction  share of them that are

The checks are in `ifeval_checks`, which says where they differ from the published program: compare
methods, not with figures of others. The paper's loose figures are not computed. In `full` nothing
says where an order stands. A row is used if each of its orders is found by its telling words in a
sentence behind the first, which mostly gives the request: three of four are. A sentence may be
found that orders nothing, and a second sentence of the same order missed. Orders about the language
are left out: they cannot be checked here. An answer that is cut off at `max_new_tokens` cannot
follow an order to be long, or to end in some way: raise it for such.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Line, draw, find, lines
from seka_rag.evaluation.ifeval_checks import KINDS, fault, followed, orders
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Span, segments_of
from seka_rag.retrieval import sentence_places

_FILES = {
    "format": "ifeval_single_instr_format.jsonl",
    "include": "ifeval_single_keyword_include.jsonl",
    "exclude": "ifeval_single_keyword_exclude.jsonl",
    "full": "input_data.jsonl",
}
SPLITS = ("single", *_FILES)
_LANGUAGE = "language:"
_NO_END = re.compile(r"\b(?:i\.e\.|e\.g\.|\d\.)$")  # a full stop that ends no sentence
Extent = tuple[int, int]  # characters [start, end)


@dataclass(frozen=True)
class Order:
    """An instruction that can be checked."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A prompt, where its instructions stand, and what they order."""

    id: str
    prompt: str
    places: tuple[Extent, ...]
    orders: tuple[Order, ...]


@dataclass(frozen=True)
class IFEval:
    """The task over one split."""

    data: Path
    limit: int | None = None
    seed: int = 0
    split: str = "single"
    max_new_tokens: int = 256

    name: ClassVar[str] = "ifeval"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "limit": self.limit,
            "seed": self.seed,
            "split": self.split,
            "max_new_tokens": self.max_new_tokens,
        }

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], dict[str, int]]:
        if self.split not in SPLITS or self.max_new_tokens < 1:
            raise DataError(
                f"split {self.split!r}, {self.max_new_tokens} tokens: use one of "
                f"{', '.join(SPLITS)} and at least 1 token"
            )
        usable: list[Example] = []
        counts = {"read": 0, "language": 0, "not_apart": 0}
        for split in ("format", "include", "exclude") if self.split == "single" else [self.split]:
            needed = "prompt, instruction_id_list, kwargs"
            if split != "full":
                needed += ", prompt_without_instruction"
            for line in lines(find(self.data, "ifeval", _FILES[split], needed=needed)):
                counts["read"] += 1
                found = _example(split, line)
                if isinstance(found, str):
                    counts[found] += 1
                else:
                    usable.append(found)
        chosen = draw(usable, self.limit, seed=self.seed, source=f"IFEval's split {self.split}")
        return chosen, {**counts, "used": len(chosen)}

    def prompts(self, example: Example) -> list[Ask]:
        spans = [Span(start, end, kind="instruction") for start, end in example.places]
        message = {"role": "user", "content": segments_of(example.prompt, spans)}
        return [Ask([message], max_new_tokens=self.max_new_tokens)]

    def score(self, example: Example, answers: Sequence[Answer]) -> dict[str, float]:
        text = answers[0].text
        hits = [followed(order.kind, text, order.settings) for order in example.orders]
        return {"strict": float(all(hits)), "instruction": sum(hits) / len(hits)}


def _example(split: str, line: Line) -> Example | str:
    """Return the example of a row, or why it is left out."""
    prompt, found = line.text("prompt"), _orders(line)
    if any(order.kind.startswith(_LANGUAGE) for order in found):
        return "language"
    if split == "full":
        places = sentences_that_order(prompt, found)
    else:
        place = added(line.text("prompt_without_instruction"), prompt)
        places = () if place is None else (place,)
    if not places:
        return "not_apart"
    return Example(f"{split}:{line.number}", prompt, places, found)


def _orders(line: Line) -> tuple[Order, ...]:
    kinds, settings = line.texts("instruction_id_list"), line.values.get("kwargs")
    listed = settings if isinstance(settings, list) else []
    if len(listed) != len(kinds) or not all(isinstance(each, dict) for each in listed):
        raise line.fault("'kwargs' must list an object for each of 'instruction_id_list'")
    found = []
    for kind, given in zip(kinds, listed, strict=True):
        if kind not in KINDS and not kind.startswith(_LANGUAGE):
            raise line.fault(f"the instruction {kind!r} is unknown")
        if kind in KINDS and (wrong := fault(kind, given)):
            raise line.fault(wrong)
        found.append(Order(kind, given))
    return tuple(found)


def added(without: str, prompt: str) -> Extent | None:
    """Return where the prompt holds what `without` lacks, less the space around it.

    None if it lacks more than one piece, or holds more than a closing mark that the prompt lacks.
    """
    start = len(commonprefix([without, prompt]))
    kept = len(commonprefix([without[start:][::-1], prompt[start:][::-1]]))
    if without[start : len(without) - kept].strip(" \n.?!"):
        return None
    end = len(prompt) - kept
    # A piece may begin like what follows it: of equal readings, that which starts a sentence.
    best = start
    while start > 0 and end > start and prompt[start - 1] == prompt[end - 1]:
        start, end = start - 1, end - 1
        if re.search(r"(?:^|[.?!\"”:]\s|\n)$", prompt[:start]):
            best = start
            break
    end += best - start
    piece = prompt[best:end]
    lead = len(piece) - len(piece.lstrip())
    return (best + lead, best + len(piece.rstrip())) if piece.strip() else None


def sentences_that_order(prompt: str, given: Sequence[Order]) -> tuple[Extent, ...]:
    """Return the sentences behind the first that give the orders; none if one is not found."""
    places = _sentences(prompt)[1:]
    chosen: set[Extent] = set()
    for order in given:
        found = [
            (start, end)
            for start, end in places
            if orders(order.kind, order.settings, prompt[start:end])
        ]
        if not found:
            return ()
        chosen.update(found)
    return tuple(sorted(chosen))


def _sentences(prompt: str) -> list[Extent]:
    """Return where the sentences are, each on one line."""
    places: list[Extent] = []
    for line in re.finditer(r"[^\n]+", prompt):
        open_start: int | None = None
        for start, end in sentence_places(line[0]):
            start = start if open_start is None else open_start
            open_start = start if _NO_END.search(line[0][start:end]) else None
            if open_start is None:
                places.append((line.start() + start, line.start() + end))
        if open_start is not None:
            places.append((line.start() + open_start, line.start() + len(line[0].rstrip())))
    return places
