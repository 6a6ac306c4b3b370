"""MemoTrap: is an instruction followed where a well-known saying tempts to go on from memory?

The data are two tasks of MemoTrap (Liu and Liu, 2023, github.com/liujch1998/memo-trap), of the
Inverse Scaling Prize's family. `ending`: 'Write a quote that ends in the word "heavy": Absence
makes the heart grow'. `translation`: the literal translation of a changed saying.

    prompt     the text as it stands, to be gone on with; it is no chat
    highlight  what is to be done: the order to end so, or to translate and the sentence itself
    choices    the two endings of the data, each whole
    follows    share in which the ending that follows the instruction is the likelier

Only the two endings are compared; the model may want to write something else altogether. The quoted
word of `ending` stands in the highlight, so what helps there may be the word being brought forward,
not the instruction being understood; `translation` gives its word only in another language, and
asks for some knowledge of it.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Line, draw, find, table
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Segment, highlight

_COLUMNS = ("prompt", "classes", "answer_index")
_FILES = {"ending": "1-proverb-ending.csv", "translation": "2-proverb-translation.csv"}
# What is to be done comes first, what is to be gone on with follows.
_FORMS = {
    "ending": re.compile(
        r'(?P<order>Write a quote that ends in the word "[^"]+")(?P<rest>: .+)', re.S
    ),
    "translation": re.compile(
        r"(?P<order>Translate the following sentence from \w+ into English\.\n.+)"
        r"(?P<rest>\nto:\n.+)",
        re.S,
    ),
}


@dataclass(frozen=True)
class Example:
    """An instruction, the beginning that follows it, and the two endings."""

    id: str
    order: str
    rest: str
    wanted: str
    memorised: str


@dataclass(frozen=True)
class MemoTrap:
    """The task over one of its two files."""

    data: Path
    limit: int | None = None
    seed: int = 0
    split: str = "ending"

    name: ClassVar[str] = "memotrap"

    @property
    def settings(self) -> dict[str, object]:
        return {"limit": self.limit, "seed": self.seed, "split": self.split}

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], dict[str, int]]:
        if self.split not in _FILES:
            raise DataError(f"there is no split {self.split!r}: use one of {', '.join(_FILES)}")
        needed = f"the columns {', '.join(_COLUMNS)}"
        path = find(self.data, "memo_trap", _FILES[self.split], needed=needed)
        read = [self._example(line) for line in table(path, _COLUMNS)]
        usable = [example for example in read if example.wanted != example.memorised]
        chosen = draw(usable, self.limit, seed=self.seed, source=path.name)
        same = len(read) - len(usable)
        return chosen, {"read": len(read), "same_endings": same, "used": len(chosen)}

    def _example(self, line: Line) -> Example:
        found = _FORMS[self.split].fullmatch(line.text("prompt"))
        if found is None:
            raise line.fault(
                f"'prompt' is not of the form of {self.split}: {line.text('prompt')!r:.60}"
            )
        endings, index = _endings(line), line.text("answer_index").strip()
        if index not in ("0", "1"):
            raise line.fault(f"'answer_index' must be 0 or 1, and is {index!r}")
        wanted, memorised = endings if index == "0" else reversed(endings)
        name = f"{self.split}:{line.number}"
        return Example(name, found["order"], found["rest"], wanted, memorised)

    def prompts(self, example: Example) -> list[Ask]:
        order = highlight(example.order, kind="instruction")
        choices = (example.wanted, example.memorised)
        segments: list[Segment] = [order, example.rest]
        return [Ask(segments, choices=choices, whole=True)]

    def score(self, example: Example, answers: Sequence[Answer]) -> dict[str, float]:
        return {"follows": float(answers[0].preferred)}


def _endings(line: Line) -> tuple[str, str]:
    """Return the two endings, which are written as a Python list."""
    try:
        found = ast.literal_eval(line.text("classes"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    texts = isinstance(found, list) and all(isinstance(text, str) and text for text in found)
    if not texts or len(found) != 2:
        raise line.fault("'classes' must be a list of two texts")
    return found[0], found[1]
