"""The commands that concern banks: `learn`, `tune`, `import-reference` and `inspect`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.cli.answers import load_model
from seka_rag.cli.printing import BOLD, COLOUR, WIDTH, painter, print_json, progress_bar, wrap
from seka_rag.errors import BankError

if TYPE_CHECKING:
    from seka_rag.bank import Bank
    from seka_rag.calibration import Calibration
    from seka_rag.contrast import Triplet
    from seka_rag.experts import Experts

_EMBEDDED = Path(__file__).parents[1] / "assets" / "mini"


def learn(options: argparse.Namespace) -> None:
    """Learn a bank from triplets and write it."""
    from seka_rag.experts import check_name
    from seka_rag.heads import HeadFilter
    from seka_rag.learning import learn as learn_bank

    if options.expert is not None:
        check_name(options.expert)
    target = _target(options)
    if options.heads is not None:
        HeadFilter.parse(options.heads)
    triplets = [triplet for source in options.triplets or ["builtin"] for triplet in _read(source)]
    model = load_model(options)
    with progress_bar("triplets") as progress:
        bank = learn_bank(
            model,
            triplets,
            method=options.method,
            energy=options.energy,
            heads=options.heads,
            layers=options.layers,
            progress=progress,
        )
        bank.operators()  # a head filter that keeps nothing is an error before anything is written
    _save(bank.replace(kind=options.kind), target, options.expert)


def tune(options: argparse.Namespace) -> None:
    """Find the gain of a bank, and write it into the bank with its evidence."""
    from seka_rag.bank import FILE_NAME
    from seka_rag.builtin import builtin_examples
    from seka_rag.calibration import tune as find
    from seka_rag.labelled import MIN_EXAMPLES, halves, read_examples
    from seka_rag.weighing import weigh

    examples = None if options.examples == "builtin" else read_examples(options.examples)
    model = load_model(options, options.bank or "auto")
    if model.bank is None:
        raise BankError("there is no bank to tune: learn one, or name it with --bank")
    if options.out is None and (options.bank is None or not Path(options.bank).exists()):
        raise BankError("the bank is not a file of yours: say with --out where the tuned one goes")
    examples = builtin_examples(model.tokenizer) if examples is None else examples
    bank = _expert(model.bank, options.expert)
    heads = options.heads or [bank.heads]
    related = sum(example.related for example in examples)
    if options.steps and min(related, len(examples) - related) >= 2 * MIN_EXAMPLES:
        first, examples = halves(examples)
        with progress_bar("steps") as progress:
            bank = weigh(model, bank, first, steps=options.steps, progress=progress)
        heads = list(dict.fromkeys([*heads, bank.heads]))
    with progress_bar("prompts") as progress:
        found = find(
            model,
            bank,
            examples,
            heads=heads,
            max_loss=options.max_loss,
            max_divergence=options.max_divergence,
            progress=progress,
        )
    _print_curve(found)
    if options.png:
        from seka_rag.plots import plot_calibration

        plot_calibration(found, options.png)
        print(f"Drawn: {options.png}")
    target = Path(options.out or options.bank)
    folder = target.parent if target.name == FILE_NAME else target
    _save(found.applied_to(bank), folder, options.expert)


def _expert(found: "Bank | Experts", name: str | None) -> "Bank":
    """Return the expert of that name, or the only one."""
    from seka_rag.experts import as_experts

    banks = as_experts(found).banks
    known = ", ".join(banks)
    if name is None and len(banks) > 1:
        raise BankError(f"the bank has the experts {known}: name one of them with --expert")
    if name is None:
        return next(iter(banks.values()))
    if name not in banks:
        raise BankError(f"there is no expert {name}: the bank has {known}")
    return banks[name]


def _print_curve(found: "Calibration") -> None:
    """Print what every gain does, and mark the one that is recommended."""
    paint = painter(sys.stdout)
    print(paint(f"{'heads':<32}{'gain':>8}{'help':>8}{'kept':>8}{'KL':>8}", BOLD))
    for point in (found.plain, *found.points):
        numbers = f"{point.help:8.3f}{point.kept:8.3f}{point.divergence:8.3f}"
        gain = f"{point.gain:8.3g}" if point.gain else "       -"
        mark = "  recommended" if point == found.chosen else ""
        line = f"{point.heads or 'plain':<32}{gain}{numbers}{mark}"
        print(paint(line, COLOUR if mark else ""))
    print(
        wrap(
            f"help: {found.related} examples, the wanted answer is likelier than the rival. kept: "
            f"the same of {found.unrelated} whose highlight has nothing to do with the question "
            "and which the model answers without it, by a clear margin if there are enough; "
            f"at most {found.max_loss:g} may be lost, and a KL of {found.max_divergence:g} nats."
        )
    )


def _read(source: str) -> "list[Triplet]":
    """Return the triplets of a file, those drafted from a folder, or the package's."""
    from seka_rag.contrast import builtin_triplets, read_triplets
    from seka_rag.drafting import draft_triplets

    if source == "builtin":
        return builtin_triplets()
    return draft_triplets(source) if Path(source).is_dir() else read_triplets(source)


def import_reference(options: argparse.Namespace) -> None:
    """Make a bank of the projection files of the SEKA authors' code."""
    from seka_rag.bank import fingerprint
    from seka_rag.reference import import_reference as import_files

    target = _target(options)
    model = load_model(options)
    bank = import_files(
        options.positive,
        options.negative,
        model=fingerprint(model.model, model.sites),
        gain=options.gain,
        negative_gain=options.negative_gain,
    )
    _save(bank, target)


def _target(options: argparse.Namespace) -> Path:
    """Return the folder to write to; raise if a bank is there, before any work is done."""
    from seka_rag.bank import FILE_NAME

    target = Path(options.out)
    name = getattr(options, "expert", None)
    path = target / FILE_NAME if name is None else target / "experts" / name / FILE_NAME
    if path.exists() and not options.force:
        raise BankError(f"{path} exists: name another folder, or use --force")
    if target.exists() and not target.is_dir():
        raise BankError(f"{target} is a file: name a folder for the bank")
    return target


def _save(bank: "Bank", target: Path, expert: str | None = None) -> None:
    from seka_rag.experts import save_expert

    try:
        path = bank.save_pretrained(target) if expert is None else save_expert(bank, target, expert)
    except OSError as error:
        raise BankError(
            f"{target} cannot be written ({error.strerror}): what was there is as it was"
        ) from error
    print(wrap(learned(bank)))
    print(f"Written: {path}")


def learned(bank: "Bank") -> str:
    """Return in words what a bank was learned from and what it edits."""
    skipped = f", {bank.n_skipped} skipped" if bank.n_skipped else ""
    kept = bank.selected()
    heads, every = (sum(int(f(mask)) for mask in kept.values()) for f in (sum, len))
    source = f"from {bank.n_triplets} triplets{skipped}" if bank.n_triplets else "elsewhere"
    return (
        f"Learned on {bank.fingerprint.name} {source} by {bank.method}: {heads} of {every} KV "
        f"heads are edited ({bank.heads}), with gain {bank.gain:g}."
    )


def inspect(options: argparse.Namespace) -> None:
    """Show what a bank holds."""
    from seka_rag.experts import as_experts, load

    loaded = load(options.bank or _EMBEDDED)
    banks = as_experts(loaded).banks
    if options.expert is None and len(banks) > 1 and not (options.png or options.json):
        for name, bank in banks.items():
            print(wrap(f"{name}, for highlights of the kind {bank.kind}. {learned(bank)}") + "\n")
        print(wrap("More of one of them: --expert NAME."))
        return
    bank = _expert(loaded, options.expert)
    if options.png:
        from seka_rag.plots import plot_bank

        plot_bank(bank, options.png)
    if options.json:
        print_json(_described(bank))
        return
    paint = painter(sys.stdout)
    print(wrap(learned(bank)))
    if bank.weighed_on:
        print(wrap(f"Directions weighed on {bank.weighed_on} examples."))
    if bank.gain_evidence:
        rule = bank.gain_evidence.get("rule", "")
        print(wrap(f"Gain found on {bank.gain_evidence.get('split', 'examples')}: {rule}."))
    print(f"Digest {bank.digest()}, seka-rag {bank.version}, triplets {bank.triplets_digest[:16]}")
    print()
    kept, strengths = bank.selected(), bank.head_weights()
    weighed = bank.heads == "weighed"
    known = all(found.discrimination is not None for found in bank.layers.values())
    shown = "key shift by KV head" + (" (AUC of its attention)" if known else "")
    last = "length of its weights" if weighed else "* is edited"
    print(paint(f"layer  rank   {shown}; {last}", BOLD))
    wide = 19 if weighed else 14
    for layer, found in bank.layers.items():
        ranks = bank.ranks(layer).tolist()
        told = found.discrimination
        cells = [
            f"{shift:.2f}"
            + (f" ({told[head]:.2f})" if told is not None else "")
            + (f" {strengths[layer][head]:.2f}" if weighed else "*" if kept[layer][head] else " ")
            for head, shift in enumerate(found.key_shift.tolist())
        ]
        span = f"{min(ranks)}-{max(ranks)}" if min(ranks) < max(ranks) else f"{ranks[0]}"
        start = f"{layer:5d}  {span:<6}"
        per_line = (WIDTH - len(start)) // wide
        for first in range(0, len(cells), per_line):
            line = "".join(cell.rjust(wide) for cell in cells[first : first + per_line])
            print((start if first == 0 else " " * len(start)) + line.rstrip())
    if options.png:
        print(f"\nDrawn: {options.png}")


def _described(bank: "Bank") -> dict[str, object]:
    kept, strengths = bank.selected(), bank.head_weights()
    return {
        "model": bank.fingerprint.name,
        "digest": bank.digest(),
        "version": bank.version,
        "method": bank.method,
        "energy": bank.energy,
        "rank": bank.rank,
        "heads": bank.heads,
        "gain": bank.gain,
        "gain_evidence": dict(bank.gain_evidence),
        "triplets": bank.n_triplets,
        "skipped": bank.n_skipped,
        "tokens": bank.n_tokens,
        "weighed_on": bank.weighed_on,
        "triplets_digest": bank.triplets_digest,
        "layers": [
            {
                "layer": layer,
                "key_shift": found.key_shift.tolist(),
                "discrimination": None
                if found.discrimination is None
                else found.discrimination.tolist(),
                "rank": bank.ranks(layer).tolist(),
                "edited": kept[layer].tolist(),
                "strength": strengths[layer].tolist(),
            }
            for layer, found in bank.layers.items()
        ],
    }
