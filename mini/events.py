"""Events: who did what to what, where, when, with what and why, each of these told or not.

Scenes and relations have their wording by hand; an event is put together by grammar, so that any verb, any thing and any
question of the kind «Who repaired …?», «Where was … repaired?», «What did … repair?» has been met. What is not told of an
event cannot be answered, nor what somebody else did, nor what another verb would ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mini import names
from mini.facts import Facts
from mini.scene import Told

# base, past, participle; regular ones have only the base
_VERBS = tuple(
    (tuple(entry.split("/")) if "/" in entry else (entry, entry + ("d" if entry[-1] == "e" else "ed"), "") )
    for entry in (
        "repair,paint,open,clean,collect,deliver,design,examine,film,guard,inspect,invent,measure,mend,order,polish,print,promise,"
        "record,remove,rescue,return,save,visit,wash,discover,admire,borrow/borrowed/borrowed,break/broke/broken,bring/brought/brought,"
        "build/built/built,buy/bought/bought,catch/caught/caught,carry/carried/carried,choose/chose/chosen,copy/copied/copied,"
        "cut/cut/cut,dig up/dug up/dug up,draw/drew/drawn,drive away/drove away/driven away,drop/dropped/dropped,eat/ate/eaten,"
        "find/found/found,forget/forgot/forgotten,give away/gave away/given away,hang up/hung up/hung up,hide/hid/hidden,"
        "hold/held/held,keep/kept/kept,lend/lent/lent,lose/lost/lost,make/made/made,pay for/paid for/paid for,"
        "pick up/picked up/picked up,plan/planned/planned,sell/sold/sold,send/sent/sent,show/showed/shown,sing about/sang about/sung about,"
        "steal/stole/stolen,study/studied/studied,take/took/taken,teach/taught/taught,throw away/threw away/thrown away,"
        "write about/wrote about/written about,win/won/won,weigh,test,store,describe,replace,photograph,wrap/wrapped/wrapped,"
        "bury/buried/buried,carve,assemble,decorate,donate,exhibit,move,publish,restore,translate,unload,bake,sketch,purchase"
    ).split(",")
)  # fmt: skip
_PLACES = (
    "in the kitchen,in the old barn,behind the church,at the market,on the bridge,in the cellar,near the harbour,at school,"
    "in the garden,on the roof,at the station,in the library,under the stairs,on board the ferry,in the workshop,by the lake,"
    "at the border,in the attic,in front of the town hall,next to the bakery"
).split(",")
_TIMES = (
    "last winter,last week,two days ago,in the spring,before breakfast,after the war,yesterday,on Easter Monday,at midnight,"
    "during the strike,last autumn,at noon,after the concert,before the storm,in the first week of May"
).split(",")
_MEANS = (
    "a spoon,an old knife,a long rope,a borrowed ladder,wet cloths,a pair of pliers,two magnets,a torch,a garden hose,salt,"
    "a bread knife,fishing line,a wooden hammer,candle wax,a crane,a wheelbarrow"
).split(",")
_REASONS = (
    "because of the rain,because it was broken,because nobody else would,because the price was low,because a friend asked,"
    "because the old one had rusted,because of a bet,because the law demands it,because of the noise,because time was short"
).split(",")


@dataclass(frozen=True)
class Event:
    """One event. `told` maps where, when, means and why to their phrase, as far as they are told."""

    who: str
    verb: tuple[str, str, str]
    what: str
    told: dict[str, str]

    @property
    def participle(self) -> str:
        return self.verb[2] or self.verb[1]


def _thing(rng: Random, facts: Facts) -> str:
    draw = rng.random()
    if draw < 0.35 or not facts.words:
        return names.newcomer(rng, facts.named, "thing")[0]
    if draw < 0.45:
        return names.newcomer(rng, facts.named, rng.choice(("product", "work")))[0]
    return f"{rng.choice(('the', 'the', 'the', 'a'))} {rng.choice(names.ADJECTIVES)} {rng.choice(facts.words)}"


def _place(rng: Random, facts: Facts) -> str:
    if rng.random() < 0.5:
        return f"in {rng.choice(facts.values.get('P19') or [names.place(rng)]) if rng.random() < 0.5 else names.place(rng)}"
    if facts.words and rng.random() < 0.3:
        return f"{rng.choice(('in', 'near', 'behind', 'by'))} the {rng.choice(facts.words)}"
    return rng.choice(_PLACES)


def _time(rng: Random) -> str:
    kind, preposition = rng.choice(
        (("day", "on"), ("date", "on"), ("year", "in"), ("hour", "at"), ("", ""))
    )
    return f"{preposition} {names.value(rng, kind)}" if kind else rng.choice(_TIMES)


def event(rng: Random, facts: Facts) -> Event:
    """Return an event with a name as its subject."""
    kind = "person" if rng.random() < 0.8 else "company"
    told: dict[str, str] = {}
    for slot, rate, make in (
        ("where", 0.55, lambda: _place(rng, facts)),
        ("when", 0.55, lambda: _time(rng)),
        ("means", 0.15, lambda: f"with {rng.choice(_MEANS)}"),
        ("why", 0.15, lambda: rng.choice(_REASONS)),
    ):
        if rng.random() < rate:
            told[slot] = make()
    who = names.newcomer(rng, facts.named, kind)[0]
    return Event(who, rng.choice(_VERBS), _thing(rng, facts), told)


def sentence(rng: Random, event: Event) -> str:
    """Return the event in one sentence, active or passive, a circumstance sometimes in front."""
    slots = [s for s in ("means", "where", "when", "why") if s in event.told]
    front = ""
    if slots and rng.random() < 0.3:
        first = rng.choice([s for s in slots if s != "why"] or slots)
        slots.remove(first)
        front = f"{event.told[first]}{rng.choice((', ', ' '))}"
    if rng.random() < 0.3:
        core = f"{event.what} was {event.participle} by {event.who}"
    elif rng.random() < 0.12:
        core = f"it was {event.who} who {event.verb[1]} {event.what}"
    else:
        core = f"{event.who} {event.verb[1]} {event.what}"
    text = " ".join([front + core, *(event.told[s] for s in slots)])
    return text[:1].upper() + text[1:] + "."


def _answer(phrase: str) -> str:
    """Return a circumstance without its preposition, where «in Oslo» is answered by «Oslo»."""
    if phrase.startswith(("in ", "on ", "at ", "with ")) and not phrase.startswith("in front"):
        return phrase.split(" ", 1)[1]
    return phrase


def _questions(event: Event, slot: str) -> list[str]:
    base, past, _ = event.verb
    who, what, done = event.who, event.what, event.participle
    if slot == "who":
        return [f"Who {past} {what}?", f"Who {past} {what}?", f"Who was it that {past} {what}?", f"By whom was {what} {done}?", f"{what} was {done} by whom?", f"Tell me who {past} {what}."]  # fmt: skip
    if slot == "what":
        return [f"What did {who} {base}?", f"What did {who} {base}?", f"What was {done} by {who}?", f"What was it that {who} {past}?", f"Which thing did {who} {base}?"]  # fmt: skip
    if slot == "means":
        return [f"What did {who} {base} {what} with?", f"With what was {what} {done}?", f"What was used when {who} {past} {what}?"]  # fmt: skip
    word = {"where": "Where", "when": "When", "why": "Why"}[slot]
    found = [f"{word} did {who} {base} {what}?", f"{word} was {what} {done}?", f"{word} was {what} {done} by {who}?", f"{word} did this happen: {who} {past} {what}?"]  # fmt: skip
    phrase = event.told.get(slot, "")
    if slot == "when" and phrase.startswith("on "):
        found += [f"On which day did {who} {base} {what}?", f"On what day was {what} {done}?"]
    if slot == "when" and phrase.startswith("in ") and phrase[-1].isdigit():
        found += [f"In which year did {who} {base} {what}?", f"What year was {what} {done}?"]
    if slot == "when" and phrase.startswith("at "):
        found.append(f"At what time was {what} {done}?")
    if slot == "where" and phrase.startswith("in ") and phrase[3:4].isupper():
        found += [f"In which town did {who} {base} {what}?", f"Which town was {what} {done} in?"]
    return found


def _asked(rng: Random, event: Event, slot: str) -> tuple[str, str]:
    answer = {"who": event.who, "what": event.what}.get(slot) or _answer(event.told[slot])
    question = rng.choice(_questions(event, slot))
    return question[:1].upper() + question[1:], answer


def _unasked(rng: Random, events: list[Event], event: Event) -> str | None:
    """Return a question that the events do not answer: a circumstance not told, or another deed."""
    missing = [s for s in ("where", "when", "why", "means") if s not in event.told]
    if missing and rng.random() < 0.6:
        question = rng.choice(_questions(event, rng.choice(missing)))
    else:
        verb = rng.choice([v for v in _VERBS if all(v != other.verb for other in events)])
        other = Event(event.who, verb, event.what, event.told)
        question = rng.choice(_questions(other, rng.choice(("who", "what", "where", "when"))))
    return question[:1].upper() + question[1:]


def tell(rng: Random, facts: Facts) -> Told:
    """Return a passage of one to four events, with a question for each thing told and some for what is not."""
    events: list[Event] = []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        made = event(rng, facts)
        if events and rng.random() < 0.4:  # the same deed by somebody else, or another by the same
            last = rng.choice(events)
            made = (
                Event(made.who, last.verb, made.what, made.told)
                if rng.random() < 0.5
                else Event(last.who, made.verb, made.what, made.told)
            )
        if all(made.what != e.what and (made.who, made.verb) != (e.who, e.verb) for e in events):
            events.append(made)
    asked = [_asked(rng, e, slot) for e in events for slot in ("who", "what", *e.told)]
    untold = [_unasked(rng, events, e) for e in events]
    return Told(" ".join(sentence(rng, e) for e in events), asked, untold)
