"""Serving: what ChatSeka and SekaLLM have in common, which is their fields and their engine.

Weights are loaded when they are first needed, once for all objects that one was copied into. What a
prompt looks like is not known here.
"""

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.language_models.base import LangSmithParams
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from seka_rag import LazyEngine, Options, Sampling, request_of

_LOADING = ("model", "bank", "revision", "dtype", "device_map", "base_url")
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "gain", "experts")


class Served(BaseModel):
    """The fields of a model that an engine serves. Those not given are the engine's own."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key may be in it

    model: str | None = None
    """A folder or a name on the Hugging Face hub; None is the model inside seka-rag."""
    bank: Any = "auto"
    """What steers it, as in `SteeredModel.from_pretrained`; None does without."""
    revision: str | None = None
    dtype: Any = None
    device_map: Any = None
    base_url: str | None = None
    """Where a vLLM server with the plugin vllm-seka listens, such as "http://localhost:8000/v1": it
    runs the model in place of this process. `model` is then its name there, and where its tokenizer
    is; None is the model that the server runs. It has weights and bank of its own."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """What the server asks for; unused without one."""
    gain: float | None = None
    """For highlights without a gain of their own; 0 turns them off."""
    experts: Any = None
    """Which of the bank's experts steer: "auto", names, or names by kind."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    timeout: float | None = None
    """Seconds after which a call is given up with a `RequestTimeoutError`."""
    streaming: bool = False
    engine: Any = Field(default=None, exclude=True, repr=False)
    """A `seka_rag.Engine` or `RemoteEngine` to share; else one is made from the fields above at the
    first call."""

    def model_post_init(self, context: object, /) -> None:
        """Put what makes the engine in its place, or keep the one that is there."""
        loading = {name: getattr(self, name) for name in _LOADING}
        plain = {name: type(self).model_fields[name].default for name in _LOADING}
        if self.base_url is not None:
            loading["api_key"] = self.api_key
        given = self.engine
        if isinstance(given, LazyEngine):  # of the object that this one was copied from
            if given.loading and given.loading != loading:
                given = None
        elif given is not None:
            given = LazyEngine({}, given)
        if given is not None and not given.loading and loading != plain:
            raise ValueError(f"an engine has its model and bank: leave out {', '.join(_LOADING)}")
        self.engine = given or LazyEngine(loading)

    def __str__(self) -> str:
        return repr(self)  # LangChain's would load the weights

    @property
    def _model_name(self) -> str:
        held: LazyEngine = self.engine
        return held.name

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on beside the prompt: the key of LangChain's cache."""
        held: LazyEngine = self.engine
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {"model": self._model_name, **held.identity, **settings}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kind: Literal["chat", "llm"] = "chat" if hasattr(self, "bind_tools") else "llm"
        params = LangSmithParams(
            ls_provider="seka",
            ls_model_type=kind,
            ls_model_name=kwargs.get("model") or self._model_name,
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stops := self._stops(stop):
            params["ls_stop"] = list(stops)
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of the text, as the model reads it."""
        held: LazyEngine = self.engine
        return held.encode(text)

    def _stops(self, stop: list[str] | str | None) -> tuple[str, ...]:
        texts = self.stop if stop is None else stop
        return (texts,) if isinstance(texts, str) else tuple(texts or ())

    def _request(
        self, stop: list[str] | None, given: Mapping[str, Any]
    ) -> tuple[Sampling, Options]:
        """Return how a prompt is continued: by the arguments of the call, then by the fields."""
        return request_of(self, {**given, "stop": stop})
