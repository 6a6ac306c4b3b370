"""The command line: parses, calls the library, prints.

A `SekaError` is one line on stderr and exit status 2. Torch is loaded by the commands, not by this
module, so that `--help` is fast.
"""

import argparse
import io
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from seka_rag import __version__
from seka_rag.errors import PromptError, SekaError
from seka_rag.highlight import Highlight, Segment, Segments, check_gain, highlight_in

if TYPE_CHECKING:
    from seka_rag.prompts import Message, Prompt
    from seka_rag.steering import EditReport, Generation, SteeredModel

WIDTH = 80
_BOLD = "1"
_COLOUR = "35"  # magenta: readable on light and on dark

_EXAMPLES = """\
examples:
  seka-rag ask "What is the capital of Texas?" --docs examples/documents
  seka-rag generate --file prompt.txt --highlight "answer in French"
  seka-rag eval counterfact --data DATA --limit 200 --json result.json
"""
_ASK_EXAMPLES = """\
policies:
  all       every passage gets the whole gain
  first:K   the K best passages do, unless they share no word with the question
  score     in proportion to the score: the best gets the whole gain

examples:
  seka-rag ask "Who owns YouTube?" --docs examples/documents
  seka-rag ask "Who owns YouTube?" --docs notes --top-k 8 --policy score
  seka-rag ask "Who owns YouTube?" --docs notes --model Qwen/Qwen3-4B \\
      --bank banks/qwen3-4b --gain 0.5 --json
"""
_GENERATE_EXAMPLES = """\
A number after the last "=" of TEXT is its gain. To highlight a text that itself
ends in "=number", give the gain too: "x=3=1.0". The first occurrence counts.

examples:
  seka-rag generate --file prompt.txt --highlight "in upper case"
  echo "Cheers is on CBS. Where is Cheers on?" |
      seka-rag generate --highlight "Cheers is on CBS=1.5"
  seka-rag generate --raw --file story.txt --highlight Lorne --highlight ferry=2
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # An answer may hold any character; a terminal in another encoding must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except SekaError as error:
        print(f"seka-rag: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seka-rag: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Our reader (head, say) has seen enough; Python must not try to flush again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seka-rag",
        description="Highlight passages of a prompt, and a local model attends to them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"seka-rag {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    ask = commands.add_parser(
        "ask",
        help="answer a question from a folder of documents",
        description="Answer a question from the .txt and .md files of a folder, twice: plainly,\n"
        "and with the best passages highlighted.",
        epilog=_ASK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--docs", required=True, metavar="FOLDER", help="where the documents are")
    ask.add_argument(
        "--top-k", type=_count, default=5, metavar="K", help="passages to read (default 5)"
    )
    ask.add_argument(
        "--policy", default="first:1", metavar="P", help="all, first:K or score (default first:1)"
    )
    _add_model(ask)
    _add_answer(ask)
    ask.set_defaults(run=_ask)

    generate = commands.add_parser(
        "generate",
        help="answer a prompt with parts of it highlighted",
        description="Answer a prompt from a file or from standard input, twice: plainly, and with\n"
        "the given texts highlighted.",
        epilog=_GENERATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument("--file", metavar="F", help="the prompt (default: standard input)")
    generate.add_argument(
        "--highlight",
        action="append",
        required=True,
        metavar="TEXT",
        help="what to highlight, TEXT or TEXT=GAIN; repeatable",
    )
    generate.add_argument(
        "--raw", action="store_true", help="continue the text as it is, without the chat template"
    )
    _add_model(generate)
    _add_answer(generate)
    generate.set_defaults(run=_generate)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="M", help="folder or hub name (default: the embedded model)"
    )
    parser.add_argument(
        "--bank", metavar="B", help="folder, file or hub name (default: the model's)"
    )


def _add_answer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gain", type=_finite, metavar="G", help="strength of the highlights (default: the bank's)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=_count,
        default=64,
        metavar="N",
        help="longest answer, in tokens (default 64)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _finite(text: str) -> float:
    number = _number(text)
    if number is None or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ask(options: argparse.Namespace) -> None:
    from seka_rag.prompts import fit_passages, rag_messages
    from seka_rag.retrieval import Retriever, check_policy, weights

    check_policy(options.policy)
    if not options.question.strip():
        raise PromptError("the question is empty: ask something")
    found = Retriever.from_folder(options.docs).search(options.question, options.top_k)
    shares = weights(options.policy, [passage.score or 0.0 for passage in found])
    model = _load(options)
    # Without a bank there is no gain either; generating then says how to get one.
    gain = options.gain if options.gain is not None else model.bank.gain if model.bank else 1.0
    gain_of = {passage: gain * share for passage, share in zip(found, shares, strict=True)}

    # Half of a short context is kept for the passages, however long an answer was asked for.
    limit = model.context_length or sys.maxsize
    room = max(limit - options.max_new_tokens, limit // 2)
    kept, dropped = fit_passages(
        found,
        fits=lambda passages: (
            model.count_tokens(rag_messages(options.question, passages, gains=None)) <= room
        ),
    )
    gains = [gain_of[passage] for passage in kept]
    plain, steered = _answers(
        model,
        rag_messages(options.question, kept, gains=None),
        rag_messages(options.question, kept, gains=gains),
        options,
    )
    if options.json:
        _print_json(
            {
                "question": options.question,
                "settings": _settings(options, "docs", "top_k", "policy") | {"gain": gain},
                "passages": [
                    asdict(passage) | {"gain": gain_of[passage], "dropped": passage in dropped}
                    for passage in found
                ],
                **_result(plain, steered),
            }
        )
        return
    paint = _painter(sys.stdout)
    print(paint("Passages".ljust(WIDTH - 16) + "   score    gain", _BOLD))
    for number, passage in enumerate(kept, start=1):
        strength = gain_of[passage]
        name = textwrap.shorten(f"[{number}] {passage.source}", WIDTH - 17, placeholder="...")
        figures = f"{passage.score or 0.0:8.2f}" + (f"{strength:8.2f}" if strength else "       -")
        print(paint(name.ljust(WIDTH - 16) + figures, _COLOUR if strength else ""))
        print(textwrap.indent(textwrap.shorten(passage.text, WIDTH - 4, placeholder="..."), "    "))
    for passage in dropped:
        print(_wrap(f"Dropped, the prompt was too long: {passage.source}"))
    print()
    _print_answers(plain, steered, paint)


def _generate(options: argparse.Namespace) -> None:
    text = _read_prompt(options.file)
    segments: Sequence[Segment] = (text,)
    for given in options.highlight:
        needle, gain = parse_highlight(given)
        segments = highlight_in(segments, needle, gain=gain)
    model = _load(options)
    plain, steered = (
        _answers(model, (text,), segments, options)
        if options.raw
        else _answers(model, _message(text), _message(segments), options)
    )
    default = options.gain if options.gain is not None else model.bank.gain if model.bank else 1.0
    marked = [
        (segment.text, default if segment.gain is None else segment.gain)
        for segment in segments
        if isinstance(segment, Highlight)
    ]
    if options.json:
        _print_json(
            {
                "prompt": text,
                "settings": _settings(options, "raw") | {"gain": default},
                "highlights": [{"text": text, "gain": gain} for text, gain in marked],
                **_result(plain, steered),
            }
        )
        return
    paint = _painter(sys.stdout)
    print(paint("Highlights".ljust(WIDTH - 8) + "    gain", _BOLD))
    for shown, gain in marked:
        name = textwrap.shorten(shown, WIDTH - 9, placeholder="...")
        print(paint(name.ljust(WIDTH - 8) + f"{gain:8.2f}", _COLOUR if gain else ""))
    print()
    _print_answers(plain, steered, paint)


def parse_highlight(given: str) -> tuple[str, float | None]:
    """Return the text and the gain of `TEXT` or `TEXT=GAIN`: a number after the last `=` is one."""
    text, equals, tail = given.rpartition("=")
    gain = _number(tail)
    if not equals or gain is None:
        return given, None
    check_gain(gain)
    return text, gain


def _read_prompt(file: str | None) -> str:
    source = file or "standard input"
    try:
        raw = Path(file).read_bytes() if file else sys.stdin.buffer.read()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise PromptError(
            f"{source} cannot be read ({error.strerror}): name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{source} is not UTF-8 text: save it as UTF-8") from error
    # A file ends with a newline that its writer did not mean as part of the prompt.
    text = text.replace("\r\n", "\n").removesuffix("\n")
    if not text.strip():
        raise PromptError(f"{source} holds no prompt: write one")
    return text


def _message(content: Segments) -> "list[Message]":
    return [{"role": "user", "content": content}]


def _load(options: argparse.Namespace) -> "SteeredModel":
    # From disk it takes a second; only a download is worth a bar.
    if options.model is None or Path(options.model).exists():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from seka_rag.steering import SteeredModel

    return SteeredModel.from_pretrained(options.model, options.bank)


def _answers(
    model: "SteeredModel", plain: "Prompt", highlighted: "Prompt", options: argparse.Namespace
) -> "tuple[Generation, Generation]":
    """Return the greedy answers to the plain and to the highlighted prompt."""
    length = options.max_new_tokens
    return (
        model.generate(plain, gain=0.0, max_new_tokens=length, do_sample=False),
        model.generate(highlighted, gain=options.gain, max_new_tokens=length, do_sample=False),
    )


def _settings(options: argparse.Namespace, *names: str) -> dict[str, object]:
    return {name: getattr(options, name) for name in ("model", "bank", "max_new_tokens", *names)}


def _result(plain: "Generation", steered: "Generation") -> dict[str, object]:
    return {
        "plain": plain.text,
        "highlighted": steered.text,
        "prompt_tokens": steered.prompt_tokens,
        "edited": asdict(steered.report),
    }


def _print_json(result: object) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False))


def _print_answers(
    plain: "Generation", steered: "Generation", paint: Callable[[str, str], str]
) -> None:
    """Print both answers side by side, then what was edited."""
    column = (WIDTH - 3) // 2
    print(paint(f"{'Plain':{column}} | Highlighted", _BOLD))
    for left, right in zip_longest(
        _lines(plain.text, column), _lines(steered.text, column), fillvalue=""
    ):
        print(f"{left:{column}} | {right}".rstrip())
    print()
    print(_wrap(_edited(steered.report)))


def _edited(report: "EditReport") -> str:
    """Return in words what was edited."""
    if not report.highlighted_tokens:
        return "Edited: nothing, because nothing was highlighted."
    low, high = f"{report.min_gain:.3g}", f"{report.max_gain:.3g}"
    return (
        f"Edited: {report.highlighted_tokens} of the prompt's tokens with gain "
        f"{low if low == high else f'{low} to {high}'}, {report.kv_heads} KV heads in layers "
        f"{', '.join(_ranges(report.layers))}."
    )


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Yield runs of rising numbers as "3-6", others as they are."""
    start = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            first = numbers[start]
            yield str(first) if first == number else f"{first}-{number}"
            start = i + 1


def _lines(text: str, width: int) -> list[str]:
    """Return `text` wrapped to `width`, its own line breaks kept."""
    return [
        line for part in text.strip().splitlines() for line in textwrap.wrap(part, width) or [""]
    ]


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _painter(stream: TextIO) -> Callable[[str, str], str]:
    """Return what wraps a text in a colour: on a terminal, unless NO_COLOR is set."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda text, code: f"\x1b[{code}m{text}\x1b[0m" if coloured and code else text
