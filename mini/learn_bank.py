"""Learn one of mini's experts: directions from triplets, their weights and gates from labelled examples.

    python -m mini.learn_bank grounding --data DATA --out FOLDER

    expert        kind of highlight   triplets                      examples (mini.highlights)
    grounding     passage             the package's, of passages    a highlighted passage among others
    override      passage             CounterFact `edit`            a passage against memory or what was said before
    instruction   instruction         the package's, of orders      an order among others in a system message

Every expert has unrelated highlights among its examples, which must change nothing. The gain is 1 for all;
`mini.choose_gain` looks on `val` for another.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from mini import facts, highlights
from mini.facts import Facts
from seka_rag import (
    Example,
    SteeredModel,
    Triplet,
    builtin_triplets,
    grounding_triplet,
    learn,
    weigh,
)
from seka_rag.experts import save_expert
from seka_rag.highlight import Kind


def corrections(known: Facts, n: int, seed: int = 0) -> list[Triplet]:
    """Return n triplets in which a statement corrects the one before it."""
    rng = Random(seed)
    made = []
    for row, other in zip(rng.sample(known.edits, n), rng.sample(known.edits, n), strict=True):
        before, after = (f"{row['prompt']} {row[key]}." for key in ("ground_truth", "target_new"))
        context = f"It used to be that {before} Now {after}"
        questions = (f"{one['rephrase_prompt']} ..." for one in (row, other))
        made.append(grounding_triplet(context, *questions, row["target_new"]))
    return made


def _packaged(kind: str) -> list[Triplet]:
    """Return the package's triplets about passages, or those about orders."""
    orders = kind == "instruction"
    return [one for one in builtin_triplets() if one.neutral.startswith("Instruction: ") is orders]


EXPERTS: dict[
    str, tuple[Kind, Callable[[Facts], list[Triplet]], Callable[[Facts, int], list[Example]]]
] = {
    "grounding": ("passage", lambda _: _packaged("passage"), highlights.passages),
    "override": ("passage", lambda known: corrections(known, 300), highlights.corrections),
    "instruction": ("instruction", lambda _: _packaged("instruction"), highlights.orders),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn one of mini's experts.")
    parser.add_argument("expert", choices=EXPERTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a folder (default: the embedded mini)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the experts")
    parser.add_argument("--situations", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--per-step", type=int, default=48, help="examples of each kind")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="1024 is faster on a CPU")
    options = parser.parse_args()

    # Where it exists it is several times as fast, and weights need no more digits.
    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else None
    loaded = SteeredModel.from_pretrained(
        options.model, None, dtype=torch.float32, device_map=device
    )
    kind, triplets, examples = EXPERTS[options.expert]
    known = facts.load(options.data)
    taught = examples(known, options.situations)
    print(f"{len(taught)} examples, {sum(one.related for one in taught)} related", flush=True)
    bank = weigh(
        loaded,
        learn(loaded, triplets(known)).replace(kind=kind),
        taught,
        steps=options.steps,
        per_step=options.per_step,
        batch_tokens=options.batch_tokens,
        progress=lambda step, steps: step % 10 or print(f"step {step} of {steps}", flush=True),
    )
    print("written", save_expert(bank, options.out, options.expert))


if __name__ == "__main__":
    main()
