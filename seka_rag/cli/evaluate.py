"""The commands `eval` and `bench`: what methods do, and what they cost."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.cli.answers import load, load_model
from seka_rag.cli.printing import progress_bar
from seka_rag.cli.tasks import TASKS
from seka_rag.errors import DataError

if TYPE_CHECKING:
    from seka_rag.evaluation.bench import Cost
    from seka_rag.steering import SteeredModel

_SAMPLES = 10  # prompts that a report shows in full


def evaluate(options: argparse.Namespace) -> None:
    """Run the task, write its result where asked, and print its table."""
    from seka_rag.evaluation.runner import finish, run

    kept = [Path(name) for name in (options.json, options.html) if name]
    for path in kept:
        _check_writable(path)
    task = TASKS[options.task].build(options)
    with progress_bar("examples") as progress:
        result = run(
            load(options),
            task,
            options.methods,
            batch_size=options.batch_size,
            seed=options.seed,
            samples=_SAMPLES if options.html else 0,
            keep=kept[0] if kept else None,
            progress=progress,
            command=_command(options),
        )
    if options.json:
        result.save(options.json)
    if options.html:
        from seka_rag.report import write_report

        write_report([result], options.html)
    if kept:
        finish(kept[0])
    print(result.table())


def bench(options: argparse.Namespace) -> None:
    """Measure every method at every size, write the figures where asked, and print them."""
    from seka_rag.evaluation.bench import measure
    from seka_rag.evaluation.results import describe

    if options.json:
        _check_writable(Path(options.json))
    if options.highlighted == 0:
        print("warning: nothing is highlighted, so no method does anything", file=sys.stderr)
    model = _shaped(options) if options.shapes else load(options)
    costs: list[Cost] = []
    print(_HEADER)
    for rows in options.rows:
        for tokens in options.tokens:
            highlighted = 3 * tokens // 4 if options.highlighted is None else options.highlighted
            with progress_bar("rounds") as progress:
                costs += measure(
                    model,
                    options.methods,
                    tokens=tokens,
                    highlighted=highlighted,
                    rows=rows,
                    new=options.new,
                    rounds=options.rounds,
                    progress=progress,
                )
            for cost in costs[-len({"none", *options.methods}) :]:
                print(_line(cost), flush=True)
            if options.json:
                described = describe(model, command=_command(options))
                whole = {"settings": described, "costs": [cost.to_dict() for cost in costs]}
                Path(options.json).write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


_HEADER = (
    f"{'rows':>4} {'tokens':>6}  {'method':<14}{'prefill ms':>11}{'x plain':>15}"
    f"{'decode ms':>10}{'x plain':>8}{'GB':>8}"
)


def _line(cost: "Cost") -> str:
    ratio = cost.prefill_ratio
    times = f"{ratio.median:.3f} ({ratio.high - ratio.low:.3f})"
    memory = "-" if cost.peak_gb is None else f"{cost.peak_gb:+.3f}"
    return (
        f"{cost.rows:>4} {cost.tokens:>6}  {cost.method:<14}{cost.prefill_ms.median:>11.1f}"
        f"{times:>15}{cost.decode_ms.median:>10.2f}{cost.decode_ratio.median:>8.3f}{memory:>8}"
    )


def _shaped(options: argparse.Namespace) -> "SteeredModel":
    """Return a random model and random experts of the shapes asked for."""
    import torch

    from seka_rag.evaluation.bench import random_experts, shaped
    from seka_rag.steering import SteeredModel

    device = torch.device(options.device or "cpu")
    model = shaped(options.shapes, device, torch.bfloat16, attention=options.attention)
    # Any tokenizer does: the prompts are made of ids, and what is written is not read.
    tokenizer = load_model(argparse.Namespace(model=None, device=None)).tokenizer
    return SteeredModel(model, tokenizer, random_experts(model, ("e0", "e1", "e2", "e3")))


def _command(options: argparse.Namespace) -> str:
    return shlex.join(("seka-rag", *options.arguments))


def _check_writable(path: Path) -> None:
    """Raise before hours of work if the result could not be kept."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"{path} cannot be written: name a file in a folder of your own")
