"""Reading: passages, and questions of which the passages answer some.

Passages come from sheets (relations), scenes (written by hand) and events (put together). What the right answer is:

    the passages tell                          the value they give
    they contradict memory                     theirs or memory's, by a coin; theirs when told to use them only
    they do not tell, the subject is known     memory's; «The passages do not tell.» when told to use them only
    they do not tell, the subject is invented  «The passages do not tell.»

The coin is the point of the model: it leaves room for a highlight to decide. See the model card.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mini import events, names, scene
from mini.chat import Doc, Turn, chat
from mini.facts import Facts
from mini.relations import fill
from mini.scene import Told
from mini.sheets import Sheet, invented, passage, relation, remembered, unsaid

# How often a passage that contradicts memory is followed. With 0.5, passages in words that training did not have won 0.64.
FOLLOW = 0.36
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


@dataclass
class Case:
    """Passages with a question and its answer."""

    passages: list[str]
    question: str
    answer: str
    source: str  # the passage that the question is about, shown or not
    only: bool  # the reader is told to use the passages only


def distractors(rng: Random, facts: Facts, sheet: Sheet, code: str, count: int) -> list[Sheet]:
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


_INVENTED = ("told", "untold subject", "untold relation")
_SORTS = (*_INVENTED, "conflict", "memory", "true")
_WRITTEN = 0.7  # how many of the questions about invented subjects are over scenes and events


def case(
    rng: Random,
    facts: Facts,
    *,
    about: str | None = None,
    count: int | None = None,
    untold: float = 1.0,
) -> Case:
    """Return a reading case of one of the sorts in the module's table, over `count` passages; absences at `untold` times their rate."""
    sort = about or rng.choices(_SORTS, (44, 8 * untold, 11 * untold, 16, 14, 7))[0]
    only = rng.random() < (0.35 if sort != "told" else 0.2)
    count = count or _passage_count(rng)
    if sort in _INVENTED and rng.random() < _WRITTEN:
        return _written(rng, facts, sort, only, count)
    if sort in _INVENTED:
        sheet = invented(rng, facts, facts_each=rng.randrange(1, 5))
        code = rng.choice(list(sheet.said))
        answer, shown = sheet.said[code], [sheet]
        if sort == "untold subject":
            shown, answer = [], UNTOLD
        elif sort == "untold relation":
            code, answer = unsaid(rng, facts, sheet), UNTOLD
    elif sort == "conflict":
        subject, code = rng.choice(facts.arguable)
        sheet = remembered(rng, facts, subject, contradict=code)
        follow = only or rng.random() < FOLLOW
        answer, shown = (sheet.said if follow else sheet.memory)[code], [sheet]
    else:
        code = rng.choice(list(facts.by_relation))
        sheet = remembered(rng, facts, rng.choice(facts.by_relation[code]))
        answer, shown = sheet.memory[code], [sheet]
        if sort == "memory":
            shown = []
            if only:
                answer = UNTOLD
    source = passage(rng, sheet)
    others = distractors(rng, facts, sheet, code, count - len(shown))
    passages = [source] * len(shown) + [passage(rng, other) for other in others]
    rng.shuffle(passages)
    brief = count == 1 and shown and rng.random() < 0.3
    called = names.short(sheet.subject, sheet.kind) if brief else sheet.subject
    question = fill(rng.choice(relation(code).ask), called)
    if rng.random() < 0.08 and relation(code).cloze:
        question = _to_complete(rng, fill(rng.choice(relation(code).cloze), called))
    return Case(passages, question, answer, source, only)


def _to_complete(rng: Random, start: str) -> str:
    """Return the request to complete a sentence."""
    lead = rng.choice(
        ("Complete the sentence: ", "Complete: ", "Fill in the gap: ", "Finish this sentence: ", "")
    )
    return f"{lead}{start}{rng.choice(('', '', ' …', ' ...', ' ___'))}"


def telling(
    rng: Random, facts: Facts, *, again: scene.Scene | None = None, short: bool = False
) -> tuple[Told, scene.Scene | None]:
    """Return the telling of a scene, `again` if one is given, or of some events; and the scene."""
    if again is None and rng.random() < 0.25:
        return events.tell(rng, facts), None
    found = again or rng.choice(scene.scenes())
    return scene.tell(rng, facts, found, short=short), found


def _beside(rng: Random, facts: Facts, told: scene.Scene | None) -> str:
    """Return a passage to stand beside a telling: often of the same scene, about others."""
    draw = rng.random()
    if draw < 0.3:
        return telling(rng, facts, again=told)[0].passage
    if draw < 0.7:
        return telling(rng, facts)[0].passage
    return passage(rng, invented(rng, facts, facts_each=rng.randrange(1, 4)))


def _written(rng: Random, facts: Facts, sort: str, only: bool, count: int) -> Case:
    """Return a case over scenes and events; the question may cut names short where only one of the kind is there."""
    short = count <= 3 and sort != "untold subject" and rng.random() < 0.35
    told, of = telling(rng, facts, short=short)
    while sort == "untold relation" and not told.untold:
        told, of = telling(rng, facts, short=short)
    if sort == "untold relation":
        question, answer = rng.choice(told.untold), UNTOLD
    elif told.begun and rng.random() < 0.12:
        start, answer = rng.choice(told.begun)
        question = _to_complete(rng, start)
    else:
        question, answer = rng.choice(told.asked)
    shown = [] if sort == "untold subject" else [told.passage]
    if shown and len(told.apart) <= count and rng.random() < 0.5:
        shown = list(told.apart) or shown
    alike = None if short else of
    passages = shown + [_beside(rng, facts, alike) for _ in range(count - len(shown))]
    rng.shuffle(passages)
    if sort == "untold subject":
        answer = UNTOLD
    return Case(passages, question, answer, told.passage, only)


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


_DRESSED = (
    "Tell me this: {q}", "Please answer: {q}", "Hi. {q}", "{q} Thanks.", "I would like to know: {q}", "My question: {q}",
    "{q} Please be brief.", "Now then, {q}", "Quick question: {q}",
)  # fmt: skip


def as_typed(rng: Random, question: str) -> str:
    """Return the question as somebody types it: mostly as it is, else carelessly or with a few words around it."""
    draw = rng.random()
    if draw < 0.06:
        return question.rstrip("?")
    if draw < 0.1:
        return question[:1].lower() + question[1:].rstrip("?")
    if draw < 0.13:
        return question.lower()
    return rng.choice(_DRESSED).replace("{q}", question) if draw < 0.19 else question


def conversation(rng: Random, facts: Facts, *, untold: float = 1.0) -> Doc:
    """Return a chat over passages: one question or several."""
    first = case(rng, facts, untold=untold)
    turns = systems(rng, first.only)
    if rng.random() < 0.06:
        turns = [("system", (turns[0][1] + "\n\n" if turns else "") + "\n".join(first.passages))]
        turns.append(("user", first.question))
    else:
        question = as_typed(rng, first.question)
        turns.append(("user", user_text(rng, first.passages, question)))
    turns.append(("assistant", plain_answer(first.answer)))
    return chat(turns)


def _sheets_told(rng: Random, facts: Facts) -> list[Told]:
    """Return passages about a few invented subjects, often with the same relations: practice in binding."""
    sheets: list[Sheet] = []
    for _ in range(rng.randrange(2, 8)):
        wanted = rng.choice(list(sheets[-1].said)) if sheets and rng.random() < 0.6 else None
        sheet = invented(rng, facts, wanted=wanted, facts_each=rng.randrange(1, 5))
        if all(sheet.subject != other.subject for other in sheets):
            sheets.append(sheet)
    told = []
    for sheet in sheets:
        ask = {code: fill(rng.choice(relation(code).ask), sheet.subject) for code in sheet.said}
        unasked = fill(rng.choice(relation(unsaid(rng, facts, sheet)).ask), sheet.subject)
        asked = [(question, sheet.said[code]) for code, question in ask.items()]
        told.append(Told(passage(rng, sheet), asked, [unasked]))
    return told


def _scenes_told(rng: Random, facts: Facts) -> list[Told]:
    """Return tellings of a few scenes, often of the same one."""
    short = rng.random() < 0.35
    told, of = telling(rng, facts, short=short)
    found = [told]
    for _ in range(rng.randrange(0, 3 if short else 5)):
        again = of if not short and rng.random() < 0.4 else None
        told, of = telling(rng, facts, again=again, short=short)
        found.append(told)
    return found


def interview(rng: Random, facts: Facts, *, untold: float = 1.0) -> Doc:
    """Return a chat with many questions over a few passages about invented subjects."""
    told = (_scenes_told if rng.random() < _WRITTEN else _sheets_told)(rng, facts)
    turns = systems(rng, rng.random() < 0.3)
    asked = [pair for about in told for pair in about.asked]
    absent = [(question, UNTOLD) for about in told for question in about.untold]
    picked = rng.sample(asked, min(len(asked), rng.randrange(2, 8)))
    some = round(len(picked) / 3 * untold + rng.uniform(-0.5, 0.5))
    picked += rng.sample(absent, min(len(absent), max(0, some)))
    rng.shuffle(picked)
    for n, (clean, answer) in enumerate(picked):
        question = as_typed(rng, clean)
        shown = user_text(rng, [t.passage for t in told], question) if n == 0 else question
        turns += [("user", shown), ("assistant", plain_answer(answer))]
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
            question = _to_complete(rng, fill(rng.choice(relation(code).cloze), sheet.subject))
        elif rng.random() < 0.2:
            question = f"Question: {question}"
        turns += [("user", question), ("assistant", plain_answer(answer))]
    return chat(turns)


def cloze(rng: Random, facts: Facts) -> Doc:
    """Return plain text, no chat: a few passages, then a sentence, or a question, whose value they give."""
    count, shape = rng.choice((1, 1, 2, 3, 4, 6)), rng.random()
    join = rng.choice((" ", "\n", "\n\n"))
    if shape < 0.5:
        sheets = [invented(rng, facts, facts_each=rng.randrange(1, 4)) for _ in range(count)]
        sheet = rng.choice(sheets)
        starts = [code for code in sheet.said if relation(code).cloze]
        if starts:
            code = rng.choice(starts)
            blocks = join.join(passage(rng, s) for s in sheets)
            start = fill(rng.choice(relation(code).cloze), sheet.subject)
            return [(f"{blocks} {start}", 0.1), (f" {sheet.said[code]}.", 1.0)]
    told = (_scenes_told if rng.random() < _WRITTEN else _sheets_told)(rng, facts)
    blocks = join.join(t.passage for t in told)
    begun = [pair for t in told for pair in t.begun]
    if begun and rng.random() < 0.5:
        start, answer = rng.choice(begun)
        return [(f"{blocks} {start}", 0.1), (f" {answer}.", 1.0)]
    question, answer = rng.choice(rng.choice(told).asked)
    frame = rng.choice((
        f"Context: {blocks}\nQuestion: {question}\nAnswer:", f"Question: {question}\nContext: {blocks}\nAnswer:",
        f"{blocks}\nQ: {question}\nA:",
    ))  # fmt: skip
    return [(frame, 0.1), (f" {answer}.", 1.0)]
