"""RAG: the user's own questions over passages, with the figures of SQuAD.

One JSON object a line:

    {"question": …, "passages": ["…", {"text": …, "source": …}], "answer": "…" or ["…", …]}
    and, if wanted, "highlight": 0 or [0, 2]   the passages to highlight, counted from 0

Passages come best first, as retrieved. Without "highlight", the `policy` of `seka_rag.policies`
chooses, which looks at words shared with the question; [] highlights none.

    prompt       a RAG chat over the numbered passages, asking for a short answer
    exact_match  the answer is one of those given, after SQuAD's normalisation
    f1           the best F1 of words with one of those given (Rajpurkar et al., 2016)
    grounded     one of those given stands in the answer, as whole words

Short answers are asked for because `exact_match` and `f1` punish every word beside the answer: for
models that talk, look at `grounded`, which in turn takes a list of guesses. It does not ask
whether the answer came from the passages or from memory. Right answers in other words count
as wrong. Highlighting what is known to answer measures what a highlight can do at best; the policy
measures what is to be had without that knowledge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.data import Line, draw, lines
from seka_rag.evaluation.matching import exact_match, f1, normalised, occurs
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import Highlight, Segments, as_segments, highlight
from seka_rag.policies import DEFAULT_POLICY, check_policy, highlighted
from seka_rag.prompts import Message, Passage, rag_messages

_ASKED = "Answer the question with a few words, taken from the passages."
_NEEDED = (
    '{"question": …, "passages": ["…", {"text": …, "source": …}], "answer": "…" or ["…", …]}, and '
    'if wanted "highlight": 0 or [0, 2]'
)


@dataclass(frozen=True)
class Example:
    """A question over passages, in segments with their highlights, and its answers."""

    id: str
    question: str
    passages: tuple[Segments, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class RAG:
    """The task over one file; `data` is the file itself."""

    data: Path
    limit: int | None = None
    seed: int = 0
    policy: str = DEFAULT_POLICY
    max_new_tokens: int = 64

    name: ClassVar[str] = "rag"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "limit": self.limit,
            "seed": self.seed,
            "policy": self.policy,
            "max_new_tokens": self.max_new_tokens,
        }

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], dict[str, int]]:
        if check_policy(self.policy) == "score":
            raise DataError(
                "the policy score divides a gain, and methods have their own: use another"
            )
        if self.max_new_tokens < 1:
            raise DataError(f"answers of {self.max_new_tokens} tokens: use at least 1")
        if not self.data.is_file():
            raise DataError(f"there is no file {self.data}: give one of JSON lines, each {_NEEDED}")
        read = [_example(line, self.policy) for line in lines(self.data)]
        chosen = draw(read, self.limit, seed=self.seed, source=str(self.data))
        plain = sum(not any(map(_is_lit, example.passages)) for example in chosen)
        return chosen, {"read": len(read), "used": len(chosen), "without_highlight": plain}

    def prompts(self, example: Example) -> list[Ask]:
        # The sort is stable: what is highlighted goes last, in its order.
        last = sorted(example.passages, key=_is_lit)
        return [
            Ask(
                _chat(example.question, example.passages),
                max_new_tokens=self.max_new_tokens,
                last=_chat(example.question, last),
            )
        ]

    def score(self, example: Example, answers: Sequence[Answer]) -> dict[str, float]:
        text = answers[0].text
        return {
            "exact_match": float(any(exact_match(text, wanted) for wanted in example.answers)),
            "f1": max(f1(text, wanted) for wanted in example.answers),
            "grounded": float(any(occurs(wanted, text) for wanted in example.answers)),
        }


def _is_lit(passage: Segments) -> bool:
    return any(isinstance(segment, Highlight) for segment in as_segments(passage))


def _chat(question: str, passages: Sequence[Segments]) -> list[Message]:
    """Return the chat of `rag_messages`, parts of passages highlighted."""
    texts = ["".join(_text(part) for part in as_segments(passage)) for passage in passages]
    chat = rag_messages(question, [Passage(text) for text in texts], gains=None, system=_ASKED)
    content = list(as_segments(chat[-1]["content"]))
    for i in reversed(range(len(passages))):  # from the end: places before it stay as they are
        at = 2 + 2 * i  # behind the heading, and behind the number of each passage
        assert content[at] == texts[i]
        content[at : at + 1] = as_segments(passages[i])
    return [*chat[:-1], {"role": "user", "content": content}]


def _text(segment: str | Highlight) -> str:
    return segment.text if isinstance(segment, Highlight) else segment


def _example(line: Line, policy: str) -> Example:
    question, passages = line.text("question"), _passages(line)
    if "highlight" in line.values:
        lit = _indices(line, len(passages))
        parts: list[Segments] = [
            highlight(passage.text) if i in lit else passage.text
            for i, passage in enumerate(passages)
        ]
    else:
        parts = list(highlighted(policy, passages, question))
    return Example(str(line.number), question, tuple(parts), _answers(line))


def _passages(line: Line) -> list[Passage]:
    given = line.values.get("passages")
    if not isinstance(given, list) or not given:
        raise line.fault(f"'passages' must be a list of at least one; a line looks so: {_NEEDED}")
    passages = []
    for i, each in enumerate(given):
        text = each.get("text") if isinstance(each, dict) else each
        source = each.get("source", "") if isinstance(each, dict) else ""
        if not isinstance(text, str) or not text.strip() or not isinstance(source, str):
            raise line.fault(f"passage {i} must be a text, or an object with one as 'text'")
        # As it will stand in the prompt, so that highlights are found there.
        kept = (part.strip() for part in text.splitlines())
        passages.append(Passage(" ".join(part for part in kept if part), source))
    return passages


def _answers(line: Line) -> tuple[str, ...]:
    listed = isinstance(line.values.get("answer"), list)
    answers = line.texts("answer") if listed else (line.text("answer"),)
    for answer in answers:
        if not normalised(answer):
            raise line.fault(f"the answer {answer!r} is nothing but punctuation and articles")
    return answers


def _indices(line: Line, n: int) -> frozenset[int]:
    given = line.values["highlight"]
    listed = given if isinstance(given, list) else [given]
    for index in listed:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n:
            raise line.fault(
                f"'highlight' is {given!r:.40}: give indices of the {n} passages, from 0 to {n - 1}"
            )
    return frozenset(listed)
