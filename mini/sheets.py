"""Sheets: what one passage says of one subject, relation by relation.

Subjects are invented (then the passage is all there is) or known (then the passage tells the truth, or contradicts
memory). Questions and answers are `reading`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from random import Random

from mini import names
from mini.facts import Facts
from mini.relations import EVERYDAY, KNOWN, VERBS, Relation, attribute, deed, fill

_OPENERS = (
    "Notice: ",
    "According to the register, ",
    "As of this year, ",
    "It is known that ",
    "News: ",
    "From today, ",
    "The letter says that ",
    "From 1 March, ",
    "In short, ",
    "Since last year, ",
    "Correction: ",
)
_LOWERED = (
    "The ",
    "On ",
    "In ",
    "At ",
    "You ",
    "Visitors ",
    "Work ",
    "First ",
    "This ",
    "For ",
    "From ",
    "She ",
    "He ",
    "It ",
    "Her ",
    "His ",
    "Its ",
)
RELATIONS_OF: dict[str, list[Relation]] = {}
for _relation in (*KNOWN.values(), *EVERYDAY.values()):
    RELATIONS_OF.setdefault(_relation.subject, []).append(_relation)
_KINDS = tuple(RELATIONS_OF)
# Relations whose wordings would fit each other's values. Those that merely give the same kind of value
# (born and died, founder and director, opens and closes) stand together: that is what binding is about.
_ALIKE = (
    {"P103", "P1412"},
    {"P17", "P131", "P276", "P30", "kept", "venue"},
    {"P127", "keeper", "owns"},
    {"P364", "P407"},
    {"P176", "P178"},
    {"P106", "P39"},
    {"P101", "studied", "leads"},
    {"day", "date"},
    {"P495", "P740"},
    {"P108", "school", "P937", "room"},
    {"P159", "street"},
    {"painter", "invented"},
    {"coach", "runs"},
    {"uses", "builds"},
)
_MAKEABLE = {
    "place",
    "country",
    "person",
    "company",
    "owner",
    "label",
    "channel",
    "group",
    "name",
    "river",
}


@dataclass
class Sheet:
    """What is said of one subject, and what memory holds of it."""

    subject: str
    pronoun: str
    kind: str
    said: dict[str, str]  # relation → value in the passage
    memory: dict[str, str] = field(default_factory=dict)


def relation(code: str) -> Relation:
    """Return the relation of a code."""
    made, _, word = code.partition(":")
    if word:
        return attribute(word) if made == "attribute" else deed(word)
    return KNOWN.get(code) or EVERYDAY[code]


def _made_up(rng: Random, facts: Facts) -> str:
    """Return the code of a relation that no table holds."""
    if rng.random() < 0.6 and facts.words:
        return f"attribute:{rng.choice(facts.words)}"
    return f"deed:{rng.choice(VERBS)}"


def some_value(rng: Random, facts: Facts, code: str, *, but: frozenset[str] = frozenset()) -> str:
    """Return a value that fits the relation and is none of `but`."""
    kind = relation(code).value
    for _ in range(20):
        if kind in names.WORDED and (code not in facts.values or rng.random() < 0.4):
            known = kind in names.VALUES and rng.random() < 0.4
            found = names.value(rng, kind) if known else names.open_value(rng, kind, facts.words)
        elif code in facts.values and (kind not in _MAKEABLE or rng.random() < 0.5):
            found = rng.choice(facts.values[code])
        else:
            found = names.value(rng, kind)
        if found not in but:
            return found
    return names.value(rng, "name")


def _compatible(code: str, held: dict[str, str]) -> bool:
    return code not in held and not any(code in group and group & held.keys() for group in _ALIKE)


def unsaid(rng: Random, facts: Facts, sheet: Sheet) -> str:
    """Return a relation that the sheet might tell and does not."""
    options = [r.code for r in RELATIONS_OF[sheet.kind] if _compatible(r.code, sheet.said)]
    if rng.random() < 0.2 or not options:
        return _made_up(rng, facts)
    return rng.choice(options)


def _newcomer(rng: Random, facts: Facts, kind: str) -> tuple[str, str]:
    """Return a subject nobody has heard of, and its pronoun."""
    while True:
        subject, pronoun = names.newcomer(rng, facts.named, kind)
        if subject not in facts.known:
            return subject, pronoun


def invented(rng: Random, facts: Facts, *, wanted: str | None = None, facts_each: int = 3) -> Sheet:
    """Return a sheet about somebody or something new, with the relation `wanted` if one is given."""
    kind = relation(wanted).subject if wanted else "any"
    kind = rng.choice(_KINDS) if kind == "any" else kind
    subject, pronoun = _newcomer(rng, facts, kind)
    said: dict[str, str] = {}
    if wanted:
        said[wanted] = some_value(rng, facts, wanted)
    elif rng.random() < 0.25:
        made = _made_up(rng, facts)
        said[made] = some_value(rng, facts, made)
    options = RELATIONS_OF[kind]
    for candidate in rng.sample(options, min(len(options), facts_each)):
        if len(said) < facts_each and _compatible(candidate.code, said):
            said[candidate.code] = some_value(rng, facts, candidate.code)
    return Sheet(subject, pronoun, kind, said)


def remembered(rng: Random, facts: Facts, subject: str, *, contradict: str | None = None) -> Sheet:
    """Return a sheet about a known subject: the truth, or another value for the relation `contradict`."""
    memory = facts.known[subject]
    said = dict(memory)
    if contradict:
        said = {contradict: some_value(rng, facts, contradict, but=frozenset({memory[contradict]}))}
    return Sheet(subject, "", relation(next(iter(memory))).subject, said, dict(memory))


_POSSESSIVE = {"She": "Her", "He": "His", "It": "Its"}
_LOOSE = (
    "{x} {link} {y}.",
    "{y} {link} {x}.",
    "The {matter} of {x} {link} {y}.",
    "The {matter} of {x} is {y}.",
    "{x}, {aside}, {link} {y}.",
    "{x} {link} {y} {aside}.",
    "For {x} the {matter} is {y}.",
    "{aside} {x} {link} {y}.",
    "{y} is where the {matter} of {x} {link}.",
    "{y} {link} the {matter} of {x}, {aside}.",
    "{x} has {y} as its {matter}.",
)


def _loosely(rng: Random, sheet: Sheet, code: str) -> str:
    """Return a sentence that joins subject and value in words that hardly name the relation."""
    template = rng.choice(_LOOSE)
    for slot, word in (
        ("{link}", names.link),
        ("{matter}", names.matter),
        ("{aside}", names.aside),
    ):
        while slot in template:
            template = template.replace(slot, word(rng), 1)
    return fill(template, sheet.subject, sheet.said[code])


def _only_of_its_kind(sheet: Sheet, code: str) -> bool:
    kind = relation(code).value
    return sum(relation(other).value == kind for other in sheet.said) == 1


def _dressed(rng: Random, sentence: str, subject: str) -> str:
    """Return the sentence, now and then with a lead or a tail that changes nothing."""
    if rng.random() < 0.15:
        lowers = sentence.startswith(_LOWERED) and not sentence.startswith(subject)
        sentence = names.lead(rng) + (sentence[:1].lower() + sentence[1:] if lowers else sentence)
    if rng.random() < 0.2:
        tail = rng.choice(
            (f", {names.aside(rng)}", f" {names.aside(rng)}", f", and {names.aside(rng)} too")
        )
        sentence = f"{sentence[:-1]}{tail}."
    return sentence


def _statement(rng: Random, sheet: Sheet, code: str, *, named: bool) -> str:
    if rng.random() < 0.2 and _only_of_its_kind(sheet, code):
        return _loosely(rng, sheet, code)
    return _dressed(rng, _plainly(rng, sheet, code, named=named), sheet.subject)


def _plainly(rng: Random, sheet: Sheet, code: str, *, named: bool) -> str:
    template = rng.choice(relation(code).say)
    if not named and template.startswith("{x} "):
        return fill(template, sheet.pronoun, sheet.said[code])
    owned = re.match(r"The ([a-z ]+) of \{x\} ", template)
    if not named and owned:
        rest = template[owned.end() :]
        return fill(f"{_POSSESSIVE[sheet.pronoun]} {owned[1]} {rest}", "", sheet.said[code])
    return fill(template, sheet.subject, sheet.said[code])


def _joined(rng: Random, sheet: Sheet, first: str, second: str) -> str | None:
    """Return one sentence for two facts, the first as a relative clause."""
    heads = [t for t in relation(first).say if t.startswith("{x} ")]
    tails = [t for t in relation(second).say if t.startswith("{x} ")]
    if not heads or not tails:
        return None
    clause, end = (
        fill(rng.choice(part)[4:-1], "", sheet.said[code])
        for part, code in ((heads, first), (tails, second))
    )
    clause, end = clause[:1].lower() + clause[1:], end[:1].lower() + end[1:]
    if rng.random() < 0.5:
        return fill(f"{{x}} {clause} and {end}.", sheet.subject)
    who = "who" if sheet.kind == "person" else "which"
    return fill(f"{{x}}, {who} {clause}, {end}.", sheet.subject)


def passage(rng: Random, sheet: Sheet, *, longest: int = 3) -> str:
    """Return the sheet as a few sentences, the subject named at least once."""
    codes = list(sheet.said)
    rng.shuffle(codes)
    sentences: list[str] = []
    if len(codes) >= 2 and rng.random() < 0.2:
        joined = _joined(rng, sheet, codes[0], codes[1])
        if joined:
            sentences.append(joined)
            codes = codes[2:]
    brief = replace(sheet, subject=names.short(sheet.subject, sheet.kind))
    for code in codes:
        named = not sentences or not sheet.pronoun or rng.random() < 0.4
        cut = sentences and sheet.kind == "person" and rng.random() < 0.5
        sentences.append(_statement(rng, brief if cut else sheet, code, named=named))
    if rng.random() < 0.15:
        opener = rng.choice(_OPENERS)
        head = sentences[0]
        lowers = (
            head.startswith(_LOWERED) and not head.startswith(sheet.subject) and opener[-2] != ":"
        )
        sentences[0] = opener + (head[:1].lower() + head[1:] if lowers else head)
    for _ in range(longest):
        if rng.random() < 0.2:
            sentences.insert(rng.randrange(1, len(sentences) + 1), rng.choice(names.FILLERS))
    return " ".join(sentences)
