"""Options that several commands have, and what may be written for them."""

import argparse
import math

from seka_rag.cli.answers import number_in


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the options that all tasks have."""
    parser.add_argument(
        "--methods",
        type=names,
        default=("none", "marks", "seka"),
        metavar="M,M",
        help="as below (default none,marks,seka)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=32, metavar="B", help="prompts at once (default 32)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the result here; a run that was stopped goes on"
    )
    parser.add_argument("--html", metavar="FILE", help="write a report, with ten prompts in full")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument(
        "--shapes",
        metavar="S",
        help="qwen3-0.6b or qwen3-8b, in bfloat16 with random weights and four random\n"
        "experts e0 to e3 on half of the KV heads, in place of a model",
    )
    parser.add_argument(
        "--attention",
        default="sdpa",
        metavar="A",
        help="of these shapes: sdpa, flash_attention_2 or eager (default sdpa)",
    )
    parser.add_argument(
        "--tokens", type=counts, default=(4000,), metavar="N,N", help="of a prompt (default 4000)"
    )
    parser.add_argument(
        "--highlighted", type=natural, metavar="N", help="of them (default three quarters)"
    )
    parser.add_argument(
        "--rows", type=counts, default=(1,), metavar="B,B", help="prompts at once (default 1)"
    )
    parser.add_argument(
        "--new", type=natural, default=64, metavar="N", help="tokens to write (default 64)"
    )
    parser.add_argument(
        "--rounds", type=count, default=9, metavar="R", help="rounds that count (default 9)"
    )
    parser.add_argument(
        "--methods",
        type=names,
        default=("none", "seka"),
        metavar="M,M",
        help="as in eval (default none,seka)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures and settings here")


def add_made(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that makes a bank for a model."""
    parser.add_argument(
        "--model", metavar="M", help="folder or hub name (default: the embedded model)"
    )
    parser.add_argument("--device", metavar="D", help="such as cuda or mps (default: cpu)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the bank goes")
    parser.add_argument("--force", action="store_true", help="replace a bank that is there")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="M", help="folder or hub name (default: the embedded model)"
    )
    parser.add_argument(
        "--bank",
        metavar="B",
        help="folder, file or hub name (default: the model's; learned if it has none)",
    )
    parser.add_argument("--device", metavar="D", help="such as cuda or mps (default: cpu)")


def add_marked(parser: argparse.ArgumentParser) -> None:
    """Add the options that give a prompt and what of it is highlighted."""
    parser.add_argument(
        "--file", "--prompt-file", metavar="F", help="the prompt (default: standard input)"
    )
    parser.add_argument(
        "--highlight",
        action="append",
        default=[],
        metavar="TEXT",
        help="a passage to highlight, TEXT or TEXT=GAIN; repeatable",
    )
    parser.add_argument(
        "--instruction",
        action="append",
        default=[],
        metavar="TEXT",
        help="the same for an instruction",
    )
    parser.add_argument(
        "--raw", action="store_true", help="take the text as it is, without the chat template"
    )


def add_routing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experts",
        type=names,
        metavar="E,E",
        help="experts to use (default: by the kind of highlight)",
    )
    parser.add_argument(
        "--score",
        choices=("energy", "signed"),
        default="energy",
        help="how experts are compared (default energy)",
    )
    parser.add_argument(
        "--two-pass",
        action="store_true",
        help="route from an unsteered pass before, as the paper does",
    )
    parser.add_argument("--no-abstain", action="store_true", help="leave the experts' gates open")


def add_answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gain", type=finite, metavar="G", help="strength of the highlights (default: the bank's)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=count,
        default=64,
        metavar="N",
        help="longest answer, in tokens (default 64)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    return 0 if text == "0" else count(text)


def share(text: str) -> float:
    number = finite(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction in (0, 1]")
    return number


def layers(text: str) -> tuple[int, ...]:
    return numbers(text, "layer")


def positions(text: str) -> tuple[int, ...]:
    return numbers(text, "position")


def numbers(text: str, name: str) -> tuple[int, ...]:
    """Return the numbers of `4`, `12-20` and the like, joined by commas."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = (first, last) if dash else (first, first)
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise argparse.ArgumentTypeError(f"{part!r} is no {name}: write 12 or 12-20")
        found += range(int(numbers[0]), int(numbers[1]) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no {name}: write 12 or 12-20")
    return tuple(found)


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def counts(text: str) -> tuple[int, ...]:
    return tuple(count(part) for part in text.split(","))


def finite(text: str) -> float:
    number = number_in(text)
    if number is None or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number
