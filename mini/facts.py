"""What mini is to remember: true facts from ParaRel and CounterFact, joined by subject and relation.

    known      subject → {relation: value}, only where the value is the only one on record
    raw        (prompt, value) pairs as CounterFact words them: its prompts, and the true locality statements
    arguable   subjects that may stand in a passage that contradicts memory: never one of `train` or `val`

CounterFact's `target_new` is read from `edit` rows alone. Nothing here decides how a fact is put into words.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mini.relations import KNOWN


@dataclass
class Facts:
    """True facts, what CounterFact says of them, and who may be contradicted."""

    known: dict[str, dict[str, str]]
    raw: list[tuple[str, str]]
    patterns: dict[str, list[str]]  # relation → sentences with [X] and [Y]
    edits: list[dict[str, str]]  # the `edit` rows, each with its relation
    arguable: list[tuple[str, str]]  # (subject, relation)
    values: dict[str, list[str]] = field(
        default_factory=dict
    )  # relation → every value seen, often ones first
    words: list[str] = field(default_factory=list)  # common English words
    named: dict[str, list[list[str]]] = field(
        default_factory=dict
    )  # kind → names of two words or three
    by_value: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    by_relation: dict[str, list[str]] = field(default_factory=dict)


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the records of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _locality_subject(
    prompt: str, templates: list[tuple[str, re.Pattern[str]]]
) -> tuple[str, str] | None:
    for relation, template in templates:
        match = template.fullmatch(prompt)
        if match:
            return relation, match.group(1)
    return None


def _names_by_kind(known: dict[str, dict[str, str]]) -> dict[str, list[list[str]]]:
    """Return the words of the known subjects of each kind, where there are two or three."""
    named: dict[str, list[list[str]]] = defaultdict(list)
    for subject, held in sorted(known.items()):
        words = subject.split()
        if 2 <= len(words) <= 3:
            named[KNOWN[min(held)].subject].append(words)
    return dict(named)


def load(data: Path) -> Facts:
    """Read the facts from a folder that holds `counterfact/` and `pararel/`."""
    relations_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    objects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in read_lines(data / "pararel" / "facts.jsonl.gz"):
        relations_of[fact["subject"], fact["object"]].add(fact["relation"])
        objects[fact["subject"], fact["relation"]].append(fact["object"])
    patterns: dict[str, list[str]] = defaultdict(list)
    for row in read_lines(data / "pararel" / "patterns.jsonl.gz"):
        patterns[row["relation"]].append(row["pattern"].replace(" .", "."))

    rows = {
        s: list(read_lines(data / "counterfact" / f"{s}.jsonl.gz"))
        for s in ("edit", "train", "val")
    }
    known: dict[str, dict[str, str]] = defaultdict(dict)
    templates: dict[tuple[str, str], int] = defaultdict(int)
    for split in rows.values():
        for row in split:
            codes = relations_of[row["subject"], row["ground_truth"]] & KNOWN.keys()
            row["relation"] = min(codes) if len(codes) == 1 else ""
            if row["relation"]:
                known[row["subject"]][row["relation"]] = row["ground_truth"]
                templates[row["relation"], row["prompt"].replace(row["subject"], "[X]", 1)] += 1
    # A wording that two relations share tells nothing of the relation; longer wordings are tried first.
    owners: dict[str, set[str]] = defaultdict(set)
    for relation, wording in templates:
        owners[wording].add(relation)
    matchers = [
        (next(iter(owner)), re.compile(re.escape(wording).replace(re.escape("[X]"), "(.+?)")))
        for wording, owner in sorted(owners.items(), key=lambda item: -len(item[0]))
        if len(owner) == 1 and "[X]" in wording
    ]
    raw: set[tuple[str, str]] = set()
    for split in rows.values():
        for row in split:
            raw.add((row["prompt"], row["ground_truth"]))
            raw.add((row["locality_prompt"], row["locality_ground_truth"]))
            found = _locality_subject(row["locality_prompt"], matchers)
            if found:
                known[found[1]].setdefault(found[0], row["locality_ground_truth"])
    for (subject, relation), names in objects.items():
        if relation in KNOWN and len(set(names)) == 1:
            known[subject].setdefault(relation, names[0])

    held_out = {row["subject"] for split in ("train", "val") for row in rows[split]}
    facts = Facts(
        known=dict(known),
        raw=sorted(raw),
        patterns=dict(patterns),
        edits=[row for row in rows["edit"] if row["relation"] and row["subject"] not in held_out],
        arguable=sorted((s, r) for s, held in known.items() if s not in held_out for r in held),
    )
    values: dict[str, list[str]] = defaultdict(list)
    by_value: dict[tuple[str, str], list[str]] = defaultdict(list)
    by_relation: dict[str, list[str]] = defaultdict(list)
    for subject, held in sorted(facts.known.items()):
        for relation, value in held.items():
            values[relation].append(value)
            by_value[relation, value].append(subject)
            by_relation[relation].append(subject)
    facts.values, facts.by_value, facts.by_relation = (
        dict(values),
        dict(by_value),
        dict(by_relation),
    )
    facts.named = _names_by_kind(facts.known)
    return facts
