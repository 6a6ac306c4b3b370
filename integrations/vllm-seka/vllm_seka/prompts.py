"""Prompts with highlights, as a request to vLLM takes them: token ids, and what is highlighted.

The core's own reader renders chats, finds the highlights and tokenises, so that the tokens and the
gains are those of `seka_rag.SteeredModel`. What the server does with them is not known here.
"""

from itertools import groupby
from typing import TYPE_CHECKING, Any

from seka_rag.inputs import ModelTokenizer, Row, read_prompt
from seka_rag.prompts import Prompt

from vllm_seka.highlights import KINDS, OWNERS, PIECES

if TYPE_CHECKING:
    from vllm.inputs import TokensPrompt


def steered_prompt(
    tokenizer: ModelTokenizer,
    prompt: Prompt,
    *,
    gain: float | None = None,
    default_gain: float = 1.0,
) -> tuple["TokensPrompt", dict[str, Any]]:
    """Return the prompt's tokens, and the `extra_args` of its SamplingParams.

    Over HTTP the tokens are the `prompt` of a completion, and the arguments its `vllm_xargs`.
    `default_gain`, which is the bank's own as a rule, is for highlights without a gain; `gain`
    takes its place if given, and 0 turns all highlights off.
    """
    row = read_prompt(tokenizer, prompt, gain=gain, default_gain=default_gain)
    return {"prompt_token_ids": row.ids}, extra_args(row)


def extra_args(row: Row) -> dict[str, Any]:
    """Return what of a row is highlighted; an empty dict where nothing is.

    Flat lists alone, for vLLM's HTTP server takes no others, and no more of them than are needed.
    """
    pieces: list[float] = []
    owners: list[int] = []
    numbers: dict[int, int] = {}  # highlights that another one covers altogether have none
    for (gain, owner), run in groupby(
        range(len(row.ids)), key=lambda i: (row.gains[i], row.owners[i])
    ):
        if gain:
            tokens = list(run)
            pieces += [tokens[0], tokens[-1] + 1, gain]
            owners.append(numbers.setdefault(owner, len(numbers)))
    if not pieces:
        return {}
    spans = row.rendered.spans
    kinds = [spans[owner].kind for owner in numbers]
    found: dict[str, Any] = {PIECES: pieces}
    if set(kinds) != {"passage"}:
        found[KINDS] = [kinds[number] for number in owners]
    if owners != list(range(len(owners))):
        found[OWNERS] = owners
    return found
