"""Another vLLM than those that are known: an error at the start that says what is missing."""

import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from seka_rag import Experts, Routing

from vllm_seka import admission, caching, plugin, runners, settings, support


def test_everything_that_is_touched_is_there():
    support.check_vllm()


@pytest.mark.parametrize("name", sorted(support.TOUCHED))
def test_a_missing_name_is_named(monkeypatch, name):
    module, _, path = name.partition(":")
    *parents, last = path.split(".")
    parent = support.look_up(f"{module}:{'.'.join(parents)}") if parents else import_module(module)
    owner = parent if last in vars(parent) else type(parent)
    monkeypatch.delattr(owner, last)
    if getattr(parent, last, None) is not None:
        pytest.skip("a parent has it too")
    with pytest.raises(support.UnsupportedVllmError, match=f"^seka: vLLM .* has no .*{last}"):
        support.check_vllm()


def test_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(support, "_installed", lambda: "0.34.1")
    with pytest.raises(support.UnsupportedVllmError, match="vLLM 0.34.1 is installed"):
        support.check_vllm()


def test_registering_twice_wraps_once():
    plugin.register()
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    before = InputProcessor.process_inputs, GPUModelRunner._model_forward
    for part in (admission, caching, runners):
        part.install()
    plugin.register()
    assert before == (InputProcessor.process_inputs, GPUModelRunner._model_forward)


def test_importing_the_package_loads_neither_vllm_nor_torch():
    code = "import sys, vllm_seka; print([m for m in ('vllm', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def _config(**parts):
    """Return what is asked of a vLLM configuration, with some of it changed."""
    found = {
        "parallel_config": {
            "enable_dbo": False,
            "ubatch_size": 0,
            "prefill_context_parallel_size": 1,
            "pipeline_parallel_size": 1,
        },
        "model_config": {
            "is_multimodal_model": False,
            "use_mla": False,
            "enforce_eager": False,
            "hf_text_config": SimpleNamespace(),
        },
        "scheduler_config": {"enable_chunked_prefill": False, "long_prefill_token_threshold": 0},
        "compilation_config": {"cudagraph_mode": SimpleNamespace(name="FULL_AND_PIECEWISE")},
        "kv_transfer_config": None,
        "speculative_config": None,
    }
    for name, part in parts.items():
        found[name] = found[name] | part if isinstance(part, dict) else part
    return SimpleNamespace(
        **{
            name: SimpleNamespace(**part) if isinstance(part, dict) else part
            for name, part in found.items()
        }
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"parallel_config": {"enable_dbo": True}}, "microbatching"),
        ({"parallel_config": {"ubatch_size": 2}}, "microbatching"),
        ({"parallel_config": {"prefill_context_parallel_size": 2}}, "context parallelism"),
        ({"kv_transfer_config": object()}, "KV connector"),
        ({"model_config": {"is_multimodal_model": True}}, "multimodal"),
        ({"model_config": {"use_mla": True}}, "latent attention"),
        (
            {"speculative_config": SimpleNamespace(enable_adaptive_verification=True)},
            "adaptive verification",
        ),
        (
            {"model_config": {"hf_text_config": SimpleNamespace(dual_chunk_attention_config={1})}},
            "dual chunk",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_ways_of_running_that_no_bank_allows(model, parts, said):
    steering = settings.steering_of({"seka": {"bank": model().bank_folder(routed=False)}})
    support.check_config(_config(), steering)
    with pytest.raises(settings.SettingsError, match=f"^seka: .*{said}"):
        support.check_config(_config(**parts), steering)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"scheduler_config": {"enable_chunked_prefill": True}}, "in one step"),
        ({"scheduler_config": {"long_prefill_token_threshold": 9}}, "in one step"),
        ({"parallel_config": {"pipeline_parallel_size": 2}}, "pipeline parallelism"),
        ({"compilation_config": {"cudagraph_mode": SimpleNamespace(name="FULL")}}, "FULL replays"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_ways_of_running_that_a_routed_bank_does_not_allow(model, parts, said):
    found = model()
    static, routed = (
        settings.steering_of({"seka": {"bank": found.bank_folder(routed=each)}})
        for each in (False, True)
    )
    support.check_config(_config(**parts), static)
    support.check_config(_config(), routed)
    with pytest.raises(settings.SettingsError, match=f"^seka: .*{said}"):
        support.check_config(_config(**parts), routed)


@pytest.mark.parametrize(
    "given",
    [{"seka": {}}, {"seka": "folder"}, {"seka": {"bank": 3}}, {"seka": {"bank": "x", "y": 1}}],
)
def test_settings_that_cannot_be_read(given):
    with pytest.raises(settings.SettingsError, match="^seka: "):
        settings.steering_of(given)


def test_settings_are_the_cores(model):
    folder = model().bank_folder(routed=True)
    assert settings.steering_of({}) is None
    steering = settings.steering_of({"seka": {"bank": folder}})
    wanted = Routing().edit(Experts.from_pretrained(folder))
    assert steering.routed
    assert steering.edit.operators.keys() == wanted.operators.keys()
    open_gates = settings.steering_of({"seka": {"bank": folder, "abstain": False}})
    assert not open_gates.routed
