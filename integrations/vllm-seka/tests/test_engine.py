"""What an engine must not do: leak, change plain requests, or leave highlights plain in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import PROMPTS, ask, difference, engine
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from vllm_seka import caching, steps

HERE = Path(__file__).parent


def test_plain_requests_are_bit_for_bit_those_of_an_engine_without_the_plugin(model, tmp_path):
    found = model()
    file = tmp_path / "plain.json"
    subprocess.run(
        [sys.executable, str(HERE / "plain.py"), str(found.folder), str(file)],
        check=True,
        env=os.environ | {"VLLM_PLUGINS": "none"},
    )
    plain = json.loads(file.read_text())
    for routed in (False, True):
        with engine(found.folder, bank=found.bank_folder(routed=routed)) as llm:
            answers = dict(zip(PROMPTS, ask(llm, list(PROMPTS.values())), strict=True))
        for name in ("plain", "alone"):
            said = answers[name]
            assert [said.tokens, said.logprobs, said.prompt_logprobs] == plain[name]
        assert answers["two"].logprobs != plain["two"][1]


def test_without_keys_of_their_own_blocks_leak(model, monkeypatch):
    """The negative control: what the tests of caching would miss if blocks were shared."""
    found = model()
    monkeypatch.setattr(caching, "_highlights_of", lambda request: None)
    core = found.core()
    bank = found.bank_folder(routed=False)
    with engine(found.folder, bank=bank, enable_prefix_caching=True) as llm:
        for _ in range(2):
            answers = ask(llm, list(PROMPTS.values()), whole=False)
    assert sum(difference(core, each) > 0.01 for each in answers) >= 2


def test_a_prefix_before_the_highlight_is_shared(model):
    found = model()
    bank = found.bank_folder(routed=False)
    with engine(found.folder, bank=bank, enable_prefix_caching=True) as llm:
        ask(llm, [PROMPTS["plain"]], whole=False)
        (late,) = ask(llm, [PROMPTS["late"]], whole=False)
        assert late.cached == 96  # the highlight begins at token 101 of 140
        assert difference(found.core(), late) < 1e-4
        (two,) = ask(llm, [PROMPTS["two"]], whole=False)
        assert two.cached == 0


def test_a_bad_request_fails_alone(model):
    found = model()
    ids = list(range(3, 40))
    with engine(found.folder, bank=found.bank_folder(routed=False)) as llm:

        def ask_for(**extra_args):
            params = SamplingParams(temperature=0, max_tokens=4, extra_args=extra_args or None)
            return llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)

        before = ask_for()[0].outputs[0].token_ids
        for args in ({"seka": [0, 10**9, 1.0]}, {"seka": [3, 2, 1.0]}, {"seka": "all"}):
            with pytest.raises(VLLMValidationError, match="^seka: "):
                ask_for(**args)
        assert ask_for()[0].outputs[0].token_ids == before
        assert ask_for(seka=[0, 30, 0.0])[0].outputs[0].token_ids == before
        assert ask_for(seka=[0, 30, 3.0])[0].outputs[0].token_ids != before


def test_several_samples_of_one_prompt(model):
    found = model()
    params = SamplingParams(temperature=0, max_tokens=4, extra_args={"seka": [0, 30, 3.0]})
    with engine(found.folder, bank=found.bank_folder(routed=False)) as llm:
        prompt = {"prompt_token_ids": list(range(3, 40))}
        (one,) = llm.generate([prompt], params, use_tqdm=False)
        params.n, params.temperature, params.top_k = 3, 1.0, 1
        (three,) = llm.generate([prompt], params, use_tqdm=False)
    assert len(three.outputs) == 3
    assert all(each.token_ids == one.outputs[0].token_ids for each in three.outputs)


def test_a_server_without_a_bank_refuses_highlights(model):
    params = SamplingParams(max_tokens=1, extra_args={"seka": [0, 2, 1.0]})
    with engine(model().folder, bank=None) as llm:
        with pytest.raises(VLLMValidationError, match="^seka: this server has no bank"):
            llm.generate([{"prompt_token_ids": [3, 4, 5]}], params, use_tqdm=False)


def test_a_step_that_passes_the_plugin_by_is_an_error(model, monkeypatch):
    found = model()
    ids = list(range(3, 40))
    params = SamplingParams(max_tokens=1, extra_args={"seka": [0, 2, 1.0]})
    with engine(found.folder, bank=found.bank_folder(routed=False)) as llm:
        monkeypatch.setattr(steps.Steps, "place", lambda self, rows: [])
        with pytest.raises(Exception, match="seka: a step ordered highlighted tokens"):
            llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)


def test_a_bank_of_another_model_is_refused(model, tmp_path):
    """Of the same shape: its weights alone tell."""
    import tiny

    other = tmp_path / "other"
    tiny.make_model(other, "qwen3", seed=5)
    with (
        pytest.raises(Exception, match="the weights of the key projections"),
        engine(other, bank=model().bank_folder(routed=False)),
    ):
        pass


@pytest.mark.parametrize(
    ("routed", "options", "said"),
    [
        (True, {"enable_chunked_prefill": True}, "must be computed in one step"),
        (
            False,
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "KV connector",
        ),
    ],
    ids=["chunked", "connector"],
)
def test_unsupported_ways_of_running_are_refused(model, routed, options, said):
    found = model()
    with (
        pytest.raises(Exception, match=said),
        engine(found.folder, bank=found.bank_folder(routed=routed), **options),
    ):
        pass
