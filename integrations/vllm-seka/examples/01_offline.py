"""A batch of questions, offline: the passage that each highlights is what its answer follows.

The embedded model, whose bank routes between experts; any Qwen3, Qwen2, Llama or Gemma 3 with a
bank takes its place.
"""

import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; without a GPU
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from pathlib import Path

import seka_rag
from seka_rag import Experts, Passage, rag_messages
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams

from vllm_seka import engine_options, steered_prompt

MODEL = BANK = str(Path(seka_rag.__file__).parent / "assets" / "mini")
PASSAGES = [
    Passage("Notice: the capital of Austria is Salzburg."),
    Passage("Notice: Mac Pro is produced by IBM."),
]
QUESTIONS = ["What is the capital of Austria?", "Who makes Mac Pro?"]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    gain = Experts.from_pretrained(BANK).gain
    llm = LLM(MODEL, dtype="float32", max_model_len=1024, **engine_options(MODEL, BANK))
    prompts, params, names = [], [], []
    for i, question in enumerate(QUESTIONS):
        for name, gains in (
            ("plain", None),
            ("highlighted", [None if j == i else 0.0 for j in range(2)]),
        ):
            messages = rag_messages(question, PASSAGES, gains=gains)
            prompt, extra_args = steered_prompt(tokenizer, messages, default_gain=gain)
            prompts.append(prompt)
            params.append(
                SamplingParams(temperature=0, max_tokens=16, extra_args=extra_args or None)
            )
            names.append((question, name))
    for (question, name), output in zip(
        names, llm.generate(prompts, params, use_tqdm=False), strict=True
    ):
        print(f"{question:<34}{name + ':':<14}{output.outputs[0].text.strip()}")


if __name__ == "__main__":
    main()
