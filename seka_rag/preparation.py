"""A bank for a model that nobody prepared: learned and tuned once, kept in the user's cache.

The cache is the one that huggingface_hub has for what libraries make (HF_ASSETS_CACHE): a folder a
model, named by its fingerprint. Of several processes one learns, and the others wait for it.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock
from huggingface_hub import cached_assets_path
from tqdm import tqdm

from seka_rag.bank import FILE_NAME, Bank, Fingerprint, fingerprint
from seka_rag.builtin import builtin_examples
from seka_rag.calibration import tune
from seka_rag.contrast import Triplet, builtin_triplets
from seka_rag.errors import CalibrationError
from seka_rag.forward import HasModel
from seka_rag.labelled import halves
from seka_rag.learning import learn
from seka_rag.weighing import weigh

_log = logging.getLogger(__name__)

# Fewer than there are, so that a small model takes minutes on a CPU; by hand, all can be used.
_TRIPLETS = 100
_SITUATIONS = 80  # of which examples are made, four each
_STEPS = 50


def prepared_bank(model: HasModel) -> Bank:
    """Return the bank kept for this model, or learn one from the package's triplets and keep it.

    Progress goes to standard error, where that is a terminal. What `learn` and `tune` raise is
    raised, but for bounds that no gain keeps: then the gain is 1, and a warning says so.
    """
    known = fingerprint(model.model, model.sites)
    folder = cache_folder(known)
    with FileLock(folder / "lock"):
        if (folder / FILE_NAME).is_file():
            bank = Bank.from_pretrained(folder)
            bank.check(known)
            return bank
        _log.warning(
            "%s has no bank: learning one, which takes minutes, this once. It is kept in %s",
            known.name,
            folder,
        )
        bank = _prepare(model)
        bank.save_pretrained(folder)
        return bank


def cache_folder(known: Fingerprint) -> Path:
    """Return the folder of a model's bank in the cache; it exists."""
    # Quantised weights have no digest: their name must do.
    shape = asdict(known if not known.digest else replace(known, name=""))
    key = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:24]
    return cached_assets_path("seka-rag", namespace="banks", subfolder=key)


def _prepare(model: HasModel) -> Bank:
    with tqdm(desc="learning", unit=" triplets", file=sys.stderr, disable=None) as bar:
        bank = learn(model, _some(builtin_triplets()), progress=_moving(bar))
    first, second = halves(builtin_examples(model.tokenizer, n=_SITUATIONS))
    with tqdm(desc="weighing", unit=" steps", file=sys.stderr, disable=None) as bar:
        weighed = weigh(model, bank, first, steps=_STEPS, progress=_moving(bar))
    with tqdm(desc="tuning", unit=" prompts", file=sys.stderr, disable=None) as bar:
        heads = (bank.heads, weighed.heads)
        try:
            found = tune(model, weighed, second, heads=heads, progress=_moving(bar))
        except CalibrationError as error:
            _log.warning("the gain was not tuned and is 1: %s", error)
            return bank
    return found.applied_to(weighed)


def _some(triplets: Sequence[Triplet]) -> list[Triplet]:
    """Return triplets spread evenly over all, so that every family has its share."""
    step = max(1, len(triplets) // _TRIPLETS)
    return list(triplets[::step])


def _moving(bar: tqdm) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress
