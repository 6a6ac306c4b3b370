"""Reading: passages about subjects, and questions of which the passages answer some.

A `Sheet` is what one passage says of one subject. Subjects are invented (then the passage is all there is) or known
(then the passage tells the truth, or contradicts memory). What the right answer is:

    the passages tell                          the value they give
    they contradict memory                     theirs or memory's, by a fair coin; theirs when told to use them only
    they do not tell, the subject is known     memory's; «The passages do not tell.» when told to use them only
    they do not tell, the subject is invented  «The passages do not tell.»

The coin is the point of the model: it leaves room for a highlight to decide. See the model card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from random import Random

from mini import names
from mini.chat import Doc, Turn, chat
from mini.facts import Facts
from mini.relations import EVERYDAY, KNOWN, VERBS, Relation, attribute, deed, fill

UNTOLD = "The passages do not tell."
UNKNOWN = "I do not know."
ONLY = (
    "Answer from the passages only.",
    "Use only the passages. If they do not tell, say so.",
    "Rely on the passages alone, not on what you remember.",
    "Answer only with what the passages say.",
    "Do not use your own knowledge: the passages decide.",
)
PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions.",
    "You are mini, a small model that answers questions.",
    "Answer the question.",
    "Be brief and correct.",
    "You help people find what they need.",
)
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
_RELATIONS_OF: dict[str, list[Relation]] = {}
for _relation in (*KNOWN.values(), *EVERYDAY.values()):
    _RELATIONS_OF.setdefault(_relation.subject, []).append(_relation)
_KINDS = tuple(_RELATIONS_OF)
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


def _unsaid(rng: Random, facts: Facts, sheet: Sheet) -> str:
    """Return a relation that the sheet might tell and does not."""
    options = [r.code for r in _RELATIONS_OF[sheet.kind] if _compatible(r.code, sheet.said)]
    if rng.random() < 0.2 or not options:
        return _made_up(rng, facts)
    return rng.choice(options)


def _newcomer(rng: Random, facts: Facts, kind: str) -> tuple[str, str]:
    """Return a subject nobody has heard of; often its name is put together from two known ones.

    So that a name which only looks familiar is not taken for a memory.
    """
    if facts.named.get(kind) and rng.random() < 0.4:
        one, other = rng.choice(facts.named[kind]), rng.choice(facts.named[kind])
        subject = " ".join((*one[:-1], other[-1]))
        if subject not in facts.known:
            return subject, rng.choice(("She", "He")) if kind == "person" else "It"
    return names.subject(rng, kind)


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
    options = _RELATIONS_OF[kind]
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
    for code in codes:
        named = not sentences or not sheet.pronoun or rng.random() < 0.4
        sentences.append(_statement(rng, sheet, code, named=named))
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


@dataclass
class Case:
    """Passages with a question, its answer, and what the answer is about."""

    passages: list[str]
    question: str
    answer: str
    subject: str
    only: bool  # the reader is told to use the passages only


def _distractors(rng: Random, facts: Facts, sheet: Sheet, code: str, count: int) -> list[Sheet]:
    """Return sheets of others: often of the same relation, sometimes with half the name."""
    others: list[Sheet] = []
    for _ in range(count):
        draw = rng.random()
        if draw < 0.4:
            other = invented(rng, facts, wanted=code, facts_each=rng.randrange(1, 4))
            parts, own = other.subject.split(" "), sheet.subject.split(" ")
            if (
                relation(code).subject == "person"
                and len(parts) == len(own) == 2
                and rng.random() < 0.3
            ):
                other.subject = (
                    f"{parts[0]} {own[1]}" if rng.random() < 0.5 else f"{own[0]} {parts[1]}"
                )
        elif draw < 0.6 or code not in facts.by_relation:
            other = invented(rng, facts, facts_each=rng.randrange(1, 4))
        elif draw < 0.87:
            likewise = code if draw < 0.73 else rng.choice(list(facts.by_relation))
            other = remembered(rng, facts, rng.choice(facts.by_relation[likewise]))
        else:
            subject, contradicted = rng.choice(facts.arguable)
            other = remembered(rng, facts, subject, contradict=contradicted)
        if other.subject != sheet.subject:
            others.append(other)
    return others


def _passage_count(rng: Random) -> int:
    if rng.random() < 0.02:
        return rng.randrange(13, 60)
    return rng.choice((1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 8, 10, 12))


def case(rng: Random, facts: Facts, *, about: str | None = None, count: int | None = None) -> Case:
    """Return a reading case of one of the sorts in the module's table, over `count` passages."""
    sort = (
        about
        or rng.choices(
            ("told", "untold subject", "untold relation", "conflict", "memory", "true"),
            (44, 8, 11, 16, 14, 7),
        )[0]
    )
    only = rng.random() < (0.35 if sort != "told" else 0.2)
    count = count or _passage_count(rng)
    if sort in ("told", "untold subject", "untold relation"):
        sheet = invented(rng, facts, facts_each=rng.randrange(1, 5))
        code = rng.choice(list(sheet.said))
        answer, shown = sheet.said[code], [sheet]
        if sort == "untold subject":
            shown, answer = [], UNTOLD
        elif sort == "untold relation":
            code, answer = _unsaid(rng, facts, sheet), UNTOLD
    elif sort == "conflict":
        subject, code = rng.choice(facts.arguable)
        sheet = remembered(rng, facts, subject, contradict=code)
        follow = only or rng.random() < 0.5
        answer, shown = (sheet.said if follow else sheet.memory)[code], [sheet]
    else:
        code = rng.choice(list(facts.by_relation))
        sheet = remembered(rng, facts, rng.choice(facts.by_relation[code]))
        answer, shown = sheet.memory[code], [sheet]
        if sort == "memory":
            shown = []
            if only:
                answer = UNTOLD
    others = _distractors(rng, facts, sheet, code, count - len(shown))
    sheets = shown + others
    rng.shuffle(sheets)
    question = fill(rng.choice(relation(code).ask), sheet.subject)
    return Case([passage(rng, s) for s in sheets], question, answer, sheet.subject, only)


def numbered(passages: list[str], question: str) -> str:
    """Return the user message of `seka_rag.prompts.rag_messages`."""
    listed = "\n".join(f"[{i}] {text}" for i, text in enumerate(passages, 1))
    return f"Passages:\n{listed}\n\nQuestion: {question}"


def user_text(rng: Random, passages: list[str], question: str) -> str:
    """Return passages and question in one of the ways people put them."""
    shape = rng.random()
    if shape < 0.5 or not passages:
        return numbered(passages, question) if passages else question
    blocks = "\n\n".join(passages)
    if shape < 0.58:
        return f"Context:\n{blocks}\n\nQuestion: {question}"
    if shape < 0.66:
        return f"{blocks}\n\n{question}"
    if shape < 0.74:
        return f"Question: {question}\nContext: {' '.join(passages)}"
    if shape < 0.80:
        return f"{question}\n\n{blocks}"
    if shape < 0.86:
        listed = "\n".join(f"- {text}" for text in passages)
        return f"{rng.choice(('Read this', 'Here is what was found', 'Notes'))}:\n{listed}\n\n{question}"
    if shape < 0.93:
        listed = "\n\n".join(f"Document {i}: {text}" for i, text in enumerate(passages, 1))
        return f"{listed}\n\nQuestion: {question}\nAnswer:"
    return f"Passage: {' '.join(passages)}\nQuestion: {question}"


def systems(rng: Random, only: bool) -> list[Turn]:
    """Return a system turn, or none; one that says to use the passages only if asked."""
    if only:
        lead = rng.choice(PLAIN_SYSTEMS) + " " if rng.random() < 0.4 else ""
        return [("system", lead + rng.choice(ONLY))]
    return [("system", rng.choice(PLAIN_SYSTEMS))] if rng.random() < 0.3 else []


def plain_answer(value: str) -> str:
    """Return a value as mini says it when nothing else is asked of it."""
    return value if value.endswith(".") else f"{value}."


def conversation(rng: Random, facts: Facts) -> Doc:
    """Return a chat over passages: one question or several."""
    first = case(rng, facts)
    turns = systems(rng, first.only)
    if rng.random() < 0.06:
        turns = [("system", (turns[0][1] + "\n\n" if turns else "") + "\n".join(first.passages))]
        turns.append(("user", first.question))
    else:
        turns.append(("user", user_text(rng, first.passages, first.question)))
    turns.append(("assistant", plain_answer(first.answer)))
    return chat(turns)


def interview(rng: Random, facts: Facts) -> Doc:
    """Return a chat with many questions about a few invented subjects: dense practice in binding."""
    sheets: list[Sheet] = []
    for _ in range(rng.randrange(2, 8)):
        wanted = rng.choice(list(sheets[-1].said)) if sheets and rng.random() < 0.6 else None
        sheet = invented(rng, facts, wanted=wanted, facts_each=rng.randrange(1, 5))
        if all(sheet.subject != other.subject for other in sheets):
            sheets.append(sheet)
    turns = systems(rng, rng.random() < 0.3)
    passages = [passage(rng, s) for s in sheets]
    for n in range(rng.randrange(2, 7)):
        sheet = rng.choice(sheets)
        code = rng.choice(list(sheet.said))
        answer = sheet.said[code]
        if rng.random() < 0.2:
            code, answer = _unsaid(rng, facts, sheet), UNTOLD
        question = fill(rng.choice(relation(code).ask), sheet.subject)
        turns.append(("user", user_text(rng, passages, question) if n == 0 else question))
        turns.append(("assistant", plain_answer(answer)))
    return chat(turns)


def closed_book(rng: Random, facts: Facts) -> Doc:
    """Return a chat without passages: what mini remembers, and that it says so when it does not."""
    turns = systems(rng, only=False)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.12:
            sheet = invented(rng, facts)
            code, answer = rng.choice(list(sheet.said)), UNKNOWN
        else:
            code = rng.choice(list(facts.by_relation))
            sheet = remembered(rng, facts, rng.choice(facts.by_relation[code]))
            answer = sheet.memory[code]
        question = fill(rng.choice(relation(code).ask), sheet.subject)
        if rng.random() < 0.12 and relation(code).cloze:
            question = (
                f"Complete the sentence: {fill(rng.choice(relation(code).cloze), sheet.subject)}"
            )
        elif rng.random() < 0.2:
            question = f"Question: {question}"
        turns += [("user", question), ("assistant", plain_answer(answer))]
    return chat(turns)


def cloze(rng: Random, facts: Facts) -> Doc:
    """Return plain text, no chat: a few passages, then a sentence, or a question, whose value they give."""
    sheets = [
        invented(rng, facts, facts_each=rng.randrange(1, 4))
        for _ in range(rng.choice((1, 1, 2, 3, 4, 6)))
    ]
    text = [passage(rng, s) for s in sheets]
    sheet = rng.choice(sheets)
    code = rng.choice(list(sheet.said))
    value = sheet.said[code]
    question = fill(rng.choice(relation(code).ask), sheet.subject)
    blocks = rng.choice((" ", "\n", "\n\n")).join(text)
    shape = rng.random()
    if shape < 0.45 and relation(code).cloze:
        start = fill(rng.choice(relation(code).cloze), sheet.subject)
        return [(f"{blocks} {start}", 0.1), (f" {value}.", 1.0)]
    if shape < 0.7:
        return [(f"Context: {blocks}\nQuestion: {question}\nAnswer:", 0.1), (f" {value}.", 1.0)]
    if shape < 0.9:
        return [(f"Question: {question}\nContext: {blocks}\nAnswer:", 0.1), (f" {value}.", 1.0)]
    return [(f"{blocks}\nQ: {question}\nA:", 0.1), (f" {value}.", 1.0)]
