"""Grounding triplets drafted from a user's own documents, without a second model.

A sentence of a passage loses a few words that carry its point: a number with its unit, a name, a
quotation, else its end. The question asks what is missing; the other question asks the same of a
sentence of another document. Such questions are plainer than people's, and share words with the
passage: where that matters, write triplets by hand.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seka_rag.contrast import Triplet, grounding_triplet
from seka_rag.errors import TripletError
from seka_rag.prompts import Passage
from seka_rag.retrieval import read_folder, sentences

_MIN_WORDS = 6  # of a sentence; fewer leave nothing to ask with
_PER_PASSAGE = 3
_NO_UNIT = "and are but for from had has her his its than that the until was were will with".split()
# The likeliest point of a sentence first. A name is looked for behind the first word.
_POINTS = (
    re.compile(
        rf"(?<![\w.,])[€$£]?\d[\d.,:/]*\d?(?:\s?%|\s(?!(?:{'|'.join(_NO_UNIT)})\b)[A-Za-z][a-z]{{2,}})?(?!\w)"
    ),
    re.compile(r"(?<=[\w,;:] )[A-Z][\w'’-]*(?: (?:of |de |von |van )?[A-Z][\w'’-]*)*"),
    re.compile(r"(?<=[\"“«])[^\"“”«»]{3,60}(?=[\"”»])"),
    re.compile(r"(?<= )[\w'’-]+ [\w'’-]+ [\w'’-]+(?=[.!?]$)"),
)


@dataclass(frozen=True)
class _Gap:
    """A sentence with words missing."""

    passage: Passage
    question: str
    answer: str


def draft_triplets(folder: str | Path, *, seed: int = 0) -> list[Triplet]:
    """Return triplets over the .txt and .md files of a folder, at most three a passage.

    Raises DocumentsError as `read_folder` does, and a TripletError where no two passages have a
    sentence to ask about.
    """
    gaps = [gap for passage in read_folder(folder) for gap in _gaps(passage)]
    rng = random.Random(seed)
    triplets = []
    for gap in gaps:
        others = _elsewhere(gap, gaps)
        if others:
            other = rng.choice(others)
            triplets.append(
                grounding_triplet(gap.passage.text, gap.question, other.question, gap.answer)
            )
    if not triplets:
        raise TripletError(
            f"no triplet could be drafted from {folder}: at least two passages are needed, with "
            f"sentences of {_MIN_WORDS} words or more"
        )
    return triplets


def _elsewhere(gap: _Gap, gaps: Sequence[_Gap]) -> list[_Gap]:
    """Return the gaps of other files, or of other passages if there is but one file."""
    file = gap.passage.source.partition("#")[0]
    others = [
        other
        for other in gaps
        if other.passage.text != gap.passage.text and gap.answer not in other.question
    ]
    apart = [other for other in others if other.passage.source.partition("#")[0] != file]
    return apart or others


def _gaps(passage: Passage) -> Iterator[_Gap]:
    """Yield the first gaps that the passage's sentences allow."""
    found = 0
    for sentence in sentences(passage.text):
        if found == _PER_PASSAGE:
            return
        answer = _point(sentence, passage.text)
        if answer is not None:
            before, after = sentence.split(answer, 1)
            asked = " ".join(f"What is missing here: {before}…{after}".split())
            yield _Gap(passage, asked, answer)
            found += 1


def _point(sentence: str, text: str) -> str | None:
    """Return the words of a sentence that its question asks for, or None if it has none."""
    if len(sentence.split()) < _MIN_WORDS or sentence.startswith("#"):
        return None
    for pattern in _POINTS:
        for match in pattern.finditer(sentence):
            answer = match.group().strip(" .,;:")
            # What stands in the passage twice could be meant at either place.
            rest = len(sentence.split()) - len(answer.split())
            whole = answer and "\n" not in answer and text.count(answer) == 1
            if whole and rest >= _MIN_WORDS // 2:
                return answer
    return None
