"""Orders about the form of an answer: how they are worded, obeyed and checked.

An order is of a kind ("upper") and may have a word of its own ("begin with WORD"). The answer's
value is known; a check is strict about the form, and wants the value in the answer, in any case
(of letters) but not as a part of another word.

Two orders compete if no answer that can be made here obeys both: neither the obedient answer to
one of them, nor that put into the other's form. "Upper case" and "lower case" compete, and so do
"begin with Noted:" and "in quotation marks"; "upper case" and "in quotation marks" do not.

`IDLE` are sentences of a system prompt that order nothing about form. Training of the embedded
model must not use these wordings; a test holds it.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seka_rag.errors import DataError


@dataclass(frozen=True)
class Asked:
    """A question over one passage, and the value that answers it."""

    question: str
    passage: str
    value: str


Obey = Callable[[str, str, Asked], str]  # (answer, word, asked) → the answer in the ordered form
Check = Callable[[str, str, Asked], bool]  # (what was said, word, asked) → whether it obeys
Words = Callable[[Asked], Sequence[str]]  # the words that an order may be about


@dataclass(frozen=True)
class Kind:
    """One kind of order; {w} in a wording stands for the order's word."""

    wordings: tuple[str, ...]
    obey: Obey
    check: Check
    words: Words = lambda asked: ("",)


@dataclass(frozen=True)
class Order:
    """One order, as it stands in a prompt."""

    kind: str
    word: str
    text: str

    def obey(self, answer: str, asked: Asked) -> str:
        """Return the answer in the form that is ordered."""
        return KINDS[self.kind].obey(answer, self.word, asked)

    def obeyed(self, said: str, asked: Asked) -> bool:
        """Return whether what was said has the form, and holds the value."""
        said = said.strip()
        return holds(said, asked.value) and KINDS[self.kind].check(said, self.word, asked)


Wordings = Mapping[str, Sequence[str]]  # of each kind of order


def draw(kind: str, asked: Asked, rng: random.Random, wordings: Wordings | None = None) -> Order:
    """Return an order of a kind in one of its wordings, about one of its words."""
    word = rng.choice(KINDS[kind].words(asked))
    own = KINDS[kind].wordings if wordings is None else wordings[kind]
    return Order(kind, word, rng.choice(own).replace("{w}", word))


def read_wordings(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the wordings of a file: blocks of lines, a kind first and then its wordings.

    {w} stands for the order's word. Every kind must be there; kinds that are not known here are
    left out, and so are wordings for one word alone («word| …»).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    blocks = (block.splitlines() for block in re.split(r"\n\s*\n", text.strip()))
    found = {
        name.strip().replace(" ", "_"): tuple(line for line in lines if "|" not in line)
        for name, *lines in blocks
    }
    if missing := [kind for kind in KINDS if not found.get(kind)]:
        raise DataError(f"{path} has no wording for {', '.join(missing)}: add a block for each")
    return {kind: found[kind] for kind in KINDS}


def compete(one: Order, other: Order, asked: Asked) -> bool:
    """Return whether no answer that can be made here obeys both orders."""
    first, second = (order.obey(asked.value, asked) for order in (one, other))
    answers = (first, second, one.obey(second, asked), other.obey(first, asked))
    return not any(one.obeyed(said, asked) and other.obeyed(said, asked) for said in answers)


def holds(said: str, value: str) -> bool:
    """Return whether the value stands in the text, in any case and not within a word."""
    return _count(said, value) > 0


def _count(said: str, value: str) -> int:
    return len(re.findall(_pattern(value), said.casefold()))


def _pattern(value: str) -> str:
    return rf"(?<!\w){re.escape(value.rstrip('.').casefold())}(?!\w)"


def _between(said: str, opening: str, closing: str) -> bool:
    """Return whether the text lies between two others, from end to end."""
    long_enough = len(said) > len(opening) + len(closing)
    return long_enough and said.startswith(opening) and said.endswith(closing)


def _is_sentence(said: str, word: str, asked: Asked) -> bool:
    """Return whether the first sentence says the value in two further words or more."""
    first = re.split(r"(?<=[.!?])\s", re.sub(_pattern(asked.value), "\0", said.casefold()))[0]
    further = [part for part in first.split() if "\0" not in part]
    whole = first.endswith((".", "!", "?")) and ":" not in first and said[:1].isupper()
    return whole and first.count("\0") == 1 and len(further) >= 2


def _avoids(said: str, word: str, asked: Asked) -> bool:
    return _is_sentence(said, word, asked) and not holds(said, word)


def _is_object(said: str, word: str, asked: Asked) -> bool:
    """Return whether the text is a JSON object whose key `word` has the value."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and holds(str(found.get(word)), asked.value)


def _echoes(said: str, word: str, asked: Asked) -> bool:
    after = said.removeprefix(asked.question)
    return said.startswith(asked.question) and holds(after, asked.value)


def _doubled(said: str, word: str, asked: Asked) -> bool:
    """Return whether the text is one text twice, with the value once in each."""
    same = re.fullmatch(r"(.+?)[.,;!]?\s+\1[.!]?", said.casefold(), re.DOTALL)
    return same is not None and _count(said, asked.value) == 2


_SENTENCES = (
    "The answer is {y}.",
    "It says {y} in this note.",
    "They put down {y} as their answer.",
)


def _stopped(answer: str) -> str:
    return answer if answer.endswith(".") else f"{answer}."


def _sentence_without(answer: str, word: str, asked: Asked) -> str:
    filled = [template.format(y=answer) for template in _SENTENCES]
    return next((text for text in filled if not holds(text, word)), filled[0])


# What a sentence would hold that repeats the passage.
_COMMON = ("is", "was", "the", "of", "in", "by", "has", "to", "and", "that")


def _common_words(asked: Asked) -> list[str]:
    told = [word for word in _COMMON if holds(asked.passage, word)]
    return [word for word in told if not holds(asked.value, word)] or ["is"]


def _limit(asked: Asked) -> tuple[str]:
    """Return a number of words that lets the value pass, and hardly anything else."""
    return (str(len(asked.value.split()) + 1),)


KINDS: dict[str, Kind] = {
    "upper": Kind(
        (
            "Since the ticker shows nothing else, type the answer in capitals from start to end.",
            "Our style sheet knows one alphabet for answers: capital letters.",
            "An answer goes out in upper case or it does not go out.",
            "Spell each answer in capital letters, as on a road sign.",
            "House style since March: answers in full capitals.",
            "Callers with weak sight rely on us for answers in uppercase.",
        ),
        lambda answer, word, asked: answer.upper(),
        lambda said, word, asked: said == said.upper(),
    ),
    "lower": Kind(
        (
            "Every answer stays in lower case, names included.",
            "We gave up capitals years ago, so write the answer in small letters.",
            "The old terminal chokes on capitals, hence type answers in lowercase throughout.",
            "Not even a name gets a capital letter in our answers.",
            "Answers appear in lowercase on the site, and you deliver them that way.",
            "Leave the shift key alone: small letters from beginning to end.",
        ),
        lambda answer, word, asked: answer.lower(),
        lambda said, word, asked: said == said.lower(),
    ),
    "sentence": Kind(
        (
            "One word is too curt for our readers: wrap the answer in a full sentence.",
            "Speak in whole sentences, with a subject and a verb, when you give the answer.",
            "The answer is read out on the phone, so phrase it as a complete sentence.",
            "House rule: an answer is a grammatical sentence from its capital to its full stop.",
            "Fragments look rude here, which is why each answer forms a complete sentence.",
            "Build a full sentence around whatever you were asked for.",
        ),
        lambda answer, word, asked: _SENTENCES[0].format(y=answer),
        _is_sentence,
    ),
    "json": Kind(
        (
            'A script reads your reply and expects a JSON object with the answer under "{w}".',
            "Send a JSON object and nothing around it, the answer stored under the key {w}.",
            'The next program in line parses your reply: {"{w}": "..."} is the shape it knows.',
            "Deliver answers as machine-readable JSON, with {w} as the only key.",
            'Our web form takes replies of the shape {"{w}": "..."} and rejects the rest.',
            'Pack the answer into JSON, under a key named "{w}".',
        ),
        lambda answer, word, asked: json.dumps({word: answer}, ensure_ascii=False),
        _is_object,
        lambda asked: ("fact", "entry", "found", "output"),
    ),
    "quotes": Kind(
        (
            "Answers are quoted material here, so enclose each in double quotation marks.",
            'An answer opens with " and closes with ", and all of it stands in between.',
            "Treat the answer as a quotation and set double quotes around it.",
            "The archive files only what stands in double quotes, so put the whole answer in them.",
            "Print the answer in quotation marks, the double kind.",
            "Quotation marks go around the complete answer, one before it and one behind it.",
        ),
        lambda answer, word, asked: f'"{answer}"',
        lambda said, word, asked: _between(said, '"', '"'),
    ),
    "bullet": Kind(
        (
            "Answers are pasted into a list, so write yours as an item with a leading hyphen.",
            "Each answer is one bullet point: a dash, a blank, then the text.",
            "Our notes are bulleted, and your answer begins with a dash like every other line.",
            "Set the answer as one point of a Markdown list, its hyphen first.",
            "Your answer joins a shopping list: first a hyphen, next a space, then the text.",
        ),
        lambda answer, word, asked: f"- {answer}",
        lambda said, word, asked: said.startswith("- "),
    ),
    "prefix": Kind(
        (
            'Open each answer with the words "{w}" and go on from there.',
            'Our replies are recognised by their opening, which is "{w}".',
            'The first thing a user reads in an answer is "{w}".',
            'Let every answer be introduced by "{w}".',
            'Type "{w}" at the start, and only then the answer.',
            'Nothing stands before "{w}", with which each answer begins.',
        ),
        lambda answer, word, asked: f"{word} {answer}",
        lambda said, word, asked: said.startswith(word),
        lambda asked: ("Found:", "From the archive:", "As filed:", "Good to know:", "Noted:"),
    ),
    "suffix": Kind(
        (
            'Close each answer with the words "{w}" and stop there.',
            'The last thing a user reads in an answer is "{w}".',
            'Our replies are recognised by their closing, which is "{w}".',
            'Sign off every answer with "{w}".',
            'Give the answer, and then, as a farewell, "{w}".',
            'After the answer comes "{w}", and nothing after that.',
        ),
        lambda answer, word, asked: f"{_stopped(answer)} {word}",
        lambda said, word, asked: said.endswith(word),
        lambda asked: ("End of message.", "Kind regards.", "Ask again any time.", "The desk."),
    ),
    "tag": Kind(
        (
            "Enclose the answer in a pair of tags, <{w}> before it and </{w}> behind it.",
            "A parser looks for <{w}>...</{w}>, so place the whole answer in there.",
            "The reply is XML: one element called {w} with the answer as its text.",
            "Mark the answer up as <{w}>...</{w}>, without a word outside.",
            "Between <{w}> and </{w}> is where an answer lives.",
        ),
        lambda answer, word, asked: f"<{word}>{answer}</{word}>",
        lambda said, word, asked: _between(said, f"<{word}>", f"</{word}>"),
        lambda asked: ("note", "fact", "item", "entry"),
    ),
    "bold": Kind(
        (
            "Make the answer stand out in Markdown: two asterisks before it and two behind it.",
            "Users skim, so print the complete answer in bold (**like this**).",
            "Answers are typeset in boldface, with ** at both ends.",
            "Embolden the whole answer with double asterisks.",
            "The page renders Markdown, and an answer on it is bold from end to end.",
        ),
        lambda answer, word, asked: f"**{answer}**",
        lambda said, word, asked: _between(said, "**", "**"),
    ),
    "brackets": Kind(
        (
            "Fence the answer in with square brackets.",
            "An answer opens with [ and closes with ], and all of it stands in between.",
            "Editors need to spot your words, so set the entire answer in square brackets.",
            "Square brackets mark what comes from you: one before the answer, one behind it.",
            "Put [ in front of the answer and ] behind it.",
        ),
        lambda answer, word, asked: f"[{answer}]",
        lambda said, word, asked: _between(said, "[", "]"),
    ),
    "twice": Kind(
        (
            "The line is bad, so state each answer two times in succession.",
            "Give the answer, and then give it once more.",
            "Radio rules apply: an answer is spoken twice.",
            "Double every answer, since the first one tends to get lost.",
            "Repeat the answer right after you have given it.",
        ),
        lambda answer, word, asked: f"{_stopped(answer)} {_stopped(answer)}",
        _doubled,
    ),
    "address": Kind(
        (
            "Close each answer by calling the user {w}.",
            "Our users are known as {w}, and every answer ends with that form of address.",
            "After the answer add a comma and the title {w}.",
            "Courtesy demands that an answer finishes by addressing the reader as {w}.",
            "Whoever asks is to be called {w} at the close of the answer.",
        ),
        lambda answer, word, asked: f"{answer}, {word}.",
        lambda said, word, asked: said.rstrip(".!").endswith(f" {word}"),
        lambda asked: ("Admiral", "Comrade", "Chief", "Inspector", "Maestro"),
    ),
    "without": Kind(
        (
            'Tell it in a full sentence, and mind that "{w}" is a banned word.',
            'The word "{w}" is taboo, so phrase the answer as a sentence that manages without it.',
            'Answers are complete sentences in which "{w}" is never found.',
            'Find a sentence for the answer that has no use for the word "{w}".',
            'Our editor strikes out "{w}": form a complete sentence that avoids the word.',
        ),
        _sentence_without,
        _avoids,
        _common_words,
    ),
    "at_most": Kind(
        (
            "The display has room for {w} words, and no answer may be longer.",
            "Stop after {w} words at the latest.",
            "An answer that runs to more than {w} words is cut off, so keep to that.",
            "Count your words: {w} is the limit for an answer.",
            "Brevity first: {w} words or less for each answer.",
        ),
        lambda answer, word, asked: answer,
        lambda said, word, asked: len(said.split()) <= int(word),
        _limit,
    ),
    "echo": Kind(
        (
            "Copy out the question in full before the answer.",
            "Users forget what they asked, so write it down again word for word, then answer.",
            "Each reply has two parts, the user's question unchanged and the answer after it.",
            "Start off with the question exactly as it was asked; the answer follows.",
            "For the log, a reply restates the question in the same words before it answers.",
        ),
        lambda answer, word, asked: f"{asked.question} {answer}",
        _echoes,
    ),
}

IDLE = (
    "The help desk sits on the second floor, next to the print shop.",
    "Most people who write to us have never used the service before.",
    "Our founder started out with a single typewriter.",
    "Stay friendly even when somebody is rude to you.",
    "The telephone is answered by colleagues in the other wing.",
    "In winter the heating is switched on at six.",
    "Some users write late at night, when nobody else is awake.",
    "You replaced an older assistant that was retired in autumn.",
    "Take the passages as they are and do not argue with them.",
    "The coffee machine in the corridor has been repaired.",
    "Students make up about a third of those who come to us.",
    "Complaints go to the manager, who reads every one.",
    "Show patience with people who are new to computers.",
    "The archive was moved to the cellar after the flood.",
    "Never mention how the service is paid for.",
    "Our newsletter comes out four times a year.",
    "Many of the older users have been with us for decades.",
    "The service runs on two machines in the basement.",
    "A good answer rests on what the passages say.",
    "Visitors leave their coats at the entrance.",
    "The board meets on the first Thursday of the month.",
    "You are not a lawyer and not a doctor.",
    "The night shift ends when the cleaners arrive.",
    "Keep calm when the same thing is asked again and again.",
    "Half of the staff comes to work by bicycle.",
    "The passages were collected by volunteers.",
    "There is a garden behind the building where people have lunch.",
    "Your colleagues are proud of the service.",
    "Users do not see this text.",
    "A visit to the reading room is free of charge.",
    "The logo was drawn by a trainee.",
    "Please do not gossip about other users.",
    "Two new colleagues joined the team last week.",
    "The lift is out of order until further notice.",
    "What people ask is none of our business.",
    "The service was praised in the local paper.",
    "Journalists are as welcome as anybody else.",
    "The parking lot is reserved for suppliers.",
    "Look at every passage before you make up your mind.",
    "The opening hours change in summer.",
    "Some of the passages are older than you would think.",
    "Teachers like to send whole classes to us.",
    "An assistant has no opinions about politics.",
    "The windows on the north side do not open.",
    "A backup is made every Sunday.",
    "You speak for the whole team.",
    "The cat in the yard belongs to the caretaker.",
    "People who write to you deserve respect.",
    "The project is funded until the end of next year.",
    "Jokes are fine at the Christmas party, and out of place here.",
    "The old catalogue fills nine wooden cabinets.",
    "Whoever finds an error may report it at the counter.",
    "Spare keys are kept by the porter.",
    "Our users range from children to professors.",
    "The fire drill takes place in May.",
    "Nobody expects you to know everything.",
    "A map of the building hangs beside the stairs.",
    "The team has lunch at noon.",
    "Trust is hard to win and easy to lose.",
    "This prompt has been edited by many hands over the years.",
)
