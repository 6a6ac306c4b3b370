"""Learning a bank: keys of answers under three prompts, summed up as they pass.

    n  answer tokens of a batch      H  KV heads      D  head_dim      R  triplets of a batch

A triplet is read as four rows: the context with the relevant question behind it and with the
irrelevant one behind it, whose attention is compared, and the two with the question in front, whose
answers' keys are. The neutral keys come from the first row: what stands behind a token does not
change its key. No gradients and no stored keys: memory does not grow with the number of triplets,
but for two numbers a triplet and head, from which the discrimination is told.
"""

import logging
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seka_rag.architecture import KeySite, key_sites
from seka_rag.bank import Bank, Method, fingerprint
from seka_rag.contrast import Extent, Triplet, digest_of
from seka_rag.discrimination import auc, last_scores, span_attention, turns, visible
from seka_rag.errors import TripletError, UnsteerableError
from seka_rag.forward import HasModel
from seka_rag.heads import LayerSubspaces, default_heads
from seka_rag.hooks import observing
from seka_rag.router import Observed
from seka_rag.subspace import CrossCovariance, KeyShift, decompose
from seka_rag.tokens import tokenize

_log = logging.getLogger(__name__)

MIN_TRIPLETS = 20
BATCH_TOKENS = 16_384

Progress = Callable[[int, int], None]  # triplets done, triplets in all


@dataclass(frozen=True)
class _Row:
    """One text of a triplet as the model reads it: compact, since there may be many."""

    ids: "array[int]"
    first: int  # the answer's tokens are [first, end)
    end: int

    @property
    def answer(self) -> "array[int]":
        return self.ids[self.first : self.end]


@dataclass(frozen=True)
class _Rows:
    """A triplet's rows. `unasked` has the irrelevant question behind the context."""

    neutral: _Row  # with the relevant question behind it, where the triplet has one
    relevant: _Row
    irrelevant: _Row
    unasked: _Row | None

    @property
    def all(self) -> tuple[_Row, ...]:
        forms = (self.neutral, self.relevant, self.irrelevant)
        return forms if self.unasked is None else (*forms, self.unasked)

    @property
    def width(self) -> int:
        return max(len(row.ids) for row in self.all)


class _Places:
    """Where in a padded batch the answers and the last tokens stand; one for all layers."""

    def __init__(self, batch: Sequence[_Rows], device: torch.device) -> None:
        rows = [row for triplet in batch for row in triplet.all]
        starts = list(accumulate((len(triplet.all) for triplet in batch), initial=0))[:-1]
        self.width = max(len(row.ids) for row in rows)
        # Padding on the right: positions count from 0 in every row, and attention is causal, so
        # nothing sees the padding, whatever its token.
        self.ids = torch.tensor(
            [[*row.ids, *([0] * (self.width - len(row.ids)))] for row in rows], device=device
        )
        lengths = torch.tensor([len(row.ids) for row in rows], device=device)
        self.mask = (torch.arange(self.width, device=device) < lengths.unsqueeze(1)).long()
        self.answers = [
            self._tokens([(start + form, rows[start + form]) for start in starts], device)
            for form in range(3)
        ]
        asked = [start for start, rows_ in zip(starts, batch, strict=True) if rows_.unasked]
        # The relevant questions, then the irrelevant ones.
        behind = torch.tensor(asked + [start + 3 for start in asked], dtype=torch.long)
        self.behind = behind.to(device)
        self.last = (lengths[self.behind] - 1) if asked else lengths[:0]
        self.span = torch.zeros(len(behind), self.width, dtype=torch.bool, device=device)
        for place, row in enumerate(rows[i] for i in behind.tolist()):
            self.span[place, row.first : row.end] = True

    @staticmethod
    def _tokens(placed: Sequence[tuple[int, _Row]], device: torch.device) -> tuple[Tensor, Tensor]:
        pairs = [(i, position) for i, row in placed for position in range(row.first, row.end)]
        at, columns = zip(*pairs, strict=True)
        return torch.tensor(at, device=device), torch.tensor(columns, device=device)


class _Sums:
    """What is kept of one layer."""

    def __init__(self, site: KeySite) -> None:
        self.site = site
        self.positive = CrossCovariance(site.n_kv_heads, site.head_dim)
        self.negative = CrossCovariance(site.n_kv_heads, site.head_dim)
        self.shift = KeyShift(site.n_kv_heads)
        self._asked: list[Tensor] = []  # shares of attention (R, H)
        self._unasked: list[Tensor] = []

    def add(self, observed: Observed, places: _Places) -> None:
        """Take in what the layer made of a batch."""
        h, relevant, irrelevant = (
            observed.keys[rows.to(observed.keys.device), columns.to(observed.keys.device)]
            for rows, columns in places.answers
        )
        self.positive.add(h, relevant)
        self.negative.add(h, irrelevant)
        self.shift.add(relevant, irrelevant)
        queries, rotation = observed.queries, observed.rotation
        if queries is not None and rotation is not None and len(places.behind):
            self._add_shares(queries, observed.keys, rotation, places)

    def _add_shares(
        self, queries: Tensor, keys: Tensor, rotation: tuple[Tensor, Tensor], places: _Places
    ) -> None:
        behind, last, span = (
            part.to(keys.device) for part in (places.behind, places.last, places.span)
        )
        rows, heads = len(behind), keys.shape[2]
        cos, sin = (part[behind] if len(part) > 1 else part for part in rotation)
        scores = last_scores(
            queries[behind, last],
            keys[behind],
            turned=turns((cos.to(keys.device), sin.to(keys.device)), last),
            seen=visible(keys.shape[1], torch.zeros_like(last), last, window=self.site.window),
            scaling=self.site.scaling,
        )
        shares = span_attention(scores, span.unsqueeze(1).float())
        # A KV head's share is the mean over its query heads.
        asked, unasked = shares.view(rows, heads, -1).mean(-1).cpu().chunk(2)
        self._asked.append(asked)
        self._unasked.append(unasked)

    def check(self) -> None:
        """Raise unless every number so far is finite."""
        if not (self.positive.matrix().isfinite().all() and self.shift.mean().isfinite().all()):
            raise UnsteerableError(
                f"layer {self.site.layer} makes keys that are not numbers: in float16 they "
                "overflow; load the model in bfloat16 or float32"
            )

    def subspaces(self, method: Method) -> LayerSubspaces:
        """Return what the sums say. Differential: the directions of Ω⁺ − Ω⁻, as PRISM-Δ."""
        self.check()
        omega, mean = self.positive.matrix(), self.positive.mean()
        if method == "differential":
            omega, mean = omega - self.negative.matrix(), mean - self.negative.mean()
        basis, spectrum = decompose(omega, mean)
        negative_basis, negative_spectrum = decompose(self.negative.matrix(), self.negative.mean())
        told_apart = auc(torch.cat(self._asked), torch.cat(self._unasked)) if self._asked else None
        return LayerSubspaces(
            basis.float().cpu(),
            spectrum.float().cpu(),
            negative_basis.float().cpu(),
            negative_spectrum.float().cpu(),
            self.shift.mean().float().cpu(),
            None if told_apart is None else told_apart.float(),
        )


def learn(
    model: HasModel | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    triplets: Sequence[Triplet],
    *,
    method: Method = "seka",
    energy: float | None = 0.9,
    rank: int | None = None,
    heads: str | None = None,
    gain: float = 1.0,
    layers: Collection[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    min_triplets: int = MIN_TRIPLETS,
    progress: Progress | None = None,
) -> Bank:
    """Return the bank that the triplets teach for this model: every KV head of `layers`, or of all.

    `method` is "seka", "differential" (the directions of Ω⁺ − Ω⁻) or "scaling" (the identity on the
    selected heads). `energy`, `rank`, `heads` and `gain` are settings of the bank and may be
    changed afterwards; without `heads` they are the quarter that discriminates best, or the upper
    half by key shift where the attention could not be read.
    Layers above the last one wanted are not run.

    A triplet whose answer is not made of the same tokens in all its texts, or which is too long for
    the model, is skipped and counted in `n_skipped`; fewer than `min_triplets` usable ones are a
    TripletError, and keys that are not finite an UnsteerableError that names the layer.
    """
    network, tokenizer = model if isinstance(model, tuple) else (model.model, model.tokenizer)
    every = key_sites(network) if isinstance(model, tuple) else tuple(model.sites)
    sites = _wanted(every, layers)
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    usable = [
        rows
        for triplet in triplets
        if (rows := _read(tokenizer, triplet, longest=longest)) is not None
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
    until = sites[-1].layer if sites[-1] is not every[-1] else None
    done = 0
    for batch in _batches(usable, batch_tokens):
        _observe(network, sites, batch, sums, until=until)
        if done == 0:
            for layer in sums.values():
                layer.check()  # before all the rest is run in vain
        done += len(batch)
        if progress is not None:
            progress(done, len(usable))
    learned = {layer: found.subspaces(method) for layer, found in sums.items()}
    return Bank(
        layers=learned,
        fingerprint=fingerprint(network, every),
        method=method,
        energy=energy,
        rank=rank,
        heads=heads or default_heads(learned),
        gain=gain,
        n_triplets=len(usable),
        n_skipped=skipped,
        n_tokens=next(iter(sums.values())).positive.count,
        triplets_digest=digest_of(triplets),
    )


def _wanted(sites: Sequence[KeySite], layers: Collection[int] | None) -> tuple[KeySite, ...]:
    if layers is None:
        return tuple(sites)
    known = {site.layer for site in sites}
    if not layers or not set(layers) <= known:
        raise TripletError(
            f"layers {sorted(set(layers) - known)} are not in the model, which has {min(known)} to "
            f"{max(known)}: name some of these"
        )
    return tuple(site for site in sites if site.layer in layers)


def _read(
    tokenizer: PreTrainedTokenizerBase, triplet: Triplet, *, longest: int | None
) -> _Rows | None:
    """Return the rows of a triplet, or None if the answer's tokens differ between them."""
    (neutral, place), relevant, irrelevant = triplet.parts()
    asked = triplet.asked or (neutral,)
    texts = ((asked[0], place), relevant, irrelevant, *((text, place) for text in asked[1:]))
    rows = [_row(tokenizer, text, extent) for text, extent in texts]
    first = rows[0].answer
    same = bool(first) and all(row.answer == first for row in rows)
    fits = longest is None or all(len(row.ids) <= longest for row in rows)
    if not (same and fits):
        return None
    return _Rows(rows[0], rows[1], rows[2], rows[3] if len(rows) > 3 else None)


def _row(tokenizer: PreTrainedTokenizerBase, text: str, extent: Extent) -> _Row:
    start, end = extent
    encoded = tokenize(tokenizer, text, add_special_tokens=True)
    inside = [
        position
        for position, (first, last) in enumerate(encoded.offsets)
        if first < end and last > start and last > first
    ]
    if not inside:
        return _Row(array("i", encoded.ids), 0, 0)
    return _Row(array("i", encoded.ids), inside[0], inside[-1] + 1)


def _batches(usable: Sequence[_Rows], batch_tokens: int) -> Iterator[list[_Rows]]:
    """Yield batches of triplets of like length, of about `batch_tokens` with their padding."""
    batch: list[_Rows] = []
    size = 0
    for rows in sorted(usable, key=lambda rows: rows.width):
        size += len(rows.all)
        if batch and size * rows.width > batch_tokens:
            yield batch
            batch, size = [], len(rows.all)
        batch.append(rows)
    yield batch


@torch.no_grad()
def _observe(
    network: PreTrainedModel,
    sites: Sequence[KeySite],
    batch: Sequence[_Rows],
    sums: dict[int, _Sums],
    *,
    until: int | None,
) -> None:
    """Run one batch, and add what every layer makes of it to its sums."""
    places = _Places(batch, network.device)

    def add(site: KeySite, observed: Observed) -> None:
        sums[site.layer].add(observed, places)

    # The bare decoder: logits over the vocabulary are not wanted.
    with observing(sites, add, until=until):
        network.base_model(input_ids=places.ids, attention_mask=places.mask, use_cache=False)
