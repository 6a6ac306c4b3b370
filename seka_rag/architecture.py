"""Where a model makes its keys: one `KeySite` a layer, found by looking at the attention modules.

    B  rows      T  tokens      H  KV heads (n_kv_heads)      D  head_dim

The keys of a layer are the output of its `k_norm` if the attention has one, else of its `k_proj`;
always before the rotary embedding. How a `k_norm` is called is not written in the module, and
shapes cannot tell (T may equal H), so the classes whose call was read and tested are listed by
name. Sites are bound to layers by the number that the attention itself carries, never by position.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seka_rag.errors import ArchitectureError, UnsteerableError


class Layout(Enum):
    """How a module lays out the keys that it returns."""

    FLAT = "(B, T, H*D)"
    TOKENS_FIRST = "(B, T, H, D)"
    HEADS_FIRST = "(B, H, T, D)"


_K_NORM_LAYOUTS = {
    "Qwen3Attention": Layout.TOKENS_FIRST,
    "Qwen3MoeAttention": Layout.TOKENS_FIRST,
    "Gemma3Attention": Layout.HEADS_FIRST,
}


@dataclass(frozen=True)
class KeySite:
    """A module whose output is the keys of one layer, before the rotary embedding."""

    module: nn.Module
    layer: int
    n_kv_heads: int
    head_dim: int
    layout: Layout
    # Where the attention can be read too: the module of the layer, and that of its queries, which
    # lays them out as `module` does the keys. Steering needs neither.
    attention: nn.Module | None = None
    query: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where the module's weights are; weights that are kept elsewhere count as on the CPU."""
        weight = next(self.module.parameters(), None)
        return torch.device("cpu") if weight is None or weight.is_meta else weight.device

    @property
    def n_query_heads(self) -> int:
        """How many query heads the attention has; 0 where they cannot be seen."""
        if self.attention is None or self.query is None:
            return 0
        groups = getattr(self.attention, "num_key_value_groups", None)
        return self.n_kv_heads * groups if isinstance(groups, int) else 0

    @property
    def scaling(self) -> float:
        """What the attention multiplies the products of queries and keys with."""
        return float(getattr(self.attention, "scaling", self.head_dim**-0.5))

    @property
    def window(self) -> int | None:
        """How many tokens the attention sees; None for all."""
        window = getattr(self.attention, "sliding_window", None)
        return window if isinstance(window, int) else None

    def queries_of(self, output: Tensor) -> Tensor:
        """Return the output of `query` as queries (B, T, heads, D), before the rotary embedding."""
        if self.layout is Layout.FLAT:
            return output.view(*output.shape[:2], -1, self.head_dim)
        return output if self.layout is Layout.TOKENS_FIRST else output.transpose(1, 2)

    def keys_of(self, output: Tensor) -> Tensor:
        """Return the module's output as keys (B, T, H, D); a view where that is possible."""
        H, D = self.n_kv_heads, self.head_dim
        if self.layout is Layout.FLAT and output.ndim == 3 and output.shape[2] == H * D:
            return output.view(*output.shape[:2], H, D)
        if self.layout is Layout.TOKENS_FIRST and output.ndim == 4 and output.shape[2:] == (H, D):
            return output
        if self.layout is Layout.HEADS_FIRST and output.ndim == 4:
            if (output.shape[1], output.shape[3]) == (H, D):
                return output.transpose(1, 2)
        raise UnsteerableError(
            f"layer {self.layer} made keys of shape {tuple(output.shape)} where "
            f"{self.layout.value} with H={H}, D={D} was expected: a model split over devices by "
            "head, or packed sequences, cannot be steered"
        )

    def output_of(self, keys: Tensor) -> Tensor:
        """Return keys (B, T, H, D) in the layout of the module's output."""
        if self.layout is Layout.FLAT:
            return keys.flatten(2)
        return keys if self.layout is Layout.TOKENS_FIRST else keys.transpose(1, 2)


def key_sites(model: PreTrainedModel) -> tuple[KeySite, ...]:
    """Return the model's key sites, ordered by layer number."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise ArchitectureError(
            f"{type(model).__name__} is an encoder-decoder: use a decoder-only model"
        )
    sites: dict[int, KeySite] = {}
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "k_proj", None), nn.Module):
            continue
        if not isinstance(getattr(module, "layer_idx", None), int):
            continue  # without a number, as in a vision tower, it writes no key cache
        site = _site(name, module)
        if site.layer in sites:
            raise ArchitectureError(
                f"two attention modules of {type(model).__name__} call themselves layer "
                f"{site.layer}: pass sites=[KeySite(...)] to SteeredModel, one for each layer"
            )
        sites[site.layer] = site
    if not sites:
        raise ArchitectureError(
            "no attention module with a k_proj and a layer_idx was found in "
            f"{type(model).__name__}: supported are Qwen3, Gemma3 text, Llama, Mistral and Qwen2; "
            "for others pass sites=[KeySite(...)] to SteeredModel"
        )
    return tuple(sites[layer] for layer in sorted(sites))


def _site(name: str, attention: nn.Module) -> KeySite:
    """Return the key site of one attention module."""
    kind = type(attention).__name__
    head_dim = getattr(attention, "head_dim", None)
    n_kv_heads = getattr(getattr(attention, "config", None), "num_key_value_heads", None)
    if not isinstance(head_dim, int) or not isinstance(n_kv_heads, int):
        raise ArchitectureError(
            f"{name} ({kind}) has no head_dim, or its config no num_key_value_heads: "
            "pass sites=[KeySite(...)] to SteeredModel"
        )
    k_norm = getattr(attention, "k_norm", None)
    # A norm of another name, or a k_norm of unknown layout, may change the keys after the place we
    # would edit.
    other_norms = [
        child
        for child, _ in attention.named_children()
        if "norm" in child and child not in ("q_norm", "k_norm")
    ]
    if other_norms or (k_norm is not None and kind not in _K_NORM_LAYOUTS):
        raise ArchitectureError(
            f"{name} is a {kind}, whose {', '.join(other_norms) or 'k_norm'} is called in a way "
            "that is not known: pass sites=[KeySite(...)] to SteeredModel, with the layout of the "
            "keys before the rotary embedding"
        )
    layer: int = attention.layer_idx  # type: ignore[assignment]
    keys = attention.k_proj if k_norm is None else k_norm
    queries = getattr(attention, "q_proj" if k_norm is None else "q_norm", None)
    return KeySite(
        keys,  # type: ignore[arg-type]
        layer,
        n_kv_heads,
        head_dim,
        Layout.FLAT if k_norm is None else _K_NORM_LAYOUTS[kind],
        attention,
        queries if isinstance(queries, nn.Module) else None,
    )
