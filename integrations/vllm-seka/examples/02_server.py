"""A question to a server: token ids as the prompt, and what is highlighted as `vllm_xargs`.

Start the server first, as the README says; then: python examples/02_server.py http://localhost:8000
"""

import json
import sys
import urllib.request
from pathlib import Path

import seka_rag
from seka_rag import highlight
from transformers import AutoTokenizer

from vllm_seka import steered_prompt

MODEL = str(Path(seka_rag.__file__).parent / "assets" / "mini")  # as it was served


def complete(url: str, prompt: list[int], xargs: dict[str, object]) -> str:
    """Return what the served model writes after a prompt."""
    body = {"model": "mini", "prompt": prompt, "max_tokens": 16, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body | {"vllm_xargs": xargs}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["text"].strip()


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    content = [
        highlight("Notice: the capital of Austria is Salzburg."),
        "\n\nWhat is the capital of Austria?",
    ]
    for name, gain in (("plain", 0), ("highlighted", None)):
        prompt, xargs = steered_prompt(
            tokenizer, [{"role": "user", "content": content}], gain=gain, default_gain=1.4
        )
        print(f"{name + ':':<14}{complete(sys.argv[1], prompt['prompt_token_ids'], xargs)}")


if __name__ == "__main__":
    main()
