"""What a task is: its examples, the prompts of one with their highlights, and the score of answers.

A task knows of no model and no method. It reads its data when it is asked for examples, and what an
example looks like is its own affair; all that the others know of one is its `id`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from seka_rag.prompts import Prompt


@dataclass(frozen=True)
class Ask:
    """One prompt, and what is wanted behind it: how likely some texts are, or an answer.

    With `choices`, the log probability of the first token of each, or of each `whole`. Without, up
    to `max_new_tokens` tokens, the likeliest at every step.
    """

    prompt: Prompt  # with the highlights that methods use
    choices: tuple[str, ...] = ()
    whole: bool = False
    max_new_tokens: int = 64
    last: Prompt | None = None  # the same with the highlighted passage behind the others


@dataclass(frozen=True)
class Answer:
    """What a model made of an Ask."""

    text: str = ""
    logprobs: tuple[float, ...] = ()  # of the choices, in nats
    first: bool = False  # the first choice begins with the likeliest token of all

    @property
    def preferred(self) -> bool:
        """Whether the first choice is likelier than every other."""
        return all(self.logprobs[0] > other for other in self.logprobs[1:])


class Identified(Protocol):
    """An example, as far as others than its task know it."""

    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=Identified)


class Task(Protocol[E]):
    """A task. Names of figures that end in a number are drawn as a curve over it."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, object]:
        """What the examples depend on, beside the tokenizer."""

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[E], dict[str, int]]:
        """Return the examples, and how many rows were read and left out, by reason.

        Absent or faulty data are a DataError that says where to get them and how they look.
        """

    def prompts(self, example: E) -> Sequence[Ask]:
        """Return what is asked about one example."""

    def score(self, example: E, answers: Sequence[Answer]) -> Mapping[str, float]:
        """Return figures in [0, 1] for one example; those that do not apply are left out."""
