"""The worker: the one thread that runs the model for an engine.

It takes requests from the queue while they fit, computes their prompts side by side, and lets the
rows join those that are being continued. A row that ends, is cancelled or is out of time leaves
before the next token. When the model fails, the rows are computed again, one by one, from what they
have written: only a row that fails alone is told.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache

from seka_rag.decoding import Lane
from seka_rag.errors import EngineClosedError
from seka_rag.experts import Choice
from seka_rag.requests import Job
from seka_rag.reuse import Prefix, Prefixes, laid_out, prefix_of
from seka_rag.sampling import pick
from seka_rag.steering import SteeredModel

Found: TypeAlias = tuple[Prefix, int]  # a prefix, and how many tokens of it a row begins with
_ALIKE = 1.3  # how many times as long a row may be as the shortest that it is padded with


class Views:
    """One model under every routing that was asked for."""

    def __init__(self, steered: SteeredModel) -> None:
        self.steered = steered
        self._by_name: dict[str, SteeredModel] = {}

    def under(self, experts: Choice, *, open_gates: bool = False) -> SteeredModel:
        """Return the model under this choice; one that cannot be is an error of the bank's."""
        usual = self.steered.routing
        routing = replace(usual, experts=experts, abstain=usual.abstain and not open_gates)
        name = repr(routing)
        if name not in self._by_name:
            same = routing == usual
            self._by_name[name] = self.steered if same else self.steered.with_routing(routing)
        return self._by_name[name]


class Worker:
    """Runs requests until the engine is closed."""

    def __init__(
        self,
        views: "Views",
        requests: "queue.Queue[Job | None]",
        closed: threading.Event,
        *,
        max_batch_tokens: int,
        max_wait: float,
        max_prefix_tokens: int,
        lane: Callable[[], Lane],
    ) -> None:
        self._views, self._requests, self._closed = views, requests, closed
        self._max_batch_tokens, self._max_wait = max_batch_tokens, max_wait
        self._next: Job | None = None  # taken from the queue, but there was no room yet
        self._active: list[Job] = []  # in the order of the lane's rows
        self._new_lane = lane
        self._lane = lane()
        self._prefixes = Prefixes(max_prefix_tokens)

    def run(self) -> None:
        """Serve; at the end, tell those who still wait."""
        try:
            while not self._closed.is_set():
                if not self._active and self._next is None:
                    self._wait()
                self._keep([i for i, job in enumerate(self._active) if not job.end_early()])
                self._start(self._admitted())
                if self._active:
                    self._step()
        finally:
            self._closed.set()
            while (job := self._taken()) is not None:
                self._active.append(job)
            for job in self._active:
                job.tell(EngineClosedError("the engine was closed before the answer was done"))

    def _wait(self) -> None:
        """Wait for a request, and a moment longer for company."""
        self._next = self._requests.get()
        until = time.monotonic() + self._max_wait
        while self._requests.empty() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.0005))

    def _taken(self) -> Job | None:
        """Return the request that is next, None if there is none."""
        job, self._next = self._next, None
        while job is None or job.end_early():
            try:
                job = self._requests.get_nowait()
            except queue.Empty:
                return None
        return job

    def _admitted(self) -> list[Job]:
        """Return the requests that may start now, first come, first served."""
        admitted: list[Job] = []
        longest = max((job.most_tokens for job in self._active), default=0)
        while (job := self._taken()) is not None:
            longest = max(longest, job.most_tokens)
            rows = len(self._active) + len(admitted) + 1
            if rows > 1 and rows * longest > self._max_batch_tokens:
                self._next = job
                break
            admitted.append(job)
        return admitted

    def _start(self, jobs: Sequence[Job]) -> None:
        """Compute the rows so far, side by side where they are alike."""
        for job in jobs:
            job.mark("started")
        for group in _alike([(job, self._found(job)) for job in jobs]):
            try:
                self._compute(group)
            except Exception:
                self._one_by_one([job for job, _ in group])

    def _one_by_one(self, jobs: Sequence[Job]) -> None:
        """Compute rows again from what they have written, each alone: a fault is its own then."""
        for job in jobs:
            with _told_to(job):
                self._compute([(job, self._found(job))])

    def _found(self, job: Job) -> Found | None:
        """Return what the row can begin with."""
        if job.captures:
            return None
        if job.prefix is not None:
            return job.prefix, job.prefix.shared(job.row)
        return self._prefixes.find(job.whole_row, _named(job.experts))

    def _compute(self, group: Sequence[tuple[Job, Found | None]]) -> None:
        jobs = [job for job, _ in group]
        if jobs[0].captures:
            self._capture(jobs)
            return
        rows = [job.whole_row for job in jobs]
        lengths = [len(row.ids) for row in rows]
        cache, start = DynamicCache(), 0
        if known := [found for _, found in group if found is not None]:
            cache, start = laid_out(known, lengths)
        steered = self._views.under(jobs[0].experts)
        logits = steered.prefill(rows, cache, start=start)
        for i, job in enumerate(jobs):
            job.mark("prefilled")
            self._remember(steered, job, cache, i)
        lane = Lane(self._views.steered.model)
        lane.start(cache, lengths)
        going_on = self._written(jobs, logits)
        lane.keep(going_on)
        if going_on:
            self._lane.absorb(lane)
            self._active += [jobs[i] for i in going_on]

    def _capture(self, jobs: Sequence[Job]) -> None:
        """Compute contexts for sessions. There is no question yet that a gate could look at."""
        cache = DynamicCache()
        steered = self._views.under(jobs[0].experts, open_gates=True)
        steered.prefill([job.row for job in jobs], cache)
        for i, job in enumerate(jobs):
            job.tell(prefix_of(cache, i, job.row, len(job.row.ids), _named(job.experts)))

    def _remember(self, steered: SteeredModel, job: Job, cache: DynamicCache, number: int) -> None:
        """Keep what the next prompt may begin with."""
        experts, n = _named(job.experts), steered.settled(job.row)
        if job.prefix is None and self._prefixes.wants(job.row, n, experts):
            self._prefixes.add(prefix_of(cache, number, job.whole_row, n, experts))

    def _step(self) -> None:
        try:
            logits = self._lane.step([job.token_ids[-1] for job in self._active])
        except Exception:
            # What the lane holds may be half a step ahead.
            interrupted, self._active = self._active, []
            self._lane = self._new_lane()
            self._one_by_one(interrupted)
            return
        self._keep(self._written(self._active, logits))

    def _keep(self, rows: Sequence[int]) -> None:
        self._active = [self._active[i] for i in rows]
        self._lane.keep(rows)

    def _written(self, jobs: Sequence[Job], logits: Tensor) -> list[int]:
        """Draw each row's next token; return the numbers of the rows that go on."""
        masked = []
        drawing = []
        for i, job in enumerate(jobs):
            with _told_to(job):
                masked.append(job.mask(logits[i]))
                drawing.append(i)
        if not drawing:
            return []
        asking = [jobs[i] for i in drawing]
        drawn = pick(
            torch.stack(masked),
            [job.sampling for job in asking],
            [job.generator for job in asking],
        )
        going_on = []
        for i, token_id in zip(drawing, drawn, strict=True):
            with _told_to(jobs[i]):
                if jobs[i].write(token_id, logits[i]):
                    going_on.append(i)
        return going_on


@contextmanager
def _told_to(job: Job) -> Iterator[None]:
    """Let what goes wrong for one request reach its caller, and nobody else."""
    try:
        yield
    except Exception as error:
        job.tell(error)


def _alike(
    asked: Sequence[tuple[Job, Found | None]],
) -> Iterator[list[tuple[Job, Found | None]]]:
    """Yield groups of rows that are edited by the same experts and have about as much to compute.

    Padding is computed too, and rows that begin from nothing would have the others begin with them.
    """

    def kind(pair: tuple[Job, Found | None]) -> tuple[bool, str, bool]:
        job, found = pair
        return job.captures, _named(job.experts), found is None

    def left(pair: tuple[Job, Found | None]) -> int:
        job, found = pair
        return len(job.whole_row.ids) - (0 if found is None else found[1])

    group: list[tuple[Job, Found | None]] = []
    for pair in sorted(asked, key=lambda pair: (kind(pair), left(pair))):
        if group and (kind(pair) != kind(group[0]) or left(pair) > _ALIKE * left(group[0])):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _named(experts: Choice) -> str:
    return repr(experts)
