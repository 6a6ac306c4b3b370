"""Triplets: one fact under no question, under the question it answers, and under another.

The question stands before the context, since attention is causal: that shows how the keys of the
answer move. With the question behind the context instead, the attention that looks back at the
answer can be read. Texts alone, and the files that hold them; tokens and keys come in learning.

A triplet file has one JSON object a line, of one of two forms:

    {"context": …, "question": …, "other_question": …, "answer": …}      and "kind": "instruction"
    {"context_1": …, "question_1": …, "answer_1": …, "context_2": …, …}  SEKA's pairs: two triplets
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seka_rag.errors import TripletError

Extent = tuple[int, int]  # characters [start, end)


@dataclass(frozen=True)
class Triplet:
    """Three texts, and where the same answer stands in each.

    `asked` are the neutral text with the relevant question behind it, and with the irrelevant one.
    Without them, nothing is learned of where the attention goes.
    """

    neutral: str
    relevant: str
    irrelevant: str
    answers: tuple[Extent, Extent, Extent]  # in the order of the texts
    asked: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if len(self.answers) != 3:
            raise TripletError(f"a triplet has 3 answers, not {len(self.answers)}: one for a text")
        found = {text[start:end] for text, (start, end) in self.parts()}
        if len(found) != 1 or not found.pop():
            raise TripletError(
                f"the answers at {self.answers} are empty or differ between the texts: each must "
                "be the same words"
            )
        if self.asked and not all(text.startswith(self.neutral) for text in self.asked):
            raise TripletError(
                "a text with the question behind the context must begin with the neutral text"
            )

    def parts(self) -> tuple[tuple[str, Extent], ...]:
        """Return the three texts, each with its answer's place."""
        texts = (self.neutral, self.relevant, self.irrelevant)
        return tuple(zip(texts, self.answers, strict=True))


def grounding_triplet(context: str, question: str, other_question: str, answer: str) -> Triplet:
    """Return the triplet of a context that answers `question` and not `other_question`.

    The answer is its first occurrence in the context.
    """
    return _triplet(("Context", context), "Question", question, other_question, answer)


def instruction_triplet(instruction: str, request: str, other_request: str, answer: str) -> Triplet:
    """Return the triplet of an instruction that concerns `request` and not `other_request`.

    The answer is what the instruction demands, word for word; its first occurrence counts.
    """
    return _triplet(("Instruction", instruction), "Request", request, other_request, answer)


def _triplet(known: tuple[str, str], asks: str, relevant: str, other: str, answer: str) -> Triplet:
    name, context = known
    if not answer or not relevant or not other:
        raise TripletError(
            f"a triplet needs an answer and two {asks.lower()}s: one of them is empty"
        )
    start = context.find(answer)
    if start < 0:
        raise TripletError(
            f"the answer {answer!r} is not in the {name.lower()} {context[:60]!r}: it must stand "
            "there word for word"
        )
    neutral, first, second = f"{name}: {context}", f"{asks}: {relevant}", f"{asks}: {other}"
    texts = (neutral, f"{first}\n{neutral}", f"{second}\n{neutral}")
    starts = [len(text) - len(context) + start for text in texts]
    one, two, three = ((begin, begin + len(answer)) for begin in starts)
    asked = (f"{neutral}\n{first}\nAnswer:", f"{neutral}\n{second}\nAnswer:")
    return Triplet(*texts, answers=(one, two, three), asked=asked)


def digest_of(triplets: Sequence[Triplet]) -> str:
    """Return a digest of the triplets, in their order."""
    text = json.dumps([asdict(triplet) for triplet in triplets], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_triplets(path: str | Path) -> list[Triplet]:
    """Return the triplets of a file of JSON lines; a wrong line is a TripletError that names it."""
    source = Path(path)
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise TripletError(
            f"{source} cannot be read ({error.strerror}): name a file of triplets, or builtin"
        ) from error
    except UnicodeDecodeError as error:
        raise TripletError(f"{source} is not UTF-8 text: save it as UTF-8") from error
    found: list[Triplet] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found += _triplets_of(json.loads(line))
        except (ValueError, TripletError) as error:
            raise TripletError(f"{source}, line {number}: {error}") from error
    return found


BUILTIN = Path(__file__).parent / "assets" / "triplets.jsonl"


def builtin_triplets() -> list[Triplet]:
    """Return the triplets that ship with the package."""
    return read_triplets(BUILTIN)


def _triplets_of(entry: object) -> list[Triplet]:
    """Return the one or two triplets of a line."""
    if not isinstance(entry, dict):
        raise TripletError("a line must be a JSON object")

    def text(name: str) -> str:
        value = entry.get(name)
        if not isinstance(value, str):
            raise TripletError(f"{name!r} must be a text, and is {value!r}")
        return value

    if "context_1" in entry:
        return [
            grounding_triplet(
                text(f"context_{one}"),
                text(f"question_{one}"),
                text(f"question_{other}"),
                text(f"answer_{one}"),
            )
            for one, other in ((1, 2), (2, 1))
        ]
    kind = entry.get("kind", "grounding")
    if kind not in ("grounding", "instruction"):
        raise TripletError(f"the kind is {kind!r}: it must be grounding or instruction")
    make = instruction_triplet if kind == "instruction" else grounding_triplet
    return [make(text("context"), text("question"), text("other_question"), text("answer"))]
