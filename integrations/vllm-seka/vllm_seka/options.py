"""The engine's options: what `LLM`, `AsyncEngineArgs` and the server need to be told of a bank."""

from typing import Any

from vllm_seka.plugin import steered
from vllm_seka.settings import KEY, steering_of


def engine_options(model: str, bank: str, **settings: object) -> dict[str, Any]:
    """Return the arguments with which vLLM serves `model`, a folder or a hub name, under `bank`.

    `settings` are `experts`, `score`, `abstain` and `directions`, as in `seka_rag.Routing`. A bank
    that routes needs whole prompts, and turns chunked prefill off.
    """
    from transformers import AutoConfig

    architectures = AutoConfig.from_pretrained(model).architectures or ["nothing"]
    additional = {KEY: {"bank": bank, **settings}}
    options: dict[str, Any] = {
        "hf_overrides": {"architectures": [steered(architectures[0])]},
        "additional_config": additional,
    }
    steering = steering_of(additional)
    if steering is not None and steering.routed:
        options["enable_chunked_prefill"] = False
    return options
