"""What routing and editing cost while a prompt is read, at the shapes of Qwen3-8B.

    python benchmarks/prefill.py --json FILE [--tokens 4000 --highlighted 3000]

Random weights, bfloat16, SDPA. Every round runs all forms one after another, so that they share the
machine's moods; figures are medians over the rounds. `peak` is memory beyond the plain pass.

    plain       no highlight                        seka        one expert, K directions a head
    adaseka     4 experts, K directions, inline     gated       the same with gates and focus
    whole       4 gated experts, all directions     two_pass    `gated`, routed from a pass before
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
from transformers import Qwen3Config, Qwen3ForCausalLM

from seka_rag import __version__
from seka_rag.architecture import key_sites
from seka_rag.bank import Bank, fingerprint
from seka_rag.experts import Experts
from seka_rag.forward import PLAIN, last_logits, routed
from seka_rag.heads import LayerSubspaces
from seka_rag.inputs import Batch
from seka_rag.routing import Edit

K = 5


def build(layers: int, device: torch.device) -> Qwen3ForCausalLM:
    """Return a model of Qwen3-8B's shapes."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def expert(model: Qwen3ForCausalLM, seed: int, *, gated: bool, whole: bool) -> Bank:
    """Return a bank of random subspaces in which every head of every layer is edited."""
    sites = key_sites(model)
    generator = torch.Generator().manual_seed(seed)
    heads, size, queries = sites[0].n_kv_heads, sites[0].head_dim, sites[0].n_query_heads
    layers = {}
    for site in sites:
        basis = torch.linalg.qr(torch.randn(heads, size, size, generator=generator)).Q
        spectrum = torch.rand(heads, size, generator=generator).sort(descending=True).values
        gate = {
            "gate": torch.randn(queries, 2, generator=generator),
            "gate_bias": torch.zeros(1),
            "focus": torch.randn(heads, 2, generator=generator),
        }
        weights = torch.full((heads, size), 0.1)
        if not whole:
            weights[:, K:] = 0
        layers[site.layer] = LayerSubspaces(
            basis,
            spectrum,
            basis,
            spectrum,
            torch.ones(heads),
            None,
            weights,
            **(gate if gated else {}),
        )
    return Bank(
        layers,
        fingerprint(model, sites),
        heads="weighed" if gated or whole else "all",
        energy=None,
        rank=K,
    )


def batch_of(tokens: int, highlighted: int, device: torch.device, *, lit: bool) -> Batch:
    """Return one prompt with three highlighted spans of a third of `highlighted` each."""
    owners = [-1] * tokens
    part, gap = highlighted // 3, (tokens - highlighted) // 5
    for span in range(3):
        start = gap + span * (part + gap)
        owners[start : start + part] = [span] * part
    gains = [0.5 if lit and owner >= 0 else 0.0 for owner in owners]
    ids = torch.arange(tokens, device=device).unsqueeze(0) + 100
    return Batch(
        ids,
        torch.ones_like(ids),
        torch.tensor([gains]),
        torch.tensor([owners]),
        [["passage"] * 3],
        torch.tensor([0]),
        torch.tensor([tokens - 1]),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--highlighted", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = build(options.layers, device)
    sites = key_sites(model)
    devices = {site.layer: site.device for site in sites}

    def edit_of(n: int, *, gated: bool, whole: bool) -> Edit:
        banks = {f"e{i}": expert(model, i, gated=gated, whole=whole) for i in range(n)}
        return Experts(banks).edit(directions=K).on(devices, model.dtype)

    gated = edit_of(4, gated=True, whole=False)
    forms = {
        "plain": PLAIN,
        "seka": edit_of(1, gated=False, whole=False),
        "adaseka": edit_of(4, gated=False, whole=False),
        "gated": gated,
        "whole": edit_of(4, gated=True, whole=True),
        "two_pass": gated,
    }
    lit, unlit = (
        batch_of(options.tokens, options.highlighted, device, lit=lit) for lit in (True, False)
    )

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def run(name: str, edit: Edit) -> float:
        synchronize()
        start = time.perf_counter()
        batch = unlit if name == "plain" else lit
        router = routed(model, sites, edit, batch) if name == "two_pass" else None
        last_logits(model, sites, edit, batch, router=router)
        synchronize()
        return time.perf_counter() - start

    peaks = {}
    for name, edit in forms.items():
        run(name, edit)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run(name, edit)
        peaks[name] = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, edit in forms.items():
            times[name].append(run(name, edit))
    plain = statistics.median(times["plain"])
    rows = {
        name: {
            "ms": round(1000 * statistics.median(taken), 2),
            "over_plain": round(
                statistics.median(t / p for t, p in zip(taken, times["plain"], strict=True)) - 1, 4
            ),
            "peak_gb_over_plain": round((peaks[name] - peaks["plain"]) / 1e9, 4),
        }
        for name, taken in times.items()
    }
    settings = {
        "command": shlex.join(["python", "benchmarks/prefill.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "versions": {
            "seka-rag": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "experts": 4,
        "directions": K,
        **{name: getattr(options, name) for name in ("layers", "tokens", "highlighted", "rounds")},
    }
    print(f"plain {1000 * plain:.1f} ms")
    for name, row in rows.items():
        print(
            f"{name:<10}{row['ms']:>9} ms{100 * row['over_plain']:>8.1f} %"
            f"{row['peak_gb_over_plain']:>9} GB"
        )
    options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
