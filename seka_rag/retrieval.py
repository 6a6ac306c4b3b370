"""Offline retrieval: a folder of text files → passages → those that share words with a question.

The scores are BM25's and come back with the passages; which of these are highlighted is for others
to say. This module knows nothing of models or tokens.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import bm25s
import numpy as np

from seka_rag.errors import DocumentsError
from seka_rag.prompts import Passage

MAX_WORDS = 120
"""A file of at most this many words stays one passage; longer ones are split at paragraphs."""

_SUFFIXES = (".txt", ".md")
_HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SENTENCE_BREAK = re.compile(rf"{_SENTENCE_END.pattern}|\n\s*\n")
_WORD = re.compile(r"\w+")

# What any question is made of. Words that may name a relation (own, work, part) are not here.
_STOP_WORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how if in into "
    "is it its no not of on or s such that the their them then there these they this to was were "
    "what when where which who whom whose why will with would".split()
)


class Retriever:
    """Finds the passages that share telling words with a question (BM25, English stop words)."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        if not passages:
            raise DocumentsError("there is no passage to search: give at least one")
        self.passages = tuple(passages)
        words = [telling_words(passage.text) for passage in self.passages]
        self._vocabulary = frozenset(word for passage in words for word in passage)
        self._index = bm25s.BM25()
        # bm25s cannot index a collection without one word; nothing in it can be found either.
        if self._vocabulary:
            self._index.index(words, show_progress=False)

    @classmethod
    def from_folder(cls, folder: str | Path, *, max_words: int = MAX_WORDS) -> Self:
        """Return a retriever over the .txt and .md files in `folder` and the folders below it."""
        return cls(read_folder(folder, max_words=max_words))

    def search(self, question: str, k: int = 5) -> list[Passage]:
        """Return the best `k` passages, best first, with their scores; 0 means no word in common.

        There are fewer only if there are fewer passages. Equal scores keep the order of the files.
        """
        if k < 1:
            raise DocumentsError(f"asked for {k} passages: ask for at least 1")
        scores = self._scores(question)
        best = np.argsort(-scores, kind="stable")[:k]
        return [replace(self.passages[i], score=float(scores[i])) for i in best]

    def _scores(self, question: str) -> np.ndarray:
        known = [word for word in telling_words(question) if word in self._vocabulary]
        if not known:
            return np.zeros(len(self.passages), dtype=np.float32)
        return np.asarray(self._index.get_scores(known), dtype=np.float32)


def read_folder(folder: str | Path, *, max_words: int = MAX_WORDS) -> list[Passage]:
    """Return the passages of all .txt and .md files in `folder`, in the order of their names.

    The source of a passage is its file, relative to `folder`, with `#2` for the second passage of a
    file that gave several. Hidden files and folders, and other endings, are left alone.
    """
    root = Path(folder)
    if not root.exists():
        raise DocumentsError(f"there is no folder {root}: give one that holds .txt or .md files")
    if not root.is_dir():
        raise DocumentsError(f"{root} is a file: give the folder that holds it")
    passages: list[Passage] = []
    for path in _text_files(root):
        name = path.relative_to(root).as_posix()
        texts = split(_read(path), max_words=max_words, markdown=path.suffix.lower() == ".md")
        for number, text in enumerate(texts, start=1):
            passages.append(Passage(text, name if len(texts) == 1 else f"{name}#{number}"))
    if not passages:
        raise DocumentsError(
            f"{root} holds no .txt or .md file with text in it: put the documents there, as UTF-8"
        )
    return passages


def split(text: str, *, max_words: int = MAX_WORDS, markdown: bool = False) -> list[str]:
    """Return the passages of one file, in order: every word of `text`, and no passage empty.

    Paragraphs are put together up to `max_words` words; a longer paragraph is split after
    sentences, a longer sentence between words. A Markdown heading starts a passage and stays with
    the paragraph after it, which may make that passage longer by the heading.
    """
    if max_words < 1:
        raise DocumentsError(f"passages of {max_words} words: allow at least 1")
    if len(text.split()) <= max_words:
        return [text.strip()] if text.strip() else []
    passages: list[str] = []
    headings: list[str] = []
    body: list[str] = []

    def close() -> None:
        if headings or body:
            passages.append("\n\n".join(headings + body).strip())
        headings.clear()
        body.clear()

    for block, is_heading in _blocks(text, markdown=markdown):
        if is_heading:
            if body:
                close()
            headings.append(block)
            continue
        for piece in _pieces(block, max_words):
            if body and sum(len(part.split()) for part in (*body, piece)) > max_words:
                close()
            body.append(piece)
    close()
    return passages


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in order, as they stand there."""
    return [text[start:end] for start, end in sentence_places(text)]


def sentence_places(text: str) -> list[tuple[int, int]]:
    """Return where each sentence is, [start, end), in order and without the space around it.

    A sentence ends at `.`, `!` or `?` before space, and at a blank line: "Dr. Who" counts as two.
    Between the places is nothing but space.
    """
    breaks = [found.span() for found in _SENTENCE_BREAK.finditer(text)]
    starts = [0, *(end for _, end in breaks)]
    ends = [*(start for start, _ in breaks), len(text)]
    places = []
    for start, end in zip(starts, ends, strict=True):
        piece = text[start:end]
        if piece.strip():
            lead = len(piece) - len(piece.lstrip())
            places.append((start + lead, start + len(piece.rstrip())))
    return places


def telling_words(text: str) -> list[str]:
    """Return the words of a text that a search counts: all in lower case, no stop words."""
    return [word for word in _WORD.findall(text.casefold()) if word not in _STOP_WORDS]


def _text_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix.lower() in _SUFFIXES and path.is_file():
            yield path


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DocumentsError(
            f"{path} cannot be read ({error.strerror}): check its rights"
        ) from error
    if b"\0" in raw:
        raise DocumentsError(
            f"{path} is binary: save it as UTF-8 text, or take it out of the folder"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentsError(
            f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text, "
            "or take it out of the folder"
        ) from error


def _blocks(text: str, *, markdown: bool) -> Iterator[tuple[str, bool]]:
    """Yield paragraphs and headings in order, each with whether it is a heading."""
    lines: list[str] = []
    in_fence = False
    for line in text.splitlines():
        # In a fence, `#` is a comment of some language.
        in_fence ^= markdown and bool(_FENCE.match(line))
        is_heading = markdown and not in_fence and bool(_HEADING.match(line))
        if line.strip() and not is_heading:
            lines.append(line.rstrip())
            continue
        if lines:
            yield "\n".join(lines), False
            lines = []
        if is_heading:
            yield line.strip(), True
    if lines:
        yield "\n".join(lines), False


def _pieces(block: str, max_words: int) -> Iterator[str]:
    """Yield `block` in pieces of at most `max_words` words, whole sentences where these fit."""
    if len(block.split()) <= max_words:
        yield block
        return
    held: list[str] = []
    for sentence in _SENTENCE_END.split(block):
        words = sentence.split()
        if len(held) + len(words) > max_words and held:
            yield " ".join(held)
            held = []
        while len(words) > max_words:
            yield " ".join(words[:max_words])
            words = words[max_words:]
        held.extend(words)
    if held:
        yield " ".join(held)
