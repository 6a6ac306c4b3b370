"""The commands `ask` and `generate`: one prompt, answered plainly and with its highlights."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.cli.printing import (
    BOLD,
    COLOUR,
    WIDTH,
    painter,
    print_answers,
    print_json,
    shorten,
    wrap,
)
from seka_rag.errors import HighlightError, PromptError, SekaError
from seka_rag.highlight import Highlight, Kind, Segment, Segments, check_gain, highlight_in

if TYPE_CHECKING:
    from seka_rag.experts import Routing
    from seka_rag.prompts import Message, Prompt
    from seka_rag.steering import Generation, SteeredModel


def ask(options: argparse.Namespace) -> None:
    """Answer a question from the documents of a folder."""
    from seka_rag.budget import fit
    from seka_rag.policies import check_policy, shares
    from seka_rag.prompts import rag_messages
    from seka_rag.retrieval import Retriever

    check_policy(options.policy)
    if not options.question.strip():
        raise PromptError("the question is empty: ask something")
    found = Retriever.from_folder(options.docs).search(options.question, options.top_k)
    share_of = shares(options.policy, found, options.question)
    model = load(options)
    # Without a bank there is no gain either; generating then says how to get one.
    gain = options.gain if options.gain is not None else model.bank.gain if model.bank else 1.0
    gain_of = {passage: gain * share for passage, share in zip(found, share_of, strict=True)}

    # Half of a short context is kept for the passages, however long an answer was asked for.
    limit = model.context_length or sys.maxsize
    room = max(limit - options.max_new_tokens, limit // 2)
    fitted = fit(found, options.question, room, counter=model)
    if not fitted.kept:
        raise PromptError(
            f"not one of {len(found)} passages fits the {limit} tokens that the model reads, "
            f"{options.max_new_tokens} for the answer included: lower --max-new-tokens, or use "
            "another model"
        )
    gains = [gain_of[passage] for passage in fitted.kept]
    plain, steered = _answers(
        model,
        rag_messages(options.question, fitted.kept, gains=None),
        rag_messages(options.question, fitted.kept, gains=gains),
        options,
    )
    if options.json:
        print_json(
            {
                "question": options.question,
                "settings": _settings(options, "docs", "top_k", "policy") | {"gain": gain},
                "passages": [
                    asdict(passage)
                    | {"gain": gain_of[passage], "dropped": passage in fitted.dropped}
                    for passage in found
                ],
                **_result(plain, steered),
            }
        )
        return
    paint = painter(sys.stdout)
    print(paint("Passages".ljust(WIDTH - 16) + "   score    gain", BOLD))
    for number, passage in enumerate(fitted.kept, start=1):
        strength = gain_of[passage]
        name = shorten(f"[{number}] {passage.source}", WIDTH - 17)
        figures = f"{passage.score or 0.0:8.2f}" + (f"{strength:8.2f}" if strength else "       -")
        print(paint(name.ljust(WIDTH - 16) + figures, COLOUR if strength else ""))
        print("    " + shorten(passage.text, WIDTH - 4))
    for passage in fitted.dropped:
        print(wrap(f"Dropped, the prompt was too long: {passage.source}"))
    print()
    print_answers(plain, steered, paint)


def generate(options: argparse.Namespace) -> None:
    """Answer a prompt whose highlights are given as texts of it."""
    text, segments = marked_prompt(options)
    model = load(options)
    plain, steered = (
        _answers(model, (text,), segments, options)
        if options.raw
        else _answers(model, message(text), message(segments), options)
    )
    default = options.gain if options.gain is not None else model.bank.gain if model.bank else 1.0
    marked = [
        (segment.text, default if segment.gain is None else segment.gain)
        for segment in segments
        if isinstance(segment, Highlight)
    ]
    if options.json:
        print_json(
            {
                "prompt": text,
                "settings": _settings(options, "raw") | {"gain": default},
                "highlights": [{"text": text, "gain": gain} for text, gain in marked],
                **_result(plain, steered),
            }
        )
        return
    paint = painter(sys.stdout)
    print(paint("Highlights".ljust(WIDTH - 8) + "    gain", BOLD))
    for shown, gain in marked:
        name = shorten(shown, WIDTH - 9)
        print(paint(name.ljust(WIDTH - 8) + f"{gain:8.2f}", COLOUR if gain else ""))
    print()
    print_answers(plain, steered, paint)


def parse_highlight(given: str) -> tuple[str, float | None]:
    """Return the text and the gain of `TEXT` or `TEXT=GAIN`: a number after the last `=` is one."""
    text, equals, tail = given.rpartition("=")
    gain = number_in(tail)
    if not equals or gain is None:
        return given, None
    check_gain(gain)
    return text, gain


def number_in(text: str) -> float | None:
    """Return the number that `text` is, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None


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


def message(content: Segments) -> "list[Message]":
    return [{"role": "user", "content": content}]


def load(options: argparse.Namespace) -> "SteeredModel":
    """Return the model and the bank that the options name, on their device."""
    return load_model(options, options.bank or "auto")


def load_model(options: argparse.Namespace, bank: str | None = None) -> "SteeredModel":
    """Return the model that the options name, on their device, under a bank or none."""
    from seka_rag.steering import SteeredModel

    model = SteeredModel.from_pretrained(options.model, None).with_routing(_routing(options))
    if options.device is not None:
        try:
            model.model.to(options.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SekaError(f"the device {options.device} cannot be used: {reason}") from error
    # After the move: a bank may have to be learned, and where the model runs it is learned faster.
    return model.with_bank(bank)


def _routing(options: argparse.Namespace) -> "Routing":
    """Return the routing that the options ask for; a command without them has the default."""
    from seka_rag.experts import Routing

    if not hasattr(options, "experts"):
        return Routing()
    return Routing(
        experts=options.experts or "auto",
        mode="two_pass" if options.two_pass else "inline",
        score=options.score,
        abstain=not options.no_abstain,
    )


def _answers(
    model: "SteeredModel", plain: "Prompt", highlighted: "Prompt", options: argparse.Namespace
) -> "tuple[Generation, Generation]":
    """Return the greedy answers to the plain and to the highlighted prompt."""
    if options.model is None:
        import torch

        # Too small to gain from more threads, and these wait for each other where a core is busy:
        # six times as long on two cores of which one is taken.
        torch.set_num_threads(1)
    length = options.max_new_tokens
    return (
        model.generate(plain, gain=0.0, max_new_tokens=length, do_sample=False),
        model.generate(highlighted, gain=options.gain, max_new_tokens=length, do_sample=False),
    )


def marked_prompt(options: argparse.Namespace) -> "tuple[str, Sequence[Segment]]":
    """Return the prompt that the options name, plain, and with what they highlight."""
    if not options.highlight and not options.instruction:
        raise HighlightError("nothing is highlighted: give --highlight or --instruction")
    text = _read_prompt(options.file)
    segments: Sequence[Segment] = (text,)
    given: tuple[tuple[Kind, Sequence[str]], ...] = (
        ("passage", options.highlight),
        ("instruction", options.instruction),
    )
    for kind, texts in given:
        for needle, gain in map(parse_highlight, texts):
            segments = highlight_in(segments, needle, gain=gain, kind=kind)
    return text, segments


def _settings(options: argparse.Namespace, *names: str) -> dict[str, object]:
    return {name: getattr(options, name) for name in ("model", "bank", "max_new_tokens", *names)}


def _result(plain: "Generation", steered: "Generation") -> dict[str, object]:
    return {
        "plain": plain.text,
        "highlighted": steered.text,
        "prompt_tokens": steered.prompt_tokens,
        "edited": asdict(steered.report),
    }
