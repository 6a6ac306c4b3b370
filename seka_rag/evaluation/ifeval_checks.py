"""Checks of IFEval: whether a text does what an instruction of a known kind orders.

Written from the descriptions of the kinds (Zhou et al., 2023, arXiv 2311.07911, table 1), in the
strict form: the answer as it stands. A blank answer follows nothing. Where they differ from the
published program: sentences are split by this library's rule and words are runs of letters and
digits, where that uses NLTK's models; orders about upper and lower case do not ask whether the text
is English. The language of an answer is not checked at all: that needs a model of languages.

Each kind knows its settings, which the data give as `kwargs`, and by which words a sentence of a
prompt is taken to order it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seka_rag.retrieval import sentences

Settings = Mapping[str, Any]

RELATIONS = ("less than", "at least")
_WORD = re.compile(r"\w+")
_CAPITAL_WORD = re.compile(r"[^\W_](?:[\w'’-]*[^\W_])?")
_BULLET = re.compile(r"[ \t]*(?:\*(?!\*)|-)[ \t]*\S")
_HIGHLIGHTED = re.compile(r"\*\*([^*\n]+)\*\*|\*([^*\n]+)\*")
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_PLACEHOLDER = re.compile(r"\[[^\[\]]+\]")
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {
    "P.S.": re.compile(r"\bp\.\s?s\.", re.IGNORECASE),
    "P.P.S": re.compile(r"\bp\.\s?p\.\s?s\b", re.IGNORECASE),
}


@dataclass(frozen=True)
class Kind:
    """One kind of instruction."""

    check: Callable[[str, Settings], bool]
    cue: str  # a regular expression found, in any case, in a sentence that orders it
    needs: tuple[tuple[str, type], ...] = ()
    named: str = ""  # the setting whose texts, at least one, stand in that sentence


def followed(kind: str, answer: str, settings: Settings) -> bool:
    """Return whether the answer follows an instruction of a kind that is in `KINDS`."""
    return bool(answer.strip()) and KINDS[kind].check(answer, settings)


def fault(kind: str, settings: Settings) -> str:
    """Return what is wrong with the settings of an instruction; nothing if all is well."""
    for name, wanted in KINDS[kind].needs:
        value = settings.get(name)
        if not isinstance(value, wanted) or isinstance(value, bool) or value in ("", []):
            return f"{kind} needs {name!r}, and it is {value!r:.40}"
        if isinstance(value, list) and not all(isinstance(item, str) and item for item in value):
            return f"{kind} needs a list of texts as {name!r}"
        if name.endswith("relation") and value not in RELATIONS:
            return f"{kind} needs one of {', '.join(RELATIONS)} as {name!r}, not {value!r:.40}"
    return ""


def orders(kind: str, settings: Settings, sentence: str) -> bool:
    """Return whether a sentence of a prompt seems to give this instruction."""
    known = KINDS[kind]
    if not re.search(known.cue, sentence, re.IGNORECASE):
        return False
    if not known.named:
        return True
    named = settings[known.named]
    names = [named] if isinstance(named, str) else named
    return any(name.casefold() in sentence.casefold() for name in names)


def _compares(found: int, relation: str, wanted: int) -> bool:
    return found < wanted if relation == "less than" else found >= wanted


def _existence(answer: str, settings: Settings) -> bool:
    return all(word.casefold() in answer.casefold() for word in settings["keywords"])


def _frequency(answer: str, settings: Settings) -> bool:
    found = answer.casefold().count(settings["keyword"].casefold())
    return _compares(found, settings["relation"], settings["frequency"])


def _forbidden(answer: str, settings: Settings) -> bool:
    """Whole words alone are forbidden: "rocky" may stand where "rock" may not."""
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE)
        for word in settings["forbidden_words"]
    )


def _letters(answer: str, settings: Settings) -> bool:
    found = answer.casefold().count(settings["letter"].casefold())
    return _compares(found, settings["let_relation"], settings["let_frequency"])


def _capital_words(answer: str, settings: Settings) -> bool:
    found = sum(word.isupper() for word in _CAPITAL_WORD.findall(answer))
    return _compares(found, settings["capital_relation"], settings["capital_frequency"])


def _words(answer: str, settings: Settings) -> bool:
    return _compares(len(_WORD.findall(answer)), settings["relation"], settings["num_words"])


def _sentences(answer: str, settings: Settings) -> bool:
    return _compares(len(sentences(answer)), settings["relation"], settings["num_sentences"])


def _paragraphs(answer: str, settings: Settings) -> bool:
    """Paragraphs stand between dividers of ***, one of which may open or close the text."""
    parts = [part.strip() for part in re.split(r"(?<!\*)\*\*\*(?!\*)", answer)]
    if not parts[0]:
        parts = parts[1:]
    if parts and not parts[-1]:
        parts = parts[:-1]
    return all(parts) and len(parts) == settings["num_paragraphs"]


def _first_word(answer: str, settings: Settings) -> bool:
    parts = [part for part in re.split(r"\n\s*\n", answer) if part.strip()]
    if len(parts) != settings["num_paragraphs"] or not 1 <= settings["nth_paragraph"] <= len(parts):
        return False
    word = _WORD.search(parts[settings["nth_paragraph"] - 1])
    wanted: str = settings["first_word"].casefold()
    return word is not None and word[0].casefold() == wanted


def _bullets(answer: str, settings: Settings) -> bool:
    found = sum(bool(_BULLET.match(line)) for line in answer.splitlines())
    return found == int(settings["num_bullets"])


def _highlights(answer: str, settings: Settings) -> bool:
    found = sum(bool((one or two).strip()) for one, two in _HIGHLIGHTED.findall(answer))
    return found >= int(settings["num_highlights"])


def _title(answer: str, settings: Settings) -> bool:
    return any(title.strip() for title in _TITLE.findall(answer))


def _sections(answer: str, settings: Settings) -> bool:
    found = re.findall(rf"{re.escape(settings['section_spliter'])}\s?\d+", answer)
    return len(found) >= int(settings["num_sections"])


def _json(answer: str, settings: Settings) -> bool:
    fenced = _FENCED.fullmatch(answer.strip())
    try:
        json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return True


def _constrained(answer: str, settings: Settings) -> bool:
    return any(option in answer for option in _OPTIONS)


def _no_comma(answer: str, settings: Settings) -> bool:
    return "," not in answer


def _ends(answer: str, settings: Settings) -> bool:
    """A quotation mark around the whole answer does not count as its end."""
    ending = settings["end_phrase"].strip().casefold()
    return answer.strip().strip('"').rstrip().casefold().endswith(ending)


def _quoted(answer: str, settings: Settings) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _postscript(answer: str, settings: Settings) -> bool:
    marker = settings["postscript_marker"]
    known = _POSTSCRIPTS.get(marker)
    if known is None:
        known = re.compile(re.escape(marker), re.IGNORECASE)
    return known.search(answer) is not None


def _placeholders(answer: str, settings: Settings) -> bool:
    return len(_PLACEHOLDER.findall(answer)) >= int(settings["num_placeholders"])


def _two(answer: str, settings: Settings) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    if len(parts) == 3 and not (parts[0] and parts[2]):
        parts = parts[1:] if not parts[0] else parts[:2]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _repeats(answer: str, settings: Settings) -> bool:
    wanted = settings["prompt_to_repeat"].strip().casefold()
    return answer.strip().casefold().startswith(wanted)


def _upper(answer: str, settings: Settings) -> bool:
    return answer.isupper()


def _lower(answer: str, settings: Settings) -> bool:
    return answer.islower()


_USES = r"\b(use|using|include|including|contain|containing|mention|keywords?|words?|write|say)\b"
_AVOIDS = r"\b(not|n't|avoid|without|never|exclude|refrain|don’t|don't)\b"

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "keywords:existence": Kind(_existence, _USES, (("keywords", list),), "keywords"),
        "keywords:frequency": Kind(
            _frequency,
            r"\b(times?|once|twice|more|least|most|less|than)\b",
            (("keyword", str), ("relation", str), ("frequency", int)),
            "keyword",
        ),
        "keywords:forbidden_words": Kind(
            _forbidden, _AVOIDS, (("forbidden_words", list),), "forbidden_words"
        ),
        "keywords:letter_frequency": Kind(
            _letters,
            r"\b(letters?|appears?|times?|marks?|hashtags?)\b",
            (("letter", str), ("let_relation", str), ("let_frequency", int)),
            "letter",
        ),
        "change_case:english_capital": Kind(
            _upper, r"\b(capital|capitalized|upper ?case|all caps)\b"
        ),
        "change_case:english_lowercase": Kind(_lower, r"\b(lower ?case|capital)\b"),
        "change_case:capital_word_frequency": Kind(
            _capital_words,
            r"\b(capital\w*|all[- ]caps|upper ?case)\b",
            (("capital_relation", str), ("capital_frequency", int)),
        ),
        "length_constraints:number_words": Kind(
            _words, r"\bwords?\b", (("relation", str), ("num_words", int))
        ),
        "length_constraints:number_sentences": Kind(
            _sentences, r"\bsentences?\b", (("relation", str), ("num_sentences", int))
        ),
        "length_constraints:number_paragraphs": Kind(
            _paragraphs, r"\*\*\*|\bparagraphs?\b", (("num_paragraphs", int),)
        ),
        "length_constraints:nth_paragraph_first_word": Kind(
            _first_word,
            r"\b(paragraphs?|starts?|begins?)\b",
            (("first_word", str), ("num_paragraphs", int), ("nth_paragraph", int)),
            "first_word",
        ),
        "detectable_format:number_bullet_lists": Kind(
            _bullets, r"\bbullet", (("num_bullets", int),)
        ),
        "detectable_format:number_highlighted_sections": Kind(
            _highlights, r"\bhighlight", (("num_highlights", int),)
        ),
        "detectable_format:title": Kind(_title, r"<<|\bangular\b"),
        "detectable_format:multiple_sections": Kind(
            _sections,
            r"\b(sections?|paragraph|day|audience)\b",
            (("section_spliter", str), ("num_sections", int)),
            "section_spliter",
        ),
        "detectable_format:json_format": Kind(_json, r"\bjson\b"),
        "detectable_format:constrained_response": Kind(
            _constrained, r"my answer is|\b(options|choices|phrases)\b"
        ),
        "punctuation:no_comma": Kind(_no_comma, r"\bcommas?\b"),
        "startend:end_checker": Kind(
            _ends, r"\b(ends?|finish|last|conclude)\b", (("end_phrase", str),)
        ),
        "startend:quotation": Kind(_quoted, r"\bquotations?\b|\bquotes\b"),
        "detectable_content:postscript": Kind(
            _postscript, r"\bP\.\s?P?\.?\s?S|\bpost ?script", (("postscript_marker", str),)
        ),
        "detectable_content:number_placeholders": Kind(
            _placeholders, r"\bplaceholders?\b|square brackets", (("num_placeholders", int),)
        ),
        "combination:two_responses": Kind(_two, r"\*{6}|\basterisks?\b"),
        "combination:repeat_prompt": Kind(_repeats, r"\brepeat\b", (("prompt_to_repeat", str),)),
    }
)
