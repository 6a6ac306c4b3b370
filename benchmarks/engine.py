"""What the engine is worth on this machine: throughput, a free event loop, a context used again.

    python benchmarks/engine.py --json FILE [--requests 200 --threads 32]

The package's own model, every request with its own highlights, greedy. Ways alternate within each
of two rounds; figures are of the medians. `tick` is how long a coroutine that sleeps for 1 ms at
a time had to wait beyond that, at worst, while 20 answers were written.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from seka_rag import Engine, Sampling, SteeredModel, __version__, builtin_triplets, highlight

ROUNDS = 2


def prompts(n: int, passages: tuple[int, int] = (1, 2), seed: int = 0) -> list[list[object]]:
    """Return n prompts over so many passages, fewest and most, one of which is highlighted."""
    rng = random.Random(seed)
    triplets = [each for each in builtin_triplets() if not each.neutral.startswith("Instruction")]
    made = []
    for _ in range(n):
        chosen = rng.sample(triplets, rng.randint(*passages))
        asked = rng.randrange(len(chosen))
        segments: list[object] = ["Passages:"]
        for i, each in enumerate(chosen):
            passage = each.neutral.strip()
            gain = rng.choice([None, 0.5, 1.0])
            segments += [f"\n[{i + 1}] ", highlight(passage, gain=gain) if i == asked else passage]
        question = chosen[asked].relevant.splitlines()[-1]
        made.append([{"role": "user", "content": [*segments, f"\n\n{question}"]}])
    return made


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput(
    steered: SteeredModel, asked: list[list[object]], threads: int, sampling: Sampling
) -> dict[str, object]:
    """Return requests a second, one by one and many at once, and whether answers are equal."""
    n = len(asked)
    answers: dict[str, list[tuple[int, ...]]] = {}
    times: dict[str, list[float]] = {}
    with Engine(steered, max_prefix_tokens=0) as engine, ThreadPoolExecutor(threads) as pool:

        def ask(prompt: list[object]) -> tuple[int, ...]:
            return engine.generate(prompt, sampling).token_ids

        async def tasks() -> list[tuple[int, ...]]:
            found = await asyncio.gather(*(engine.agenerate(each, sampling) for each in asked))
            return [each.token_ids for each in found]

        ways: dict[str, Callable[[], list[tuple[int, ...]]]] = {
            "one by one": lambda: [ask(each) for each in asked],
            f"{threads} threads": lambda: list(pool.map(ask, asked)),
            "asyncio": lambda: asyncio.run(tasks()),
        }
        for _ in range(ROUNDS):
            for name, way in ways.items():
                times.setdefault(name, []).append(
                    seconds(lambda name=name, way=way: answers.update({name: way()}))
                )
    alone, *others = answers.values()
    tokens = statistics.mean(steered.count_tokens(each) for each in asked)
    return {
        "requests": n,
        "mean_prompt_tokens": round(tokens),
        "mean_new_tokens": round(statistics.mean(map(len, alone)), 1),
        "equal_answers": [sum(a == b for a, b in zip(alone, each, strict=True)) for each in others],
        "requests_a_second": {
            name: round(n / statistics.median(t), 2) for name, t in times.items()
        },
    }


def tick(steered: SteeredModel, sampling: Sampling) -> dict[str, object]:
    """Return the longest and the median delay of a ticking coroutine, in ms."""

    async def run(engine: Engine) -> list[float]:
        waits = []
        work = asyncio.gather(
            *(engine.agenerate(each, sampling) for each in prompts(20, (2, 5), seed=1))
        )
        while not work.done():
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            waits.append(1000 * (time.perf_counter() - start - 0.001))
        await work
        return waits

    with Engine(steered) as engine:
        asyncio.run(run(engine))
        waits = asyncio.run(run(engine))
    return {
        "ticks": len(waits),
        "worst_ms": round(max(waits), 1),
        "median_ms": round(statistics.median(waits), 2),
    }


def session(steered: SteeredModel) -> dict[str, object]:
    """Return the seconds for 20 questions over one long context, each way."""
    long = [each.neutral for each in builtin_triplets()][:40]
    context = ["Passages:", *(piece for each in long for piece in ("\n", highlight(each)))]
    questions = [f"\n\nQuestion: {each.relevant.splitlines()[-1]}" for each in builtin_triplets()]
    one = Sampling(max_new_tokens=4)
    times: dict[str, list[float]] = {"whole": [], "session": []}
    with Engine(steered, max_prefix_tokens=0) as engine:
        tokens = steered.count_tokens(context)

        def behind() -> None:
            opened = engine.prefill(context)
            for question in questions[:20]:
                opened.generate(question, one)

        for _ in range(ROUNDS):
            times["whole"].append(
                seconds(lambda: [engine.generate([*context, q], one) for q in questions[:20]])
            )
            times["session"].append(seconds(behind))
    whole, used = (statistics.median(each) for each in times.values())
    return {
        "context_tokens": tokens,
        "questions": 20,
        "whole_s": round(whole, 2),
        "session_s": round(used, 2),
        "times_as_fast": round(whole / used, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--new", type=int, default=24)
    options = parser.parse_args()
    steered = SteeredModel.from_pretrained()
    sampling = Sampling(max_new_tokens=options.new)
    results = {
        "settings": {
            "command": shlex.join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {
                "seka-rag": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "throughput": [
            throughput(steered, prompts(options.requests, most), options.threads, sampling)
            for most in ((1, 2), (2, 5))
        ],
        "tick": tick(steered, sampling),
        "session": session(steered),
    }
    print(json.dumps({k: v for k, v in results.items() if k != "settings"}, indent=1))
    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
