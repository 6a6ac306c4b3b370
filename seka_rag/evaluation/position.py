"""Lost in the middle: is a passage read wherever it stands among others, highlighted or not?

Questions of NQ-open with the one passage of Wikipedia that answers them (Liu et al., 2023,
arXiv 2307.03172). That gold passage is put at each of several positions of `passages`; the others
keep their order, so the prompts of a question differ in nothing else.

    prompt     a RAG chat over numbered passages, each with its title, asking for a short answer
    highlight  `gold`, the passages of the `middle` half whatever they are, or `all`
    at_01 …    an answer of NQ-open stands in the up to 32 tokens written, gold at 1 …
    mean       the same over all positions

The positions are the first, the quarter points and the last, unless others are given. The other
passages are gold ones of other questions that hold none of the answers: drawn, not retrieved, so
they distract less than in the paper, and figures are higher. `gold` needs to know the answer's
passage and shows what a perfect choice of highlights is worth; `middle` and `all` know nothing.
An answer counts if its words stand there whole, after SQuAD's normalisation; the paper takes parts
of words as well. Right answers in other words count as wrong, lists of guesses as right. `limit`
counts questions. The figures of one question's positions are not independent.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Line, draw, find, lines
from seka_rag.evaluation.matching import findable, normalised, occurs
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.prompts import Message, Passage, rag_messages

HIGHLIGHTS = ("gold", "middle", "all")
_ASKED = "Answer the question with a few words, taken from the passages."
_NEEDED = 'question, answers (a list) and ctxs ([{"title": …, "text": …}, …], the gold one first)'


@dataclass(frozen=True)
class Question:
    """A question, its answers, and the passage that holds one of them."""

    line: int
    text: str
    answers: tuple[str, ...]
    passage: str
    words: str = field(compare=False, repr=False)  # of the passage, findable


@dataclass(frozen=True)
class Example:
    """A question over passages, the gold one at a position that counts from 1."""

    id: str
    question: str
    answers: tuple[str, ...]
    texts: tuple[str, ...]
    position: int


@dataclass(frozen=True)
class Position:
    """The task with the gold passage at `positions` of `passages`; None is the default ones."""

    data: Path
    limit: int | None = None
    seed: int = 0
    passages: int = 20
    positions: tuple[int, ...] | None = None
    highlight: str = "gold"
    max_new_tokens: int = 32

    name: ClassVar[str] = "position"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "limit": self.limit,
            "seed": self.seed,
            "passages": self.passages,
            "positions": list(self._places()),
            "highlight": self.highlight,
            "max_new_tokens": self.max_new_tokens,
        }

    def _places(self) -> tuple[int, ...]:
        if self.positions is not None:
            return tuple(sorted(set(self.positions)))
        last = self.passages - 1
        return tuple(sorted({1 + round(last * quarter / 4) for quarter in range(5)}))

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], dict[str, int]]:
        self._check()
        path = find(self.data, "lost_in_the_middle", "nq-open-oracle.jsonl.gz", needed=_NEEDED)
        read = [_question(line) for line in lines(path)]
        usable = [
            question
            for question in read
            if any(occurs(answer, question.passage) for answer in question.answers)
        ]
        chosen = draw(usable, self.limit, seed=self.seed, source=path.name)
        rng = random.Random(self.seed)
        examples = []
        for question in chosen:
            others = _others(question, usable, n=self.passages - 1, rng=rng)
            for place in self._places():
                texts = (*others[: place - 1], question.passage, *others[place - 1 :])
                name = f"{question.line}@{place:02}"
                examples.append(Example(name, question.text, question.answers, texts, place))
        return examples, {
            "read": len(read),
            "answer_not_in_passage": len(read) - len(usable),
            "used": len(chosen),
            "prompts": len(examples),
        }

    def _check(self) -> None:
        places = self._places()
        if self.passages < 2 or not places or not 1 <= places[0] <= places[-1] <= self.passages:
            raise DataError(
                f"positions {list(places)} of {self.passages} passages: use at least 2 passages, "
                "and positions from 1 to their number"
            )
        if self.highlight not in HIGHLIGHTS:
            raise DataError(
                f"there is no highlight {self.highlight!r}: use one of {', '.join(HIGHLIGHTS)}; "
                "without a highlight is the method none"
            )
        if self.max_new_tokens < 1:
            raise DataError(f"answers of {self.max_new_tokens} tokens: use at least 1")

    def prompts(self, example: Example) -> list[Ask]:
        n = len(example.texts)
        every = {
            "gold": [example.position - 1],
            "middle": range(n // 4, n - n // 4),
            "all": range(n),
        }
        lit = every[self.highlight]
        order = sorted(range(n), key=lambda i: i in lit)  # stable: the highlighted ones go last
        return [
            Ask(
                _chat(example, range(n), lit),
                max_new_tokens=self.max_new_tokens,
                last=_chat(example, order, lit),
            )
        ]

    def score(self, example: Example, answers: Sequence[Answer]) -> dict[str, float]:
        right = float(any(occurs(wanted, answers[0].text) for wanted in example.answers))
        return {f"at_{example.position:02}": right, "mean": right}


def _chat(example: Example, order: Sequence[int], lit: Collection[int]) -> list[Message]:
    passages = [Passage(example.texts[i]) for i in order]
    gains = [None if i in lit else 0.0 for i in order]
    return rag_messages(example.question, passages, gains=gains, system=_ASKED)


def _question(line: Line) -> Question:
    found = line.values.get("ctxs")
    first = found[0] if isinstance(found, list) and found else None
    if not isinstance(first, dict):
        raise line.fault(f"'ctxs' must list passages; a line needs {_NEEDED}")
    gold = Line(line.path, line.number, first)
    passage = f"(Title: {gold.text('title')}) {gold.text('text')}"
    answers = line.texts("answers")
    return Question(line.number, line.text("question"), answers, passage, findable(passage))


def _others(
    question: Question, all_of: Sequence[Question], *, n: int, rng: random.Random
) -> tuple[str, ...]:
    """Return the gold passages of n other questions that hold no answer to this one."""
    sought = [findable(answer) for answer in question.answers if normalised(answer)]
    found: list[str] = []
    for other in rng.sample(list(all_of), len(all_of)):
        if len(found) == n:
            break
        answers = any(answer in other.words for answer in sought)
        if not answers and other.passage not in (question.passage, *found):
            found.append(other.passage)
    if len(found) < n:
        raise DataError(
            f"line {question.line}: {len(found)} passages hold none of its answers and {n} are "
            "needed: ask for fewer passages"
        )
    return tuple(found)
