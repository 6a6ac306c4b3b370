"""What the server was told: which bank steers the model, and how its experts are chosen.

It stands in vLLM's `additional_config` under "seka":

    bank         folder or file of a bank or of experts, or a name on the Hugging Face hub
    experts      "auto", names, or names by kind        as in `seka_rag.Routing`
    score        "energy" or "signed"                   as in `seka_rag.Routing`
    abstain      whether gates may close                as in `seka_rag.Routing`
    directions   K                                      as in `seka_rag.Routing`

Every process of the engine reads the bank for itself. How vLLM runs is not known here.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from seka_rag import Experts, Routing
from seka_rag.routing import Edit

KEY = "seka"
_ROUTING = ("experts", "score", "abstain", "directions")


class SettingsError(ValueError):
    """The server cannot be started as it is configured. The message begins with "seka:"."""

    def __init__(self, message: str) -> None:
        super().__init__(f"seka: {message}")


@dataclass(frozen=True, eq=False)
class Steering:
    """What the bank does to keys, on the CPU in float32."""

    experts: Experts
    edit: Edit

    @property
    def routed(self) -> bool:
        """Whether the prompt's own queries choose among experts or open gates."""
        return bool(self.edit.routes)

    def serves(self, kind: str) -> bool:
        """Return whether any expert is used for a kind of highlight."""
        flags = self.edit.serves.get(kind)
        return flags is None or any(flags)


def steering_of(additional_config: object) -> Steering | None:
    """Return what `additional_config` says of a bank; None where it says nothing."""
    settings = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if settings is None:
        return None
    if not isinstance(settings, Mapping) or not isinstance(settings.get("bank"), str):
        raise SettingsError('additional_config must hold {"seka": {"bank": "a folder"}}')
    if unknown := set(settings) - {"bank", *_ROUTING}:
        raise SettingsError(
            f"unknown settings {', '.join(sorted(unknown))}: use bank, {', '.join(_ROUTING)}"
        )
    return _loaded(json.dumps(settings, sort_keys=True))


@lru_cache(maxsize=1)
def _loaded(settings: str) -> Steering:
    given: dict[str, Any] = json.loads(settings)
    with _plain_torch():
        experts = Experts.from_pretrained(given.pop("bank"))
        return Steering(experts, Routing(**given).edit(experts))


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Make new tensors on the CPU in float32: vLLM builds models under other defaults."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
