"""The command `eval`: runs one task, with a progress bar, and keeps its result."""

import argparse
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.cli.answers import load
from seka_rag.cli.printing import progress_bar
from seka_rag.errors import DataError

if TYPE_CHECKING:
    from seka_rag.evaluation.results import Result


def evaluate(options: argparse.Namespace) -> None:
    """Run the task, write its result where asked, and print its table."""
    from seka_rag.evaluation import conflicts, counterfact, instructions, positions
    from seka_rag.evaluation.methods import METHODS

    if options.json:
        _check_writable(Path(options.json))
    model = load(options)
    gains = options.gains or (model.bank.gain if model.bank else 1.0,)
    command = shlex.join(("seka-rag", *options.arguments))
    with progress_bar("prompts") as progress:
        run: Callable[..., Result]
        if options.task == "counterfact":
            run = partial(counterfact.run, limit=options.limit)
        elif options.task == "conflicts":
            run = partial(conflicts.run, cases=options.limit, passages=options.passages)
        elif options.task == "positions":
            run = partial(
                positions.run,
                cases=options.limit,
                passages=options.passages,
                positions=options.positions,
            )
        else:
            run = partial(
                instructions.run,
                cases=options.limit,
                competing=options.competing,
                orders=options.orders,
            )
        result = run(
            model,
            options.data,
            split=options.split,
            methods=options.methods or METHODS,
            gains=gains,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=progress,
            command=command,
        )
    if options.json:
        try:
            result.save(options.json)
        except OSError as error:
            raise DataError(
                f"{options.json} cannot be written ({error.strerror}): name another file"
            ) from error
    print(result.table())


def _check_writable(path: Path) -> None:
    """Raise before hours of work if the result could not be kept."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"{path} cannot be written: name a file in a folder of your own")
