"""Weighing: how much every direction of every KV head counts, found by gradient on examples.

    H  KV heads      D  head_dim      V  vocabulary

SVD tells along which directions relevance moves the keys, not which of them help. Here
P = U diag(c) Uᵀ over a head's whole basis, and c is what lets the wanted answer win where the
highlighted span answers, and changes nothing where it does not:

    min over c of   mean −log σ(log p(wanted) − log p(rival))      over related examples
                  + λ · mean KL(p plain ‖ p edited), in nats       over unrelated ones

The model itself is never changed, and what comes out is a static edit like any other, over D
directions of every head. The paper fixes c at 1 for the first k and at 0 for the others.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seka_rag.bank import Bank, KeyOperator
from seka_rag.errors import CalibrationError
from seka_rag.forward import HasModel, last_logits, last_logprobs
from seka_rag.labelled import Choice, Example, batches, padded, read_choices

STEPS = 150
PER_STEP = 16  # examples of each kind
HARM = 1.0  # λ
_RATE = 0.02  # of Adam, falling to 0
_START = 0.03
_BATCH_TOKENS = 2048

Progress = Callable[[int, int], None]  # steps done, steps in all


def weigh(
    model: HasModel,
    bank: Bank,
    examples: Sequence[Example],
    *,
    steps: int = STEPS,
    per_step: int = PER_STEP,
    harm: float = HARM,
    seed: int = 0,
    batch_tokens: int = _BATCH_TOKENS,
    progress: Progress | None = None,
) -> Bank:
    """Return the bank with a weight for each direction, and with the heads "weighed".

    Its gain is 1: `tune` says on other examples whether more or less is better, and whether the
    bank was better as it was. Every step looks at `per_step` examples of each kind; `harm` is λ.
    Fewer than 10 examples of either kind, or losses that are not numbers, are a CalibrationError.
    """
    choices = read_choices(model.tokenizer, examples)
    devices = {site.layer: site.device for site in model.sites}
    bases = {layer: found.basis.to(devices[layer]) for layer, found in bank.layers.items()}
    weights = {
        layer: torch.full(basis.shape[:2], _START, device=basis.device, requires_grad=True)
        for layer, basis in bases.items()
    }
    operators = {layer: KeyOperator(basis, weights[layer]) for layer, basis in bases.items()}
    optimiser = torch.optim.Adam(list(weights.values()), lr=_RATE)
    rng = random.Random(seed)
    related, unrelated = (
        _endless([choice for choice in choices if choice.related is kind], rng)
        for kind in (True, False)
    )
    with _frozen(model.model):
        plain = _plain(model, [c for c in choices if not c.related], batch_tokens)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimiser.zero_grad()
            drawn = [next(each) for each in (related, unrelated) for _ in range(per_step)]
            for batch in batches(drawn, batch_tokens):
                loss = _loss(model, operators, batch, plain, harm=harm) / per_step
                if not math.isfinite(loss.item()):
                    raise CalibrationError(
                        f"the loss is {loss.item()} at step {step + 1}: load the model in bfloat16 "
                        "or float32, whose numbers do not overflow"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)
    return bank.weighed(weights, examples=len(choices)).replace(gain=1.0)


def _loss(
    model: HasModel,
    operators: Mapping[int, KeyOperator],
    batch: Sequence[Choice],
    plain: Mapping[int, Tensor],
    *,
    harm: float,
) -> Tensor:
    """Return the sum of a batch's losses."""
    prompts = padded(batch, model.tokenizer, device=model.model.device, gain=1.0)
    found = last_logits(model.model, model.sites, operators, prompts)[:, -1].log_softmax(-1)
    losses = []
    for choice, logprobs in zip(batch, found, strict=True):
        if choice.related:
            margin = logprobs[choice.wanted] - logprobs[choice.rival]
            losses.append(-nn.functional.logsigmoid(margin))
        else:
            before = plain[id(choice)].to(logprobs.device)
            losses.append(harm * (before.exp() * (before - logprobs)).sum())
    return torch.stack(losses).sum()


def _plain(model: HasModel, choices: Sequence[Choice], batch_tokens: int) -> dict[int, Tensor]:
    """Return the next token's plain log-probabilities (V,) of every choice, by its identity."""
    found: dict[int, Tensor] = {}
    for batch in batches(choices, batch_tokens):
        prompts = padded(batch, model.tokenizer, device=model.model.device, gain=0.0)
        logprobs = last_logprobs(model.model, model.sites, {}, prompts)[:, -1]
        found |= {id(choice): row for choice, row in zip(batch, logprobs, strict=True)}
    return found


def _endless(choices: Sequence[Choice], rng: random.Random) -> Iterator[Choice]:
    """Yield the choices over and over, each time in another order."""
    while True:
        yield from rng.sample(choices, len(choices))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no gradient be kept for the model's own weights, and leave them as they were."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
