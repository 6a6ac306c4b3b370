"""Pronouns: are those of a biography changed when a highlighted instruction asks for it?

A task of PASTA (Zhang et al., 2023, arXiv 2311.02262), over the file of `biasbios`.

    prompt       a chat of one message: the biography, and behind it the instruction, highlighted
    kept         share of the biography's other words that are written, in their order
    changed      share of he and she that have become they
    changed_all  share of all of he, she, him, her, his, hers, himself and herself that have become
                 they, them, their, theirs, themself or themselves; which of them() and their() is
                 not looked at

The words of the biography, its pronouns changed, are laid against those of the answer in the way
that matches most. `changed` and `changed_all` are 0 where less than half of the text is kept: a
short answer without pronouns changes nothing. The paper counts an answer as right or wrong, by
whether any such pronoun is left in it, and asks for the occupation alone behind the change; here
the text is asked for as well, so that there is something to count in. Verbs that follow they ("is",
"are") count as words not kept. Every such pronoun is taken for the person's, and `changed` falls
where a right answer names the person instead. Left out are biographies without he or she, and such
as are too long to be written out in `max_new_tokens`, taken as two tokens a word.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from seka_rag.errors import DataError
from seka_rag.evaluation.biasbios import Biography, read_biographies
from seka_rag.evaluation.data import draw
from seka_rag.evaluation.task import Answer, Ask
from seka_rag.highlight import highlight

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_SUBJECTS = frozenset(("he", "she"))
_WANTED = {
    **dict.fromkeys(_SUBJECTS, "they"),
    **dict.fromkeys(("him", "her", "his", "hers"), "them"),
    **dict.fromkeys(("himself", "herself"), "themselves"),
}
# What need not be told apart in an answer.
_ALIKE = {"their": "them", "theirs": "them", "themself": "themselves"}
_CONTRACTED = re.compile(r"\b(s?he|they)['’](s|d|ll|re|ve)\b", re.IGNORECASE)
_FEWEST_KEPT = 0.5


@dataclass(frozen=True)
class Pronouns:
    """The task."""

    data: Path
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int = 256

    name: ClassVar[str] = "pronouns"

    @property
    def settings(self) -> dict[str, object]:
        return {"limit": self.limit, "seed": self.seed, "max_new_tokens": self.max_new_tokens}

    def examples(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[Biography], dict[str, int]]:
        if self.max_new_tokens < 1:
            raise DataError(f"answers of {self.max_new_tokens} tokens: use at least 1")
        read = read_biographies(self.data)
        having = [each for each in read if _SUBJECTS.intersection(_words(each.text))]
        usable = [each for each in having if 2 * len(each.text.split()) <= self.max_new_tokens]
        chosen = draw(usable, self.limit, seed=self.seed, source="biasbios.jsonl")
        return chosen, {
            "read": len(read),
            "no_subject_pronoun": len(read) - len(having),
            "too_long": len(having) - len(usable),
            "used": len(chosen),
        }

    def prompts(self, example: Biography) -> list[Ask]:
        order = highlight(
            "In the text above, substitute 'she' and 'he' with 'they'. Write out the whole text "
            f"with the changed pronouns, and then the occupation of {example.name}.",
            kind="instruction",
        )
        message = {"role": "user", "content": [f"{example.text}\n\n", order]}
        return [Ask([message], max_new_tokens=self.max_new_tokens)]

    def score(self, example: Biography, answers: Sequence[Answer]) -> dict[str, float]:
        words = _words(example.text)
        matched = _matched(words, _words(answers[0].text))
        kept = _share(matched[i] for i, word in enumerate(words) if word not in _WANTED)
        enough = kept >= _FEWEST_KEPT
        subjects = _share(matched[i] for i, word in enumerate(words) if word in _SUBJECTS)
        every = _share(matched[i] for i, word in enumerate(words) if word in _WANTED)
        return {"changed": subjects * enough, "changed_all": every * enough, "kept": kept}


def _words(text: str) -> list[str]:
    """Return the words in lower case; "she's" is two of them."""
    return [word.casefold() for word in _WORD.findall(_CONTRACTED.sub(r"\1 \2", text))]


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found) if found else 1.0


def _matched(words: Sequence[str], answer: Sequence[str]) -> list[bool]:
    """Return which words, pronouns changed, stand in the answer: the most that do so in order.

    Of equal readings, that with more of the other words: a "they" of the text's own is no change.
    """
    wanted = [_ALIKE.get(word, word) for word in (_WANTED.get(word, word) for word in words)]
    given = [_ALIKE.get(word, word) for word in answer]
    worth = [len(words) + 1 + (word not in _WANTED) for word in words]
    # best[i][j]: the most that words from i on and the answer from j on are worth together
    best = [[0] * (len(given) + 1) for _ in range(len(wanted) + 1)]
    for i in reversed(range(len(wanted))):
        for j in reversed(range(len(given))):
            skipped = max(best[i + 1][j], best[i][j + 1])
            taken = worth[i] + best[i + 1][j + 1] if wanted[i] == given[j] else 0
            best[i][j] = max(skipped, taken)
    hits, j = [False] * len(wanted), 0
    for i in range(len(wanted)):
        while j < len(given) and best[i][j] == best[i][j + 1]:
            j += 1
        if j < len(given) and best[i][j] > best[i + 1][j]:
            hits[i] = True
            j += 1
    return hits
