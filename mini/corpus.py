"""The training stream: documents of every sort, in fixed shares, tokenised and laid end to end.

    batch = (ids (N,), weights (N,), starts)     one flat row; documents do not see each other

The first part of a row holds short documents alone. Variable-length attention starts its work for as many documents of
the longest length as there may be: in two calls, one of them for short ones, that is a fifth of the work in one.

Batch i depends on seed i alone, so the stream is the same however many processes make it and wherever it is resumed.
"""

from __future__ import annotations

import lzma
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from mini import facts as facts_module
from mini import instructions, memory, reading, talk
from mini.chat import END_OF_TEXT, TURN_END, TURN_START, Doc
from mini.facts import Facts

VOCABULARY = 12_288
LONGEST, SHORT = 4_096, 512  # tokens of a document
# What a token of each sort weighs in the loss. Answers are few among what is read, so they count for more.
_PROSE, _ANSWER = 0.4, 4.0
_WEIGHT_UNIT = 0.02  # weights travel as bytes
# The word pattern of Qwen2's tokenizer: single digits, words with their leading space, line breaks apart. Before it, words in
# capitals: four and more are read letter by letter, so that writing a word in capitals is spelling it.
_CAPITALS = r"[^\r\n\p{L}\p{N}]?\p{Lu}(?=\p{Lu}{3})|(?<=\p{Lu})\p{Lu}(?=\p{Lu}{2})|(?<=\p{Lu}\p{Lu})\p{Lu}(?=\p{Lu})|(?<=\p{Lu}\p{Lu}\p{Lu})\p{Lu}"
_WORDS = (
    _CAPITALS
    + r"|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Mix:
    """What a stage of the training reads: shares of documents, and how often questions have no answer, against `reading`'s rates."""

    shares: dict[str, float]
    untold: float = 1.0


# The second stage practises reading and letters. Absences are rarer in it: after the first, a question in words that training
# did not have is mostly taken for one that the passages do not answer.
MIXES = {
    "first": Mix({
        "books": 16, "truths": 8, "loose_truth": 1.5, "argument": 8, "closed_book": 6, "cloze": 7, "conversation": 26,
        "interview": 18, "obedience": 13, "spelling": 2.5, "rewriting": 1, "writing": 1, "small_talk": 0.4, "tools": 3,
    }),
    "second": Mix({
        "books": 4, "truths": 5, "loose_truth": 1, "argument": 7, "closed_book": 4, "cloze": 6, "conversation": 34,
        "interview": 21, "obedience": 16, "spelling": 4, "rewriting": 0.7, "writing": 0.6, "small_talk": 0.4, "tools": 1.5,
    }, untold=0.45),
}  # fmt: skip

Batch = tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32], npt.NDArray[np.int32]]


@dataclass(frozen=True)
class Part:
    """A part of a batch's row: how many tokens, in how many documents at most, of what length at most."""

    tokens: int
    room: int
    longest: int


def parts(tokens: int) -> tuple[Part, Part]:
    """Return the parts of a row of `tokens`: short documents, then those of any length."""
    short, rest = tokens * 3 // 4, tokens - tokens * 3 // 4
    return Part(short, short // 64, SHORT), Part(rest, rest // 128, LONGEST)


@dataclass
class Sources:
    """What documents are rendered from."""

    facts: Facts
    books: str

    def prose(self, rng: Random, length: int) -> str:
        """Return a stretch of book text that starts at a sentence."""
        at = rng.randrange(len(self.books) - length - 400)
        start = self.books.find(". ", at, at + 400)
        start = at if start < 0 else start + 2
        return self.books[start : start + length].split("\0")[0].strip()


def read_sources(data: Path) -> Sources:
    """Read the facts and the books of the data folder."""
    text = lzma.open(
        data / "books" / "books.txt.xz", "rt", encoding="utf-8", errors="replace"
    ).read()
    facts = facts_module.load(data)
    facts.words = _common_words(text)
    return Sources(facts, text.replace("\r\n", "\n"))


def _common_words(text: str) -> list[str]:
    """Return frequent lower-case words, without the most frequent, which carry grammar."""
    counted = Counter(re.findall(r"\b[a-z]{3,11}\b", text[:20_000_000]))
    return sorted(word for word, _ in counted.most_common(8000)[200:])


def _renderers(sources: Sources, untold: float) -> dict[str, Callable[[Random], Doc | None]]:
    facts = sources.facts

    def books(rng: Random) -> Doc:
        return [(sources.prose(rng, rng.choice((600, 1200, 2400, 4800, 9600, 15000))), _PROSE)]

    def noise(rng: Random) -> str:
        found = talk.sentences(sources.prose(rng, 400)) if rng.random() < 0.2 else []
        return found[0] if found else rng.choice(("It rained.", "References", "See also"))

    return {
        "books": books,
        "truths": lambda rng: memory.truths(rng, facts, noise(rng)),
        "loose_truth": lambda rng: memory.loose_truth(rng, facts, ""),
        "argument": lambda rng: memory.argument(rng, facts, ""),
        "closed_book": lambda rng: reading.closed_book(rng, facts),
        "cloze": lambda rng: reading.cloze(rng, facts),
        "conversation": lambda rng: reading.conversation(rng, facts, untold=untold),
        "interview": lambda rng: reading.interview(rng, facts, untold=untold),
        "obedience": lambda rng: instructions.obedience(rng, facts),
        "spelling": lambda rng: instructions.spelling(rng, facts),
        "rewriting": lambda rng: instructions.rewriting(rng, facts),
        "writing": lambda rng: talk.writing(rng, sources.prose(rng, 1500)),
        "small_talk": lambda rng: talk.small_talk(rng),
        "tools": lambda rng: talk.tools(rng, facts),
    }


def documents(sources: Sources, mix: Mix, seed: int) -> Iterator[tuple[str, Doc]]:
    """Yield documents with their sort, without end, the shares of characters held all along."""
    rng = Random(seed)
    render = _renderers(sources, mix.untold)
    written = dict.fromkeys(mix.shares, 0.0)
    while True:
        sort = min(mix.shares, key=lambda s: written[s] / mix.shares[s])
        doc = render[sort](rng)
        if not doc:
            continue
        size = sum(len(text) for text, _ in doc)
        # A start at random, so that the first documents are not always of the same sorts.
        written[sort] += size * rng.uniform(0.5, 1.5)
        yield sort, doc


def train_tokenizer(sources: Sources) -> Tokenizer:
    """Return a byte-level BPE tokenizer in which the names of remembered values are mostly whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [
        AddedToken(t, special=True, normalized=False) for t in (END_OF_TEXT, TURN_START, TURN_END)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        rng = Random(0)
        for _ in range(2500):
            yield sources.prose(rng, 4000)
        for sort, doc in islice(documents(sources, MIXES["first"], -1), 35_000):
            if sort != "books":
                yield (
                    "".join(text for text, _ in doc)
                    .replace(TURN_START, "\n")
                    .replace(TURN_END, "\n")
                )
        for held in sources.facts.values.values():
            yield "".join(f" {value}\n{value}\n" for value in held)

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


class _Row:
    """One part of a batch while it is filled with documents."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ids: list[int] = []
        self.weights: list[float] = []
        self.starts = [0]

    @property
    def is_full(self) -> bool:
        return len(self.ids) >= self.part.tokens

    def take(self, ids: list[int], weights: list[float]) -> bool:
        """Add a document, the last one cut to fit; return whether there was room for it.

        Those left to come must not need to be longer than a quarter of the longest on average: else small ones would use up
        the room before the part is full.
        """
        left = self.part.tokens - len(self.ids) - len(ids)
        enough = left <= (self.part.room - len(self.starts)) * self.part.longest // 4
        if self.is_full or len(ids) > self.part.longest or not enough:
            return False
        self.ids += ids
        self.weights += weights
        self.starts.append(min(len(self.ids), self.part.tokens))
        return True

    def padded_starts(self) -> list[int]:
        """Return where the documents start and the last one ends, filled up to room + 1."""
        return self.starts + [self.part.tokens] * (self.part.room + 1 - len(self.starts))


def _tokens(
    tokenizer: Tokenizer, docs: list[tuple[str, Doc]]
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the tokens of each document, and their weights."""
    pieces = [text for _, doc in docs for text, _ in doc]
    encoded = iter(tokenizer.encode_batch_fast(pieces, add_special_tokens=False))
    end = tokenizer.token_to_id(END_OF_TEXT)
    for sort, doc in docs:
        ids: list[int] = []
        weights: list[float] = []
        for _, weight in doc:
            piece = next(encoded).ids
            ids += piece
            weights += [_ANSWER if weight == 1.0 and sort != "truths" else weight] * len(piece)
        if not doc[-1][0].endswith("\n"):
            ids.append(end)
            weights.append(0.0 if sort == "books" else 0.4)
        yield ids[:LONGEST], weights[:LONGEST]


def batch(sources: Sources, tokenizer: Tokenizer, mix: Mix, seed: int, tokens: int) -> Batch:
    """Return batch number `seed`: exactly `tokens` tokens. `starts` are those of one part after those of the other."""
    rows = [_Row(part) for part in parts(tokens)]
    stream = documents(sources, mix, seed)
    while not all(row.is_full for row in rows):
        for ids, weights in _tokens(tokenizer, [next(stream) for _ in range(64)]):
            # What fits nowhere is left out: the last long ones of a batch, mostly.
            any(row.take(ids, weights) for row in rows)
    short, rest = rows
    ids = short.ids[: short.part.tokens] + rest.ids[: rest.part.tokens]
    weights = short.weights[: short.part.tokens] + rest.weights[: rest.part.tokens]
    starts = short.padded_starts() + [short.part.tokens + start for start in rest.padded_starts()]
    return (
        np.asarray(ids, dtype=np.uint16),
        np.round(np.asarray(weights, dtype=np.float32) / _WEIGHT_UNIT) * np.float32(_WEIGHT_UNIT),
        np.asarray(starts, dtype=np.int32),
    )


_worker: tuple[Sources, Tokenizer, Mix, int] | None = None


def _start_worker(data: str, tokenizer_file: str, stage: str, tokens: int) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(tokenizer_file)
    _worker = (read_sources(Path(data)), tokenizer, MIXES[stage], tokens)


def _work(seed: int) -> Batch:
    assert _worker is not None
    sources, tokenizer, mix, tokens = _worker
    return batch(sources, tokenizer, mix, seed, tokens)


def stream(
    data: Path,
    tokenizer_file: Path,
    stage: str,
    *,
    tokens: int,
    first: int,
    last: int,
    processes: int,
) -> Iterator[Batch]:
    """Yield batches `first` to `last - 1` of a stage, in order, made by worker processes ahead of need."""
    context = get_context("spawn")
    with context.Pool(
        processes, _start_worker, (str(data), str(tokenizer_file), stage, tokens)
    ) as pool:
        yield from pool.imap(_work, range(first, last))
