"""Where vLLM's models make their keys: one `Site` a layer, at the attention's rotary embedding.

    T  tokens of a step      H  KV heads on this device      D  head_dim

All supported attentions hand queries (T, heads·D) and keys (T, H·D), flat and after any q_norm and
k_norm, to `rotary_emb(positions, queries, keys)`. Putting a module before it is one place for all
architectures, which is there before the model is traced, so that compiled code and CUDA graphs hold
it, and which leaves the names of weights alone. What is done to keys is not known here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from seka_rag import KeySite, Layout, fingerprint
from torch import Tensor, nn

from vllm_seka.settings import SettingsError

if TYPE_CHECKING:
    from seka_rag.bank import Fingerprint
    from transformers import PretrainedConfig

_NEEDED = ("total_num_kv_heads", "num_kv_heads", "head_dim", "scaling", "qkv_proj", "rotary_emb")


@dataclass(frozen=True, eq=False)
class Site:
    """The attention of one layer."""

    name: str
    layer: int
    attention: Any  # one of vLLM's, whose classes have no common parent
    heads: list[int]  # the KV heads on this device, numbered over all devices

    @property
    def head_dim(self) -> int:
        return int(self.attention.head_dim)

    @property
    def n_kv_heads(self) -> int:
        """How many KV heads the layer has on all devices."""
        return int(self.attention.total_num_kv_heads)

    @property
    def window(self) -> int | None:
        """How many tokens the attention sees; None for all."""
        window = getattr(self.attention.attn, "sliding_window", None)
        return window if isinstance(window, int) and window > 0 else None

    def put(self, make: Callable[..., nn.Module], *parts: object) -> None:
        """Put a module, made of the rotary embedding and of `parts`, in its place."""
        self.attention.rotary_emb = make(self.attention.rotary_emb, *parts)

    def key_rows(self) -> Tensor | None:
        """Return the weights that make the keys of this device's heads; None if quantised."""
        weight = getattr(self.attention.qkv_proj, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            return None
        return weight[self.attention.q_size :][: self.attention.kv_size]


def sites_of(model: nn.Module) -> list[Site]:
    """Return the sites of the layers that are on this device, in order."""
    from vllm.distributed import (
        get_tensor_model_parallel_rank,
        get_tensor_model_parallel_world_size,
    )
    from vllm.model_executor.models.utils import extract_layer_index

    rank, size = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
    found = []
    for name, module in model.named_modules():
        if not name.endswith(".self_attn"):
            continue
        if missing := [each for each in _NEEDED if not hasattr(module, each)]:
            raise SettingsError(
                f"{type(module).__name__} has no {', '.join(missing)}: this model, or this release "
                "of vLLM, cannot be steered"
            )
        heads = heads_here(int(module.total_num_kv_heads), rank, size)
        found.append(Site(name, extract_layer_index(name), module, heads))
    return sorted(found, key=lambda site: site.layer)


def heads_here(total: int, rank: int, size: int) -> list[int]:
    """Return which of `total` KV heads the tensor-parallel device `rank` of `size` holds.

    Where there are more devices than heads, several hold the same.
    """
    if total >= size:
        own = total // size
        return list(range(rank * own, (rank + 1) * own))
    return [rank // (size // total)]


def fingerprint_of(
    sites: list[Site], config: "PretrainedConfig", *, weights: bool
) -> "Fingerprint":
    """Return the core's fingerprint of a model whose sites, at least the first, are given.

    With `weights` it holds the digest of the key projections, which needs the first KV head of the
    first, the middle and the last layer on this device; else the digest is empty.
    """
    holder = nn.Module()
    holder.config = config  # type: ignore[assignment]
    rows = [site.key_rows() if weights else None for site in sites]
    modules = [_Rows(row) for row in rows]
    first = sites[0]
    return fingerprint(
        holder,
        [
            KeySite(module, site.layer, first.n_kv_heads, first.head_dim, Layout.FLAT)
            for site, module in zip(sites, modules, strict=True)
        ],
    )


class _Rows(nn.Module):
    """Weights where the core looks for them."""

    def __init__(self, rows: Tensor | None) -> None:
        super().__init__()
        if rows is not None:
            self.weight = nn.Parameter(rows.detach(), requires_grad=False)


class Facts(nn.Module):
    """What the core reads from an attention module."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.scaling = float(site.attention.scaling)
        self.sliding_window = site.window


def key_site(site: Site) -> KeySite:
    """Return the site as the core's router takes it, with the KV heads of all devices."""
    return KeySite(
        nn.Identity(), site.layer, site.n_kv_heads, site.head_dim, Layout.FLAT, Facts(site)
    )


def by_head(flat: Tensor, head_dim: int) -> Tensor:
    """Return queries or keys (T, H·D) as (T, H, D): the same memory."""
    return flat.view(*flat.shape[:-1], -1, head_dim)


def on_heads(part: Tensor, heads: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return these heads of a bank's tensor (H, …), where keys are and as they are."""
    return part[heads].to(device, dtype).contiguous()
