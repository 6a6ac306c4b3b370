"""Which ways of generating can be steered, and what each of them demands.

Greedy search, sampling, beams, several return sequences, chunked prefill, static, offloaded and
quantised caches, a prefilled cache, an assistant model and prompt lookup can. The others compute
the prompt more than once, change it, or call the model in a way of their own: they are an
UnsteerableError, since a highlight without effect is worse than none. With highlights, chunked
prefill turns compilation off, that of decoding included.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeAlias, cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from seka_rag.errors import UnsteerableError


class Cache(Protocol):
    """What is asked of a `past_key_values`."""

    def get_seq_length(self) -> int: ...


def setting(name: str, options: Mapping[str, object], default_config: object) -> object:
    """Return what `generate` uses: an option, else one of a given config, else the default."""
    configs = (options.get("generation_config"), default_config)
    values = (options.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def steerable_options(
    model: nn.Module, options: Mapping[str, object], gains: Tensor
) -> tuple[dict[str, object], int]:
    """Return the options to generate with, and how many positions the cache holds already.

    `gains` are those of the padded prompts (B, T).
    """
    check_uncompiled(model)

    def chosen(name: str) -> object:
        return setting(name, options, getattr(model, "generation_config", None))

    if chosen("use_cache") is False:
        raise UnsteerableError(
            "without a cache every step computes the prompt again: leave use_cache on"
        )
    if chosen("cache_implementation") == "paged":
        raise UnsteerableError(
            "a paged cache packs several prompts into one row: use a dynamic or a static cache"
        )
    if chosen("custom_generate") is not None or chosen("trust_remote_code"):
        raise UnsteerableError(
            "a custom generate may call the model in any way: use a decoding mode of transformers"
        )
    if chosen("token_healing"):
        raise UnsteerableError("token healing changes the prompt's tokens: leave it out")
    assistant = chosen("assistant_model")
    if chosen("assistant_early_exit") is not None or assistant is model:
        raise UnsteerableError(
            "a model cannot draft for itself while it is steered: "
            "give another assistant_model, or prompt_lookup_num_tokens"
        )
    if model.training and getattr(model, "is_gradient_checkpointing", False):
        raise UnsteerableError("gradient checkpointing turns the cache off: call model.eval()")

    cache = cast(Cache | None, chosen("past_key_values"))
    cached = 0 if cache is None else int(cache.get_seq_length())
    if cached:
        _check_cached(cached, gains)
        if assistant is not None or chosen("prompt_lookup_num_tokens") is not None:
            raise UnsteerableError(
                "assisted decoding computes a cached prompt again: leave past_key_values out"
            )
        if chosen("prefill_chunk_size") is not None:
            raise UnsteerableError(
                "some versions of transformers compute a cached prompt again when it comes in "
                "chunks: leave prefill_chunk_size or past_key_values out"
            )
    if chosen("prefill_chunk_size") is not None:
        # A compiled prefill would keep the hooks that it was compiled with.
        return {**options, "disable_compile": True}, cached
    return dict(options), cached


def _check_cached(cached: int, gains: Tensor) -> None:
    if cached >= gains.shape[1]:
        raise UnsteerableError(
            f"the cache holds {cached} positions and the prompt has {gains.shape[1]}: "
            "at least one must be left to compute"
        )
    if gains[:, :cached].any():
        raise UnsteerableError(
            f"a highlighted token is among the first {cached} positions, whose keys are in the "
            "cache already: highlight what comes after them, or pass an empty cache"
        )


def check_uncompiled(model: nn.Module) -> None:
    """Raise UnsteerableError for a compiled model: it may run without its hooks, or keep them."""
    tree = _trees.get(model)
    if tree is None or any(
        (model if above is None else above)._modules.get(name) is not module
        or len(module._modules) != children
        for above, name, module, children in tree
    ):
        tree = _trees[model] = list(_tree(model, None))
    if _is_compiled(model) or any(_is_compiled(module) for _, _, module, _ in tree):
        raise UnsteerableError(
            "the model is compiled: pass the plain one; generate(cache_implementation='static')"
            " compiles decoding by itself, when steering is over"
        )


# What is above a module, its name, the module, and how many are in it. None stands for the model,
# which nothing here keeps alive.
_Place: TypeAlias = tuple[nn.Module | None, str, nn.Module, int]
# Every prompt waits for the check before the device has anything to do, and looking through a
# model's modules takes as long as the edits of many layers, so what was found is kept.
_trees: WeakKeyDictionary[nn.Module, list[_Place]] = WeakKeyDictionary()


def _tree(module: nn.Module, above: nn.Module | None) -> Iterator[_Place]:
    for name, child in module._modules.items():
        if child is not None:
            yield above, name, child, len(child._modules)
            yield from _tree(child, child)


def _is_compiled(module: nn.Module) -> bool:
    if module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
        return True
    # A forward that was put in the place of the class's own; the class's would do the same to all.
    return hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable")
