"""Requests: what is asked of the engine, what comes back, and the state of one in between.

Plain data and one row's bookkeeping: nothing here knows of threads, batches or the model.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from seka_rag.errors import RequestTimeoutError
from seka_rag.experts import Choice
from seka_rag.inputs import Row
from seka_rag.offering import Offer
from seka_rag.reuse import Prefix
from seka_rag.sampling import Sampling, TokenLogprob, logprobs_of
from seka_rag.toolcalls import ToolCall
from seka_rag.writing import StopFinder, Writer

TIME_IS_UP = "the request's time is up and its answer is not done: allow more, or ask for less"

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Usage:
    """What a request took: tokens, and seconds."""

    prompt_tokens: int
    highlighted_tokens: int
    completion_tokens: int
    waited: float  # from the call until its prompt was computed
    prefill: float
    decode: float


@dataclass(frozen=True)
class Completion:
    """What the model wrote: `text` without a stop text and tool calls, `token_ids` with all.

    `finish_reason`: "stop" at the end of the turn or at a stop text, "length" at `max_new_tokens`
    or where the model's context ends, "cancelled" where the caller had enough.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: new text, and the tokens that came since the last piece."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


class Matcher(Protocol):
    """What is asked of a constraint's state in one request."""

    @property
    def finished(self) -> bool: ...
    def allowed(self) -> Tensor: ...
    def accept(self, token_id: int) -> None: ...


class Constraint(Protocol):
    """What is asked of what says what may be written: a fresh state for every request."""

    def matcher(self, *, vocab_size: int, eos_token_ids: Collection[int] | None) -> Matcher: ...


Event: TypeAlias = Chunk | Completion | Prefix | BaseException


@dataclass(eq=False)
class Job:
    """One request on its way through the engine. Its thread alone changes it, but `cancelled`."""

    row: Row
    sampling: Sampling
    experts: Choice
    limit: int  # new tokens
    eos_ids: frozenset[int]
    writer: Writer
    tell: Callable[[Event], None]
    streams: bool = False
    offer: Offer | None = None
    matcher: Matcher | None = None
    prefix: Prefix | None = None  # of the session
    captures: bool = False  # the prompt is the context of a session, and nothing is written
    deadline: float | None = None
    cancelled: bool = False
    token_ids: list[int] = field(default_factory=list)
    _text: str = ""
    _visible: str = ""
    _shown: int = 0  # characters
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _told: int = 0  # tokens
    _times: dict[str, float] = field(default_factory=lambda: {"asked": time.monotonic()})

    def __post_init__(self) -> None:
        self.generator = self.sampling.generator()
        self._before_calls = StopFinder(self.offer.signals if self.offer else ())

    @property
    def whole_row(self) -> Row:
        """The prompt with all that was written after it."""
        return self.row.followed_by(self.token_ids) if self.token_ids else self.row

    @property
    def most_tokens(self) -> int:
        """How long the row may become."""
        return len(self.row.ids) + self.limit

    def mark(self, moment: Literal["started", "prefilled"]) -> None:
        """Note the time, the first time that this comes to pass."""
        self._times.setdefault(moment, time.monotonic())

    def time_left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def end_early(self) -> bool:
        """Tell the caller and return True, if nobody waits for more or the time is up."""
        if self.cancelled:
            self._finish("cancelled")
        elif self.time_left() == 0:
            self.tell(RequestTimeoutError(TIME_IS_UP))
        else:
            return False
        return True

    def mask(self, logits: Tensor) -> Tensor:
        """Return one row of logits (V,) in which what the constraint forbids cannot be drawn."""
        if self.matcher is None:
            return logits
        return logits.masked_fill(~self.matcher.allowed().to(logits.device), -torch.inf)

    def write(self, token_id: int, logits: Tensor) -> bool:
        """Take in the token drawn from logits (V,); return whether the row goes on."""
        self.token_ids.append(token_id)
        if self.sampling.logprobs is not None:
            self._logprobs.append(logprobs_of(logits, token_id, self.sampling.logprobs))
        ended = token_id in self.eos_ids
        if not ended:
            self._take(self.writer.push(token_id))
            if self.matcher is not None:
                self.matcher.accept(token_id)
                ended = self.matcher.finished
        if ended or self.writer.stopped:
            self._finish("stop")
        elif len(self.token_ids) >= self.limit:
            self._finish("length")
        else:
            self._stream()
            return True
        return False

    def _take(self, text: str) -> None:
        """Keep new text; what may be shown of it is what cannot belong to a call of a tool."""
        self._text += text
        self._visible += self._before_calls.push(text)

    def _stream(self) -> None:
        if self.streams and self._shown < len(self._visible):
            self.tell(self._chunk(self._visible[self._shown :]))

    def _chunk(self, text: str) -> Chunk:
        self._shown += len(text)
        new, self._told = slice(self._told, None), len(self.token_ids)
        return Chunk(text, tuple(self.token_ids[new]), tuple(self._logprobs[new]))

    def _finish(self, reason: FinishReason) -> None:
        if not self.writer.stopped:
            self._take(self.writer.finish())
        text, calls = (self._text, []) if self.offer is None else self.offer.parse(self._text)
        if self.streams:
            shown = self._visible[: self._shown]
            # Blanks before a call go with it.
            self.tell(self._chunk(text.removeprefix(shown.strip() if calls else shown)))
        self.tell(
            Completion(
                text,
                tuple(self.token_ids),
                reason,
                self._usage(),
                tuple(self._logprobs),
                tuple(calls),
            )
        )

    def _usage(self) -> Usage:
        now = time.monotonic()
        started = self._times.get("started", now)
        prefilled = self._times.get("prefilled", now)
        return Usage(
            len(self.row.ids),
            sum(gain != 0 for gain in self.row.gains),
            len(self.token_ids),
            started - self._times["asked"],
            prefilled - started,
            now - prefilled,
        )
