"""Learning a bank: keys of answers under three prompts, summed up as they pass.

    n  answer tokens of a batch      H  KV heads      D  head_dim

No gradients and no stored keys: memory does not grow with the number of triplets.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seka_rag.architecture import KeySite, key_sites
from seka_rag.bank import Bank, LayerSubspaces, fingerprint
from seka_rag.contrast import Triplet, digest_of
from seka_rag.errors import TripletError
from seka_rag.hooks import recording
from seka_rag.subspace import CrossCovariance, KeyShift, decompose
from seka_rag.tokens import tokenize

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # triplets done, triplets in all


class HasModel(Protocol):
    """What is asked of a SteeredModel."""

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def sites(self) -> Sequence[KeySite]: ...


@dataclass(frozen=True)
class _Reading:
    """One text of a triplet as the model reads it."""

    ids: list[int]
    positions: list[int]  # of the answer's tokens

    @property
    def answer(self) -> list[int]:
        return [self.ids[position] for position in self.positions]


class _Sums:
    """What is kept of one layer."""

    def __init__(self, site: KeySite) -> None:
        self.positive = CrossCovariance(site.n_kv_heads, site.head_dim)
        self.negative = CrossCovariance(site.n_kv_heads, site.head_dim)
        self.shift = KeyShift(site.n_kv_heads)

    def add(self, neutral: Tensor, relevant: Tensor, irrelevant: Tensor) -> None:
        self.positive.add(neutral, relevant)
        self.negative.add(neutral, irrelevant)
        self.shift.add(relevant, irrelevant)

    def subspaces(self) -> LayerSubspaces:
        basis, spectrum = decompose(self.positive.matrix(), self.positive.mean())
        negative_basis, negative_spectrum = decompose(self.negative.matrix(), self.negative.mean())
        return LayerSubspaces(
            basis.float(),
            spectrum.float(),
            negative_basis.float(),
            negative_spectrum.float(),
            self.shift.mean().float(),
        )


def learn(
    model: HasModel | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    triplets: Sequence[Triplet],
    *,
    energy: float | None = 0.9,
    rank: int | None = None,
    heads: str = "quantile:0.5",
    gain: float = 1.0,
    batch_size: int = 16,
    min_triplets: int = 8,
    progress: Progress | None = None,
) -> Bank:
    """Return the bank that the triplets teach for this model: every layer and KV head.

    `energy`, `rank`, `heads` and `gain` are settings of the bank and may be changed afterwards.
    A triplet whose answer is not made of the same tokens in its three texts, or which is too long
    for the model, is skipped and counted in `n_skipped`; fewer than `min_triplets` usable ones are
    a TripletError.
    """
    network, tokenizer = model if isinstance(model, tuple) else (model.model, model.tokenizer)
    sites = key_sites(network) if isinstance(model, tuple) else tuple(model.sites)
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    usable = [
        readings
        for triplet in triplets
        if (readings := _read(tokenizer, triplet, longest=longest)) is not None
    ]
    skipped = len(triplets) - len(usable)
    if len(usable) < min_triplets:
        raise TripletError(
            f"{len(usable)} of {len(triplets)} triplets can be used and {min_triplets} are needed: "
            "give more, with the answer apart from other words so that its tokens are the same "
            "under every question"
        )
    if skipped:
        _log.warning("%d of %d triplets were skipped: answer tokens differ", skipped, len(triplets))
    sums = {site.layer: _Sums(site) for site in sites}
    done = 0
    for batch in _batches(usable, batch_size):
        keys = _answer_keys(network, sites, batch)
        for layer, parts in keys.items():
            sums[layer].add(*parts)
        done += len(batch)
        if progress is not None:
            progress(done, len(usable))
    return Bank(
        layers={layer: found.subspaces() for layer, found in sums.items()},
        fingerprint=fingerprint(network, sites),
        energy=energy,
        rank=rank,
        heads=heads,
        gain=gain,
        n_triplets=len(usable),
        n_skipped=skipped,
        n_tokens=next(iter(sums.values())).positive.count,
        triplets_digest=digest_of(triplets),
    )


def _read(
    tokenizer: PreTrainedTokenizerBase, triplet: Triplet, *, longest: int | None
) -> tuple[_Reading, ...] | None:
    """Return the three readings, or None if the answer's tokens differ between them."""
    readings = []
    for text, (start, end) in triplet.parts():
        encoded = tokenize(tokenizer, text, add_special_tokens=True)
        positions = [
            position
            for position, (first, last) in enumerate(encoded.offsets)
            if first < end and last > start and last > first
        ]
        readings.append(_Reading(encoded.ids, positions))
    first = readings[0].answer
    same = bool(first) and all(reading.answer == first for reading in readings)
    fits = longest is None or all(len(reading.ids) <= longest for reading in readings)
    return tuple(readings) if same and fits else None


def _batches(
    usable: Sequence[tuple[_Reading, ...]], batch_size: int
) -> Iterator[list[tuple[_Reading, ...]]]:
    """Yield batches of triplets of like length."""
    ordered = sorted(usable, key=lambda readings: max(len(reading.ids) for reading in readings))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


@torch.no_grad()
def _answer_keys(
    network: PreTrainedModel, sites: Sequence[KeySite], batch: Sequence[tuple[_Reading, ...]]
) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """Return {layer: keys (n, H, D) of the answers in the neutral, relevant, irrelevant texts}."""
    rows = [reading for readings in batch for reading in readings]
    width = max(len(row.ids) for row in rows)
    # Padding on the right: positions count from 0 in every row, and attention is causal, so
    # nothing sees the padding, whatever its token.
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    device = network.device
    # The bare decoder: logits over the vocabulary are not wanted.
    with recording(sites) as recorded:
        network.base_model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        )
    # Every third row is of the same form.
    answers = [
        [(i, position) for i in range(form, len(rows), 3) for position in rows[i].positions]
        for form in range(3)
    ]
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for layer, keys in recorded.items():
        neutral, relevant, irrelevant = (
            keys[[i for i, _ in places], [position for _, position in places]] for places in answers
        )
        found[layer] = (neutral, relevant, irrelevant)
    return found
