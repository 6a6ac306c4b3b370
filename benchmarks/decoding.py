"""What a token costs after a steered prompt and after a plain one, at the shapes of Qwen3-8B.

    python benchmarks/decoding.py --json FILE [--tokens 2000 --new 64]

Random weights, bfloat16, SDPA, one row. A lane is filled from a prompt, two thirds of it
highlighted, or nothing; then every step is timed, the host's work and the fetching of the token
included. Rounds alternate between plain and steered; figures are medians over all steps.

    dynamic     the cache grows; nothing is compiled      compiled    fixed buffers, compiled steps
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from prefill import batch_of, build, expert
from transformers import DynamicCache

from seka_rag import __version__
from seka_rag.architecture import key_sites
from seka_rag.compiled import CompiledLane
from seka_rag.decoding import Lane
from seka_rag.experts import Experts
from seka_rag.forward import PLAIN, prefill


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = build(options.layers, device)
    sites = key_sites(model)
    banks = {f"e{i}": expert(model, i, gated=True, whole=True) for i in range(2)}
    edit = Experts(banks).edit().on({site.layer: site.device for site in sites}, model.dtype)
    lit, unlit = (
        batch_of(options.tokens, 2 * options.tokens // 3, device, lit=lit) for lit in (True, False)
    )

    def steps(lane: Lane, *, steered: bool) -> tuple[list[float], list[int]]:
        cache = DynamicCache()
        logits = prefill(model, sites, edit if steered else PLAIN, lit if steered else unlit, cache)
        fresh = Lane(model)
        fresh.start(cache, [options.tokens])
        lane.absorb(fresh)
        token, times, written = int(logits.argmax()), [], []
        for _ in range(options.new):
            start = time.perf_counter()
            token = int(lane.step([token]).argmax())
            times.append(time.perf_counter() - start)
            written.append(token)
        lane.keep([])
        return times, written

    lanes = {"dynamic": Lane(model), "compiled": CompiledLane(model)}
    rows = {}
    for name, lane in lanes.items():
        start = time.perf_counter()
        steps(lane, steered=False)
        first = time.perf_counter() - start
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for steered in times:
                times[steered] += steps(lane, steered=steered)[0]
        plain, lit_up = (1000 * statistics.median(times[steered]) for steered in times)
        rows[name] = {
            "plain_ms": round(plain, 3),
            "steered_ms": round(lit_up, 3),
            "over_plain": round(lit_up / plain - 1, 4),
            "first_run_s": round(first, 1),
        }
        print(name, rows[name], flush=True)
        options.json.write_text(json.dumps({"settings": settings(options), "rows": rows}, indent=1))


def settings(options: argparse.Namespace) -> dict[str, object]:
    """Return how the figures came about."""
    cuda = options.device == "cuda"
    return {
        "command": shlex.join(["python", "benchmarks/decoding.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if cuda else platform.machine(),
        "versions": {
            "seka-rag": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: getattr(options, name) for name in ("layers", "tokens", "new", "rounds")},
    }


if __name__ == "__main__":
    main()
