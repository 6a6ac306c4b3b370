"""Calibration: which gain, and which heads, for a bank; found on labelled examples.

    B  examples      V  vocabulary

In a related example the wanted answer should win over its rival: that is the help. In an unrelated
one nothing should change: that is the harm, as accuracy lost and as the mean KL divergence, in
nats, of the next token's distribution from the plain one. Chosen is the greatest help among the
gains whose harm stays within bounds; of equals, the least gain. One forward pass of a prompt tells
both.

Harm is looked for where there is something to lose: in the unrelated examples that the plain model
answers, its wanted answer being e times as likely as the rival or more. A toss-up falls to any edit
and says nothing about this one. Where that leaves too few, all unrelated examples count.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from torch import Tensor

from seka_rag.bank import Bank
from seka_rag.errors import CalibrationError
from seka_rag.experts import as_experts
from seka_rag.forward import PLAIN, HasModel, last_logprobs
from seka_rag.labelled import MIN_EXAMPLES, Choice, Example, batches, padded, read_choices
from seka_rag.routing import Edit

GAINS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
MAX_LOSS = 0.05
MAX_DIVERGENCE = 0.1
CLEAR = 1.0  # nats by which an unrelated example is answered without a highlight, to count
_BATCH_TOKENS = 16_384

Progress = Callable[[int, int], None]  # prompts done, prompts in all


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
    related: int  # related examples
    unrelated: int  # unrelated ones that count
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
    choices = read_choices(model.tokenizer, examples)
    every = list(heads) or [bank.heads]
    total = len(choices) * (1 + len(every) * (len(gains) + 2))
    measure = _Measure(model, choices, batch_tokens, total, progress)
    plain = measure.plain()
    points: list[Point] = []

    def allowed(point: Point) -> bool:
        return point.kept >= plain.kept - max_loss and point.divergence <= max_divergence

    # All of them now: a rule that keeps no head is an error before anything is run.
    devices = {site.layer: site.device for site in model.sites}
    edits = {rule: as_experts(bank.replace(heads=rule)).edit().on(devices) for rule in every}
    for rule in every:
        curve = [measure.at(rule, edits[rule], gain) for gain in sorted(gains)]
        for _ in range(2):
            within = [point.gain for point in curve if allowed(point)]
            beyond = [point.gain for point in curve if point.gain > max(within, default=0.0)]
            if not beyond:
                break
            middle = (max(within, default=0.0) + min(beyond)) / 2
            curve.append(measure.at(rule, edits[rule], round(middle, 4)))
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
    related = sum(choice.related for choice in choices)
    return Calibration(
        plain, tuple(points), chosen, related, measure.unrelated, max_loss, max_divergence
    )


class _Measure:
    """Runs the choices under one edit after another."""

    def __init__(
        self,
        model: HasModel,
        choices: Sequence[Choice],
        batch_tokens: int,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._batches = list(batches(choices, batch_tokens))
        self._total, self._progress = total, progress
        self._done = 0
        # Of each batch, the unrelated examples that count: {index: plain log-probabilities (V,)}.
        self._counted: list[dict[int, Tensor]] = []

    @property
    def unrelated(self) -> int:
        """How many unrelated examples count, once `plain` has run."""
        return sum(map(len, self._counted))

    def plain(self) -> Point:
        """Return what the model does without highlights; find out which examples count."""
        margins = []
        for batch in self._batches:
            logprobs = self._run(batch, PLAIN, 0.0)
            margins.append(_margins(batch, logprobs))
            unrelated = [i for i, choice in enumerate(batch) if not choice.related]
            self._counted.append(dict(zip(unrelated, logprobs[unrelated], strict=True)))
        clear = [
            {i: plain for i, plain in counted.items() if found[i] >= CLEAR}
            for counted, found in zip(self._counted, margins, strict=True)
        ]
        if sum(map(len, clear)) >= MIN_EXAMPLES:
            self._counted = clear
        return self._point("", 0.0, margins, divergence=0.0)

    def at(self, heads: str, edit: Edit, gain: float) -> Point:
        """Return what a gain does with this edit."""
        margins = []
        divergences: list[float] = []
        for batch, counted in zip(self._batches, self._counted, strict=True):
            logprobs = self._run(batch, edit, gain)
            margins.append(_margins(batch, logprobs))
            divergences += [
                (plain.exp() * (plain - logprobs[i])).sum().item() for i, plain in counted.items()
            ]
        return self._point(heads, gain, margins, divergence=fmean(divergences))

    def _point(
        self, heads: str, gain: float, margins: Sequence[list[float]], *, divergence: float
    ) -> Point:
        helped: list[bool] = []
        kept: list[bool] = []
        for batch, found, counted in zip(self._batches, margins, self._counted, strict=True):
            helped += [m > 0 for m, choice in zip(found, batch, strict=True) if choice.related]
            kept += [found[i] > 0 for i in counted]
        return Point(heads, gain, fmean(helped), fmean(kept), divergence)

    def _run(self, batch: Sequence[Choice], edit: Edit, gain: float) -> Tensor:
        model = self._model.model
        prompts = padded(batch, self._model.tokenizer, device=model.device, gain=gain)
        logprobs = last_logprobs(model, self._model.sites, edit, prompts)[:, -1]
        self._done += len(batch)
        if self._progress is not None:
            self._progress(self._done, self._total)
        return logprobs


def _margins(batch: Sequence[Choice], logprobs: Tensor) -> list[float]:
    """Return by how many nats each wanted answer is likelier than its rival."""
    pairs = zip(batch, logprobs, strict=True)
    return [(row[choice.wanted] - row[choice.rival]).item() for choice, row in pairs]
