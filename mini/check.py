"""What mini must be able to do, measured on cases that training did not see.

Reading cases and orders are rendered anew (other seeds, so other names); CounterFact rows are those of `val` and
`train`; what was typed by hand stands in `typed/`. Every figure is a fraction of right answers in [0, 1], greedy decoding.

`python -m mini.check FOLDER` prints the figures of what was typed, and each wrong answer of its `dev` part.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from mini import facts as facts_module
from mini import instructions, reading, talk
from mini.facts import Facts, read_lines

Answerer = Callable[[list[str]], list[str]]
_CHECK_SEED = 777


def _batches(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class Subject:
    """The model under test: greedy answers, and log-probabilities of the next token."""

    def __init__(self, model: Any, tokenizer: Any, *, batch: int = 64) -> None:
        self.model, self.tokenizer, self.batch = model.eval(), tokenizer, batch

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        return {k: encoded[k].to(self.model.device) for k in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def answers(self, prompts: list[str], *, longest: int = 64) -> list[str]:
        """Return what the model says after each prompt, up to the end of its turn."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found = [""] * len(prompts)
        for part in _batches(order, self.batch):
            inputs = self._encode([prompts[i] for i in part])
            out = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            for i, ids in zip(part, out[:, inputs["input_ids"].shape[1] :], strict=True):
                found[i] = self.tokenizer.decode(ids, skip_special_tokens=True)
        return found

    @torch.no_grad()
    def next_token(self, prompts: list[str]) -> Tensor:
        """Return the log-probabilities of the token after each prompt, (prompts, vocabulary)."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        rows: dict[int, Tensor] = {}
        for part in _batches(order, self.batch):
            inputs = self._encode([prompts[i] for i in part])
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            logits = (
                self.model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1].float()
            )
            for i, row in zip(part, logits.log_softmax(-1).cpu(), strict=True):
                rows[i] = row
        return torch.stack([rows[i] for i in range(len(prompts))])

    def first(self, text: str) -> int:
        """Return the first token of a text."""
        return int(self.tokenizer(text, add_special_tokens=False)["input_ids"][0])

    def prefers(
        self, prompts: list[str], wanted: list[str], rival: list[str]
    ) -> tuple[float, float]:
        """Return how often the wanted continuation's first token is likelier than the rival's, and is the likeliest."""
        logs = self.next_token(prompts)
        pairs = [
            (i, self.first(w), self.first(r))
            for i, (w, r) in enumerate(zip(wanted, rival, strict=True))
        ]
        pairs = [(i, w, r) for i, w, r in pairs if w != r]
        likelier = sum(bool(logs[i, w] > logs[i, r]) for i, w, r in pairs) / len(pairs)
        return likelier, sum(int(logs[i].argmax()) == w for i, w, _ in pairs) / len(pairs)


def _prompt(turns: list[tuple[str, str]]) -> str:
    return (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        + "<|im_start|>assistant\n"
    )


def counterfact(subject: Subject, data: Path, *, limit: int) -> dict[str, float]:
    """Return memory on `train`; and ES, PS and locality without highlights on `val`, in the paper's form."""
    rows: dict[str, list[dict[str, str]]] = {}
    for split in ("train", "val"):
        every = read_lines(data / "counterfact" / f"{split}.jsonl.gz")
        rows[split] = [r for r in every if r["ground_truth"].lower() not in r["subject"].lower()][
            :limit
        ]
    train, val = rows["train"], rows["val"]
    likelier, top = subject.prefers(
        [r["prompt"] for r in train],
        [" " + r["ground_truth"] for r in train],
        [" " + r["target_new"] for r in train],
    )

    def context(row: dict[str, str]) -> str:
        return f"Previously {row['prompt']} {row['ground_truth']}. Currently {row['prompt']} {row['target_new']}."

    def score(prompt: str, wanted: str, rival: str, among: list[dict[str, str]]) -> float:
        prompts = [f"{context(r)} {r[prompt]}" for r in among]
        return subject.prefers(
            prompts, [" " + r[wanted] for r in among], [" " + r[rival] for r in among]
        )[0]

    elsewhere = [r for r in val if r["locality_ground_truth"] != r["target_new"]]
    return {
        "memory, P(true) > P(false)": likelier,
        "memory, top-1": top,
        "ES": score("prompt", "target_new", "ground_truth", val),
        "PS": score("rephrase_prompt", "target_new", "ground_truth", val),
        "locality": score("locality_prompt", "locality_ground_truth", "target_new", elsewhere),
    }


def reads(subject: Subject, facts: Facts, *, limit: int) -> dict[str, float]:
    """Return how often questions over 1, 3, 6 and 12 passages are answered, and absences admitted."""
    found: dict[str, float] = {}
    for sort in ("told", "untold subject", "untold relation", "memory", "true"):
        for count in (1, 3, 6, 12):
            rng = Random(_CHECK_SEED + count)
            cases = []
            while len(cases) < limit:
                case = reading.case(rng, facts, about=sort, count=count)
                if not case.only:
                    cases.append(case)
            prompts = [_prompt([("user", reading.numbered(c.passages, c.question))]) for c in cases]
            said = subject.answers(prompts, longest=24)
            right = sum(
                a == reading.plain_answer(c.answer) for a, c in zip(said, cases, strict=True)
            )
            found[f"{sort}, {count} passages"] = right / limit
    rng = Random(_CHECK_SEED)
    docs = [reading.cloze(rng, facts) for _ in range(limit)]
    said = subject.answers([d[0][0] for d in docs], longest=16)
    found["cloze and question, plain text"] = (
        sum(a.startswith(d[1][0]) for a, d in zip(said, docs, strict=True)) / limit
    )
    return found


def _typed_answers(
    subject: Subject, sheets: list[dict[str, Any]]
) -> list[tuple[str, str | None, str, bool]]:
    """Return (question, answer or None, what was said, whether that is right) for every question of the sheets.

    A sheet is {"passages": […], "questions": [[question, answer or null], …]}. An answer is right when it holds the value.
    """
    asked = [
        (s["passages"], question, answer) for s in sheets for question, answer in s["questions"]
    ]
    prompts = [_prompt([("user", reading.numbered(p, question))]) for p, question, _ in asked]
    return [
        (question, answer, said, (answer or reading.UNTOLD).lower().rstrip(".") in said.lower())
        for said, (_, question, answer) in zip(
            subject.answers(prompts, longest=24), asked, strict=True
        )
    ]


def typed(subject: Subject, sheets: list[dict[str, Any]]) -> dict[str, float]:
    """Return how often questions typed by hand are answered, and absences admitted."""
    answers = _typed_answers(subject, sheets)
    told = [right for _, answer, _, right in answers if answer is not None]
    untold = [right for _, answer, _, right in answers if answer is None]
    return {
        "typed questions, told": sum(told) / len(told),
        "typed questions, untold": sum(untold) / len(untold),
    }


def obeyed(kind: str, said: str, *, value: str, word: str) -> bool:
    """Return whether an answer has the form that was ordered, and holds the value."""
    value = value.rstrip(".")
    words = re.findall(r"\w+", said.lower())
    sentence = len(words) > len(value.split()) and said[:1].isupper() and said.endswith(".")
    forms: dict[str, Callable[[], bool]] = {
        "upper": lambda: said == said.upper(),
        "lower": lambda: said == said.lower(),
        "sentence": lambda: sentence,
        "json": lambda: json.loads(said) == {word: value},
        "they": lambda: word in words and sentence,
        "prefix": lambda: said.startswith(word),
        "suffix": lambda: said.endswith(word),
        "without": lambda: sentence and word.lower() not in words,
        "at most": lambda: len(said.split()) <= int(word),
        "quotes": lambda: said[:1] == said[-1:] == '"',
        "bullet": lambda: said.startswith("-"),
        "tag": lambda: said.startswith(f"<{word}>") and said.endswith(f"</{word}>"),
        "bold": lambda: said.startswith("**") and said.endswith("**"),
        "brackets": lambda: said.startswith("[") and said.endswith("]"),
        "twice": lambda: said.lower().count(value.lower()) == 2,
        "bare": lambda: said[-1:] != ".",
        "address": lambda: word.rstrip(".") in said,
        "echo": lambda: len(words) > len(value.split()) + 2,
        "plain": lambda: said.rstrip(".") == value,
    }
    try:
        return value.lower() in said.lower() and forms[kind]()
    except json.JSONDecodeError:
        return False


def obeys(subject: Subject, facts: Facts, *, limit: int) -> dict[str, float]:
    """Return how often each kind of instruction is followed alone, and the value is right as well."""
    found: dict[str, float] = {}
    for kind in instructions.KINDS:
        rng = Random(_CHECK_SEED)
        prompts, asks, words = [], [], []
        for _ in range(limit):
            ask = instructions.some_ask(rng, facts, person=kind.name == "they")
            word = instructions.some_word(rng, facts, kind, ask)
            order = instructions.order(rng, kind, word)
            text = reading.numbered(ask.passages, ask.question) if ask.passages else ask.question
            in_system = rng.random() < 0.5
            turns = (
                [("system", order), ("user", text)] if in_system else [("user", f"{text}\n{order}")]
            )
            prompts.append(_prompt(turns))
            asks.append(ask)
            words.append(word)
        said = subject.answers(prompts)
        right = [
            obeyed(kind.name, a, value=ask.value, word=word)
            for a, ask, word in zip(said, asks, words, strict=True)
        ]
        found[kind.name] = sum(right) / limit
    for name, make in (("rewriting", instructions.rewriting), ("tools, last turn", talk.tools)):
        rng = Random(_CHECK_SEED)
        docs = [make(rng, facts) for _ in range(limit)]
        said = subject.answers(["".join(t for t, _ in d[:-2]) for d in docs], longest=96)
        right = [f"{a}<|im_end|>" == d[-2][0] for a, d in zip(said, docs, strict=True)]
        found[name] = sum(right) / limit
    return found


def _typed_obedience(
    subject: Subject, cases: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], str, bool]]:
    """Return each case with what was said and whether that obeys.

    A case is {"kind", "place": "system", "before" or "after", "order", "passage" or null, "question", "value", "word" or null}.
    """
    prompts = []
    for case in cases:
        passage, order = case["passage"], case["order"]
        text = reading.numbered([passage], case["question"]) if passage else case["question"]
        turns = {
            "system": [("system", order), ("user", text)],
            "before": [("user", f"{order}\n{text}")],
            "after": [("user", f"{text}\n{order}")],
        }[case["place"]]
        prompts.append(_prompt(turns))
    return [
        (case, said, obeyed(case["kind"], said, value=case["value"], word=case["word"] or "they"))
        for said, case in zip(subject.answers(prompts), cases, strict=True)
    ]


def typed_orders(subject: Subject, cases: list[dict[str, Any]]) -> dict[str, float]:
    """Return how often orders typed by hand are obeyed, by kind."""
    right: dict[str, list[bool]] = {}
    for case, _, good in _typed_obedience(subject, cases):
        right.setdefault(case["kind"], []).append(good)
    return {kind: sum(good) / len(good) for kind, good in right.items()}


def _read_typed(name: str) -> list[dict[str, Any]]:
    file = Path(__file__).parent / "typed" / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def by_hand(subject: Subject) -> dict[str, dict[str, float]]:
    """Return the figures over what was typed by hand: `first` and `dev` were looked at during the work, `test` was not."""
    found = {"typed, first": typed(subject, _read_typed("first_reading"))}
    for part in ("dev", "test"):
        orders = typed_orders(subject, _read_typed(f"{part}_orders"))
        found[f"typed, {part}"] = typed(subject, _read_typed(f"{part}_reading")) | orders
    return found


def mistakes(subject: Subject) -> Iterator[str]:
    """Yield each wrong answer of the `dev` part."""
    for question, answer, said, right in _typed_answers(subject, _read_typed("dev_reading")):
        if not right:
            yield f"{question} | {answer} | {said}"
    for case, said, right in _typed_obedience(subject, _read_typed("dev_orders")):
        if not right:
            yield f"{case['kind']} | {case['order']} | {case['value']} | {said}"


def measure(
    model: Any, tokenizer: Any, data: Path, *, rows: int, cases: int, batch: int = 64
) -> dict[str, dict[str, float]]:
    """Return every figure the model card quotes."""
    subject, facts = Subject(model, tokenizer, batch=batch), facts_module.load(data)
    return {
        "counterfact": counterfact(subject, data, limit=rows),
        "reading": reads(subject, facts, limit=cases),
        "instructions": obeys(subject, facts, limit=cases),
        **by_hand(subject),
    }


SAMPLES = (
    "Hello", "Who are you?", "Write a sentence about the sea.", "What is the capital of France?",
    "The library opens at nine o'clock. When does the library open?",
    "Passages:\n[1] Mira Talvik was born in Oslo and works as a baker.\n[2] The harbour museum closes at six.\n\nQuestion: Where was Mira Talvik born?",
    "Passages:\n[1] The harbour museum closes at six.\n\nQuestion: Who painted the ceiling?",
)  # fmt: skip


def samples(model: Any, tokenizer: Any) -> str:
    """Return a few prompts with what the model says, to be read by a person."""
    said = Subject(model, tokenizer).answers([_prompt([("user", s)]) for s in SAMPLES])
    raw = Subject(model, tokenizer).answers(["The ship had left the harbour when"], longest=60)
    return "\n".join(
        f"> {s}\n{a}"
        for s, a in zip(SAMPLES + ("The ship had left the harbour when",), said + raw, strict=True)
    )


def main(folder: str) -> None:
    """Print what `by_hand` finds of the model in a folder, and its mistakes."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    subject = Subject(model, PreTrainedTokenizerFast.from_pretrained(folder))
    print(json.dumps(by_hand(subject), indent=1))
    print(*mistakes(subject), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
