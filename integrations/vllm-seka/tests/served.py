"""The embedded model under vLLM: is it the core's, and what does steering cost?

    python tests/served.py --data DATA --json FILE [--rows 500] [--rounds 5] [--parts …]

    counterfact  ES and PS on rows of the training split, served and in the core: the same prompts,
                 experts, gates and first tokens; and by how much their log-probabilities differ
    throughput   64 questions over five notices and 16 tokens after each, in one batch: by an engine
                 without a bank, and by engines with one where no request or every other has a
                 highlight. Rounds take turns; medians. The notices are those of
                 `integrations/conflicts.jsonl`

DATA is the folder of the evaluation data, in which there is counterfact/train.jsonl.gz.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import seka_rag
import torch
import vllm
from seka_rag import Passage, SteeredModel, __version__, rag_messages
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.task import Ask
from seka_rag.inputs import continuation_ids
from vllm import LLM, SamplingParams

from vllm_seka import engine_options, steered_prompt
from vllm_seka.prompts import extra_args

MINI = str(Path(seka_rag.__file__).parent / "assets" / "mini")
PARTS = ("counterfact", "throughput")
NEW = 16  # tokens after each question
NOTICES = Path(__file__).parents[2] / "conflicts.jsonl"
# One expert, and gates that stay open: an edit that asks nobody.
STATIC = {"experts": ["grounding"], "abstain": False}


@contextmanager
def engine(**options: Any):
    """Yield an engine that serves the embedded model."""
    settings = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "block_size": 32,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "seed": 0,
    }
    llm = LLM(MINI, **(settings | options))
    yield llm
    llm.llm_engine.engine_core.shutdown()


def counterfact(data: Path, rows: int) -> dict[str, Any]:
    """Return ES and PS, served and in the core, and how they differ."""
    core = SteeredModel.from_pretrained()
    task = CounterFact(data, split="train", limit=rows)
    cases, _ = task.examples(core.tokenizer)
    asks = [task.prompts(case) for case in cases]
    with engine(**engine_options(MINI, MINI)) as llm:
        found = {
            name: _compared(core, llm, [each[number] for each in asks])
            for number, name in enumerate(("es", "ps"))
        }
    return {"rows": len(cases), **found}


def _compared(core: SteeredModel, llm: LLM, asks: Sequence[Ask]) -> dict[str, float]:
    """Return how often the first of two choices is preferred, in the core and served."""
    rows = [core.read(ask.prompt) for ask in asks]
    firsts = [
        [continuation_ids(core.tokenizer, row, text)[0] for text in ask.choices]
        for row, ask in zip(rows, asks, strict=True)
    ]
    scores: list[list[float]] = []
    for start in range(0, len(asks), 16):
        part = slice(start, start + 16)
        said = core.next_token_logprobs([ask.prompt for ask in asks[part]])
        scores += said.gather(1, torch.tensor(firsts[part])).tolist()
    # Nothing but the two may be chosen; the log-probabilities are those before that.
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=1,
            logprobs=0,
            allowed_token_ids=ids,
            extra_args=extra_args(row) or None,
        )
        for row, ids in zip(rows, firsts, strict=True)
    ]
    outputs = llm.generate([{"prompt_token_ids": row.ids} for row in rows], params, use_tqdm=False)
    others, differences, preferred = 0, [], 0
    for score, ids, output in zip(scores, firsts, outputs, strict=True):
        token = output.outputs[0].token_ids[0]
        chosen = ids.index(token)
        preferred += chosen == 0
        others += score[chosen] < max(score)
        differences.append(abs(output.outputs[0].logprobs[0][token].logprob - score[chosen]))
    return {
        "core": sum(new > true for new, true in scores) / len(asks),
        "served": preferred / len(asks),
        "other_answers": others,
        "max_difference_nats": max(differences),
    }


def throughput(rounds: int) -> dict[str, Any]:
    """Return requests and tokens a second, for each way of serving."""
    core = SteeredModel.from_pretrained()
    plain = _questions(core, highlighted=lambda i: False)
    half = _questions(core, highlighted=lambda i: i % 2 == 0)
    with (
        engine(enable_chunked_prefill=False) as bare,
        engine(enable_chunked_prefill=False, **engine_options(MINI, MINI, **STATIC)) as static,
        engine(**engine_options(MINI, MINI)) as routed,
    ):
        ways = {
            "plain": (bare, plain),
            "static, nothing highlighted": (static, plain),
            "static, half highlighted": (static, half),
            "routed, nothing highlighted": (routed, plain),
            "routed, half highlighted": (routed, half),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(rounds + 1):
            for name, (llm, requests) in ways.items():
                start = time.perf_counter()
                llm.generate(*requests, use_tqdm=False)
                if i:  # the first round is for getting warm
                    seconds[name].append(time.perf_counter() - start)
    tokens = sum(len(each["prompt_token_ids"]) for each in plain[0])
    found = {
        name: {
            "seconds": round(statistics.median(each), 3),
            "requests_a_second": round(len(plain[0]) / statistics.median(each), 1),
            "all_seconds": [round(second, 3) for second in each],
        }
        for name, each in seconds.items()
    }
    return {"requests": len(plain[0]), "prompt_tokens": tokens, "new_tokens": NEW, "ways": found}


def _questions(core: SteeredModel, highlighted) -> tuple[list[Any], list[SamplingParams]]:
    """Return 64 questions over five notices each, some with a highlight on the first."""
    rows = [json.loads(line) for line in NOTICES.read_text("utf-8").splitlines()]
    requests, params = [], []
    for i in range(64):
        passages = [Passage(rows[(i + j) % len(rows)]["notice"]) for j in range(5)]
        gains: Sequence[float | None] = [None if highlighted(i) else 0.0, 0.0, 0.0, 0.0, 0.0]
        messages = rag_messages(rows[i]["question"], passages, gains=gains)
        tokens, args = steered_prompt(core.tokenizer, messages, default_gain=core.bank.gain)
        requests.append(tokens)
        params.append(
            SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, extra_args=args or None)
        )
    return requests, params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument("--json", type=Path, required=True, help="file for what is found")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "settings": {
            "command": "python integrations/vllm-seka/tests/served.py --data DATA --json FILE",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {
                "seka-rag": __version__,
                "vllm": vllm.__version__,
                "torch": torch.__version__,
            },
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    if "counterfact" in options.parts:
        result["counterfact"] = counterfact(options.data, options.rows)
    if "throughput" in options.parts:
        result["throughput"] = throughput(options.rounds)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
