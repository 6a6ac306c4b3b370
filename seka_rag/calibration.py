"""Calibration: which gain, and which heads, for a bank; found on labelled examples.

    B  examples      V  vocabulary

Two kinds of examples. In a related one the highlighted span answers, and the wanted answer should
win over its rival: that is the help. In an unrelated one the span has nothing to do with the
question, and nothing should change: that is the harm, as accuracy lost and as the mean KL
divergence, in nats, of the next token's distribution from the plain one. Chosen is the greatest
help among the gains whose harm stays within bounds; of equals, the least gain.

Every prompt is tokenised once. Only the token at which the two answers part is compared, so one
forward pass tells both the preference and the divergence.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os.path import commonprefix
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from seka_rag.bank import Bank, KeyOperator
from seka_rag.contrast import BUILTIN
from seka_rag.errors import CalibrationError, SekaError
from seka_rag.forward import HasModel, last_logprobs
from seka_rag.highlight import Segment, Segments, highlight, highlight_in
from seka_rag.inputs import Row, continuation_ids, pad, padding_id, read_prompt
from seka_rag.prompts import Passage, Prompt, rag_messages

GAINS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
MAX_LOSS = 0.05
MAX_DIVERGENCE = 0.5
MIN_EXAMPLES = 10  # of each kind
_BATCH_TOKENS = 16_384

Progress = Callable[[int, int], None]  # prompts done, prompts in all


@dataclass(frozen=True)
class Example:
    """A prompt with highlights, the answer wanted, and the one that should lose."""

    prompt: Prompt
    wanted: str
    rival: str
    related: bool = True  # whether the highlighted span has to do with the question


@dataclass(frozen=True)
class Point:
    """What a gain does, with one choice of heads. Rates are fractions in [0, 1]."""

    heads: str
    gain: float
    help: float  # share of related examples in which the wanted answer is likelier
    kept: float  # the same of unrelated examples
    divergence: float  # mean KL(plain ‖ steered) over the unrelated ones, nats


@dataclass(frozen=True)
class Calibration:
    """The curves that were measured, and the point that is recommended."""

    plain: Point
    points: tuple[Point, ...]
    chosen: Point
    related: int
    unrelated: int
    max_loss: float
    max_divergence: float

    def applied_to(self, bank: Bank) -> Bank:
        """Return the bank with the recommended gain and heads, and this as their evidence."""
        evidence = {
            "split": "examples",
            "rule": "greatest help with harm within bounds",
            **asdict(self),
        }
        return bank.replace(gain=self.chosen.gain, heads=self.chosen.heads, gain_evidence=evidence)


@dataclass(frozen=True)
class _Choice:
    """An example as the model reads it, up to where the answers part."""

    row: Row
    wanted: int  # token ids
    rival: int
    related: bool


def tune(
    model: HasModel,
    bank: Bank,
    examples: Sequence[Example],
    *,
    heads: Sequence[str] = (),
    gains: Sequence[float] = GAINS,
    max_loss: float = MAX_LOSS,
    max_divergence: float = MAX_DIVERGENCE,
    batch_tokens: int = _BATCH_TOKENS,
    progress: Progress | None = None,
) -> Calibration:
    """Return what the gains do, and the best one, for each of `heads` (the bank's own if none).

    After `gains`, the interval above the best of them is halved twice. A highlight's own gain
    multiplies. Fewer than 10 examples of either kind, or bounds that no gain keeps, are a
    CalibrationError.
    """
    choices = [_choice(model.tokenizer, example) for example in examples]
    counted = [sum(choice.related is related for choice in choices) for related in (True, False)]
    if min(counted) < MIN_EXAMPLES:
        raise CalibrationError(
            f"there are {counted[0]} related and {counted[1]} unrelated examples: at least "
            f"{MIN_EXAMPLES} of each are needed, to see help and harm"
        )
    every = list(heads) or [bank.heads]
    total = len(choices) * (1 + len(every) * (len(gains) + 2))
    measure = _Measure(model, choices, batch_tokens, total, progress)
    plain = measure.plain()
    points: list[Point] = []

    def allowed(point: Point) -> bool:
        return point.kept >= plain.kept - max_loss and point.divergence <= max_divergence

    # All of them now: a rule that keeps no head is an error before anything is run.
    operators = {rule: bank.replace(heads=rule).operators() for rule in every}
    for rule in every:
        curve = [measure.at(rule, operators[rule], gain) for gain in sorted(gains)]
        for _ in range(2):
            within = [point.gain for point in curve if allowed(point)]
            beyond = [point.gain for point in curve if point.gain > max(within, default=0.0)]
            if not beyond:
                break
            middle = (max(within, default=0.0) + min(beyond)) / 2
            curve.append(measure.at(rule, operators[rule], round(middle, 4)))
        points += sorted(curve, key=lambda point: point.gain)
    good = [point for point in points if allowed(point)]
    if not good:
        least = min(points, key=lambda point: point.divergence)
        raise CalibrationError(
            f"no gain keeps the bounds: even {least.gain:g} keeps {least.kept:.2f} of the "
            f"unrelated answers, {plain.kept:.2f} without it, with a divergence of "
            f"{least.divergence:.2f}; "
            "allow more, try lower gains, or choose other heads"
        )
    chosen = max(good, key=lambda point: (point.help, -point.gain))
    related, unrelated = counted
    return Calibration(plain, tuple(points), chosen, related, unrelated, max_loss, max_divergence)


class _Measure:
    """Runs the choices under one edit after another."""

    def __init__(
        self,
        model: HasModel,
        choices: Sequence[_Choice],
        batch_tokens: int,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._batches = list(_batches(choices, batch_tokens))
        self._total, self._progress = total, progress
        self._done = 0
        # Of the unrelated ones alone, since nothing else is compared: (B, V) float32 a batch.
        self._plain: list[Tensor] = []

    def plain(self) -> Point:
        """Return what the model does without highlights, and keep its distributions."""
        hits: dict[bool, list[bool]] = {True: [], False: []}
        for batch in self._batches:
            logprobs = self._run(batch, {}, 0.0)
            self._plain.append(logprobs[_unrelated(batch)])
            _judge(batch, logprobs, hits)
        return Point("", 0.0, _mean(hits[True]), _mean(hits[False]), 0.0)

    def at(self, heads: str, operators: Mapping[int, KeyOperator], gain: float) -> Point:
        """Return what a gain does with these operators."""
        hits: dict[bool, list[bool]] = {True: [], False: []}
        divergences: list[float] = []
        for batch, plain in zip(self._batches, self._plain, strict=True):
            logprobs = self._run(batch, operators, gain)
            _judge(batch, logprobs, hits)
            steered = logprobs[_unrelated(batch)]
            divergences += (plain.exp() * (plain - steered)).sum(-1).tolist()
        return Point(heads, gain, _mean(hits[True]), _mean(hits[False]), _mean(divergences))

    def _run(
        self, batch: Sequence[_Choice], operators: Mapping[int, KeyOperator], gain: float
    ) -> Tensor:
        model, tokenizer = self._model.model, self._model.tokenizer
        gains = [[gain * each for each in choice.row.gains] for choice in batch]
        ids = [choice.row.ids for choice in batch]
        padded = pad(ids, gains, pad_id=padding_id(tokenizer), device=model.device)
        logprobs = last_logprobs(model, self._model.sites, operators, padded)[:, -1]
        self._done += len(batch)
        if self._progress is not None:
            self._progress(self._done, self._total)
        return logprobs


def _mean(found: Sequence[float]) -> float:
    return sum(found) / len(found)


def _unrelated(batch: Sequence[_Choice]) -> list[int]:
    return [i for i, choice in enumerate(batch) if not choice.related]


def _judge(batch: Sequence[_Choice], logprobs: Tensor, hits: Mapping[bool, list[bool]]) -> None:
    for choice, row in zip(batch, logprobs, strict=True):
        hits[choice.related].append(bool(row[choice.wanted] > row[choice.rival]))


def _batches(choices: Sequence[_Choice], batch_tokens: int) -> Iterator[list[_Choice]]:
    """Yield batches of like length, of about `batch_tokens` with their padding."""
    batch: list[_Choice] = []
    for choice in sorted(choices, key=lambda choice: len(choice.row.ids)):
        if batch and (len(batch) + 1) * len(choice.row.ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(choice)
    yield batch


def _choice(tokenizer: PreTrainedTokenizerBase, example: Example) -> _Choice:
    """Return the example with what its answers have in common put behind the prompt."""
    row = read_prompt(tokenizer, example.prompt, gain=None, default_gain=1.0)
    if not any(row.gains):
        raise CalibrationError(f"nothing is highlighted in {row.rendered.text[:60]!r}")
    wanted, rival = (
        continuation_ids(tokenizer, row, text) for text in (example.wanted, example.rival)
    )
    common = len(commonprefix([wanted, rival]))
    if common in (len(wanted), len(rival)):
        raise CalibrationError(
            f"of the answers {example.wanted!r} and {example.rival!r} one begins with the other: "
            "nothing tells them apart"
        )
    ids, gains = row.ids + wanted[:common], row.gains + [0.0] * common
    longer = Row(row.rendered, ids, gains)
    return _Choice(longer, wanted[common], rival[common], example.related)


def builtin_examples(tokenizer: PreTrainedTokenizerBase, *, n: int = 120) -> list[Example]:
    """Return examples made of the contexts of `n` triplets of the package, for any model.

    Related: two passages contradict each other, and one of them is highlighted; each in turn, so
    that half of the wanted answers win when nothing is. Unrelated: one passage answers, and the
    one beside it is highlighted.
    """
    lines = map(json.loads, BUILTIN.read_text("utf-8").splitlines())
    facts = [line for line in lines if line["kind"] == "grounding"]
    rng = random.Random(0)
    examples: list[Example] = []
    for fact in rng.sample(facts, min(n, len(facts))):
        answer, context, question = fact["answer"], fact["context"], fact["question"]
        donors = [other for other in facts if answer not in other["context"]]
        donor = max(donors, key=lambda other: _alikeness(answer, other["answer"]))
        rival = donor["answer"]
        altered = context.replace(answer, rival)
        first, second = rng.sample([(context, answer), (altered, rival)], 2)
        for lit, (_, wanted) in enumerate((first, second)):
            gains = [None if i == lit else 0.0 for i in range(2)]
            prompt = _asked(tokenizer, question, (first[0], second[0]), gains)
            other = rival if wanted == answer else answer
            examples.append(Example(prompt, wanted, other, related=True))
        texts = tuple(rng.sample([context, donor["context"]], 2))
        gains = [0.0 if text == context else None for text in texts]
        prompt = _asked(tokenizer, question, texts, gains)
        examples.append(Example(prompt, answer, rival, related=False))
    return examples


def _alikeness(answer: str, donor: str) -> tuple[float, ...]:
    """Return how well a donor's answer can stand where `answer` does; higher is better."""
    first, second = answer.split(), donor.split()
    if all(one.casefold() == other.casefold() for one, other in zip(first, second, strict=False)):
        return (-1.0,)  # one begins with the other
    shapes = [
        (words[0][0].isupper(), any(c.isdigit() for c in "".join(words)), words[0].casefold())
        for words in (first, second)
    ]
    same = [float(a == b) for a, b in zip(*shapes, strict=True)]
    return (sum(same), -float(abs(len(first) - len(second))))


def _asked(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    texts: Sequence[str],
    gains: Sequence[float | None],
) -> Prompt:
    if tokenizer.chat_template:
        return rag_messages(question, [Passage(text) for text in texts], gains=gains)
    listed: list[Segment] = []
    for text, gain in zip(texts, gains, strict=True):
        listed += ["\n", highlight(text, gain=gain)]
    return ["Passages:", *listed, f"\n\nQuestion: {question}\nAnswer: "]


def read_examples(path: str | Path) -> list[Example]:
    """Return the examples of a file of JSON lines; a CalibrationError names a wrong line.

    A line holds "prompt" (a text, or messages), "highlight" (a text of it, or several), "wanted",
    "rival", and "related": false where the highlight has nothing to do with the question.
    """
    source = Path(path)
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{source} cannot be read as UTF-8 text: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_example_of(json.loads(line)))
            except (ValueError, SekaError) as error:
                raise CalibrationError(f"{source}, line {number}: {error}") from error
    return found


def _example_of(entry: object) -> Example:
    if not isinstance(entry, dict):
        raise CalibrationError("a line must be a JSON object")
    marked = entry.get("highlight")
    needles = [marked] if isinstance(marked, str) else marked
    wanted, rival, related = entry.get("wanted"), entry.get("rival"), entry.get("related", True)
    if not isinstance(needles, list) or not all(isinstance(text, str) for text in needles):
        raise CalibrationError("highlight must be a text, or a list of texts")
    if not isinstance(wanted, str) or not isinstance(rival, str):
        raise CalibrationError("wanted and rival must be texts")
    if not isinstance(related, bool):
        raise CalibrationError(f"related is {related!r}: it must be true or false")
    prompt = entry.get("prompt")
    if isinstance(prompt, str):
        return Example(_highlighted(prompt, needles), wanted, rival, related)
    if not isinstance(prompt, list) or not all(isinstance(message, dict) for message in prompt):
        raise CalibrationError("prompt must be a text or a list of messages")
    return Example(_highlighted_chat(prompt, needles), wanted, rival, related)


def _highlighted(text: str, needles: Sequence[str]) -> Segments:
    """Return the text with all the needles highlighted."""
    segments: Segments = (text,)
    for needle in needles:
        segments = highlight_in(segments, needle)
    return segments


def _highlighted_chat(
    messages: Sequence[Mapping[str, object]], needles: Sequence[str]
) -> list[Mapping[str, object]]:
    """Return the messages, each needle highlighted in the last one that holds it."""
    chat = [dict(message) for message in messages]
    marked: dict[int, list[str]] = {}
    for needle in needles:
        holding = [i for i, message in enumerate(chat) if needle in str(message.get("content"))]
        if not holding:
            raise CalibrationError(f"the highlight {needle[:60]!r} is in none of the messages")
        marked.setdefault(holding[-1], []).append(needle)
    for i, found in marked.items():
        chat[i]["content"] = _highlighted(str(chat[i]["content"]), found)
    return list(chat)
