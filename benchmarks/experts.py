"""The table of experts: what every way to choose among mini's experts does, on every task.

    python benchmarks/experts.py --data DATA --json FILE [--cases 300] [--rows "auto;none"]

Rows: `none`; each single expert for every highlight; `auto`, by kind, with its variants; `all`,
every expert for every highlight, so that only the prompt's query tells them apart. Nothing is tuned
here: the gain is the bank's.
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

import torch

from seka_rag import SteeredModel
from seka_rag.evaluation import conflicts, instructions, position_facts
from seka_rag.evaluation.conflicts import Conflicts
from seka_rag.evaluation.counterfact import CounterFact
from seka_rag.evaluation.data import read_counterfact, read_relations
from seka_rag.evaluation.facts import join
from seka_rag.evaluation.firsts import first_tokens
from seka_rag.evaluation.instructions import Instructions
from seka_rag.evaluation.position_facts import PositionFacts
from seka_rag.evaluation.results import describe
from seka_rag.evaluation.runner import run
from seka_rag.experts import Routing, as_experts

ORDERS = Path(__file__).parents[1] / "mini" / "orders.txt"
RATES = ("es", "ps", "locality", "gold", "absent", "wrong", "mean", "worst", "complied")


def routings(names: tuple[str, ...]) -> dict[str, Routing]:
    """Return the ways to choose, by the name of their row."""
    single = {name: Routing(experts=[name]) for name in names}
    return {
        "none": Routing(),
        **single,
        "auto": Routing(),
        "auto, signed": Routing(score="signed"),
        "auto, no gates": Routing(abstain=False),
        "auto, two passes": Routing(mode="two_pass"),
        "all": Routing(experts=names),
        "all, signed": Routing(experts=names, score="signed"),
    }


def measure(
    model: SteeredModel, data: Path, *, split: str, cases: int, method: str
) -> dict[str, float]:
    """Return the figures of all tasks under one method; instructions in training's words."""
    batch = 128 if model.model.device.type == "cuda" else 16
    tasks = (
        CounterFact(data, split, limit=cases),
        Conflicts(data, split, cases=cases),
        PositionFacts(data, split, cases=max(1, cases // 6)),
        Instructions(data, split, cases=max(16, cases), orders=ORDERS),
    )
    found = {
        name: figure.value
        for task in tasks
        for name, figure in run(model, task, [method], batch_size=batch).rows[0].figures.items()
    }
    found["worst"] = min(value for name, value in found.items() if re.fullmatch(r"at_\d+", name))
    return {name: round(found[name], 4) for name in RATES}


def families(
    model: SteeredModel, data: Path, names: tuple[str, ...], *, split: str, n: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return how often each expert's mean coefficient is the largest, by score and kind of prompt.

    Every expert may serve every highlight, and gates are open: the query alone decides.
    """
    facts, _ = join(read_counterfact(data, split), read_relations(data))
    first = first_tokens(model.tokenizer)
    told, _ = position_facts.build(facts, cases=n, passages=12, seed=1, first=first)
    contradicted, _ = conflicts.build(facts, cases=n, passages=6, seed=1, first=first)
    ordered, _ = instructions.build(facts, cases=n, competing=2, seed=1)
    prompts = {
        "grounding": [position_facts.messages(case, 1 + i % 12) for i, case in enumerate(told)],
        "override": [
            ask.prompt
            for case in contradicted
            if case.kind == "gold"
            for ask in Conflicts(data, split).prompts(case)
        ],
        "instruction": [instructions.messages(case) for case in ordered],
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for score in ("energy", "signed"):
        under = model.with_routing(Routing(experts=names, score=score, abstain=False))
        found[score] = {}
        for family, given in prompts.items():
            means = [under.explain(prompt)[0].mean() for prompt in given]
            winners = [max(mean, key=lambda name: mean[name]) for mean in means]
            found[score][family] = {name: winners.count(name) / len(winners) for name in names}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--bank", help="folder of experts (default: the embedded model's)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--gain", type=float, help="default: the bank's")
    parser.add_argument(
        "--families", type=int, metavar="N", help="only count the largest coefficients"
    )
    parser.add_argument("--rows", help="names of rows, separated by semicolons (default: all)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else None
    bank = options.bank or "auto"
    model = SteeredModel.from_pretrained(None, bank, dtype=torch.float32, device_map=device)
    experts = as_experts(model.bank)
    gain = options.gain or experts.gain
    if options.families:
        names = tuple(experts.banks)
        counted = families(model, options.data, names, split=options.split, n=options.families)
        described = describe(model, command=shlex.join(["python", *sys.argv]))
        whole = {"settings": described, "families": counted}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
        print(json.dumps(counted, indent=1))
        return
    every = routings(tuple(experts.banks))
    wanted = options.rows.split(";") if options.rows else list(every)
    rows = {}
    print(f"{'':<18}" + "".join(f"{name:>9}" for name in RATES))
    for name in wanted:
        under = model.with_routing(every[name])
        rows[name] = measure(
            under,
            options.data,
            split=options.split,
            cases=options.cases,
            method="none" if name == "none" else f"seka@{gain}",
        )
        print(
            f"{name:<18}" + "".join(f"{100 * rows[name][rate]:9.1f}" for rate in RATES), flush=True
        )
        settings = describe(model, command=shlex.join(["python", *sys.argv]))
        settings |= {"split": options.split, "cases": options.cases, "gain": gain}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
