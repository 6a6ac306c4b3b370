"""One forward pass over prompts with their gains: what a model expects next, and what it caches.

B  rows      T  tokens of the longest      V  vocabulary      K  last positions that are wanted
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from seka_rag.architecture import KeySite
from seka_rag.bank import KeyOperator
from seka_rag.hooks import editing, observing
from seka_rag.inputs import Batch
from seka_rag.modes import check_uncompiled
from seka_rag.router import Past, Router
from seka_rag.routing import Edit


class HasModel(Protocol):
    """What is asked of a SteeredModel."""

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def sites(self) -> Sequence[KeySite]: ...


def static(operators: Mapping[int, KeyOperator]) -> Edit:
    """Return the edit that asks nobody: the operators as they are."""
    return Edit(operators, {}, {})


PLAIN = static({})


@contextmanager
def edited(
    sites: Sequence[KeySite],
    edit: Edit,
    batch: Batch,
    *,
    start: int = 0,
    past: Cache | None = None,
    router: Router | None = None,
) -> Iterator[Router | None]:
    """Edit the batch's keys in this context; without highlights, do nothing.

    The first `start` positions are in the cache `past` already.

    Yields the router, if the edit has routes: the one given, which has seen the prompt already, or
    one that routes in this very pass.
    """
    if not batch.is_highlighted:
        yield None
        return
    if edit.routes and router is None:
        router = Router(edit, batch, start=start, past=cast(Past | None, past))
    with editing(
        sites, edit.operators, batch.gains, start=start, owners=batch.owners, router=router
    ):
        yield router


@torch.no_grad()
def routed(
    model: PreTrainedModel, sites: Sequence[KeySite], edit: Edit, batch: Batch
) -> Router | None:
    """Return a router that has seen the plain prompt, in a forward pass of its own."""
    if not edit.routes or not batch.is_highlighted:
        return None
    router = Router(edit, batch)
    looked_at = [site for site in sites if site.layer in edit.routes]
    with observing(looked_at, router.see, until=looked_at[-1].layer):
        model(**_inputs(batch))
    return router


def _inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "position_ids": (batch.mask.cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }


def last_logits(
    model: PreTrainedModel,
    sites: Sequence[KeySite],
    edit: Edit,
    batch: Batch,
    *,
    keep: int = 1,
    router: Router | None = None,
) -> tuple[Tensor, Router | None]:
    """Return the logits after the last `keep` tokens, (B, K, V) float32, and the router.

    Gradients flow to the weights of the edit, where they are asked for.
    """
    options: dict[str, object] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = keep
    if batch.is_highlighted:
        check_uncompiled(model)
    with edited(sites, edit, batch, router=router) as router:
        logits: Tensor = model(**_inputs(batch), **options).logits
    return logits[:, -keep:].float(), router


@torch.no_grad()
def prefill(
    model: PreTrainedModel,
    sites: Sequence[KeySite],
    edit: Edit,
    batch: Batch,
    cache: Cache,
    *,
    start: int = 0,
    router: Router | None = None,
) -> Tensor:
    """Return the logits after the prompts, (B, V) float32; their keys and values go to `cache`.

    The first `start` columns of the batch are in the cache already.
    """
    if batch.is_highlighted:
        check_uncompiled(model)
    options = _inputs(batch) | {"past_key_values": cache, "use_cache": True}
    for name in ("input_ids", "position_ids"):
        options[name] = options[name][:, start:]
    with edited(sites, edit, batch, start=start, past=cache, router=router):
        logits: Tensor = model(**options, **last_only(model)).logits
    return logits[:, -1].float()


def last_only(model: nn.Module) -> dict[str, int]:
    """Return the option that spares the logits of all tokens but the last, if the model has it."""
    known = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in known else {}


@torch.no_grad()
def last_logprobs(
    model: PreTrainedModel,
    sites: Sequence[KeySite],
    edit: Edit,
    batch: Batch,
    *,
    keep: int = 1,
    router: Router | None = None,
) -> Tensor:
    """Return log P of what follows the last `keep` tokens of each row: (B, K, V) float32, CPU."""
    logits, _ = last_logits(model, sites, edit, batch, keep=keep, router=router)
    return logits.log_softmax(-1).cpu()
