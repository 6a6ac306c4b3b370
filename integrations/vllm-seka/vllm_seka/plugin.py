"""The entry point: what vLLM calls, in every process and maybe twice, before it makes an engine."""

_ARCHITECTURES = {
    "Qwen3ForCausalLM": "SekaQwen3ForCausalLM",
    "Qwen2ForCausalLM": "SekaQwen2ForCausalLM",
    "LlamaForCausalLM": "SekaLlamaForCausalLM",
    "Gemma3ForCausalLM": "SekaGemma3ForCausalLM",
}


def register() -> None:
    """Register the steered models, and have requests, cached blocks and steps looked after.

    A vLLM in which anything is missing that this needs is an UnsupportedVllmError.
    """
    from vllm_seka import admission, caching, runners, support

    support.check_vllm()
    from vllm import ModelRegistry

    for name in _ARCHITECTURES.values():
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"vllm_seka.models:{name}")
    admission.install()
    caching.install()
    runners.install()


def steered(architecture: str) -> str:
    """Return the name under which an architecture is registered with steering."""
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"seka: {architecture} cannot be steered in vLLM: supported are "
            f"{', '.join(sorted(_ARCHITECTURES))}"
        )
    return _ARCHITECTURES[architecture]
