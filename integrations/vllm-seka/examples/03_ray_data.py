"""Many documents: Ray Data feeds engines with the plugin, row by row, each with its own highlights.

Needs ray[data] (tried with 2.60) beside vLLM. On a cluster, raise `concurrency`: every engine is an
actor with its own copy of the model. With GPUs leave out `placement_group_config`.
"""

import os
from pathlib import Path

import ray
import seka_rag
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from seka_rag import Passage, rag_messages
from transformers import AutoTokenizer

from vllm_seka import engine_options, steered_prompt

MODEL = str(Path(seka_rag.__file__).parent / "assets" / "mini")
PASSAGES = [
    Passage("Notice: the capital of Austria is Salzburg."),
    Passage("Notice: Mac Pro is produced by IBM."),
]
QUESTIONS = ["What is the capital of Austria?", "Who makes Mac Pro?"]
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)


def asked(row: dict) -> dict:
    """Return a row as the engine takes it: token ids, and what of them is highlighted."""
    messages = rag_messages(row["question"], PASSAGES, gains=row["gains"])
    prompt, extra_args = steered_prompt(TOKENIZER, messages)
    return {
        "tokenized_prompt": prompt["prompt_token_ids"],
        "sampling_params": {"max_tokens": 16, "temperature": 0.0, "extra_args": extra_args},
    }


def main() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    ray.init(logging_level="ERROR", log_to_driver=False)
    config = vLLMEngineProcessorConfig(
        model_source=MODEL,
        engine_kwargs={
            "max_model_len": 1024,
            "max_num_batched_tokens": 4096,
            "dtype": "float32",
            "enforce_eager": True,
            **engine_options(MODEL, MODEL),
        },
        batch_size=8,
        concurrency=1,
        log_engine_metrics=False,  # which want ray[default]
        placement_group_config={"bundles": [{"CPU": 1}]},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(
        config,
        preprocess=asked,
        postprocess=lambda row: {
            **{name: row[name] for name in ("question", "gains")},
            "answer": TOKENIZER.decode(row["generated_tokens"], skip_special_tokens=True),
        },
    )
    rows = [
        {"question": question, "gains": [gain if j == i else 0.0 for j in range(len(PASSAGES))]}
        for i, question in enumerate(QUESTIONS)
        for gain in (0.0, 1.4)
    ]
    for row in processor(ray.data.from_items(rows)).take_all():
        name = "highlighted" if any(row["gains"]) else "plain"
        print(f"{row['question']:<34}{name + ':':<14}{row['answer'].strip()}")


if __name__ == "__main__":
    main()
