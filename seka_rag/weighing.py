"""Weighing: how much every direction of every KV head counts, and when; found by gradient.

    B  prompts      H  KV heads      Q  query heads      D  head_dim      V  vocabulary

SVD tells along which directions relevance moves the keys, not which of them help. Here
P = U diag(c) Uᵀ over a head's whole basis, and c is what lets the wanted answer win where the
highlighted span answers, and changes nothing where it does not:

    min   mean −log σ(log p(wanted) − log p(rival))      over related examples
        + λ · mean KL(p plain ‖ p edited), in nats       over unrelated ones
        + μ · mean −log p(related or not), by the gates  over both, mean over the layers

Together with c, the gates of `routing` are found: at every layer, from what the attention of the
layers so far shows, whether the question is about the span. Where a model's queries cannot be seen
there are no gates, and the edit is the same whatever is asked. The model itself is never changed.
The paper fixes c at 1 for the first k directions and at 0 for the others.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from seka_rag.architecture import KeySite
from seka_rag.bank import Bank
from seka_rag.errors import CalibrationError
from seka_rag.experts import Experts
from seka_rag.forward import PLAIN, HasModel, last_logits, last_logprobs
from seka_rag.labelled import Choice, Example, batches, padded, read_choices
from seka_rag.routing import Edit, Gate

STEPS = 150
PER_STEP = 16  # examples of each kind
HARM = 1.0  # λ
_TELL = 0.3  # μ
_RATE, _GATE_RATE = 0.02, 0.1  # of Adam, falling to 0
_START, _OPEN = 0.03, 0.5
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
    """Return the bank with a weight for each direction and with gates; its heads are "weighed".

    Its gain is 1: `tune` says on other examples whether more or less is better, and whether the
    bank was better as it was. Every step looks at `per_step` examples of each kind; `harm` is λ.
    Fewer than 10 examples of either kind, or losses that are not numbers, are a CalibrationError.
    """
    choices = read_choices(model.tokenizer, examples)
    found = _Sought(model.sites, bank)
    rng = random.Random(seed)
    related, unrelated = (
        _endless([choice for choice in choices if choice.related is kind], rng)
        for kind in (True, False)
    )
    with _frozen(model.model):
        plain = _plain(model, [c for c in choices if not c.related], batch_tokens)
        for step in range(steps):
            found.optimiser.zero_grad()
            drawn = [next(each) for each in (related, unrelated) for _ in range(per_step)]
            for batch in batches(drawn, batch_tokens):
                loss = _loss(model, found.edit, batch, plain, harm=harm) / per_step
                if not math.isfinite(loss.item()):
                    raise CalibrationError(
                        f"the loss is {loss.item()} at step {step + 1}: load the model in bfloat16 "
                        "or float32, whose numbers do not overflow"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
            found.step(1 - step / steps)
            if progress is not None:
                progress(step + 1, steps)
    return found.applied_to(bank, examples=len(choices))


class _Sought:
    """The weights and gates that are looked for, as an edit through which gradients flow."""

    def __init__(self, sites: Sequence[KeySite], bank: Bank) -> None:
        sites = [site for site in sites if site.layer in bank.layers]
        self.weights = {
            site.layer: _parameter(torch.full((site.n_kv_heads, site.head_dim), _START), site)
            for site in sites
        }
        self.gates = {site.layer: _open_gate(site) for site in sites if site.n_query_heads}
        seen = bank.weighed(
            self.weights,
            self._gates(),
            examples=0,
        )
        start = Experts({"": seen}).edit(directions=1)
        placed = start.on({site.layer: site.device for site in sites})
        self.edit = Edit(
            {
                layer: replace(operator, weights=self.weights[layer])
                for layer, operator in placed.operators.items()
            },
            {
                layer: replace(route, gate=self.gates[layer])
                for layer, route in placed.routes.items()
            },
            start.serves,
        )
        told = [
            part for gate in self.gates.values() for part in (gate.weights, gate.bias, gate.focus)
        ]
        self.optimiser = torch.optim.Adam([{"params": list(self.weights.values()), "lr": _RATE}])
        if told:
            self.optimiser.add_param_group({"params": told, "lr": _GATE_RATE})

    def step(self, share: float) -> None:
        """Take a step, at a share in (0, 1] of the rates."""
        for group, rate in zip(self.optimiser.param_groups, (_RATE, _GATE_RATE), strict=False):
            group["lr"] = rate * share
        self.optimiser.step()

    def applied_to(self, bank: Bank, *, examples: int) -> Bank:
        return bank.weighed(self.weights, self._gates(), examples=examples).replace(gain=1.0)

    def _gates(self) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        return {
            layer: (gate.weights.view(2, -1).T, gate.bias, gate.focus[0])
            for layer, gate in self.gates.items()
        }


def _open_gate(site: KeySite) -> Gate:
    return Gate(
        _parameter(torch.zeros(2 * site.n_query_heads, 1), site),
        _parameter(torch.full((1,), _OPEN), site),
        _parameter(torch.zeros(1, site.n_kv_heads, 2), site),
    )


def _parameter(start: Tensor, site: KeySite) -> Tensor:
    return start.to(site.device).requires_grad_()


def _loss(
    model: HasModel,
    edit: Edit,
    batch: Sequence[Choice],
    plain: Mapping[int, Tensor],
    *,
    harm: float,
) -> Tensor:
    """Return the sum of a batch's losses."""
    prompts = padded(batch, model.tokenizer, device=model.model.device, gain=1.0)
    logits, router = last_logits(model.model, model.sites, edit, prompts)
    found = logits[:, -1].log_softmax(-1)
    wanted, rival = (
        found[range(len(batch)), [getattr(choice, name) for choice in batch]]
        for name in ("wanted", "rival")
    )
    related = [i for i, choice in enumerate(batch) if choice.related]
    unrelated = [i for i, choice in enumerate(batch) if not choice.related]
    loss = -nn.functional.logsigmoid((wanted - rival)[related]).sum()
    if unrelated:
        before = torch.stack([plain[id(batch[i])] for i in unrelated]).to(found.device)
        loss = loss + harm * (before.exp() * (before - found[unrelated])).sum()
    if router is not None:
        loss = loss + _TELL * _untold(router.odds(), batch, prompts.kinds).to(loss.device)
    return loss


def _untold(odds: Tensor, batch: Sequence[Choice], kinds: Sequence[Sequence[str]]) -> Tensor:
    """Return how badly log odds (L, B, S) tell the related prompts: nats, summed over prompts.

    The highlighted spans of an example are related all together, or none of them is.
    """
    truth = torch.tensor([float(choice.related) for choice in batch]).to(odds.device)
    real = torch.arange(odds.shape[2]) < torch.tensor([[len(each)] for each in kinds])
    share = (real / real.sum(1, keepdim=True)).to(odds.device)
    wrong = nn.functional.binary_cross_entropy_with_logits(
        odds, truth[:, None].expand_as(odds), reduction="none"
    )
    return (wrong.mean(0) * share).sum()


def _plain(model: HasModel, choices: Sequence[Choice], batch_tokens: int) -> dict[int, Tensor]:
    """Return the next token's plain log-probabilities (V,) of every choice, by its identity."""
    found: dict[int, Tensor] = {}
    for batch in batches(choices, batch_tokens):
        prompts = padded(batch, model.tokenizer, device=model.model.device, gain=0.0)
        logprobs = last_logprobs(model.model, model.sites, PLAIN, prompts)[:, -1]
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
