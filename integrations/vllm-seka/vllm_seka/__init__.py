"""seka-rag in vLLM: every request says which tokens of its prompt are highlighted, and the served
model attends to them.

vLLM loads `vllm_seka.plugin:register` by itself in each of its processes. What follows is for the
side that sends requests. Names are imported from their modules when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_seka.options import engine_options as engine_options
    from vllm_seka.prompts import steered_prompt as steered_prompt

_MODULE_OF = {"engine_options": "options", "steered_prompt": "prompts"}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
