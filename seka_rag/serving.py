"""Serving: an engine that is made when it is first needed, and requests out of settings by name.

What the classes of frameworks have in common: they are made of plain settings, copied freely, and
loading must wait for the first call. No framework is known here.
"""

import asyncio
import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from seka_rag.asking import Options
from seka_rag.bank import fingerprint
from seka_rag.engine import Engine
from seka_rag.errors import PromptError
from seka_rag.experts import as_experts
from seka_rag.prompts import Prompt
from seka_rag.remote import RemoteEngine, Secret
from seka_rag.sampling import Sampling
from seka_rag.steering import SteeredModel

_EMBEDDED = "seka-mini"
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop")
_OPTIONS = ("gain", "experts", "timeout")
_CALL_ONLY = ("tool_choice", "schema")
_OF_WEIGHTS = {"bank": "auto", "revision": None, "dtype": None, "device_map": None}


@dataclass(eq=False)
class LazyEngine:
    """An engine that is there, or that is made when it is first asked for.

    `loading` has the arguments `model`, `bank`, `revision`, `dtype` and `device_map` of
    `SteeredModel.from_pretrained`, and is empty where there is an engine. With a `base_url` among
    them a server is asked: `model` and `api_key` are those of a `RemoteEngine`, and the others must
    be what they are by default.
    """

    loading: Mapping[str, Any] = field(repr=False)  # a key may be in it
    engine: Engine | RemoteEngine | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        given = [
            name for name, plain in _OF_WEIGHTS.items() if self.loading.get(name, plain) != plain
        ]
        if self._asks_server and given:
            raise PromptError(
                f"a server loads its weights and its bank itself: leave out {', '.join(given)}, or "
                "leave out base_url"
            )

    def get(self) -> Engine | RemoteEngine:
        """Return the engine. The first call may load weights, or ask the server what it serves.

        A RemoteEngine answers in place of an Engine whatever both are asked: prompts, and of
        `steered` the tokenizer, the length of the context and `count_tokens`.
        """
        with self._lock:
            if self.engine is None:
                self.engine = _made(**self.loading)
            return self.engine

    async def aget(self) -> Engine | RemoteEngine:
        """Return the engine. Weights are loaded beside the event loop."""
        return await asyncio.to_thread(self.get) if self.engine is None else self.engine

    @property
    def name(self) -> str:
        """The name of the model, for which a model that has one need not be loaded."""
        if self.loading and (self.loading.get("model") or not self._asks_server):
            return self.loading["model"] or _EMBEDDED
        return self.identity["name"]

    @cached_property
    def identity(self) -> dict[str, str]:
        """What tells this model under this bank from every other."""
        engine = self.get()
        if isinstance(engine, RemoteEngine):
            return engine.identity
        steered = engine.steered
        model = fingerprint(steered.model, steered.sites)
        banks = {} if steered.bank is None else as_experts(steered.bank).banks
        return {
            "name": model.name,
            "weights": model.digest,
            "revision": str(getattr(steered.model.config, "_commit_hash", None)),
            "dtype": str(steered.model.dtype),
            "bank": " ".join(f"{name}:{bank.digest()}" for name, bank in banks.items()),
            "routing": str(steered.routing),
        }

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of the text, between those that the tokenizer adds if `special`."""
        self.get()
        with self._lock:
            return cast(list[int], self._tokenizer.encode(text, add_special_tokens=special))

    @cached_property
    def bos(self) -> str:
        """The text of the token that is put before every prompt; empty where there is none."""
        begins = self.encode("", special=True)[:1] == [self._tokenizer.bos_token_id]
        return cast(str, self._tokenizer.bos_token) if begins else ""

    def count(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, whether or not it fits the model."""
        return self.get().steered.count_tokens(prompt)

    @property
    def _asks_server(self) -> bool:
        return self.loading.get("base_url") is not None

    @cached_property
    def _tokenizer(self) -> Any:
        """One beside the engine's own: a fast tokenizer encodes for one thread at a time."""
        assert self.engine is not None
        return copy.deepcopy(self.engine.steered.tokenizer)


def _made(
    *, base_url: str | None = None, api_key: str | Secret | None = None, **loading: Any
) -> Engine | RemoteEngine:
    if base_url is None:
        return Engine(load(**loading))
    return RemoteEngine(base_url, model=loading.get("model"), api_key=api_key)


def load(
    *, model: str | None, bank: Any, revision: str | None, dtype: Any, device_map: Any
) -> SteeredModel:
    """Return the model that settings describe; a revision is one of weights and tokenizer."""
    options = None if revision is None else {"revision": revision}
    return SteeredModel.from_pretrained(
        model,
        bank,
        dtype=dtype,
        device_map=device_map,
        model_kwargs=options,
        tokenizer_kwargs=options,
    )


def request_of(own: object, given: Mapping[str, Any]) -> tuple[Sampling, Options]:
    """Return how a prompt is continued: by the arguments of a call, then by fields of `own`.

    Both go by the names `max_tokens`, `temperature`, `top_p`, `top_k`, `seed`, `stop`, `gain`,
    `experts` and `timeout`, an argument by `tool_choice` and `schema` too; None is not given. An
    argument by another name is a TypeError.
    """
    known = (*_SAMPLING, *_OPTIONS, *_CALL_ONLY)
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(f"unknown arguments {', '.join(unknown)}: use {', '.join(known)}")
    values = {name: getattr(own, name) for name in (*_SAMPLING, *_OPTIONS)}
    values |= {name: value for name, value in given.items() if value is not None}
    values = {name: value for name, value in values.items() if value is not None}
    sampling = {name: values[name] for name in _SAMPLING if name in values}
    if "max_tokens" in sampling:
        sampling["max_new_tokens"] = sampling.pop("max_tokens")
    if "stop" in sampling:
        stop = sampling["stop"]
        sampling["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    options = {name: values[name] for name in (*_OPTIONS, *_CALL_ONLY) if name in values}
    return Sampling(**sampling), cast(Options, options)
