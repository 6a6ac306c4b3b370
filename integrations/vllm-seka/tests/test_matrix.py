"""The plugin against the core: the same log-probabilities and tokens, however vLLM runs.

Five requests share a batch. Combinations are in full for Qwen3; other architectures, whose edits
differ in where the keys come from alone, take those in which most can go wrong.
"""

import pytest
from serving import PROMPTS, ask, difference, engine, expected

TOLERANCE = 1e-4  # nats


def _check(model, *, routed, passes=1, **options):
    core = model.core(routed=routed)
    with engine(model.folder, bank=model.bank_folder(routed=routed), **options) as llm:
        for i in range(passes):
            answers = ask(llm, list(PROMPTS.values()), whole=i == 0)
            found = {
                name: difference(core, each) for name, each in zip(PROMPTS, answers, strict=True)
            }
            assert max(found.values()) < TOLERANCE, (i, found)
            print(f"pass {i + 1}: {max(found.values()):.1e}", [each.cached for each in answers])
    return {name: each.cached for name, each in zip(PROMPTS, answers, strict=True)}


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
@pytest.mark.parametrize("passes", [1, 3], ids=["uncached", "cached"])
@pytest.mark.parametrize("step", [None, 48], ids=["whole", "chunked"])
def test_static(model, eager, passes, step):
    cached = _check(
        model(),
        routed=False,
        passes=passes,
        enforce_eager=eager,
        enable_prefix_caching=passes > 1,
        max_num_batched_tokens=step,
    )
    # Nothing of what is found in a cache is recomputed.
    assert all(n >= 32 for n in cached.values()) == (passes > 1)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_static_elsewhere(model, kind):
    _check(
        model(kind),
        routed=False,
        passes=3,
        enable_prefix_caching=True,
        max_num_batched_tokens=48,
    )


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_static_compiled_elsewhere(model, kind):
    _check(model(kind), routed=False, enforce_eager=False)


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_routed(model, eager):
    cached = _check(model(), routed=True, passes=3, enforce_eager=eager, enable_prefix_caching=True)
    assert cached["two"] == cached["late"] == cached["start"] == 0
    assert cached["plain"] > 0
    assert cached["alone"] > 0


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_routed_elsewhere(model, kind):
    _check(model(kind), routed=True)


@pytest.mark.parametrize("routed", [False, True], ids=["static", "routed"])
def test_preemption(model, routed):
    found = model()
    core = found.core(routed=routed)
    options = {"num_gpu_blocks_override": 16, "max_model_len": 256, "enable_prefix_caching": True}
    if routed:
        options["max_num_batched_tokens"] = 256
    with engine(found.folder, bank=found.bank_folder(routed=routed), **options) as llm:
        answers = ask(llm, list(PROMPTS.values()), n=90, whole=False)
        counts = {each.name: getattr(each, "value", 0) for each in llm.get_metrics()}
    assert counts["vllm:num_preemptions"] > 0
    assert max(difference(core, each) for each in answers) < TOLERANCE


@pytest.mark.parametrize(
    ("kv_heads", "routed"),
    [
        (2, False),
        (1, True),
        pytest.param(1, False, marks=pytest.mark.more),
        pytest.param(2, True, marks=pytest.mark.more),
    ],
)
def test_tensor_parallel(model, monkeypatch, kv_heads, routed):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    _check(
        model(kv_heads=kv_heads),
        routed=routed,
        passes=2,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        enable_prefix_caching=True,
    )


@pytest.mark.more
@pytest.mark.parametrize("routed", [False, True], ids=["static", "routed"])
def test_speculative_decoding(model, routed):
    _check(
        model(),
        routed=routed,
        speculative_config={
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 2,
            "prompt_lookup_min": 1,
        },
    )


@pytest.mark.more
def test_pipeline_parallel(model, monkeypatch):
    """Compiled: eagerly, vLLM itself cannot do it on a CPU."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    _check(
        model(),
        routed=False,
        pipeline_parallel_size=2,
        distributed_executor_backend="mp",
        enforce_eager=False,
    )


def test_steering_is_no_small_change(model):
    """Tests of equality would pass if nothing were steered."""
    found = model()
    for routed in (False, True):
        core = found.core(routed=routed)
        for name in ("two", "late", "start"):
            row = core.read(PROMPTS[name])
            plain = expected(core, row.scaled(0), [])
            effect = (expected(core, row, []) - plain).abs()
            assert effect.max() > 0.3, (routed, name)
