"""Finishing: a short second training of a finished model, mostly on reading, on any device.

    python -m mini.finish --data DATA --model FOLDER --out FOLDER

Batches are padded rows of like length; only what is to be learned counts in the loss. The old sorts
of documents are mixed in, so that memory and the balance of conflicts stay as they were.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from mini import corpus
from mini.chat import END_OF_TEXT

SHARES: dict[str, float] = {
    "conversation": 36, "interview": 12, "cloze": 12, "obedience": 12, "argument": 9, "truths": 7,
    "closed_book": 5, "books": 2, "tools": 2, "rewriting": 1, "writing": 1, "small_talk": 0.2,
}  # fmt: skip
SEED = 20261124
STEPS, TOKENS, RATE, WARMUP = 240, 6144, 3e-4, 15
_LONGEST = 1024  # tokens of a document
_POOL = 256  # documents that are sorted by length together

Batch = tuple[Tensor, Tensor]  # ids (B, T), weights (B, T)


def batches(sources: corpus.Sources, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Yield padded batches of at most TOKENS tokens, without end."""
    stream = corpus.documents(sources, SEED, SHARES)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    order = torch.Generator().manual_seed(SEED)
    while True:
        rows: list[tuple[list[int], list[float]]] = []
        for _, doc in islice(stream, _POOL):
            ids: list[int] = []
            weights: list[float] = []
            for text, weight in doc:
                piece = tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += piece
                weights += [float(weight >= 0.4)] * len(piece)
            # A longer one would lose its answer, and cost a batch of its own.
            if len(ids) < _LONGEST:
                rows.append((ids + [end], weights + [0.0]))
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > TOKENS:
                groups.append([])
            groups[-1].append(row)
        for i in torch.randperm(len(groups), generator=order).tolist():
            width = len(groups[i][-1][0])
            yield (
                torch.tensor([ids + [end] * (width - len(ids)) for ids, _ in groups[i]]),
                torch.tensor([held + [0.0] * (width - len(held)) for _, held in groups[i]]),
            )


def loss_of(model: Qwen3ForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the mean loss of the tokens that are to be learned."""
    # Padding stands on the right and attention is causal, so no mask is needed.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    learned = weights[:, 1:] > 0
    return F.cross_entropy(model.lm_head(hidden[learned]), ids[:, 1:][learned])


def finish(data: Path, folder: Path, out: Path, *, steps: int, keep_every: int = 50) -> None:
    """Train the model of `folder` for `steps` more steps and write it to `out`, in bf16."""
    torch.manual_seed(SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    losses: list[float] = []
    began = time.time()
    stream = batches(corpus.read_sources(data), tokenizer)
    for step, (ids, weights) in enumerate(islice(stream, steps)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / steps)
        loss = loss_of(model, ids.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % keep_every == 0 or step < 3:
            mean = sum(losses[-keep_every:]) / len(losses[-keep_every:])
            print(
                f"step {step + 1}/{steps}  loss {mean:.4f}  {time.time() - began:.0f} s", flush=True
            )
    generation = model.generation_config
    model = model.to(torch.bfloat16)
    model.generation_config = generation
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Read the command line and finish a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a model of mini.build")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    finish(arguments.data, arguments.model, arguments.out, steps=arguments.steps)


if __name__ == "__main__":
    main()
