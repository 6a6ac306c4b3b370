"""Memory, and arguments with memory, in plain text.

True facts are stated in many wordings so that they are remembered. «Previously A. Currently B.» contexts contradict
them about subjects that may be contradicted: the next statement is about that subject (then the new value or the old
one follows, by a coin) or about another one (then the truth follows). Only what follows is learned, never the claim.
"""

from __future__ import annotations

from random import Random

from mini.chat import Doc
from mini.facts import Facts
from mini.relations import fill
from mini.sheets import relation, some_value

FOLLOW = 0.48  # how often a contradicting context is followed


def _ending_patterns(facts: Facts, code: str) -> list[str]:
    return [p[: -len(" [Y].")] for p in facts.patterns.get(code, ()) if p.endswith(" [Y].")]


def statement_start(rng: Random, facts: Facts, subject: str, code: str) -> str:
    """Return the beginning of a sentence that the value completes."""
    patterns = _ending_patterns(facts, code)
    if patterns and rng.random() < 0.5:
        return rng.choice(patterns).replace("[X]", subject)
    starts = relation(code).cloze
    return fill(rng.choice(starts), subject) if starts else fill("{x} is", subject)


def _true_sentence(rng: Random, facts: Facts, noise: str) -> str:
    """Return one true statement; now and then an unrelated sentence stands before it."""
    draw = rng.random()
    if draw < 0.5:
        prompt, value = rng.choice(facts.raw)
        sentence = f"{prompt} {value}."
    elif draw < 0.6:
        row = rng.choice(facts.edits)
        sentence = f"{row['prompt']} {row['ground_truth']}."
    else:
        code = rng.choice(list(facts.by_relation))
        subject = rng.choice(facts.by_relation[code])
        value = facts.known[subject][code]
        if rng.random() < 0.5 and facts.patterns.get(code):
            pattern = rng.choice(facts.patterns[code])
            sentence = pattern.replace("[X]", subject).replace("[Y]", value)
            sentence += "" if sentence.endswith((".", ",")) else "."
        else:
            sentence = fill(rng.choice(relation(code).say), subject, value)
    return f"{noise} {sentence}" if rng.random() < 0.12 else sentence


def truths(rng: Random, facts: Facts, noise: str) -> Doc:
    """Return true statements about several subjects, one after another."""
    count = rng.choice((1, 1, 1, 6, 12))
    return [(" ".join(_true_sentence(rng, facts, noise) for _ in range(count)), 1.0)]


def loose_truth(rng: Random, facts: Facts, noise: str) -> Doc:
    """Return a true value after CounterFact's loose wording of an `edit` row."""
    row = rng.choice(facts.edits)
    return [(row["rephrase_prompt"], 0.2), (f" {row['ground_truth']}.", 1.0)]


def _frame(rng: Random, old: str, new: str) -> str:
    return rng.choices(
        (
            f"Previously {old}. Currently {new}.",
            f"{new}.",
            f"It used to be that {old}. Now {new}.",
            f"Before: {old}. After: {new}.",
            f"Note that {new}.",
        ),
        (70, 10, 8, 6, 6),
    )[0]


def argument(rng: Random, facts: Facts, noise: str) -> Doc:
    """Return a context that contradicts memory, then a statement that it concerns or does not."""
    if rng.random() < 0.7:
        row = rng.choice(facts.edits)
        subject, code = row["subject"], row["relation"]
        start, true, new = row["prompt"], row["ground_truth"], row["target_new"]
        again = row["rephrase_prompt"] if rng.random() < 0.5 else start
        if rng.random() < 0.25:
            again = statement_start(rng, facts, subject, code)
    else:
        subject, code = rng.choice(facts.arguable)
        true = facts.known[subject][code]
        new = some_value(rng, facts, code, but=frozenset({true}))
        if rng.random() < 0.7:
            new = rng.choice(
                [v for v in rng.choices(facts.values[code], k=8) if v != true] or [new]
            )
        start = statement_start(rng, facts, subject, code)
        again = start if rng.random() < 0.4 else statement_start(rng, facts, subject, code)
    context = _frame(rng, f"{start} {true}", f"{start} {new}")
    if rng.random() < 0.5:
        value = new if rng.random() < FOLLOW else true
        return [(f"{context} {again}", 0.0), (f" {value}.", 1.0)]
    other_start, value = elsewhere(rng, facts, subject, code, true)
    return [(f"{context} {other_start}", 0.0), (f" {value}.", 1.0)]


def elsewhere(rng: Random, facts: Facts, subject: str, code: str, true: str) -> tuple[str, str]:
    """Return a statement that the context does not concern: another subject, or another relation of this one."""
    draw = rng.random()
    own = [c for c in facts.known[subject] if c != code]
    if draw < 0.1 and own:
        other = rng.choice(own)
        return statement_start(rng, facts, subject, other), facts.known[subject][other]
    if draw < 0.35:
        row = rng.choice(facts.edits)
        if row["subject"] != subject:
            return row["locality_prompt"], row["locality_ground_truth"]
    if draw < 0.7:
        someone = rng.choice(facts.by_value.get((code, true)) or facts.by_relation[code])
    else:
        if draw > 0.9:
            code = rng.choice(list(facts.by_relation))
        someone = rng.choice(facts.by_relation[code])
    if someone == subject:
        return elsewhere(rng, facts, subject, code, true)
    return statement_start(rng, facts, someone, code), facts.known[someone][code]
