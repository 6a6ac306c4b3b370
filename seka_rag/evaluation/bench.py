"""What a method costs: reading a prompt, writing a token, memory; beside the plain model.

Every round runs all methods one after another, so that they share the machine's moods, and the
ratios are of times in one round. The prompt is made of arbitrary tokens, in which three spans are
highlighted: what costs depends on how many there are, not on what they say. With nothing
highlighted hooks are armed and do nothing, and a figure of that kind says nothing about a method.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from seka_rag.architecture import key_sites
from seka_rag.bank import Bank, fingerprint
from seka_rag.errors import DataError
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.methods import Prepared
from seka_rag.experts import Experts
from seka_rag.heads import LayerSubspaces
from seka_rag.highlight import Span
from seka_rag.inputs import Row
from seka_rag.prompts import Rendered
from seka_rag.steering import SteeredModel

SHAPES = ("qwen3-0.6b", "qwen3-8b")
_SIZES = {  # layers, width, of the MLP, query heads, tied, as their configs on the hub have it
    "qwen3-0.6b": (28, 1024, 3072, 16, True),
    "qwen3-8b": (36, 4096, 12_288, 32, False),
}
_SPANS = 3
_FIRST_ID = 100


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Cost:
    """What one method costs at one size."""

    method: str
    tokens: int  # of a prompt
    rows: int
    highlighted: int  # tokens of a prompt
    prefill_ms: Spread
    prefill_ratio: Spread  # to the plain model, round by round
    decode_ms: Spread  # a token
    decode_ratio: Spread
    peak_gb: float | None  # beyond the plain model's peak, while reading; None on a CPU

    def to_dict(self) -> dict[str, object]:
        """Return the cost as JSON's own types."""
        return asdict(self)


def shaped(
    name: str, device: torch.device, dtype: torch.dtype, *, attention: str = "sdpa"
) -> PreTrainedModel:
    """Return a model of the shapes of a well-known one, with random weights."""
    if name not in _SIZES:
        raise DataError(f"there are no shapes {name}: choose from {', '.join(SHAPES)}")
    layers, width, inner, heads, tied = _SIZES[name]
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention
        )
    model.train(False)
    return model


def random_experts(model: PreTrainedModel, names: Sequence[str], *, rank: int = 5) -> Experts:
    """Return experts of random directions, `rank` of them on half of each layer's KV heads."""
    banks = {name: _random_bank(model, rank=rank, seed=i) for i, name in enumerate(names)}
    return Experts(banks)


def _random_bank(model: PreTrainedModel, *, rank: int, seed: int) -> Bank:
    sites = key_sites(model)
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for site in sites:
        heads, size = site.n_kv_heads, site.head_dim
        basis = torch.linalg.qr(torch.randn(heads, size, size, generator=generator)).Q
        spectrum = torch.rand(heads, size, generator=generator).sort(descending=True).values
        shift = (torch.arange(heads) < (heads + 1) // 2).float()
        layers[site.layer] = LayerSubspaces(basis, spectrum, basis.clone(), spectrum.clone(), shift)
    named = fingerprint(model, sites)
    return Bank(layers, named, heads="threshold:0.5", energy=None, rank=rank, gain=0.3)


def measure(
    model: SteeredModel,
    methods: Sequence[str],
    *,
    tokens: int,
    highlighted: int,
    rows: int = 1,
    new: int = 64,
    rounds: int = 9,
    progress: Callable[[int, int], None] | None = None,
) -> list[Cost]:
    """Return the cost of every method, that of the plain model ("none") first.

    Prompts of so many `tokens`, of which `highlighted` are so, in a batch of `rows`; `new` tokens
    are written after each. One round before the others is not counted.
    """
    if not 0 <= highlighted <= tokens - _SPANS - 1 or min(rows, rounds) < 1 or new < 0:
        raise DataError(
            f"{highlighted} of {tokens} tokens highlighted, {rows} rows, {rounds} rounds: the "
            "highlights need a few tokens around them, and the others are at least 1"
        )
    names = ["none", *(name for name in methods if name != "none")]
    prepared = {name: parse(name).prepare(model, seed=0) for name in names}
    prompts = {name: [_row(tokens, highlighted if name != "none" else 0)] * rows for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    peaks = {}
    for done in range(rounds + 1):
        for name in names:
            _reset_peak(model)
            times = _timed(model, prepared[name], prompts[name], new=new)
            if done:
                taken[name].append(times)
            peaks[name] = _peak(model)
        if progress is not None:
            progress(done, rounds)
    return [
        _cost(name, taken, peaks, tokens=tokens, rows=rows, highlighted=highlighted)
        for name in names
    ]


def _row(tokens: int, highlighted: int) -> Row:
    """Return a prompt of arbitrary tokens, its highlighted spans spread evenly."""
    owners = [-1] * tokens
    part, gap = highlighted // _SPANS, (tokens - highlighted) // (_SPANS + 1)
    for span in range(_SPANS if highlighted else 0):
        start = gap + span * (part + gap)
        end = start + part + (highlighted % _SPANS if span == _SPANS - 1 else 0)
        owners[start:end] = [span] * (end - start)
    gains = [float(owner >= 0) for owner in owners]
    spans = tuple(Span(i, i + 1) for i in range(_SPANS if highlighted else 0))
    ids = [_FIRST_ID + i % 1000 for i in range(tokens)]
    return Row(Rendered("", spans, (), is_chat=False), ids, gains, owners, tokens)


@torch.no_grad()
def _timed(
    model: SteeredModel, prepared: Prepared, rows: Sequence[Row], *, new: int
) -> tuple[float, float]:
    """Return seconds for reading, and for each token that is written."""
    reading = prepared.reading(rows)
    start = _now(model)
    logits = reading.read()
    read = _now(model)
    for _ in range(new):
        logits = reading.step(logits.argmax(-1).tolist())
    return read - start, (_now(model) - read) / max(1, new)


def _now(model: SteeredModel) -> float:
    if model.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(model: SteeredModel) -> None:
    if model.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(model: SteeredModel) -> int | None:
    return torch.cuda.max_memory_allocated() if model.model.device.type == "cuda" else None


def _cost(
    name: str,
    taken: dict[str, list[tuple[float, float]]],
    peaks: dict[str, int | None],
    *,
    tokens: int,
    rows: int,
    highlighted: int,
) -> Cost:
    read, written = zip(*taken[name], strict=True)
    plain_read, plain_written = zip(*taken["none"], strict=True)
    peak, plain = peaks[name], peaks["none"]
    return Cost(
        method=name,
        tokens=tokens,
        rows=rows,
        highlighted=highlighted if name != "none" else 0,
        prefill_ms=Spread.of([1000 * each for each in read]),
        prefill_ratio=Spread.of([a / b for a, b in zip(read, plain_read, strict=True)]),
        decode_ms=Spread.of([1000 * each for each in written]),
        decode_ratio=Spread.of(
            [a / b if b else 1.0 for a, b in zip(written, plain_written, strict=True)]
        ),
        peak_gb=None if peak is None or plain is None else (peak - plain) / 1e9,
    )
