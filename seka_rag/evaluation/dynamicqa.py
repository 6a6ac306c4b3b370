"""DynamicQA: does a passage of Wikipedia that contradicts memory win, if it is highlighted?

The opening of an article, with a true entity replaced by a plausible one of the same kind, and a
question whose answer it is (Marjanović et al., 2024, arXiv 2407.17023). Facts of the split
`static` have hardly ever been edited, those of `temporal` often.

    prompt     a RAG chat of one passage, highlighted as a whole, and the question
    choices    the replaced and the true entity, each whole, where the answer begins
    follows    share in which the replaced one, which the passage tells, is likelier

An article of more than `max_words` words is cut to whole sentences around the first that names the
entity. Left out are rows whose two names contain one another, or whose replaced entity is another
name of the true one; those where the true one still stands in the passage; those of which that one
sentence is too long. The data cut the entity out where it is named in full: hints of the true one
may be left. The probability of a whole name falls with its length, so short names have an
advantage, the same under every method: compare methods, not splits. Whether a model knew the true
answer is not asked, and a model that writes a sentence before the name is not measured well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Line, draw, find, table
from seka_rag.evaluation.matching import normalised, occurs
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.prompts import Passage, rag_messages
from seka_rag.retrieval import sentences

ENTITY = "[ENTITY]"
SPLITS = ("static", "temporal")
_COLUMNS = ("id", "question", "obj", "possible_answers", "context", "replace_name")


@dataclass(frozen=True)
class Example:
    """A question, and a passage that answers it with another entity than the true one."""

    id: str
    question: str
    passage: str
    told: str
    true: str


@dataclass(frozen=True)
class DynamicQA:
    """The task over one split; `max_words` of a passage."""

    data: Path
    limit: int | None = None
    seed: int = 0
    split: str = "static"
    max_words: int = 150

    name: ClassVar[str] = "dynamicqa"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "limit": self.limit,
            "seed": self.seed,
            "split": self.split,
            "max_words": self.max_words,
        }

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], dict[str, int]]:
        if self.split not in SPLITS or self.max_words < 1:
            raise DataError(
                f"split {self.split!r}, {self.max_words} words: use one of {', '.join(SPLITS)} and "
                "at least 1 word"
            )
        name = f"{self.split.capitalize()}_final.csv"
        path = find(self.data, "dynamicqa", name, needed=f"the columns {', '.join(_COLUMNS)}")
        counts = {
            "read": 0,
            "names_overlap": 0,
            "answer_in_passage": 0,
            "sentence_too_long": 0,
        }
        usable = []
        for line in table(path, _COLUMNS):
            counts["read"] += 1
            found = self._example(line)
            if isinstance(found, str):
                counts[found] += 1
            else:
                usable.append(found)
        chosen = draw(usable, self.limit, seed=self.seed, source=path.name)
        return chosen, {**counts, "used": len(chosen)}

    def _example(self, line: Line) -> Example | str:
        """Return the example of a row, or why it is left out."""
        true, told, context = (line.text(name) for name in ("obj", "replace_name", "context"))
        others = _other_names(line)
        one, two = true.casefold(), told.casefold()
        if one in two or two in one or normalised(told) in map(normalised, others):
            return "names_overlap"
        if ENTITY not in context:
            raise line.fault(f"'context' must hold {ENTITY}")
        cut = around(context, ENTITY, max_words=self.max_words)
        if cut is None:
            return "sentence_too_long"
        if any(occurs(name, cut.replace(ENTITY, "|")) for name in (true, *others)):
            return "answer_in_passage"
        return Example(
            f"{self.split}:{line.text('id')}",
            line.text("question"),
            cut.replace(ENTITY, told),
            told,
            true,
        )

    def prompts(self, example: Example) -> list[Ask]:
        chat = rag_messages(example.question, [Passage(example.passage)], gains=[None])
        return [Ask(chat, choices=(example.told, example.true), whole=True)]

    def score(self, example: Example, answers: Sequence[Answer]) -> dict[str, float]:
        return {"follows": float(answers[0].preferred)}


def _other_names(line: Line) -> tuple[str, ...]:
    try:
        names = json.loads(line.text("possible_answers"))
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise line.fault("'possible_answers' must be a JSON list of texts")
    return tuple(names)


def around(text: str, wanted: str, *, max_words: int) -> str | None:
    """Return whole sentences in a row, from the first that holds `wanted`: those behind it, then
    those before it, up to `max_words` words in all; None if that sentence alone is longer.
    """
    found = sentences(text)
    lengths = [len(sentence.split()) for sentence in found]
    start = next(i for i, sentence in enumerate(found) if wanted in sentence)
    end = start + 1
    left = max_words - lengths[start]
    if left < 0:
        return None
    while end < len(found) and lengths[end] <= left:
        left -= lengths[end]
        end += 1
    while start > 0 and lengths[start - 1] <= left:
        start -= 1
        left -= lengths[start]
    return " ".join(found[start:end])
