"""How fast `learn` is against the obvious loop, side by side, and that its memory is flat.

    python benchmarks/learning_speed.py [--shapes qwen3-1.7b|tiny] [--json FILE]

The obvious loop runs each of a triplet's three texts alone, keeps all hidden states, and makes the
keys of every layer from them. Random weights of Qwen3-1.7B's shapes in bfloat16 on a GPU; the
tokenizer is that of the embedded model.
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3Config

from seka_rag import Triplet, builtin_triplets, grounding_triplet, learn

ROOT = Path(__file__).parents[1]
SHAPES = {
    "qwen3-1.7b": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_936,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 12_288,
    },
}  # fmt: skip


@torch.no_grad()
def obvious(model: PreTrainedModel, tokenizer, triplets: list[Triplet]) -> None:  # type: ignore[no-untyped-def]
    """Sum hᵀh⁺ and hᵀh⁻ of every layer the plain way."""
    sums: dict[int, torch.Tensor] = {}
    for triplet in triplets:
        forms = []
        for text, (start, end) in triplet.parts():
            encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
            inside = [b > start and a < end for a, b in encoded.pop("offset_mapping")[0].tolist()]
            output = model(encoded["input_ids"].to(model.device), output_hidden_states=True)
            keys = []
            for layer, hidden in zip(model.model.layers, output.hidden_states, strict=False):
                attention = layer.self_attn
                states = layer.input_layernorm(hidden)
                flat = attention.k_proj(states).unflatten(-1, (-1, attention.head_dim))
                keys.append(attention.k_norm(flat)[0, inside].float().cpu())
            forms.append(keys)
        for i, (h, positive, negative) in enumerate(zip(*forms, strict=True)):
            if h.shape == positive.shape == negative.shape:
                both = torch.stack(
                    [torch.einsum("nhd,nhe->hde", h, m) for m in (positive, negative)]
                )
                sums[i] = sums.get(i, 0) + both


def timed(work, *given, **named) -> float:  # type: ignore[no-untyped-def]
    """Return the seconds that a call takes, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    work(*given, **named)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def many(n: int) -> list[Triplet]:
    """Return n triplets with one fact each, all different."""
    return [
        grounding_triplet(
            f"The record of warehouse {i} says that shelf {i % 97} holds {i * 7 % 1013} crates.",
            f"How many crates are on the shelf of warehouse {i}?",
            "Who painted the ceiling of the old town hall?",
            f"{i * 7 % 1013} crates",
        )
        for i in range(n)
    ]


def peak(model: PreTrainedModel, tokenizer, n: int) -> int:  # type: ignore[no-untyped-def]
    """Return the peak of the device's memory while n triplets are learned from, in bytes."""
    torch.cuda.reset_peak_memory_stats()
    learn((model, tokenizer), many(n))
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=tuple(SHAPES), default="qwen3-1.7b")
    parser.add_argument("--json", type=Path, help="where the result goes")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[options.shapes], max_position_embeddings=4096)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "seka_rag" / "assets" / "mini")
    triplets = builtin_triplets()
    learn((model, tokenizer), triplets[:64])  # warms up
    obvious(model, tokenizer, triplets[:4])
    slow = triplets[:100]
    figures: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        figures[name] = round(value, 3)
        print(f"{name}: {figures[name]}", flush=True)  # the whole takes minutes

    note("obvious loop, triplets a second", len(slow) / timed(obvious, model, tokenizer, slow))
    fast = timed(learn, (model, tokenizer), triplets)
    note("learn, triplets a second", len(triplets) / fast)
    note("ratio", figures["learn, triplets a second"] / figures["obvious loop, triplets a second"])
    if device == "cuda":
        note("peak bytes, 200", peak(model, tokenizer, 200))
        note("peak bytes, 20000", peak(model, tokenizer, 20_000))
        note("peak ratio", figures["peak bytes, 20000"] / figures["peak bytes, 200"])
    found = {
        "command": f"python benchmarks/learning_speed.py --shapes {options.shapes}",
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": figures,
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
