"""The steered models: vLLM's own, with an edit before every rotary embedding.

An engine takes one by `hf_overrides={"architectures": ["SekaQwen3ForCausalLM"]}` and the like. The
weights keep their names. How an edit works is not known here.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from vllm_seka.routed import OPERATION, RoutedSteering
from vllm_seka.runners import model_state
from vllm_seka.settings import SettingsError, Steering, steering_of
from vllm_seka.sites import fingerprint_of, sites_of
from vllm_seka.static import StaticSteering
from vllm_seka.support import check_config

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# Tokens that a step may be padded by: for the largest graph, and to a multiple of the devices.
_PADDING = 64


class Steered:
    """What a steered model has over a plain one."""

    seka: StaticSteering | RoutedSteering

    def __init__(self, *, vllm_config: "VllmConfig", prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        steering = steering_of(vllm_config.additional_config)
        if steering is None:
            raise SettingsError(
                f"{type(self).__name__} needs a bank: give additional_config="
                '{"seka": {"bank": "a folder"}}, or serve the plain architecture'
            )
        check_config(vllm_config, steering)
        self._seka_config = vllm_config
        self._seka_sites = sites_of(self)  # type: ignore[arg-type]
        self._check_bank(steering, weights=False)
        self.seka = self._installed(steering)

    def _installed(self, steering: Steering) -> StaticSteering | RoutedSteering:
        config = self._seka_config
        place: dict[str, Any] = {
            "device": torch.device(config.device_config.device),
            "dtype": config.model_config.dtype,
        }
        if not steering.routed:
            graphs = config.compilation_config.cudagraph_capture_sizes or []
            n_tokens = max(config.scheduler_config.max_num_batched_tokens, *graphs, 0)
            n_tokens += _PADDING
            return StaticSteering(self._seka_sites, steering.edit, n_tokens=n_tokens, **place)
        if config.compilation_config.splitting_ops:
            config.compilation_config.splitting_ops.append(OPERATION)
        contexts = config.compilation_config.static_forward_context
        return RoutedSteering(self._seka_sites, steering.edit, contexts=contexts, **place)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights, and see that the bank was learned on them."""
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        steering = steering_of(self._seka_config.additional_config)
        assert steering is not None
        self._check_bank(steering, weights=True)
        return loaded

    def _check_bank(self, steering: Steering, *, weights: bool) -> None:
        """Raise BankMismatchError if the bank was learned on another model.

        Its weights are compared where one device can see them: the first of those that share a
        layer, where no quantisation has changed them and no other stage has a part of the layers.
        """
        if not self._seka_sites:
            return
        config = self._seka_config.model_config.hf_text_config
        whole = len(self._seka_sites) == config.num_hidden_layers
        first = self._seka_sites[0].heads[0] == 0
        plain = self._seka_config.quant_config is None
        steering.experts.check(
            fingerprint_of(self._seka_sites, config, weights=weights and whole and first and plain)
        )

    @staticmethod
    def get_model_state_cls() -> type:
        """Return what vLLM's V2 runner keeps of this model."""
        return model_state()


class SekaQwen3ForCausalLM(Steered, Qwen3ForCausalLM):  # type: ignore[misc]
    """Qwen3, steered."""


class SekaQwen2ForCausalLM(Steered, Qwen2ForCausalLM):  # type: ignore[misc]
    """Qwen2, steered."""


class SekaLlamaForCausalLM(Steered, LlamaForCausalLM):  # type: ignore[misc]
    """Llama, steered."""


class SekaGemma3ForCausalLM(Steered, Gemma3ForCausalLM):  # type: ignore[misc]
    """Gemma 3, text alone, steered."""
