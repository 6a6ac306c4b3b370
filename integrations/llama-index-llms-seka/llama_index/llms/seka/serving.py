"""Serving: the fields of a model that an engine serves.

Weights are loaded when they are first needed, once for all objects that one was copied into.
Nothing here knows messages, prompts or LlamaIndex.
"""

from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from seka_rag import LazyEngine

_LOADING = ("model", "bank", "revision", "dtype", "device_map", "base_url")


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
    engine: Any = Field(default=None, exclude=True, repr=False)
    """A `seka_rag.Engine` or `RemoteEngine` to share; else one is made from the fields above at the
    first call."""

    def model_post_init(self, context: object, /) -> None:
        """Put what makes the engine in its place."""
        loading = {name: getattr(self, name) for name in _LOADING}
        plain = {name: type(self).model_fields[name].default for name in _LOADING}
        if self.base_url is not None:
            loading["api_key"] = self.api_key
        if self.engine is None:
            self.engine = LazyEngine(loading)
        elif loading != plain:
            raise ValueError(f"an engine has its model and bank: leave out {', '.join(_LOADING)}")
        elif not isinstance(self.engine, LazyEngine):
            self.engine = LazyEngine({}, self.engine)

    @property
    def _held(self) -> LazyEngine:
        return cast(LazyEngine, self.engine)
