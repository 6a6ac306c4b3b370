"""Serving: the fields of a model that an engine serves.

Weights are loaded when they are first needed, once for all objects that one was copied into.
Nothing here knows messages, prompts or LlamaIndex.
"""

from typing import Any, cast

from pydantic import BaseModel, Field
from seka_rag import LazyEngine

_LOADING = ("model", "bank", "revision", "dtype", "device_map")


class Served(BaseModel):
    """The fields of a model that an engine serves. Those not given are the engine's own."""

    model: str | None = None
    """A folder or a name on the Hugging Face hub; None is the model inside seka-rag."""
    bank: Any = "auto"
    """What steers it, as in `SteeredModel.from_pretrained`; None does without."""
    revision: str | None = None
    dtype: Any = None
    device_map: Any = None
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
    """A `seka_rag.Engine` to share; else one is made from the fields above at the first call."""

    def model_post_init(self, context: object, /) -> None:
        """Put what makes the engine in its place."""
        loading = {name: getattr(self, name) for name in _LOADING}
        plain = {name: type(self).model_fields[name].default for name in _LOADING}
        if self.engine is None:
            self.engine = LazyEngine(loading)
        elif loading != plain:
            raise ValueError(f"an engine has its model and bank: leave out {', '.join(_LOADING)}")
        elif not isinstance(self.engine, LazyEngine):
            self.engine = LazyEngine({}, self.engine)

    @property
    def _held(self) -> LazyEngine:
        return cast(LazyEngine, self.engine)
