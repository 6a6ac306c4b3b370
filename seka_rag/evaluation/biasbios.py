"""Bias in Bios: is an occupation told from a biography whose first sentence is highlighted?

Biographies of the web, each of one of 28 occupations (De-Arteaga et al., 2019, arXiv 1901.09451),
in the form that PASTA and SEKA measure (Zhang et al., 2023, arXiv 2311.02262).

    prompt     the biography, then "Ada has the occupation of", to be gone on with; it is no chat
    highlight  the first sentence, which mostly tells the occupation
    choices    the 28 occupations, each whole
    accuracy   share in which the right one is likelier than all others

The file is `biasbios.jsonl`, in one of the forms that are about, known by their fields:

    {"context": …, "entity": "Ada", "target_mediated": …}        REMEDI's, which PASTA uses
    {"raw": …, "name": ["Ada", "", "Byron"], "title": …}         the original; also `bio`, `text`
    {"hard_text": …, "profession": 0 … 27}                       LabHC's on the Hugging Face hub

In the last, the sentence that tells the occupation and the name have been taken out: the person is
"This person", the first sentence left is highlighted, and figures are lower by far. Where they are
in, the answer often stands in the highlight word for word, so this measures reading, not bias. The
probability of a whole occupation falls with its length, under every method alike; 28 choices for
each prompt make it slow. Sentences are split by a plain rule: a piece of fewer than four words
("Dr.") is taken for no sentence of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.evaluation.data import Line, draw, find, lines
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Segment, highlight
from seka_rag.retrieval import sentence_places

OCCUPATIONS = (
    "accountant",
    "architect",
    "attorney",
    "chiropractor",
    "comedian",
    "composer",
    "dentist",
    "dietitian",
    "dj",
    "filmmaker",
    "interior designer",
    "journalist",
    "model",
    "nurse",
    "painter",
    "paralegal",
    "pastor",
    "personal trainer",
    "photographer",
    "physician",
    "poet",
    "professor",
    "psychologist",
    "rapper",
    "software engineer",
    "surgeon",
    "teacher",
    "yoga teacher",
)
"""In the order of their numbers."""

_TEXTS = ("context", "raw", "bio", "text", "hard_text")
_NAMES = ("entity", "name")
_LABELS = ("target_mediated", "title", "profession", "p")
_NEEDED = (
    f"a biography ({', '.join(_TEXTS)}), an occupation ({', '.join(_LABELS)}) and mostly a name "
    f"({', '.join(_NAMES)})"
)
_FEWEST_WORDS = 4  # of a first sentence


@dataclass(frozen=True)
class Biography:
    """A text about one person, and what the person is."""

    id: str
    text: str
    name: str
    occupation: str


def read_biographies(data: Path) -> list[Biography]:
    """Return the biographies of `biasbios.jsonl` in the folder, or in its subfolder `biasbios`."""
    path = find(data, "biasbios", "biasbios.jsonl", needed=_NEEDED)
    return [_biography(line) for line in lines(path)]


@dataclass(frozen=True)
class BiasBios:
    """The task."""

    data: Path
    limit: int | None = None
    seed: int = 0

    name: ClassVar[str] = "biasbios"

    @property
    def settings(self) -> dict[str, object]:
        return {"limit": self.limit, "seed": self.seed}

    def examples(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[Biography], dict[str, int]]:
        read = read_biographies(self.data)
        chosen = draw(read, self.limit, seed=self.seed, source="biasbios.jsonl")
        return chosen, {"read": len(read), "used": len(chosen)}

    def prompts(self, example: Biography) -> list[Ask]:
        first = first_sentence(example.text)
        rest = f"{example.text[len(first) :]}\n\n{example.name} has the occupation of"
        others = (each for each in OCCUPATIONS if each != example.occupation)
        choices = tuple(f" {each}" for each in (example.occupation, *others))
        segments: list[Segment] = [highlight(first), rest]
        return [Ask(segments, choices=choices, whole=True)]

    def score(self, example: Biography, answers: Sequence[Answer]) -> dict[str, float]:
        return {"accuracy": float(answers[0].preferred)}


def first_sentence(text: str) -> str:
    """Return the beginning of a text up to the end of a sentence, of at least four words if any."""
    for _, end in sentence_places(text):
        if len(text[:end].split()) >= _FEWEST_WORDS:
            return text[:end]
    return text


def _biography(line: Line) -> Biography:
    fields = (_first(line.values, names) for names in (_TEXTS, _LABELS, _NAMES))
    text, label, name = fields
    if text is None or label is None:
        raise line.fault(f"there is no biography or no occupation: a line needs {_NEEDED}")
    person = "This person" if name is None else _name(line, name)
    return Biography(str(line.number), line.text(text).strip(), person, _occupation(line, label))


def _first(values: Mapping[str, object], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in values), None)


def _name(line: Line, field: str) -> str:
    """Return the name, or of its parts the first name."""
    parts = line.values[field]
    if isinstance(parts, list):
        named = [part for part in parts if isinstance(part, str) and part.strip()]
        if not named:
            raise line.fault(f"{field!r} must hold a name, and is {parts!r:.60}")
        return named[0].strip()
    return line.text(field).strip()


def _occupation(line: Line, field: str) -> str:
    value = line.values[field]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(OCCUPATIONS):
        return OCCUPATIONS[value]
    spoken = value.replace("_", " ").strip().casefold() if isinstance(value, str) else ""
    if spoken not in OCCUPATIONS:
        raise line.fault(
            f"{field!r} is {value!r:.40}: it must be 0 to {len(OCCUPATIONS) - 1} or one of "
            f"{', '.join(OCCUPATIONS)}"
        )
    return spoken
