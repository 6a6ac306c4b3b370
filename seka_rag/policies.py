"""Policies: which passages are highlighted, or which sentences of them, and how much.

    all           every passage, with the whole gain
    first:K       the first K, but none that shares no word with the question
    score         every passage, in proportion to its score: the best has the whole gain
    sentences     every sentence that holds at least half of the question's words
    sentences:K   the K sentences that hold the most of them, at least one

Passages come as retrieved, best first. Words are those that the retriever counts. Where a passage
has no score, all are scored by the words that they share with the question. What matches nothing
stays plain. Nothing here knows how a passage is put into a prompt, or what a gain does.
"""

import math
from collections.abc import Sequence

from seka_rag.errors import HighlightError
from seka_rag.highlight import Segment, Span, check_gain, highlight, segments_of
from seka_rag.prompts import Passage
from seka_rag.retrieval import sentence_places, telling_words

DEFAULT_POLICY = "first:1"


def check_policy(policy: str) -> str:
    """Return `policy` if there is one of that name; otherwise the error says which there are."""
    _parse(policy)
    return policy


def shares(policy: str, passages: Sequence[Passage], question: str) -> tuple[float, ...]:
    """Return the share of the gain, in [0, 1], that each whole passage gets; not by sentences.

    Of the first K, those that scored 0 stay plain: they share no word with the question. With
    `score`, so do those below 0.
    """
    name, count = _parse(policy)
    if name == "sentences":
        raise HighlightError(
            f"the policy {policy} highlights parts of passages: for whole ones use all, first:K or "
            "score"
        )
    if name == "all":
        return (1.0,) * len(passages)
    scores = _scores(passages, question)
    if name == "first":
        return tuple(float(place < count and score != 0) for place, score in enumerate(scores))
    best = max(scores, default=0.0)
    return tuple(max(score, 0.0) / best if best > 0 else 0.0 for score in scores)


def highlighted(
    policy: str, passages: Sequence[Passage], question: str, *, gain: float | None = None
) -> list[tuple[Segment, ...]]:
    """Return each passage as segments: together its text, with what the policy picks highlighted.

    A `gain` of None is the bank's own; `score` needs a number, of which it gives shares. A blank
    passage stays plain.
    """
    check_gain(gain)
    name, count = _parse(policy)
    if name == "sentences":
        return _highlighted_sentences(passages, question, count, gain)
    if name == "score" and gain is None:
        raise HighlightError("the policy score divides a gain: give one, such as that of the bank")
    whole = zip(passages, shares(policy, passages, question), strict=True)
    return [
        (highlight(passage.text, gain=gain if gain is None else gain * share),)
        if share > 0 and passage.text.strip()
        else (passage.text,)
        for passage, share in whole
    ]


def _parse(policy: str) -> tuple[str, int]:
    """Return the name of a policy and its K; 0 where it has none."""
    name, colon, count = policy.partition(":")
    counted = count.isascii() and count.isdigit() and int(count) > 0
    if (not colon and name in ("all", "score", "sentences")) or (
        counted and name in ("first", "sentences")
    ):
        return name, int(count or 0)
    raise HighlightError(
        f"there is no policy {policy!r}: use all, first:K (K at least 1), score, sentences or "
        "sentences:K"
    )


def _scores(passages: Sequence[Passage], question: str) -> list[float]:
    scores = [passage.score for passage in passages if passage.score is not None]
    if len(scores) < len(passages):
        # Two scales cannot be compared: where one score is missing, none is used.
        asked = frozenset(telling_words(question))
        return [float(_shared(passage.text, asked)) for passage in passages]
    if not all(math.isfinite(score) for score in scores):
        raise HighlightError(f"scores must be finite numbers, got {scores}")
    return scores


def _shared(text: str, asked: frozenset[str]) -> int:
    """Return how many of the asked words are in the text."""
    return len(asked.intersection(telling_words(text)))


def _highlighted_sentences(
    passages: Sequence[Passage], question: str, count: int, gain: float | None
) -> list[tuple[Segment, ...]]:
    asked = frozenset(telling_words(question))
    found = [
        (_shared(passage.text[start:end], asked), number, Span(start, end, gain))
        for number, passage in enumerate(passages)
        for start, end in sentence_places(passage.text)
    ]
    matching = [each for each in found if each[0] > 0]
    if count:
        # The sort is stable: of equals, the first stay first.
        chosen = set(sorted(matching, key=lambda each: -each[0])[:count])
    else:
        chosen = {each for each in matching if 2 * each[0] >= len(asked)}
    return [
        segments_of(passage.text, [each[2] for each in matching if each in chosen and each[1] == i])
        for i, passage in enumerate(passages)
    ]
