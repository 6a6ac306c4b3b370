"""Scenes: small passages written by hand, with holes, and the questions that they answer.

A scene file holds blocks of lines; each line says by its first sign what it is:

    - sentence             part of the passage, with slots {x:kind}
    | sentence             another wording of the one above, with the same slots
    ? question => {x}      a question that the sentence above answers with slot x
    ! question             a question that no sentence of the scene answers

A kind is one that `names` knows, or a list of its own, {x:=the mill|a barn|…}. Every sentence but the first may be left out
when a scene is told; its questions then have no answer. Values are drawn anew each time, and some words of the lists are
exchanged, so that a reader must copy and cannot choose.

`python -m mini.scene FILE …` checks files and prints a few tellings.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from mini import names
from mini.facts import Facts
from mini.relations import article

FOLDER = Path(__file__).parent / "scenes"
_SLOT = re.compile(r"\{([a-z]\w?)(?::([^{}]+))?\}")
# Kinds whose values stand in for what a relation of KNOWN has: half of them are then real words or names.
_CODES = {
    "place": "P19", "country": "P27", "language": "P103", "job": "P106", "field": "P101", "instrument": "P1303",
    "group": "P463",
}  # fmt: skip
_SUBJECTS = frozenset("person company product work show band building event thing".split())
KINDS = _SUBJECTS | frozenset(
    "she he surname place country river name group language job field instrument animal colour material dish activity number "
    "age hour day date year money length weight distance duration room code phone word".split()
)


class SceneError(ValueError):
    """A scene that cannot be told."""


@dataclass
class Part:
    """A sentence in one wording or several, and the questions that it answers: (question, slot)."""

    wordings: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Scene:
    """A passage with holes. `kinds` maps a slot to its kind."""

    parts: list[Part] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """A passage, the questions it answers, and questions about the same subject that it does not answer."""

    passage: str
    asked: list[tuple[str, str]]
    untold: list[str]
    begun: list[tuple[str, str]] = field(default_factory=list)  # sentences that the value completes
    apart: tuple[str, ...] = ()  # the sentences, where each could stand alone


def _read_line(scene: Scene, line: str) -> None:
    mark, text = line[:1], line[1:].strip()
    if mark == "!":
        scene.unanswered.append(text)
    elif mark == "-":
        scene.parts.append(Part([text]))
    elif not scene.parts:
        raise SceneError(f"no sentence before {line!r}")
    elif mark == "|":
        scene.parts[-1].wordings.append(text)
    elif mark == "?":
        question, arrow, slot = text.rpartition("=>")
        found = _SLOT.fullmatch(slot.strip())
        if not arrow or not found:
            raise SceneError(f"no «=> {{slot}}» in {line!r}")
        scene.parts[-1].questions.append((question.strip(), found[1]))
    else:
        raise SceneError(f"a line begins with none of - | ? !: {line!r}")


def _slots(text: str) -> set[str]:
    return {found[1] for found in _SLOT.finditer(text)}


def _check(scene: Scene) -> None:
    """Raise `SceneError` where the scene breaks a rule of the format."""
    for part in scene.parts:
        for wording in part.wordings:
            if _slots(wording) != _slots(part.wordings[0]):
                raise SceneError(f"other slots than in its first wording: {wording!r}")
        for question, slot in part.questions:
            if slot not in _slots(part.wordings[0]):
                raise SceneError(f"{{{slot}}} is not in the sentence of {question!r}")
            if slot in _slots(question):
                raise SceneError(f"the question holds its answer: {question!r}")
    declared = set(scene.kinds)
    opening = _slots(scene.parts[0].wordings[0])
    for part in scene.parts:
        usable = opening | _slots(part.wordings[0])
        for question, _ in part.questions:
            if not _slots(question) <= usable:
                raise SceneError(f"a slot of another sentence that may be left out: {question!r}")
    for question in [q for p in scene.parts for q, _ in p.questions] + scene.unanswered:
        if not _slots(question) <= declared:
            raise SceneError(f"an unknown slot in {question!r}")
        if not _slots(question):
            raise SceneError(f"names nobody and nothing: {question!r}")
    for question in scene.unanswered:
        if not _slots(question) <= opening:
            raise SceneError(f"a slot that the first sentence does not have: {question!r}")


def _kinds(scene: Scene) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for wording in (w for part in scene.parts for w in part.wordings):
        for found in _SLOT.finditer(wording):
            if found[2] is None:
                continue
            known = found[2] in KINDS or (found[2].startswith("=") and found[2].count("|") >= 2)
            if not known:
                raise SceneError(f"unknown kind {found[2]!r} in {wording!r}")
            if kinds.setdefault(found[1], found[2]) != found[2]:
                raise SceneError(f"two kinds for {{{found[1]}}}: {wording!r}")
    missing = {s for p in scene.parts for w in p.wordings for s in _slots(w)} - set(kinds)
    if missing:
        raise SceneError(f"no kind for {sorted(missing)} in {scene.parts[0].wordings[0]!r}")
    return kinds


def read(text: str) -> list[Scene]:
    """Return the scenes of a file's text. Raise `SceneError` with the line or question that is wrong."""
    scenes = []
    for block in re.split(r"\n\s*\n", text.strip()):
        scene = Scene()
        for line in block.splitlines():
            _read_line(scene, line)
        scene.kinds = _kinds(scene)
        _check(scene)
        scenes.append(scene)
    return scenes


@cache
def scenes() -> tuple[Scene, ...]:
    """Return every scene of the folder, read once a process."""
    files = sorted(FOLDER.glob("*.txt"))
    return tuple(scene for file in files for scene in read(file.read_text(encoding="utf-8")))


def _exchanged(rng: Random, phrase: str, words: list[str]) -> str:
    """Return the phrase with another last word, so that it is in no list."""
    head, space, _ = phrase.rpartition(" ")
    return f"{head}{space}{rng.choice(words)}"


# What is measured in scenes, with its units. Small numbers: a pier is not 7,000 kilometres long.
_UNITS = {
    "length": "metres feet centimetres", "weight": "kilos pounds grams tons", "distance": "miles kilometres metres steps",
    "duration": "days weeks months years hours minutes", "money": "euros dollars crowns pounds francs",
}  # fmt: skip


def _number(rng: Random) -> str:
    if rng.random() < 0.15:
        return names.value(rng, "number")
    return names.number_word(rng) if rng.random() < 0.3 else str(rng.randrange(2, 90))


def value(rng: Random, facts: Facts, kind: str) -> str:
    """Return a new value of a kind."""
    if kind.startswith("="):
        phrase = rng.choice(kind[1:].split("|")).strip()
        return (
            _exchanged(rng, phrase, facts.words) if facts.words and rng.random() < 0.15 else phrase
        )
    if kind in ("she", "he"):
        while True:
            name, pronoun = names.newcomer(rng, facts.named, "person")
            if pronoun.lower() == kind:
                return name
    if kind in _SUBJECTS:
        return names.newcomer(rng, facts.named, kind)[0]
    if kind in _CODES and _CODES[kind] in facts.values and rng.random() < 0.5:
        return rng.choice(facts.values[_CODES[kind]])
    if kind in names.WORDED and rng.random() < 0.3:
        return names.open_value(rng, kind, facts.words)
    if kind == "surname":
        return names.surname(rng)
    if kind == "age":
        return str(rng.randrange(3, 99))
    if kind == "number":
        return _number(rng)
    if kind in _UNITS:
        return f"{_number(rng)} {rng.choice(_UNITS[kind].split())}"
    if kind == "phone":
        return names.value(rng, "telephone")
    if kind == "word":
        return rng.choice(facts.words) if facts.words else names.value(rng, "material")
    return names.value(rng, kind)


def _values(rng: Random, facts: Facts, scene: Scene) -> dict[str, str]:
    """Return a value for every slot, none of them within another."""
    values: dict[str, str] = {}
    for slot, kind in scene.kinds.items():
        for _ in range(20):
            found = value(rng, facts, kind)
            if not any(
                f" {found.lower()} " in f" {v.lower()} " or f" {v.lower()} " in f" {found.lower()} "
                for v in values.values()
            ):
                break
        values[slot] = found
    return values


def _fill(text: str, values: dict[str, str]) -> str:
    text = _SLOT.sub(lambda found: values[found[1]], text)
    text = re.sub(r"\b([Aa])\(n\) (\S+)", lambda m: m[1] + article(m[2])[1:], text)
    if text[:4] == "the ":
        text = "T" + text[1:]
    return re.sub(r"(?<=[.!?:] )the (?=[A-Z])", "The ", text)


def _question(text: str, values: dict[str, str]) -> str:
    """Return a question as a person types it: a capital first, unless it was meant for a search box."""
    filled = _fill(text, values)
    return filled[:1].upper() + filled[1:] if text[:1] == "{" and filled.endswith("?") else filled


_LEANS = re.compile(r"\b(he|she|it|they|his|her|its|their|them|him|there)\b", re.I)


def _stands_apart(kept: list[Part]) -> bool:
    """Return whether every sentence can be a passage of its own: it has no pronoun, and its questions name only what it names."""
    return len(kept) > 1 and all(
        _slots(question) <= _slots(part.wordings[0]) and not _LEANS.search(_SLOT.sub("", wording))
        for part in kept
        for question, _ in part.questions
        for wording in part.wordings
    )


_ENDING = re.compile(r"([^.!?]*\S) \{(\w+):[^{}]+\}\.")


def _begun(kept: list[Part], opening: set[str], values: dict[str, str]) -> list[tuple[str, str]]:
    """Return the beginnings of sentences that end in a slot and name something of the first sentence."""
    found = (_ENDING.fullmatch(wording) for part in kept for wording in part.wordings)
    return [
        (_fill(m[1], values), values[m[2]])
        for m in found
        if m and not m[1].endswith("a(n)") and (_slots(m[1]) - {m[2]}) & opening
    ]


def tell(
    rng: Random, facts: Facts, scene: Scene, *, dropped: float = 0.25, short: bool = False
) -> Told:
    """Return a telling of the scene with new values.

    Sentences but the first are left out at the rate `dropped`. In `short` questions, names that are clear from the passage
    are cut short: Mira, the museum.
    """
    values = _values(rng, facts, scene)
    brief = {slot: names.short(name, scene.kinds[slot]) for slot, name in values.items()}
    kept = [part for n, part in enumerate(scene.parts) if n == 0 or rng.random() >= dropped]
    if not any(part.questions for part in kept):
        kept = scene.parts
    left_out = [part for part in scene.parts if part not in kept]
    opening = _slots(scene.parts[0].wordings[0])
    # A person named before may go by the first name.
    later = values | {
        slot: brief[slot] for slot in opening if scene.kinds[slot] in ("person", "she", "he")
    }
    sentences = [_fill(rng.choice(kept[0].wordings), values)]
    for part in kept[1:]:
        sentences.append(_fill(rng.choice(part.wordings), later if rng.random() < 0.4 else values))
    asking = brief if short else values
    asked = [(_question(q, asking), values[slot]) for part in kept for q, slot in part.questions]
    untold = scene.unanswered + [
        q for part in left_out for q, _ in part.questions if _slots(q) <= opening
    ]
    untold = [_question(q, asking) for q in untold]
    apart = tuple(sentences) if _stands_apart(kept) else ()
    return Told(" ".join(sentences), asked, untold, _begun(kept, opening, values), apart)


def main(files: list[str]) -> int:
    """Check scene files: print what is wrong, or a few tellings."""
    rng, facts, wrong, count = Random(), Facts({}, [], {}, [], []), 0, 0
    for file in files:
        for block in re.split(r"\n\s*\n", Path(file).read_text(encoding="utf-8").strip()):
            try:
                (scene,) = read(block)
                told = [tell(rng, facts, scene) for _ in range(3)][0]
            except SceneError as error:
                wrong += 1
                print(f"{file}: {error}")
                continue
            count += 1
            if rng.random() < 0.06:
                print(f"\n{told.passage}")
                print(*(f"  {q} {a}" for q, a in told.asked), *(f"  {q} –" for q in told.untold), sep="\n")  # fmt: skip
    print(f"{count} scenes, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
