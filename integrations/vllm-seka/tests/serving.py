"""Engines, requests and what they answer, in the terms that tests compare."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
from seka_rag import SteeredModel, highlight
from seka_rag.forward import last_logits
from seka_rag.inputs import Row, pad, read_prompt
from seka_rag.prompts import Prompt
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from vllm_seka.prompts import extra_args


def _ids(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, tiny.WORDS, (n,), generator=generator).tolist()


def _highlighted(ids: Sequence[int], *spans: tuple[int, int, float | None, str]) -> Prompt:
    """Return a prompt of these tokens, of which the spans [start, end) are highlighted."""
    segments: list[Any] = []
    done = 0
    for start, end, gain, kind in spans:
        plain = tiny.words(ids[done:start])
        segments += [f"{plain} " if plain else ""]
        segments += [highlight(tiny.words(ids[start:end]), gain=gain, kind=kind), " "]
        done = end
    return [each for each in [*segments, tiny.words(ids[done:])] if each]


_LONG, _SHORT, _LONGER = _ids(140, 1), _ids(45, 2), _ids(155, 3)

# Highlights early and late, of both signs, two of one prompt; that prompt plain; others beside it.
PROMPTS: dict[str, Prompt] = {
    "two": _highlighted(_LONG, (10, 25, 2.0, "passage"), (100, 104, -1.0, "passage")),
    "plain": _highlighted(_LONG),
    "late": _highlighted(_LONG, (101, 110, None, "instruction")),
    "start": _highlighted(_SHORT, (0, 8, 1.5, "passage")),
    "alone": _highlighted(_LONGER),
}


@dataclass
class Answer:
    """What an engine says after a prompt."""

    row: Row
    prompt_logprobs: list[float] | None  # of every token but the first
    tokens: list[int]
    logprobs: list[float]
    cached: int


@contextmanager
def engine(folder: Path, *, bank: str | None, **options: Any) -> Iterator[LLM]:
    """Yield an engine that serves the model, steered if there is a bank."""
    from vllm_seka import engine_options

    settings: dict[str, Any] = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 8,
        "block_size": 32,
        "seed": 0,
        "enforce_eager": True,
        "disable_log_stats": False,
        "distributed_executor_backend": "uni",
        "enable_prefix_caching": False,
    }
    if bank is not None:
        settings |= engine_options(str(folder), bank)
    llm = LLM(str(folder), **(settings | options))
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def ask(
    llm: LLM,
    prompts: Sequence[Prompt],
    *,
    n: int = 16,
    whole: bool = True,
    highlighted: bool = True,
) -> list[Answer]:
    """Return the answers to prompts in one batch; with `whole`, what is said of prompts as well.

    vLLM does not look into its prefix cache for requests that ask for that.
    """
    tokenizer = tiny.tokenizer(Path(llm.model_config.model))
    gain = None if highlighted else 0
    rows = [read_prompt(tokenizer, each, gain=gain, default_gain=tiny.GAIN) for each in prompts]
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=n,
            ignore_eos=True,
            logprobs=0,
            prompt_logprobs=0 if whole else None,
            extra_args=extra_args(row) or None,
        )
        for row in rows
    ]
    outputs = llm.generate([{"prompt_token_ids": row.ids} for row in rows], params, use_tqdm=False)
    answers = []
    for row, output in zip(rows, outputs, strict=True):
        said = output.outputs[0]
        of_prompt = None
        if whole:
            pairs = zip(output.prompt_logprobs[1:], row.ids[1:], strict=True)
            of_prompt = [found[token].logprob for found, token in pairs]
        tokens = list(said.token_ids)
        logprobs = [found[i].logprob for found, i in zip(said.logprobs, tokens, strict=True)]
        answers.append(Answer(row, of_prompt, tokens, logprobs, output.num_cached_tokens or 0))
    return answers


def expected(core: SteeredModel, row: Row, tokens: Sequence[int]) -> torch.Tensor:
    """Return the core's log-probabilities of what follows each position: (T, V)."""
    whole = row.followed_by(list(tokens))
    batch = pad([whole], pad_id=0, device=torch.device("cpu"))
    with torch.no_grad():
        logits, _ = last_logits(core.model, core.sites, core._edit, batch, keep=len(whole.ids))
    return logits[0].log_softmax(-1)


def difference(core: SteeredModel, answer: Answer) -> float:
    """Return by how many nats an answer differs from the core at most, infinite for another token.

    That each token is the core's choice after those before it means that greedy decoding agrees.
    """
    logprobs = expected(core, answer.row, answer.tokens)
    length = len(answer.row.ids)
    at = logprobs[length - 1 : -1]
    if at.argmax(-1).tolist() != answer.tokens:
        return float("inf")
    wanted = at.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
    found = (wanted - torch.tensor(answer.logprobs)).abs().max().item()
    if answer.prompt_logprobs is None:
        return found
    ids = torch.tensor(answer.row.ids[1:])
    of_prompt = logprobs[: length - 1].gather(1, ids[:, None])[:, 0]
    return max(found, (of_prompt - torch.tensor(answer.prompt_logprobs)).abs().max().item())
