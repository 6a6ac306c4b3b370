"""Instructions about the form of an answer: the kinds mini follows, and what obeying looks like.

An `Ask` is a question with the value that answers it. A `Kind` has a function that makes the obedient answer; how people
word the order stands in orders.txt. Orders come from the system or from the user, before or after the question, alone,
in pairs, or among sentences that order nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mini import names, reading, scene, sheets
from mini.chat import Doc, Turn, chat
from mini.facts import Facts
from mini.relations import fill

# Sentences for any question, for when the relation's own may not be used or there is none.
_SENTENCES = ("The answer is {y}.", "It says {y}.", "They wrote {y} here.")


@dataclass
class Ask:
    """A question whose answer is known, and the passages it is put over (none: memory answers)."""

    subject: str
    pronoun: str
    code: str  # the relation, or "" for a scene's question
    value: str
    passages: list[str]
    question: str

    def sentences(self) -> list[str]:
        """Return the answer as full sentences, the best first."""
        own = [sheets.relation(self.code).say[0]] if self.code else []
        return [fill(s, self.subject, self.value) for s in (*own, *_SENTENCES)]

    def without(self, word: str) -> str:
        """Return the first of the sentences in which `word` does not stand."""
        return next(s for s in self.sentences() if not re.search(rf"\b{word}\b", s, re.I))


Answer = Callable[[Random, Ask, str], str]


@dataclass(frozen=True)
class Kind:
    """One kind of instruction: how it is obeyed, and the words it may be about."""

    name: str
    obey: Answer
    words: tuple[str, ...] = ("",)
    combines: bool = False  # may wrap the answer of another kind


_STARTS = (
    "Answer:",
    "Reply:",
    "Result:",
    "In short:",
    "Well,",
    "Note:",
    "According to the records,",
    "Certainly:",
    "OK:",
    "I found it:",
    "Sure,",
    ">>",
    "From the files:",
    "My answer is",
    "Here it is:",
    "Dear reader,",
)
_ENDS = (
    "Over.",
    "Thank you.",
    "That is all.",
    "End of answer.",
    "Best wishes.",
    "Is there anything else?",
    "Done.",
    "###",
    "Good luck.",
    "Goodbye.",
)
_TITLES = (
    "Captain",
    "Sir",
    "Madam",
    "my friend",
    "Professor",
    "Doctor",
    "Your Majesty",
    "dear",
    "boss",
    "Miss Lane",
)
_TAGS = ("answer", "result", "value", "reply", "b", "out")
_KEYS = ("answer", "result", "value", "reply")
_COMMON = ("is", "the", "of", "in", "was", "by", "has", "born", "located", "made", "from", "works")

# Third person singular → what follows "they"; the templates of persons use no other verbs at their head.
_PLURAL = {
    "is": "are", "was": "were", "has": "have", "comes": "come", "works": "work", "holds": "hold", "speaks": "speak",
    "writes": "write", "earns": "earn", "plays": "play", "serves": "serve", "follows": "follow", "lives": "live",
    "keeps": "keep", "owns": "own", "likes": "like", "grew": "grew", "died": "died", "spent": "spent", "passed": "passed",
    "worked": "worked", "had": "had", "moved": "moved", "became": "became", "learned": "learned", "joined": "joined",
    "converted": "converted", "trained": "trained", "teaches": "teach", "performs": "perform", "gives": "give", "took": "took",
}  # fmt: skip


def _person_tails(code: str) -> list[str]:
    """Return the templates of a relation that start with the subject and a verb, without the subject."""
    tails = [s[4:] for s in sheets.relation(code).say if s.startswith("{x} ")]
    return [t for t in tails if t.split()[0] in _PLURAL]


def with_pronoun(tail: str, pronoun: str, value: str) -> str:
    """Return the sentence with he, she or they as its subject."""
    verb, rest = tail.split(" ", 1)
    if pronoun.lower() == "they":
        rest = re.sub(r"\b(has|is|was)\b", lambda m: _PLURAL[m.group(1)], rest)
        verb = _PLURAL[verb]
    return fill(f"{pronoun} {verb} {rest}", "", value)


def _pronoun(rng: Random, ask: Ask, word: str) -> str:
    return with_pronoun(_person_tails(ask.code)[0], word.capitalize(), ask.value)


def _plain(_: Random, ask: Ask, __: str) -> str:
    return reading.plain_answer(ask.value)


KINDS: tuple[Kind, ...] = (
    Kind("upper", lambda r, a, w: reading.plain_answer(a.value).upper(), combines=True),
    Kind("lower", lambda r, a, w: reading.plain_answer(a.value).lower(), combines=True),
    Kind("sentence", lambda r, a, w: a.sentences()[0]),
    Kind("json", lambda r, a, w: json.dumps({w: a.value}, ensure_ascii=False), _KEYS + ("answer",) * 6),
    Kind("they", _pronoun, ("they", "they", "they", "they", "he", "she")),
    Kind("prefix", lambda r, a, w: f"{w} {reading.plain_answer(a.value)}", _STARTS, combines=True),
    Kind("suffix", lambda r, a, w: f"{reading.plain_answer(a.value)} {w}", _ENDS, combines=True),
    Kind("without", lambda r, a, w: a.without(w), _COMMON),
    Kind("at most", _plain, ("2", "3", "4", "5", "6", "8", "10", "12")),
    Kind("quotes", lambda r, a, w: f'"{a.value}"', combines=True),
    Kind("bullet", lambda r, a, w: f"- {a.value}", combines=True),
    Kind("tag", lambda r, a, w: f"<{w}>{a.value}</{w}>", _TAGS),
    Kind("bold", lambda r, a, w: f"**{a.value}**"),
    Kind("brackets", lambda r, a, w: f"[{a.value}]"),
    Kind("twice", lambda r, a, w: f"{reading.plain_answer(a.value)} {reading.plain_answer(a.value)}"),
    Kind("bare", lambda r, a, w: a.value.rstrip(".")),
    Kind("address", lambda r, a, w: f"{a.value.rstrip('.')}, {w}.", _TITLES),
    Kind("echo", lambda r, a, w: f"{a.question} {reading.plain_answer(a.value)}"),
    Kind("plain", _plain),
)  # fmt: skip


def _read_orders() -> dict[str, tuple[str, ...]]:
    """Return the wordings of each kind. In «they| …» the wording itself says which pronoun."""
    text = (Path(__file__).parent / "orders.txt").read_text(encoding="utf-8")
    blocks = (block.splitlines() for block in text.strip().split("\n\n"))
    return {name: tuple(lines) for name, *lines in blocks}


ORDERS = _read_orders()
# Kinds that change every letter or choose among sentences need more practice than those that add a word.
_HARD = {"upper": 4, "lower": 4, "sentence": 2, "they": 2, "without": 2, "suffix": 2, "prefix": 2}
IDLE = (
    "You are a helpful assistant.", "You work for a public library.", "People ask you questions all day.",
    "Be polite and patient.", "The office is open from Monday to Friday.", "Do not invent anything.",
    "Many users are in a hurry.", "If something is unclear, stay calm.", "You were set up last spring.",
    "Users come from many countries.", "Be correct.", "You know a little about many things.",
    "Think before you answer.", "The records are kept in good order.", "Treat every user alike.",
)  # fmt: skip


def some_ask(rng: Random, facts: Facts, *, person: bool = False) -> Ask:
    """Return a question with its answer: from passages about invented subjects mostly, else from memory."""
    draw = 1.0 if person else rng.random()
    if draw < 0.25:
        code = rng.choice(list(facts.by_relation))
        subject = rng.choice(facts.by_relation[code])
        question = fill(rng.choice(sheets.relation(code).ask), subject)
        return Ask(subject, "It", code, facts.known[subject][code], [], question)
    count = rng.choice((0, 0, 1, 2, 4))
    if draw < 0.55:
        case = reading.case(rng, facts, about="told", count=count + 1)
        return Ask("", "It", "", case.answer, case.passages, case.question)
    wanted = rng.choice(_PERSON_CODES) if person else None
    sheet = sheets.invented(rng, facts, wanted=wanted, facts_each=rng.randrange(1, 4))
    code = wanted or rng.choice(list(sheet.said))
    told = [sheet] + [sheets.invented(rng, facts, facts_each=2) for _ in range(count)]
    rng.shuffle(told)
    question = fill(rng.choice(sheets.relation(code).ask), sheet.subject)
    passages = [sheets.passage(rng, s, longest=1) for s in told]
    return Ask(sheet.subject, sheet.pronoun, code, sheet.said[code], passages, question)


_PERSON_CODES = [r.code for r in sheets.RELATIONS_OF["person"] if _person_tails(r.code)]


def order(rng: Random, kind: Kind, word: str) -> str:
    """Return the instruction in words."""
    while True:
        only_for, bar, wording = rng.choice(ORDERS[kind.name]).rpartition("|")
        if not bar or only_for == word:
            return wording.strip().replace("{w}", word)


def _place(rng: Random, text: str, orders: list[str]) -> list[Turn]:
    """Return the turns before the answer, the orders somewhere in them."""
    said = " ".join(orders)
    where = rng.random()
    if where < 0.4:
        idle = rng.sample(IDLE, rng.choice((0, 0, 1, 2, 4, 7)))
        idle.insert(rng.randrange(len(idle) + 1), said)
        return [("system", " ".join(idle)), ("user", text)]
    system = reading.systems(rng, only=False)
    join = rng.choice((" ", "\n", "\n\n"))
    return [*system, ("user", f"{text}{join}{said}" if where < 0.75 else f"{said}{join}{text}")]


def obedience(rng: Random, facts: Facts) -> Doc:
    """Return a chat in which the answer takes the form that was ordered."""
    kind = rng.choices(KINDS, [_HARD.get(kind.name, 1) for kind in KINDS])[0]
    ask = some_ask(rng, facts, person=kind.name == "they")
    word = some_word(rng, facts, kind, ask)
    answer = kind.obey(rng, ask, word)
    orders = [order(rng, kind, word)]
    if rng.random() < 0.2 and kind.name not in ("without", "at most"):
        other = rng.choice([k for k in KINDS if k.combines and k.name != kind.name])
        extra = some_word(rng, facts, other, ask)
        orders.append(order(rng, other, extra))
        answer = _wrap(other.name, answer, extra)
        rng.shuffle(orders)
    text = reading.user_text(rng, ask.passages, ask.question)
    turns = [*_place(rng, text, orders), ("assistant", answer)]
    if turns[0][0] == "system" and rng.random() < 0.25 and kind.name not in ("they", "without"):
        again = some_ask(rng, facts)
        if not again.passages and len(orders) == 1:
            turns += [("user", again.question), ("assistant", kind.obey(rng, again, word))]
    return chat(turns)


def _open_word(rng: Random, facts: Facts, kind: str) -> str:
    """Return a key, a tag, a form of address or a text to begin or end with that is in no list."""
    words = " ".join(rng.sample(facts.words, rng.choice((1, 1, 2, 3))))
    if kind in ("json", "tag"):
        return words.split()[0]
    if kind == "address":
        return names.person(rng)[0]
    draw = rng.random()
    if draw < 0.15:
        return rng.choice(_SIGNS) * rng.choice((1, 2, 3))
    if draw < 0.25:
        return rng.choice(("({})", "[{}]", "*{}*", "<{}>", "({}.)", "~{}~")).format(words)
    ends = (":", ":", ",", " -", "") if kind == "prefix" else (".", ".", "!", "?", "")
    return (words.capitalize() if rng.random() < 0.6 else words) + rng.choice(ends)


_SIGNS = (
    "!",
    "#",
    "*",
    "=",
    ">",
    "?",
    "/",
    "~",
    "+",
    "$",
    "%",
    "&",
    "@",
    "--",
    "->",
    "::",
    "|",
    "^_^",
    ":)",
    "...",
)
_OPEN = ("json", "tag", "address", "prefix", "suffix")


def some_word(rng: Random, facts: Facts, kind: Kind, ask: Ask) -> str:
    """Return a word for an order of a kind."""
    if kind.name == "without":
        return banned(rng, ask)
    if kind.name in _OPEN and facts.words and rng.random() < 0.5:
        return _open_word(rng, facts, kind.name)
    word = rng.choice(kind.words)
    return ask.pronoun.lower() if word in ("he", "she") else word


def banned(rng: Random, ask: Ask) -> str:
    """Return a word to forbid: mostly one of the sentence that would be said first, never one of the value."""
    sentences, value = ask.sentences(), set(ask.value.lower().rstrip(".").split())
    first = re.findall(r"[A-Za-z]+", sentences[0].replace(ask.value, " "))
    words = [w for w in first if w.lower() not in value] if rng.random() < 0.7 else list(_COMMON)
    usable = [w for w in words if any(not re.search(rf"\b{w}\b", s, re.I) for s in sentences)]
    return rng.choice(usable or ["nothing"])


def _wrap(name: str, answer: str, word: str) -> str:
    """Return an answer with a second order obeyed on top of the first."""
    return {
        "upper": answer.upper(),
        "lower": answer.lower(),
        "prefix": f"{word} {answer}",
        "suffix": f"{answer} {word}",
        "quotes": f'"{answer}"',
        "bullet": f"- {answer}",
    }[name]


_REWRITES = (
    "Rewrite the text with they instead of he and she.",
    "Rewrite this text. Use they for he and she.",
    "Change the pronouns: write they instead of he or she.",
    "Replace he and she by they in this text.",
)


def rewriting(rng: Random, facts: Facts) -> Doc:
    """Return a chat that rewrites a little biography in another pronoun."""
    wanted = rng.sample(_PERSON_CODES, k=rng.choice((1, 2, 2, 3)))
    name, pronoun = names.person(rng)
    before, after = [], []
    for n, code in enumerate(wanted):
        tail = rng.choice(_person_tails(code))
        value = sheets.some_value(rng, facts, code)
        if n == 0 and rng.random() < 0.6:
            before.append(fill("{x} " + tail, name, value))
            after.append(before[-1])
        else:
            before.append(with_pronoun(tail, pronoun, value))
            after.append(with_pronoun(tail, "They", value))
    command = rng.choice(_REWRITES)
    if rng.random() < 0.4:
        return chat(
            [("system", command), ("user", " ".join(before)), ("assistant", " ".join(after))]
        )
    join = rng.choice(("\n", "\n\n", " "))
    return chat([("user", f"{command}{join}{' '.join(before)}"), ("assistant", " ".join(after))])


_SPELLED = (
    ("Write this in capital letters: {t}", str.upper), ('Put "{t}" in upper case.', str.upper), ("{t} in all caps?", str.upper),
    ("Write this in small letters: {t}", str.lower), ('Put "{t}" in lower case.', str.lower),
    ('Repeat: "{t}"', str), ("Say {t}", str),
)  # fmt: skip


def spelling(rng: Random, facts: Facts) -> Doc:
    """Return a chat that writes words and names in another case: practice in letters."""
    turns: list[Turn] = reading.systems(rng, only=False)
    for _ in range(rng.randrange(1, 7)):
        text = scene.value(rng, facts, rng.choice(_SPELLABLE))
        request, change = rng.choices(_SPELLED, (4, 4, 3, 2, 2, 1, 1))[0]
        turns += [("user", request.replace("{t}", text)), ("assistant", change(text))]
    return chat(turns)


_SPELLABLE = (
    "word", "word", "person", "place", "company", "building", "job", "language", "work", "date", "product", "word", "hour", "dish", "money",
)  # fmt: skip
