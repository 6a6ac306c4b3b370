"""Asking: the ways to get an answer, whoever takes the request in.

An engine takes it as it is, a session behind its context. Nothing here knows of queues or models.
"""

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypedDict, Unpack

from seka_rag.calls import AsyncCall, AsyncStream, Call, Stream
from seka_rag.experts import Choice
from seka_rag.prompts import Prompt
from seka_rag.requests import Completion, Constraint, Event, Job
from seka_rag.sampling import Sampling


class Options(TypedDict, total=False):
    """What a request may say beside its prompt and sampling.

    `gain` is for its highlights that have none of their own; 0 turns them off. `experts` chooses
    among the bank's, as in SteeredModel. `tool_choice`, where the chat has tools: "auto", "none",
    "any", or the name of one, which forces a call. `schema`: a JSON schema that the answer meets;
    `constraint`: any other Constraint. After `timeout` seconds the caller gets a
    RequestTimeoutError.
    """

    gain: float | None
    experts: Choice
    tool_choice: str
    schema: Mapping[str, object] | str | None
    constraint: Constraint | None
    timeout: float | None


class Asking(ABC):
    """Prompts in, answers out: in a thread or an event loop, whole or in pieces."""

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Completion:
        """Return what the model writes after the prompt."""
        return self._call(prompt, sampling, options).completion()

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Stream:
        """Return the pieces of the answer as they are written. Closing the stream ends the row."""
        return Stream(self._call(prompt, sampling, options, streams=True))

    def batch(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """Return what the model writes after each prompt; the first error ends them all."""
        each = sampling if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        calls: list[Call] = []
        try:
            for prompt, settings in zip(prompts, each, strict=True):
                calls.append(self._call(prompt, settings, options))
            return [call.completion() for call in calls]
        finally:
            for call in calls:
                call.cancel()

    async def agenerate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Completion:
        """Return what `generate` does; cancelling the task ends the row at its next token."""
        call = AsyncCall(partial(self._submitted, prompt, sampling, options))
        return await call.completion()

    def astream(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> AsyncStream:
        """Return the pieces of the answer; the event loop is never kept waiting."""
        submit = partial(self._submitted, prompt, sampling, options, streams=True)
        return AsyncStream(AsyncCall(submit))

    def _call(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        *,
        streams: bool = False,
    ) -> Call:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        return Call(self._submitted(prompt, sampling, options, events.put, streams=streams), events)

    @abstractmethod
    def _submitted(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
        *,
        streams: bool = False,
    ) -> Job:
        """Return the request, read, checked and on its way; what is wrong is raised here."""
