"""What every task compares: no highlight, marks in the text, SEKA and two simpler edits of keys.

`none` the prompt as it is · `marks` ** around the highlighted text · `seka` the model's bank ·
`scaling` the identity in place of P on the same KV heads · `random` a random projection of the same
ranks on the same KV heads · `unweighed`, where it is asked for, the bank without the weights of its
directions: the paper's P, on the heads that `learn` chooses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from seka_rag.bank import Bank
from seka_rag.errors import BankError, DataError
from seka_rag.experts import Experts, as_experts
from seka_rag.heads import default_heads
from seka_rag.prompts import Prompt, render
from seka_rag.steering import SteeredModel
from seka_rag.tokens import tokenize

METHODS = ("none", "marks", "seka", "scaling", "random")
_ALL = (*METHODS, "unweighed")
GAINS = (0.3, 0.45, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0)
MARK = "**"

Progress = Callable[[int, int], None]  # prompts done, prompts in all


@dataclass(frozen=True)
class Setting:
    """One line of a table: a method, at a gain if it has one."""

    method: str
    gain: float  # 0 for none and marks

    @property
    def marked(self) -> bool:
        return self.method == "marks"


@dataclass(frozen=True)
class Choice:
    """Two tokens that may follow a prompt."""

    prompt: Prompt
    wanted: int  # token id
    rival: int


@dataclass(frozen=True)
class Verdict:
    """What a model makes of a choice."""

    preferred: bool  # P(wanted) > P(rival)
    first: bool  # the wanted token is the likeliest of all


def settings(methods: Sequence[str], gains: Sequence[float]) -> list[Setting]:
    """Return the settings to run: none and marks once, the others at every gain."""
    if unknown := [method for method in methods if method not in _ALL]:
        raise DataError(f"there is no method {', '.join(unknown)}: choose from {', '.join(_ALL)}")
    return [
        Setting(method, gain)
        for method in methods
        for gain in ((0.0,) if method in ("none", "marks") else gains)
    ]


def steered(model: SteeredModel, method: str, *, seed: int) -> SteeredModel:
    """Return the model under the bank that `method` uses."""
    if method in ("none", "marks"):
        return model
    if model.bank is None:
        raise BankError(f"{method} needs a bank: give one, or compare none and marks alone")
    banks = as_experts(model.bank).banks
    return model.with_bank(
        Experts({name: _as_method(bank, method, seed=seed) for name, bank in banks.items()})
    )


def _as_method(bank: Bank, method: str, *, seed: int) -> Bank:
    if method == "seka":
        # The bank's own directions, which may be those of what relevance adds.
        return bank if bank.method in ("seka", "differential") else bank.replace(method="seka")
    if method == "unweighed":
        return bank.replace(heads=default_heads(bank.layers))
    if method == "scaling":
        return bank.replace(method="scaling")
    return bank.replace(method="random", seed=seed)


def first_token(model: SteeredModel, text: str, *, before: str) -> int:
    """Return the id of the first token of `text` where it follows `before`."""
    encoded = tokenize(model.tokenizer, before + text, add_special_tokens=False)
    for token_id, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if end > max(start, len(before)):
            return token_id
    raise DataError(f"{text!r} has no token of its own after {before!r}")


def first_tokens(model: SteeredModel) -> Callable[[str], int]:
    """Return what gives the first token of a value where the answer to a chat begins."""
    opening = render(model.tokenizer, [{"role": "user", "content": "?"}]).text
    return cache(lambda value: first_token(model, value, before=opening))


def counter(progress: Progress | None, *, total: int) -> Callable[[int], None]:
    """Return what adds prompts to those done, and tells `progress` of it."""
    done = 0

    def tick(prompts: int) -> None:
        nonlocal done
        done += prompts
        if progress is not None:
            progress(done, total)

    return tick


def batches(prompts: Sequence[Prompt], *, size: int) -> list[list[int]]:
    """Return the indices of the prompts in batches; prompts of like length share one."""
    order = sorted(range(len(prompts)), key=lambda i: _length(prompts[i]))
    return [order[first : first + size] for first in range(0, len(order), size)]


def judge(
    model: SteeredModel,
    choices: Sequence[Choice],
    *,
    gain: float,
    batch_size: int,
    done: Callable[[int], None],
) -> list[Verdict]:
    """Return a verdict on each choice, highlights without a gain of their own having `gain`.

    `done` is told the size of each batch.
    """
    verdicts: dict[int, Verdict] = {}
    for batch in batches([choice.prompt for choice in choices], size=batch_size):
        logprobs = model.next_token_logprobs([choices[i].prompt for i in batch], gain=gain)
        for i, row in zip(batch, logprobs, strict=True):
            wanted, rival = row[choices[i].wanted].item(), row[choices[i].rival].item()
            verdicts[i] = Verdict(wanted > rival, wanted >= row.max().item())
        done(len(batch))
    return [verdicts[i] for i in range(len(choices))]


def _length(prompt: Prompt) -> int:
    """Return about how many characters a prompt has; only batches depend on it."""
    return len(str(prompt))
