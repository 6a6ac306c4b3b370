"""Passages that fit a budget of tokens: whole ones go, the least relevant first.

What is counted is the prompt that `rag_messages` makes, highlighted or not: that changes no token.
A model, or a tokenizer with a chat template, counts the rendered chat as the model reads it. A
tokenizer without a template and a tiktoken encoding count the text of the messages, a blank line
between them, and nothing of what a service adds to a message.

Fewer passages are taken to make a shorter prompt, so the number to keep is found by bisection: n
passages are counted log2(n) + 2 times at most, and once where all of them fit. Nothing is known
here of how passages were found, or of how much room a model leaves for its answer.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeAlias, runtime_checkable

from seka_rag.errors import PromptError
from seka_rag.highlight import flatten
from seka_rag.offsets import Encoding
from seka_rag.prompts import ChatTokenizer, Message, Passage, Prompt, rag_messages, render
from seka_rag.tokens import Tokenizer, encode_chat, tokenize


@runtime_checkable
class PromptCounter(Protocol):
    """What counts prompts as its model reads them, as a `SteeredModel` does."""

    def count_tokens(self, prompt: Prompt) -> int: ...


class TextTokenizer(Tokenizer, ChatTokenizer, Protocol):
    """A Hugging Face tokenizer, which may have a chat template."""


Counter: TypeAlias = PromptCounter | TextTokenizer | Encoding


@dataclass(frozen=True)
class Fitted:
    """Which passages fit, and which had to go."""

    kept: tuple[Passage, ...]  # in the order given
    dropped: tuple[Passage, ...]  # the least relevant first
    tokens: int  # of the prompt made of those kept


def fit(
    passages: Sequence[Passage],
    question: str,
    max_tokens: int,
    *,
    counter: Counter,
    system: str | None = None,
) -> Fitted:
    """Return the passages with which the prompt has at most `max_tokens` tokens.

    The passage of the lowest score goes first, one without a score before it, and of equals the
    last. If the question does not fit alone, that is a PromptError.
    """
    by_relevance = sorted(
        range(len(passages)),
        key=lambda i: -math.inf if (score := passages[i].score) is None else score,
        reverse=True,
    )

    def best(n: int) -> list[Passage]:
        return [passages[i] for i in sorted(by_relevance[:n])]

    @cache
    def tokens(n: int) -> int:
        return _count(counter, rag_messages(question, best(n), gains=None, system=system))

    n = len(passages)
    if tokens(n) > max_tokens:
        if tokens(0) > max_tokens:
            raise PromptError(
                f"the question alone makes a prompt of {tokens(0)} tokens, and {max_tokens} are "
                "allowed: shorten it, or allow more"
            )
        n = bisect_left(range(1, n), True, key=lambda n: tokens(n) > max_tokens)
    dropped = tuple(passages[i] for i in reversed(by_relevance[n:]))
    return Fitted(tuple(best(n)), dropped, tokens(n))


def _count(counter: Counter, messages: Sequence[Message]) -> int:
    """Return how many tokens the messages have."""
    if isinstance(counter, PromptCounter):
        return counter.count_tokens(messages)
    if not isinstance(counter, Encoding) and counter.chat_template:
        rendered = render(counter, messages)
        return len(encode_chat(counter, rendered.text, rendered.content_regions).ids)
    text = "\n\n".join(flatten(message["content"])[0] for message in messages)
    if isinstance(counter, Encoding):
        return len(counter.encode_ordinary(text))
    return len(tokenize(counter, text, add_special_tokens=True).ids)
