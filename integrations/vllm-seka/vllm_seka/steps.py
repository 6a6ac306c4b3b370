"""Steps of the engine: which highlighted tokens each computes, and that none of them was passed by.

A step computes some tokens of several requests, which lie one behind the other in a flat batch.
What the scheduler orders is known when a step begins, where its tokens lie a little later, from the
runner. Both are compared when the step ends: a highlighted token that was ordered and not placed is
a SteeringLostError, never a plain key. Neither models nor keys are known here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_seka.highlights import Highlights, read

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


class SteeringLostError(RuntimeError):
    """Highlighted tokens were computed plain. The message begins with "seka:"."""


@dataclass(frozen=True)
class Row:
    """The tokens of one request in a step."""

    request_id: str
    offset: int  # of the first in the flat batch
    position: int  # of the first in the request
    count: int


class Steps:
    """The highlighted requests that are under way, and the step that is."""

    def __init__(self) -> None:
        self._highlights: dict[str, Highlights] = {}
        self._ordered: dict[str, int] | None = None  # highlighted tokens by request; None between
        self._placed: dict[str, int] = {}

    def begin(self, ordered: "SchedulerOutput") -> None:
        """Take in what the scheduler orders."""
        for request_id in ordered.finished_req_ids:
            self._highlights.pop(request_id, None)
        for new in ordered.scheduled_new_reqs:
            params, tokens = new.sampling_params, new.prompt_token_ids
            found = None
            if params is not None and tokens is not None:
                found = read(params.extra_args, len(tokens))
            if found is not None:
                self._highlights[new.req_id] = found
        self._placed = {}
        self._ordered = {}
        for request_id, position in _positions(ordered):
            highlights = self._highlights.get(request_id)
            if highlights is not None:
                end = position + ordered.num_scheduled_tokens.get(request_id, 0)
                if n := highlights.count(position, end):
                    self._ordered[request_id] = n

    def place(self, rows: Iterable[Row]) -> list[tuple[Row, Highlights]]:
        """Return the rows that hold highlighted tokens, with the highlights of their requests."""
        if self._ordered is None:
            raise SteeringLostError(
                "seka: vLLM runs its model outside the steps that the plugin sees: this release "
                "cannot be steered"
            )
        found = []
        for row in rows:
            highlights = self._highlights.get(row.request_id)
            if highlights is None:
                continue
            if n := highlights.count(row.position, row.position + row.count):
                found.append((row, highlights))
                self._placed[row.request_id] = n
        return found

    def end(self) -> None:
        """Raise SteeringLostError unless every highlighted token that was ordered was placed."""
        ordered, self._ordered = self._ordered, None
        if ordered != self._placed:
            raise SteeringLostError(
                f"seka: a step ordered highlighted tokens {ordered} by request, and "
                f"{self._placed} were steered: this release of vLLM, or a way of running it, "
                "passes the plugin by"
            )

    def abandon(self) -> None:
        """Forget the step, which has failed for a reason of its own."""
        self._ordered = None


def _positions(ordered: "SchedulerOutput") -> Iterator[tuple[str, int]]:
    """Yield, for each request of the step, its id and how many of its tokens are computed."""
    for new in ordered.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens
    known = ordered.scheduled_cached_reqs
    yield from zip(known.req_ids, known.num_computed_tokens, strict=True)
