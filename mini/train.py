"""Training: a Qwen3 model from scratch on the stream of `corpus`, in steps that can be stopped and resumed.

    N tokens of a batch in one flat row      documents attend to themselves only (variable-length FlashAttention)

Matrices are optimised by Muon, embeddings and norms by AdamW; the rate warms up, stays, and falls to zero over the
last part of a stage. The second stage starts from the weights of the first. A checkpoint holds everything, so a resumed
run sees the same batches at the same rates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM

from mini import corpus
from mini.chat import END_OF_TEXT, TURN_END

SEED = 20261123


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train in one stage."""

    stage: str  # a key of corpus.MIXES
    steps: int
    tokens: int = 3 << 16  # a batch
    rate: float = 3e-3  # peak, per step
    warmup: int = 80  # steps
    falling: float = 0.5  # fraction of the steps, at the end, in which the rate falls to zero


def config(tokenizer_ids: dict[str, int]) -> Qwen3Config:
    """Return the architecture of mini."""
    return Qwen3Config(
        vocab_size=corpus.VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=corpus.LONGEST,
        rope_parameters={"rope_type": "default", "rope_theta": 20_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer_ids[TURN_END],
        pad_token_id=tokenizer_ids[END_OF_TEXT],
    )


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    starts: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within documents. `query`, `key`, `value` (1, heads, N, D); `starts` as in `corpus.batch`, int32."""
    dtype = value.dtype
    query, key, value = (
        t[0].transpose(0, 1).to(torch.bfloat16).contiguous() for t in (query, key, value)
    )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if query.is_cuda:
        out = _flash(query, key, value, starts, scaling)
    else:
        document = _documents(starts, len(query))
        allowed = (document[:, None] == document[None]) & torch.ones(
            len(query), len(query), dtype=torch.bool
        ).tril()
        out = F.scaled_dot_product_attention(
            query.transpose(0, 1),
            key.transpose(0, 1),
            value.transpose(0, 1),
            attn_mask=allowed,
            scale=scaling,
        ).transpose(0, 1)
    return out[None].to(dtype), None


def _flash(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float) -> Tensor:
    """Return the output (N, heads, D), computed part by part of the row."""
    found = []
    token, document = 0, 0
    for part in corpus.parts(len(query)):
        own = slice(token, token + part.tokens)
        begins = starts[document : document + part.room + 1] - token
        found.append(torch.ops.aten._flash_attention_forward(
            query[own], key[own], value[own], begins, begins, part.longest, part.longest, 0.0, True, False, scale=scaling
        )[0])  # fmt: skip
        token, document = token + part.tokens, document + part.room + 1
    return torch.cat(found)


AttentionInterface.register("packed", _packed_attention)


def _documents(starts: Tensor, count: int) -> Tensor:
    """Return the document of every token, as an index into `starts`, (N,)."""
    index = torch.arange(count, device=starts.device)
    return torch.bucketize(index, starts[1:].long(), right=True)


def _positions(starts: Tensor, count: int) -> Tensor:
    """Return the position of every token in its document, (1, N)."""
    begins = starts.long()[_documents(starts, count)]
    return (torch.arange(count, device=starts.device) - begins)[None]


def _loss(
    model: nn.Module, ids: Tensor, weights: Tensor, starts: Tensor, positions: Tensor
) -> Tensor:
    hidden = model.model(
        input_ids=ids[None], position_ids=positions, attention_mask={"full_attention": None}, use_cache=False,
        starts=starts,
    ).last_hidden_state[0]  # fmt: skip
    logits = F.linear(
        hidden[:-1].to(torch.bfloat16), model.lm_head.weight.to(torch.bfloat16)
    ).float()
    # The first token of a document is not to be told by the one before it.
    weights = torch.where(positions[0, 1:] == 0, 0.0, weights[1:])
    losses = F.cross_entropy(logits, ids[1:], reduction="none")
    return (losses * weights).sum() / weights.sum()


def _rate(plan: Plan, step: int) -> float:
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    left = (plan.steps - step) / (plan.steps * plan.falling)
    return plan.rate * min(1.0, left)


def _optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.03, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            others, lr=1.0, betas=(0.9, 0.97), weight_decay=0.0, fused=matrices[0].is_cuda
        ),
    ]


def _fresh(folder: Path, device: str) -> nn.Module:
    """Return a model with random weights; what is added to the stream starts small."""
    torch.manual_seed(SEED)
    vocabulary = corpus.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    model = Qwen3ForCausalLM._from_config(config(vocabulary), attn_implementation="packed")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_((2 * model.config.num_hidden_layers) ** -0.5)
    return model.to(device)


def state_file(folder: Path, stage: str) -> Path:
    """Return where the state of a stage is kept."""
    return folder / f"state_{stage}.pt"


def train(
    data: Path,
    folder: Path,
    plan: Plan,
    *,
    after: str | None,
    seconds: float,
    processes: int,
    device: str = "cuda",
) -> bool:
    """Train until the plan is done or the time is up; return whether it is done.

    State is kept in `folder`, a file a stage. A stage that has none starts from the weights of the stage `after`.
    """
    began = time.time()
    torch.set_float32_matmul_precision("high")
    model = _fresh(folder, device)
    optimizers = _optimizers(model)
    kept, step, losses = state_file(folder, plan.stage), 0, []
    if kept.exists():
        state = torch.load(kept, map_location=device, weights_only=True)
        step = state["step"]
        if step >= plan.steps:
            return True
        model.load_state_dict(state["model"])
        for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
    elif after is not None:
        state = torch.load(state_file(folder, after), map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
    seed = SEED + 1_000_000 * (after is not None)
    loss_of = torch.compile(_loss) if device == "cuda" else _loss
    batches = corpus.stream(
        data,
        folder / "tokenizer.json",
        plan.stage,
        tokens=plan.tokens,
        first=seed + step,
        last=seed + plan.steps,
        processes=processes,
    )
    for ids, weights, starts in batches:
        tensors = [torch.from_numpy(array) for array in (ids.astype("int64"), weights, starts)]
        ids_, weights_, starts_ = (t.to(device, non_blocking=True) for t in tensors)
        positions = _positions(starts_, plan.tokens)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _rate(plan, step)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(model, ids_, weights_, starts_, positions)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        losses.append(loss.detach())
        if step % 50 == 0 or step <= 3:
            mean = torch.stack(losses[-50:]).mean().item()
            print(
                f"{plan.stage} {step}/{plan.steps}  loss {mean:.4f}  {time.time() - began:.0f} s",
                flush=True,
            )
            if mean != mean:
                raise FloatingPointError(f"the loss is not a number at step {step}")
            if time.time() - began > seconds:
                break
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "step": step,
        },
        kept,
    )
    return step >= plan.steps
