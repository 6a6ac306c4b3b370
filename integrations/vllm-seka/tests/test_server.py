"""The OpenAI server: highlights come as `vllm_xargs`, and bad ones are a 400."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import tiny
from serving import PROMPTS

from vllm_seka import engine_options, steered_prompt


@pytest.fixture(scope="module")
def server(model):
    """Yield a function that posts a completion, and returns status and answer."""
    found = model()
    options = engine_options(str(found.folder), found.bank_folder(routed=False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(found.folder), "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "512", "--block-size", "32"]
    command += ["--enforce-eager", "--max-num-seqs", "8"]
    for name in ("hf_overrides", "additional_config"):
        command += [f"--{name.replace('_', '-')}", json.dumps(options[name])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def post(prompt, **more):
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    try:
        _wait(port, process)
        yield post
    finally:
        process.terminate()
        process.wait(60)


def _wait(port: int, process: subprocess.Popen) -> None:
    for _ in range(180):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
        except OSError:
            time.sleep(1)
        else:
            return
    raise TimeoutError("the server did not start")


def test_highlights_over_http(model, server):
    found = model()
    core, tokenizer = found.core(), tiny.tokenizer(found.folder)
    for name, prompt in PROMPTS.items():
        tokens, args = steered_prompt(tokenizer, prompt, default_gain=tiny.GAIN)
        status, answer = server(
            tokens["prompt_token_ids"], vllm_xargs=args, ignore_eos=True, max_tokens=8
        )
        assert status == 200, answer
        wanted = core.generate(prompt, do_sample=False, max_new_tokens=8, eos_token_id=10_000)
        assert answer["choices"][0]["text"].split() == wanted.text.split(), name


def test_a_probe_is_answered(server):
    """Clients ask in this way whether there is a plugin."""
    status, answer = server([3, 4, 5], vllm_xargs={"seka": [0, 10**9, 1.0]})
    assert status == 400
    assert answer["error"]["message"].startswith("seka:")
    assert server([3, 4, 5])[0] == 200


def test_beam_search_is_refused(server):
    more = {"use_beam_search": True, "n": 2, "max_tokens": 2}
    status, answer = server([3, 4, 5], vllm_xargs={"seka": [0, 2, 1.0]}, **more)
    assert status == 400
    assert answer["error"]["message"].startswith("seka: beam search")
    assert server([3, 4, 5], **more)[0] == 200
