"""Make mini, in one command that can be stopped and resumed:

    python -m mini.build --data DATA --work FOLDER --out seka_rag/assets/mini

FOLDER keeps the tokenizer and the state of the training; OUT receives the finished model in Hugging Face's layout.
When the time is up before the training is done, the state is kept and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from mini import check, corpus, train
from mini.chat import END_OF_TEXT, TURN_END, TURN_START

STAGES = (train.Plan("first", 4_600), train.Plan("second", 1_300, rate=2e-3, falling=0.9))


def export(work: Path, out: Path) -> None:
    """Write the model of the last checkpoint as a Hugging Face folder, weights in bf16."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(work / "tokenizer.json"), eos_token=TURN_END, pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START], model_max_length=corpus.LONGEST, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = (Path(__file__).parent / "chat_template.jinja").read_text(
        encoding="utf-8"
    )
    tokenizer.save_pretrained(out)
    vocabulary = tokenizer.get_vocab()
    model = Qwen3ForCausalLM(train.config(vocabulary))
    model.load_state_dict(
        torch.load(train.state_file(work, STAGES[-1].stage), map_location="cpu", weights_only=True)[
            "model"
        ]
    )
    model.generation_config = GenerationConfig(
        eos_token_id=[vocabulary[TURN_END], vocabulary[END_OF_TEXT]],
        pad_token_id=vocabulary[END_OF_TEXT],
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(out)


def main() -> None:
    """Run what is left of the build, as far as the time allows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with counterfact/, pararel/ and books/"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the state")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--steps", type=lambda text: tuple(map(int, text.split(","))), help="of each stage, such as 400,100",
        default=tuple(plan.steps for plan in STAGES),
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=510, help="stop training after so long; run again to go on"
    )
    parser.add_argument("--cases", type=int, default=200, help="cases a check")
    arguments = parser.parse_args()
    began = time.time()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer_file = arguments.work / "tokenizer.json"
    if not tokenizer_file.exists():
        corpus.train_tokenizer(corpus.read_sources(arguments.data)).save(str(tokenizer_file))
        print(f"tokenizer {time.time() - began:.0f} s", flush=True)
    after = None
    plans = (replace(plan, steps=n) for plan, n in zip(STAGES, arguments.steps, strict=True))
    for plan in plans:
        left = arguments.seconds - (time.time() - began)
        finished = train.train(
            arguments.data, arguments.work, plan, after=after, seconds=left, processes=max(1, (os.cpu_count() or 2) - 2),
        )  # fmt: skip
        if not finished:
            print(f"stopped after {time.time() - began:.0f} s: run the same command again to go on")
            return
        after = plan.stage
    export(arguments.work, arguments.out)
    print(f"done after {time.time() - began:.0f} s", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen3ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32).to(device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.out)
    figures = check.measure(
        model, tokenizer, arguments.data, rows=5 * arguments.cases, cases=arguments.cases, batch=256
    )
    kept = {
        "command": shlex.join(["python", "-m", "mini.build", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": arguments.cases,
        "rows": 5 * arguments.cases,
        "figures": figures,
    }
    print(json.dumps(kept, indent=1))
    (arguments.work / "checks.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(check.samples(model, tokenizer))
    print(f"checked after {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
