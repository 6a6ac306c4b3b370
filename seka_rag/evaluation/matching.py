"""Matching of what was written with what was wanted: SQuAD's normalisation, token F1, occurrence.

A text is normalised to its words: all in lower case, punctuation taken out, articles left out, as
SQuAD's evaluation does (Rajpurkar et al., 2016, arXiv 1606.05250), here with the punctuation of any
script. Articles are English ones. Nothing here knows synonyms: "the US" is not "America".
"""

import re
import string
import unicodedata
from collections import Counter

_ARTICLES = frozenset(("a", "an", "the"))
_POSSESSIVE = re.compile(r"['’]s\b")


def words_of(text: str) -> list[str]:
    """Return the words of a text that count."""
    kept = "".join(letter for letter in text.casefold() if not _is_punctuation(letter))
    return [word for word in kept.split() if word not in _ARTICLES]


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def normalised(text: str) -> str:
    """Return the words that count with one space between them."""
    return " ".join(words_of(text))


def exact_match(answer: str, wanted: str) -> bool:
    """Return whether the two are the same words in the same order."""
    return words_of(answer) == words_of(wanted)


def f1(answer: str, wanted: str) -> float:
    """Return the harmonic mean of precision and recall of words, in [0, 1]; 1 if both have none."""
    given, needed = words_of(answer), words_of(wanted)
    if not given or not needed:
        return float(given == needed)
    shared = sum((Counter(given) & Counter(needed)).values())
    return 2 * shared / (len(given) + len(needed))


def findable(text: str) -> str:
    """Return the words that count with a space around each, "Ada's" as two, to look others up in.

    A text occurs in another as whole words if so does what this returns of the two.
    """
    return f" {normalised(_POSSESSIVE.sub(' s', text))} "


def occurs(wanted: str, text: str) -> bool:
    """Return whether the wanted words stand in the text, one after the other, as whole words."""
    return bool(normalised(wanted)) and findable(wanted) in findable(text)
