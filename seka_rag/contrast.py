"""Triplets: one fact under no question, under the question it answers, and under another.

The question stands before the context, since attention is causal. Texts alone; tokens and keys come
in learning.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from seka_rag.errors import TripletError

Extent = tuple[int, int]  # characters [start, end)


@dataclass(frozen=True)
class Triplet:
    """Three texts, and where the same answer stands in each."""

    neutral: str
    relevant: str
    irrelevant: str
    answers: tuple[Extent, Extent, Extent]  # in the order of the texts

    def __post_init__(self) -> None:
        if len(self.answers) != 3:
            raise TripletError(f"a triplet has 3 answers, not {len(self.answers)}: one for a text")
        found = {text[start:end] for text, (start, end) in self.parts()}
        if len(found) != 1 or not found.pop():
            raise TripletError(
                f"the answers at {self.answers} are empty or differ between the texts: each must "
                "be the same words"
            )

    def parts(self) -> tuple[tuple[str, Extent], ...]:
        """Return the three texts, each with its answer's place."""
        texts = (self.neutral, self.relevant, self.irrelevant)
        return tuple(zip(texts, self.answers, strict=True))


def grounding_triplet(context: str, question: str, other_question: str, answer: str) -> Triplet:
    """Return the triplet of a context that answers `question` and not `other_question`.

    The answer is its first occurrence in the context.
    """
    if not answer or not question or not other_question:
        raise TripletError("a triplet needs an answer and two questions: one of them is empty")
    start = context.find(answer)
    if start < 0:
        raise TripletError(
            f"the answer {answer!r} is not in the context {context[:60]!r}: it must stand there "
            "word for word"
        )
    texts = (
        f"Context: {context}",
        f"Question: {question}\nContext: {context}",
        f"Question: {other_question}\nContext: {context}",
    )
    starts = [len(text) - len(context) + start for text in texts]
    first, second, third = ((begin, begin + len(answer)) for begin in starts)
    return Triplet(*texts, answers=(first, second, third))


def digest_of(triplets: Sequence[Triplet]) -> str:
    """Return a digest of the triplets, in their order."""
    text = json.dumps([astuple(triplet) for triplet in triplets], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
