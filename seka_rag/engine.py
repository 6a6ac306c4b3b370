"""The engine: many callers, one model, every request with its own highlights.

This is what callers see: requests are read and checked in the caller's thread, and wait in a
bounded queue for the one thread that owns the model (`worker`). Which rows share a batch changes no
answer: what is drawn depends on the row's own seed, and padding is never looked at. (Sums of
floating-point numbers depend in their last digits on the shape of a batch, as everywhere.)
"""

import atexit
import copy
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from seka_rag.asking import Asking, Options
from seka_rag.calls import Call
from seka_rag.compiled import CompiledLane
from seka_rag.decoding import Lane
from seka_rag.errors import EngineClosedError, PromptError, QueueFullError
from seka_rag.experts import Choice
from seka_rag.grammar import Constraint
from seka_rag.offering import Offer, offer_of
from seka_rag.prompts import Prompt, as_chat, continued
from seka_rag.requests import Event, Job, Matcher
from seka_rag.reuse import Prefix
from seka_rag.sampling import Sampling
from seka_rag.steering import SteeredModel
from seka_rag.worker import Views, Worker
from seka_rag.writing import Writer


class Engine(Asking):
    """Serves a SteeredModel to any number of threads and event loops.

    `max_batch_tokens`: rows times the length of the longest, new tokens included, that are computed
    side by side; a longer request is computed alone. `max_wait_ms`: how long an idle engine waits
    for company to the first request. `max_queue`: requests that wait; beyond it a caller waits as
    well, or with `when_full="raise"` gets a QueueFullError. `max_prefix_tokens`: how many tokens of
    earlier prompts are kept for those that begin the same, with the same gains; 0 keeps none.
    `compile`: decode in compiled steps,
    which pays on a GPU; the first requests of a size wait for the compiler. Use it as a context
    manager, or call `close`; the interpreter's end closes it too.
    """

    def __init__(
        self,
        steered: SteeredModel,
        *,
        max_batch_tokens: int = 16_384,
        max_wait_ms: float = 2.0,
        max_queue: int = 1024,
        when_full: Literal["wait", "raise"] = "wait",
        max_prefix_tokens: int = 4096,
        compile: bool = False,
    ) -> None:
        self.steered = steered
        self._when_full = when_full
        self._queue: queue.Queue[Job | None] = queue.Queue(max_queue)
        self._reading = threading.Lock()  # a fast tokenizer encodes for one thread at a time
        self._decoder = copy.deepcopy(steered.tokenizer)
        self._views = Views(steered)
        self._eos_ids = _eos_ids(steered)
        self._closed = threading.Event()
        worker = Worker(
            self._views,
            self._queue,
            self._closed,
            max_batch_tokens=max_batch_tokens,
            max_wait=max_wait_ms / 1000,
            max_prefix_tokens=max_prefix_tokens,
            lane=partial(CompiledLane if compile else Lane, steered.model),
        )
        self._thread = threading.Thread(target=worker.run, name="seka-rag engine", daemon=True)
        self._thread.start()
        self._at_exit = partial(_close, weakref.WeakMethod(self.close))
        atexit.register(self._at_exit)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop: requests that are not done get an EngineClosedError."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self._at_exit)
        with suppress(queue.Full):  # then the thread is awake
            self._queue.put_nowait(None)  # wakes it where it waits
        self._thread.join()

    def prefill(
        self, context: Prompt, *, gain: float | None = None, experts: Choice | None = None
    ) -> "Session":
        """Return the context, computed with its highlights, for many questions behind it.

        Of a chat, the context is everything up to the end of the last message. A question cannot
        change any more how the context was edited: experts are routed by its own last token, with
        gates open. The session's keys and values live as long as the session.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        options: Options = {"gain": gain}
        if experts is not None:
            options["experts"] = experts
        job = self._job(context, None, options, events.put)
        job.captures = True
        self._submit(job)
        return Session(self, context, Call(job, events).prefix(), options)

    def _submitted(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
        *,
        streams: bool = False,
    ) -> Job:
        job = self._job(prompt, sampling, options, tell)
        job.streams = streams
        self._submit(job)
        return job

    def _job(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
    ) -> Job:
        """Return the request, read and checked."""
        timeout = options.get("timeout")
        deadline = None if timeout is None else time.monotonic() + timeout
        experts = options.get("experts", self.steered.routing.experts)
        sampling = sampling or Sampling()
        with self._reading:
            row = self._views.under(experts).read(prompt, gain=options.get("gain"))
        limit = sampling.max_new_tokens
        if (context := self.steered.context_length) is not None:
            limit = max(1, min(limit, context - len(row.ids)))
        choice = options.get("tool_choice", "auto")
        offer = offer_of(self.steered.tokenizer, as_chat(prompt), choice)
        return Job(
            row,
            sampling,
            experts,
            limit,
            self._eos_ids,
            Writer(self._decoder, sampling.stop, special=offer is not None),
            tell,
            offer=offer,
            matcher=self._matcher(options, offer, choice),
            deadline=deadline,
        )

    def _matcher(self, options: Options, offer: Offer | None, choice: str) -> Matcher | None:
        """Return what says which tokens may be written; None if all may."""
        tokenizer, schema = self.steered.tokenizer, options.get("schema")
        given = [
            options.get("constraint"),
            None if schema is None else Constraint.json_schema(tokenizer, schema),
            None if offer is None else offer.forced(tokenizer, choice),
        ]
        constraints = [each for each in given if each is not None]
        if len(constraints) > 1:
            raise PromptError(
                "an answer has one form: give a schema, a constraint or a forced tool"
            )
        if not constraints:
            return None
        width = self.steered.model.config.get_text_config().vocab_size
        return constraints[0].matcher(vocab_size=width, eos_token_ids=self._eos_ids or None)

    def _submit(self, job: Job) -> None:
        while not self._closed.is_set():
            try:
                # Not for ever: a caller must not sleep through the engine's end.
                self._queue.put(job, block=self._when_full == "wait", timeout=0.1)
                if self._closed.is_set():  # perhaps too late to be seen
                    break
                return
            except queue.Full:
                if job.end_early():
                    return
                if self._when_full == "raise":
                    raise QueueFullError(
                        f"{self._queue.maxsize} requests wait already: try again later, or use "
                        'when_full="wait"'
                    ) from None
        raise EngineClosedError("the engine is closed: open another")


class Session(Asking):
    """A context that is computed already, and questions behind it.

    A prompt is what follows the context: segments, which go on from its text, or from that of its
    last message. The gain and the experts are those of the context.
    """

    def __init__(self, engine: Engine, context: Prompt, prefix: Prefix, options: Options) -> None:
        self._engine, self._context, self._prefix = engine, context, prefix
        self._options = options

    @property
    def tokens(self) -> int:
        """How many tokens the context has."""
        return len(self._prefix.tokens)

    def _submitted(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
        *,
        streams: bool = False,
    ) -> Job:
        whole = continued(self._context, prompt)
        job = self._engine._job(whole, sampling, {**options, **self._options}, tell)
        job.streams, job.prefix = streams, self._prefix
        self._engine._submit(job)
        return job


def _close(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (close := method()) is not None:
        close()


def _eos_ids(steered: SteeredModel) -> frozenset[int]:
    config = steered.model.generation_config
    found = None if config is None else config.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return frozenset(token_id for token_id in ids if isinstance(token_id, int))
