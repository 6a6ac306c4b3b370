"""One forward pass over prompts with their gains: what a model expects next.

B  rows      T  tokens of the longest      V  vocabulary      K  last positions that are wanted
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seka_rag.architecture import KeySite
from seka_rag.bank import KeyOperator
from seka_rag.hooks import editing
from seka_rag.inputs import Batch
from seka_rag.modes import check_uncompiled


class HasModel(Protocol):
    """What is asked of a SteeredModel."""

    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def sites(self) -> Sequence[KeySite]: ...


def edited(
    sites: Sequence[KeySite],
    operators: Mapping[int, KeyOperator],
    batch: Batch,
    *,
    start: int = 0,
) -> AbstractContextManager[None]:
    """Return the context in which the batch's keys are edited; an empty one without highlights."""
    if not batch.is_highlighted:
        return nullcontext()
    return editing(sites, operators, batch.gains, start=start)


def last_logits(
    model: PreTrainedModel,
    sites: Sequence[KeySite],
    operators: Mapping[int, KeyOperator],
    batch: Batch,
    *,
    keep: int = 1,
) -> Tensor:
    """Return the logits after the last `keep` tokens of each row: (B, K, V) float32.

    Gradients flow to the operators' weights, where they are asked for.
    """
    options: dict[str, object] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = keep
    if batch.is_highlighted:
        check_uncompiled(model)
    with edited(sites, operators, batch):
        logits: Tensor = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=(batch.mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            **options,
        ).logits
    return logits[:, -keep:].float()


@torch.no_grad()
def last_logprobs(
    model: PreTrainedModel,
    sites: Sequence[KeySite],
    operators: Mapping[int, KeyOperator],
    batch: Batch,
    *,
    keep: int = 1,
) -> Tensor:
    """Return log P of what follows the last `keep` tokens of each row: (B, K, V) float32, CPU."""
    return last_logits(model, sites, operators, batch, keep=keep).log_softmax(-1).cpu()
