"""Instructions about the form of an answer: the kinds mini follows, and what obeying looks like.

An `Ask` is what would be answered without an instruction: a subject, a relation and its value. A `Kind` has wordings
for the order and a function that makes the obedient answer. Orders come from the system or from the user, before or
after the question, alone, in pairs, or among sentences that order nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mini import names, reading
from mini.chat import Doc, Turn, chat
from mini.facts import Facts
from mini.relations import fill


@dataclass
class Ask:
    """A question whose answer is known, and the passages it is put over (none: memory answers)."""

    subject: str
    pronoun: str
    code: str
    value: str
    passages: list[str]
    question: str

    def sentence(self, rng: Random, *, without: str = "") -> str:
        """Return the answer as a full sentence that lacks the word `without`: the first that will do, mostly."""
        says = [
            s
            for s in reading.relation(self.code).say
            if without not in s.lower().rstrip(".").split()
        ]
        return fill(says[0] if rng.random() < 0.8 else rng.choice(says), self.subject, self.value)


Answer = Callable[[Random, Ask, str], str]


@dataclass(frozen=True)
class Kind:
    """One kind of instruction: how it is worded ({w} is its word) and how it is obeyed."""

    name: str
    orders: tuple[str, ...]
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
    tails = [s[4:] for s in reading.relation(code).say if s.startswith("{x} ")]
    return [t for t in tails if t.split()[0] in _PLURAL]


def with_pronoun(tail: str, pronoun: str, value: str) -> str:
    """Return the sentence with he, she or they as its subject."""
    verb, rest = tail.split(" ", 1)
    if pronoun.lower() == "they":
        rest = re.sub(r"\b(has|is|was)\b", lambda m: _PLURAL[m.group(1)], rest)
        verb = _PLURAL[verb]
    return fill(f"{pronoun} {verb} {rest}", "", value)


def _pronoun(rng: Random, ask: Ask, word: str) -> str:
    tails = _person_tails(ask.code)
    tail = tails[0] if rng.random() < 0.8 else rng.choice(tails)
    return with_pronoun(tail, word.capitalize(), ask.value)


def _at_most(rng: Random, ask: Ask, word: str) -> str:
    """Return a sentence where the words allow one, else the value."""
    limit = int(word)
    options = [fill(s, ask.subject, ask.value) for s in reading.relation(ask.code).say]
    short = [s for s in options if len(s.split()) <= limit]
    return short[0] if short else reading.plain_answer(ask.value)


def _plain(_: Random, ask: Ask, __: str) -> str:
    return reading.plain_answer(ask.value)


KINDS: tuple[Kind, ...] = (
    Kind("upper", ("Answer in upper case.", "Write your answer in capital letters.", "Use capital letters only.", "Reply in all caps.", "Your whole answer must be in upper case.", "Please respond in ALL CAPITALS.", "Shout your answer: capital letters only."),
         lambda r, a, w: reading.plain_answer(a.value).upper(), combines=True),
    Kind("lower", ("Answer in lower case.", "Use small letters only.", "Write everything in lower case.", "No capital letters in your answer, please.", "Reply in lowercase letters."),
         lambda r, a, w: reading.plain_answer(a.value).lower(), combines=True),
    Kind("sentence", ("Answer in a full sentence.", "Answer with a complete sentence.", "Use a whole sentence for your answer.", "Reply in a full sentence.", "Please write a complete sentence, not just a word.", "Your answer must be a full sentence."),
         lambda r, a, w: a.sentence(r)),
    Kind("json", ('Answer as JSON: {"{w}": ...}.', 'Reply in JSON with the key "{w}".', 'Give your answer as {"{w}": …}.', 'Return a JSON object with one key, "{w}".', 'Format the answer as {"{w}": "..."}.', 'Output JSON like {"{w}": "..."} and nothing else.'),
         lambda r, a, w: json.dumps({w: a.value}, ensure_ascii=False), _KEYS + ("answer",) * 6),
    Kind("they", ("Use the pronoun {w}.", "Refer to the person as {w}.", "Answer in a sentence that uses the pronoun {w}.", "Use {w} for the person.", "Write {w} instead of the name.", "In your answer call the person {w}.", "Always say {w} when you speak of a person."),
         _pronoun, ("they", "they", "they", "they", "he", "she")),
    Kind("prefix", ('Begin your answer with "{w}".', 'Start your answer with "{w}".', "Your answer must start with: {w}", 'Put "{w}" before the answer.', 'The first words of your reply must be "{w}".', 'Start with "{w}"'),
         lambda r, a, w: f"{w} {reading.plain_answer(a.value)}", _STARTS, combines=True),
    Kind("suffix", ('End your answer with "{w}".', 'Finish your reply with "{w}".', 'After the answer write "{w}".', 'Close with the words "{w}".', 'The last words of your answer must be "{w}"'),
         lambda r, a, w: f"{reading.plain_answer(a.value)} {w}", _ENDS, combines=True),
    Kind("without", ('Answer in a full sentence without the word "{w}".', 'Do not use the word "{w}". Answer in a full sentence.', 'Write a full sentence, but avoid the word "{w}".', 'Answer in a sentence that does not contain the word "{w}".', 'Answer in a full sentence. The word "{w}" is not allowed.'),
         lambda r, a, w: a.sentence(r, without=w), _COMMON),
    Kind("at most", ("Answer in at most {w} words.", "Use at most {w} words.", "Use no more than {w} words.", "Your answer may have {w} words at most.", "Answer in a sentence of at most {w} words.", "Limit your answer to {w} words."),
         _at_most, ("1", "2", "3", "4", "5", "6", "8", "10")),
    Kind("quotes", ("Put the answer in double quotes.", "Answer in quotation marks.", "Wrap your answer in double quotation marks.", "Write the answer between quotes."),
         lambda r, a, w: f'"{a.value}"', combines=True),
    Kind("bullet", ("Answer as a bullet point.", "Write your answer as a list item that starts with a dash.", "Use a bullet list.", "Format your answer as a bullet."),
         lambda r, a, w: f"- {a.value}", combines=True),
    Kind("tag", ("Put the answer in <{w}> tags.", "Wrap the answer in <{w}></{w}>.", "Answer inside the tag <{w}>.", "Write <{w}>your answer</{w}>."),
         lambda r, a, w: f"<{w}>{a.value}</{w}>", _TAGS),
    Kind("bold", ("Write the answer in bold, like **this**.", "Make your answer bold with Markdown.", "Use Markdown bold for the answer.", "Put two asterisks on each side of your answer."),
         lambda r, a, w: f"**{a.value}**"),
    Kind("brackets", ("Put the answer in square brackets.", "Write the answer in [brackets].", "Answer in square brackets."),
         lambda r, a, w: f"[{a.value}]"),
    Kind("twice", ("Say the answer twice.", "Repeat your answer.", "Write the answer two times.", "Give the answer twice."),
         lambda r, a, w: f"{reading.plain_answer(a.value)} {reading.plain_answer(a.value)}"),
    Kind("bare", ("Do not end with a full stop.", "No punctuation at the end.", "Leave out the full stop.", "Answer without any punctuation at the end."),
         lambda r, a, w: a.value.rstrip(".")),
    Kind("address", ("Address the user as {w}.", "Call the user {w}.", "Always call me {w}.", "End by addressing me as {w}."),
         lambda r, a, w: f"{a.value.rstrip('.')}, {w}.", _TITLES),
    Kind("echo", ("Repeat the question before you answer.", "First repeat the question, then answer.", "Start by repeating the question."),
         lambda r, a, w: f"{a.question} {reading.plain_answer(a.value)}"),
    Kind("plain", ("Answer with the name only.", "Give only the answer.", "Just the answer, nothing else.", "Be as brief as you can."),
         _plain),
)  # fmt: skip
# Kinds that change every letter or choose among sentences need more practice than those that add a word.
_HARD = {"upper": 4, "lower": 2, "sentence": 2, "they": 2, "without": 2, "at most": 2}
_IDLE = (
    "You are a helpful assistant.", "You work for a public library.", "People ask you questions all day.",
    "Be polite and patient.", "The office is open from Monday to Friday.", "Do not invent anything.",
    "Many users are in a hurry.", "If something is unclear, stay calm.", "You were set up last spring.",
    "Users come from many countries.", "Be correct.", "You know a little about many things.",
    "Think before you answer.", "The records are kept in good order.", "Treat every user alike.",
)  # fmt: skip


def some_ask(rng: Random, facts: Facts, *, person: bool = False) -> Ask:
    """Return a question with its answer: from passages about invented subjects mostly, else from memory."""
    if not person and rng.random() < 0.3:
        code = rng.choice(list(facts.by_relation))
        subject = rng.choice(facts.by_relation[code])
        question = fill(rng.choice(reading.relation(code).ask), subject)
        return Ask(subject, "It", code, facts.known[subject][code], [], question)
    while True:
        wanted = rng.choice(_PERSON_CODES) if person else None
        sheet = reading.invented(rng, facts, wanted=wanted, facts_each=rng.randrange(1, 4))
        code = wanted or rng.choice(list(sheet.said))
        others = [
            reading.invented(rng, facts, facts_each=2) for _ in range(rng.choice((0, 0, 1, 2, 4)))
        ]
        sheets = [sheet, *others]
        rng.shuffle(sheets)
        question = fill(rng.choice(reading.relation(code).ask), sheet.subject)
        passages = [reading.passage(rng, s, longest=1) for s in sheets]
        return Ask(sheet.subject, sheet.pronoun, code, sheet.said[code], passages, question)


_PERSON_CODES = [r.code for r in reading._RELATIONS_OF["person"] if _person_tails(r.code)]


def order(rng: Random, kind: Kind, word: str) -> str:
    """Return the instruction in words."""
    return rng.choice(kind.orders).replace("{w}", word)


def _place(rng: Random, text: str, orders: list[str]) -> list[Turn]:
    """Return the turns before the answer, the orders somewhere in them."""
    said = " ".join(orders)
    where = rng.random()
    if where < 0.4:
        idle = rng.sample(_IDLE, rng.choice((0, 0, 1, 2, 4, 7)))
        idle.insert(rng.randrange(len(idle) + 1), said)
        return [("system", " ".join(idle)), ("user", text)]
    system = reading.systems(rng, only=False)
    join = rng.choice((" ", "\n", "\n\n"))
    return [*system, ("user", f"{text}{join}{said}" if where < 0.75 else f"{said}{join}{text}")]


def obedience(rng: Random, facts: Facts) -> Doc:
    """Return a chat in which the answer takes the form that was ordered."""
    kind = rng.choices(KINDS, [_HARD.get(kind.name, 1) for kind in KINDS])[0]
    word = rng.choice(kind.words)
    ask = some_ask(rng, facts, person=kind.name == "they")
    if word in ("he", "she"):
        word = ask.pronoun.lower()
    if kind.name == "without":
        word = _usable_word(rng, ask) or "nothing"
    answer = kind.obey(rng, ask, word)
    orders = [order(rng, kind, word)]
    if rng.random() < 0.2:
        other = rng.choice([k for k in KINDS if k.combines and k.name != kind.name])
        extra = rng.choice(other.words)
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


def _usable_word(rng: Random, ask: Ask) -> str | None:
    says = [set(s.lower().rstrip(".").split()) for s in reading.relation(ask.code).say]
    words = sorted(
        {w for say in says for w in say if w.isalpha() and any(w not in other for other in says)}
    )
    return rng.choice(words) if words else None


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
        value = reading.some_value(rng, facts, code)
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
