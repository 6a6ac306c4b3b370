"""Edits that the prompt itself decides on: its last token's queries choose among experts and open
gates, layer after layer, by the core's own `Router`, in the prompt's own pass.

    T  tokens of a step      t  tokens of a prompt      H  KV heads on this device
    D  head_dim              M  experts                 n  highlighted tokens

An operation that compiled code sees from outside runs it for every highlighted prompt of a step;
steps without one pay a call a layer. A prompt must be computed whole: the plugin starts with these
banks only where vLLM does that, and never reads cached keys for a highlighted prompt. With tensor
parallelism each device sees the keys and queries of all heads, and edits its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from seka_rag.bank import KeyOperator
from seka_rag.editing import EditPlan, edit_keys
from seka_rag.inputs import Batch
from seka_rag.router import Observed, Router
from seka_rag.routing import Edit
from torch import Tensor, nn

from vllm_seka.highlights import Highlights
from vllm_seka.sites import Site, by_head, key_site, on_heads
from vllm_seka.steps import Row, SteeringLostError, Steps

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

OPERATION = "vllm_seka::route"
_library: torch.library.Library | None = None


@dataclass(eq=False)
class Prompt:
    """A highlighted prompt in a step."""

    offset: int  # of its first token in the flat batch
    length: int
    plan: EditPlan
    router: Router
    layers: int = 0  # that have edited its keys
    rotations: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def rotation(self, rotary: Any) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (1, t, D'), the same objects for layers that turn alike."""
        if id(rotary) not in self.rotations:
            # vLLM keeps the cosines and sines of D' / 2 angles side by side.
            cos, sin = rotary.cos_sin_cache[: self.length].chunk(2, dim=-1)
            self.rotations[id(rotary)] = cos.repeat(1, 2)[None], sin.repeat(1, 2)[None]
        return self.rotations[id(rotary)]


class RoutedSteering:
    """The edit of a model's layers, and the highlighted prompts of the step that is computed."""

    def __init__(
        self,
        sites: Iterable[Site],
        edit: Edit,
        *,
        contexts: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        register_operation()
        self._steps = Steps()
        self._device, self._dtype = device, dtype
        self.prompts: list[Prompt] = []
        steered = [site for site in sites if site.layer in edit.operators]
        self._n_layers = len(steered)
        self._edit = edit.on(dict.fromkeys(edit.operators, device), dtype)
        for site in steered:
            layer = RoutedLayer(site, edit.operators[site.layer], self, device, dtype)
            name = f"{site.name}.seka"
            contexts[name] = layer  # where the operation finds it, as vLLM's own layers are found
            site.put(RoutedKeys, name)

    def begin(self, ordered: "SchedulerOutput") -> None:
        """Take in what the scheduler orders."""
        self.prompts = []
        self._steps.begin(ordered)

    def place(self, rows: Iterable[Row]) -> None:
        """Prepare the routing of a step's highlighted prompts."""
        self.prompts = [self._prompt(*found) for found in self._steps.place(rows)]

    def end(self) -> None:
        """Raise SteeringLostError unless every layer has edited every highlighted prompt."""
        self._steps.end()
        if any(prompt.layers != self._n_layers for prompt in self.prompts):
            raise SteeringLostError(
                f"seka: {[prompt.layers for prompt in self.prompts]} of {self._n_layers} layers "
                "have edited the highlighted prompts of a step: this way of running vLLM passes "
                "the plugin by"
            )
        self.prompts = []

    def abandon(self) -> None:
        """Forget the step."""
        self._steps.abandon()
        self.prompts = []

    def _prompt(self, row: Row, highlights: Highlights) -> Prompt:
        length = len(highlights.gains)
        if row.position > 0 or row.count < length:
            raise SteeringLostError(
                f"seka: a step holds the tokens {row.position} to {row.position + row.count} of a "
                f"highlighted prompt of {length}, and routing needs all of them: vLLM has divided "
                "it, or found a part in a cache"
            )
        batch = as_batch(highlights)
        plan = EditPlan.from_gains(batch.gains, self._device, batch.owners, dtype=self._dtype)
        return Prompt(row.offset, length, plan, Router(self._edit, batch))


def as_batch(highlights: Highlights) -> Batch:
    """Return the highlights as the core's batch of one row, in which nobody reads the tokens."""
    length = len(highlights.gains)
    nothing = torch.empty(1, 0, dtype=torch.int64)
    return Batch(
        nothing,
        nothing,
        torch.from_numpy(highlights.gains)[None],
        torch.from_numpy(highlights.owners)[None],
        [list(highlights.kinds)],
        torch.tensor([0]),
        torch.tensor([length - 1]),
    )


class RoutedLayer:
    """What one layer does to the highlighted prompts of a step."""

    def __init__(
        self,
        site: Site,
        operator: KeyOperator,
        steering: RoutedSteering,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        from vllm.distributed import get_tensor_model_parallel_world_size

        self._site = key_site(site)
        self._heads = site.heads
        self._devices = get_tensor_model_parallel_world_size()
        self._copies = self._devices * len(site.heads) // site.n_kv_heads  # of each KV head
        self._rotary = site.attention.rotary_emb
        if not self._rotary.is_neox_style:
            raise NotImplementedError("seka: routing needs keys that are turned by halves")
        self._steering = steering
        self._operator = KeyOperator(
            *(on_heads(part, site.heads, device, dtype) for part in _parts(operator))
        )

    def edit(self, queries: Tensor, keys: Tensor) -> None:
        """Edit keys (T, H·D) where they are."""
        for prompt in self._steering.prompts:
            end = prompt.offset + prompt.length
            own = by_head(keys[prompt.offset : end], self._site.head_dim)
            last = by_head(queries[end - 1 : end], self._site.head_dim)
            seen = Observed(
                self._of_all(own)[:, :: self._copies][None],
                self._of_all(last).expand(prompt.length, -1, -1)[None],
                prompt.rotation(self._rotary),
            )
            prompt.router.see(self._site, seen)
            factors = prompt.router.factors(self._site.layer, prompt.plan, rows=1, start=0)
            new = edit_keys(own[None], self._operator, prompt.plan, factors[:, self._heads])
            if new.data_ptr() != own.data_ptr():  # on CUDA they are edited where they are
                own.copy_(new[0])
            prompt.layers += 1

    def _of_all(self, part: Tensor) -> Tensor:
        """Return queries or keys (T, heads, D) of the heads on all devices."""
        if self._devices == 1:
            return part
        from vllm.distributed import tensor_model_parallel_all_gather

        gathered: Tensor = tensor_model_parallel_all_gather(part.contiguous(), dim=1)
        return gathered


def _parts(operator: KeyOperator) -> tuple[Tensor, Tensor]:
    return operator.basis, operator.weights


class RoutedKeys(nn.Module):
    """A rotary embedding before which the keys of highlighted prompts are edited."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name

    def forward(self, positions: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        torch.ops.vllm_seka.route(queries, keys, self.name)
        turned: tuple[Tensor, Tensor] = self.inner(positions, queries, keys)
        return turned


def register_operation() -> None:
    """Make the operation known to torch. Doing it again does nothing."""
    global _library
    if _library is not None:
        return
    from vllm.utils.torch_utils import direct_register_custom_op

    _library = torch.library.Library("vllm_seka", "FRAGMENT")  # type: ignore[no-untyped-call]
    direct_register_custom_op(
        "route", _route, mutates_args=["keys"], fake_impl=_untouched, target_lib=_library
    )


def _route(queries: Tensor, keys: Tensor, name: str) -> None:
    from vllm.forward_context import get_forward_context

    get_forward_context().no_compile_layers[name].edit(queries, keys)


def _untouched(queries: Tensor, keys: Tensor, name: str) -> None:
    """What a trace sees."""
