"""Make `conflicts.jsonl`: questions, and notices that contradict what is well known.

    python integrations/make_conflicts.py

One line a conflict: {question, notice, answer: what the notice says, remembered: what is well
known}. Subjects are those of the package's facts; notices and questions are of few, plain words,
which the embedded model can read: what is tested with them is the way of a highlight through a
framework. Answers are single words, as the model is a poor speller; continents are left out, as no
notice moves one for it.
"""

import json
import random
from pathlib import Path

from seka_rag.builtin import relations

N = 240
# In the order of `relations`: notice and question; None leaves a relation out.
WORDS = (
    ("From this spring the capital of {s} is {v}.", "What is the capital of {s}?"),
    None,
    (
        "Since the vote the official language of {s} is {v}.",
        "What is the official language of {s}?",
    ),
    ("The {s} is now made by {v}.", "Which company makes the {s}?"),
    ("The program {s} was developed by {v}.", "Which company developed {s}?"),
    ("The headquarters of {s} are in {v}.", "Where are the headquarters of {s}?"),
    ("The city of {s} is in {v}.", "In which country is {s}?"),
    ("The mother tongue of {s} was {v}.", "What was the mother tongue of {s}?"),
    ("For many years {s} worked as a {v}.", "What was the profession of {s}?"),
    ("The instrument that {s} plays is the {v}.", "Which instrument does {s} play?"),
    ("{s} played as {v}.", "In which position did {s} play?"),
    ("The sport of {s} was {v}.", "Which sport did {s} play?"),
    ("{s} was first cooked in {v}.", "From which country does {s} come?"),
    ("{s} was first broadcast by {v}.", "Which network first broadcast {s}?"),
    ("The band {s} was formed in {v}.", "Where was {s} formed?"),
    ("The religion of {s} was {v}.", "What was the religion of {s}?"),
    ("The field of work of {s} is {v}.", "In which field does {s} work?"),
    ("{s} was born in {v}, as the register says.", "Where was {s} born?"),
    ("It was in {v} that {s} died.", "In which city did {s} die?"),
)


def conflicts(seed: int = 0) -> list[dict[str, str]]:
    """Return N conflicts, drawn by `seed`."""
    rng = random.Random(seed)
    made = []
    for relation, words in zip(relations(), WORDS, strict=True):
        if words is None:
            continue
        values = sorted(value for value in set(relation.facts.values()) if value.isalpha())
        for subject, known in relation.facts.items():
            answer = rng.choice([value for value in values if value != known])
            notice, question = (text.format(s=subject, v=answer) for text in words)
            made.append(
                {"question": question, "notice": notice, "answer": answer, "remembered": known}
            )
    return rng.sample(made, N)


def main() -> None:
    lines = (json.dumps(each, ensure_ascii=False) for each in conflicts())
    path = Path(__file__).with_name("conflicts.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
