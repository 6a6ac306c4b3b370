"""What can be written on the command line, and its help."""

import argparse
from typing import Any, NoReturn

from seka_rag import __version__
from seka_rag.cli.answers import ask, generate
from seka_rag.cli.banks import import_reference, inspect, learn, tune
from seka_rag.cli.evaluate import bench, evaluate
from seka_rag.cli.routes import route
from seka_rag.cli.shared import (
    add_answer,
    add_bench,
    add_evaluation,
    add_made,
    add_marked,
    add_model,
    add_routing,
    count,
    finite,
    layers,
    natural,
    share,
)
from seka_rag.cli.tasks import TASKS

_EXAMPLES = """\
examples:
  seka-rag ask "What is the capital of Austria?" --docs examples/documents
  seka-rag generate --file prompt.txt --highlight "answer in French"
  seka-rag eval counterfact --data DATA --limit 200 --json result.json
"""

_ASK_EXAMPLES = """\
policies:
  all       every passage gets the whole gain
  first:K   the K best passages do, unless they share no word with the question
  score     in proportion to the score: the best gets the whole gain

examples:
  seka-rag ask "Who makes Mac Pro?" --docs examples/documents
  seka-rag ask "Who makes Mac Pro?" --docs notes --top-k 8 --policy score
  seka-rag ask "Who makes Mac Pro?" --docs notes --model Qwen/Qwen3-4B \\
      --bank banks/qwen3-4b --gain 0.5 --json
"""

_GENERATE_EXAMPLES = """\
A number after the last "=" of TEXT is its gain. To highlight a text that itself
ends in "=number", give the gain too: "x=3=1.0". The first occurrence counts.

examples:
  seka-rag generate --file prompt.txt --highlight "in upper case"
  echo "Standard Chartered is based in Singapore.
  Where is Standard Chartered based?" | seka-rag generate \\
      --highlight "Standard Chartered is based in Singapore=0.6"
  seka-rag generate --raw --file story.txt --highlight Lorne --highlight ferry=2
"""

_ROUTE_EXAMPLES = """\
examples:
  seka-rag route --prompt-file prompt.txt --highlight "It leaves at noon."
  seka-rag route --prompt-file prompt.txt --instruction "in upper case" \\
      --png route.png
"""

_LEARN_EXAMPLES = """\
methods:
  seka          directions of the keys of what answers a question (the default)
  differential  directions of what relevance adds, every head weighted
  scaling       none: the selected heads' whole keys

heads, of all layers together:
  quantile:Q             the largest key shifts but a fraction Q (default
                         quantile:0.5, where attention cannot be read)
  threshold:X            key shifts of at least X
  top:N                  the N largest key shifts
  discrimination:A       attention that tells relevant questions from others
                         with an AUC of at least A
  discrimination:top:N   the N largest AUCs; discrimination:quantile:Q likewise
                         (default discrimination:quantile:0.75)
  smooth                 all, weighted by their AUC
  weighed                all, as tune weighed them
  all

examples:
  seka-rag learn --model Qwen/Qwen3-1.7B --triplets builtin --out banks/qwen3
  seka-rag learn --model Qwen/Qwen3-1.7B --triplets orders.jsonl \\
      --expert instruction --kind instruction --out banks/qwen3
  seka-rag learn --model my/model --triplets builtin --triplets notes/ \\
      --layers 12-20,24 --heads discrimination:top:8 --out banks/mine
"""

_TUNE_EXAMPLES = """\
A line of FILE holds "prompt" (a text, or messages), "highlight" (a text of it,
or several), "wanted" and "rival" (two answers), and "related": false where the
highlight has nothing to do with the question. At least 10 of each are needed.

One half of the examples is to weigh the directions of the bank by gradient
(which ones help, on which heads, and which harm), the other half to compare
gains: of the bank as it was, and as weighed. At least 20 of each are needed for
that; with fewer, or --steps 0, only gains are compared.

examples:
  seka-rag tune --model my/model --bank banks/mine --png curve.png
  seka-rag tune --model my/model --bank banks/mine --examples mine.jsonl \\
      --heads quantile:0.5 --heads discrimination:top:8
"""

_IMPORT_EXAMPLES = """\
The gains are those of the reference's own command line. With a negative file
it applies (g+ P+ k + g- P- k) / 2; the bank then holds half of both.

examples:
  seka-rag import-reference pos_proj.pt --model Qwen/Qwen3-4B-Base --gain 0.8 \\
      --out banks/qwen3-4b
  seka-rag import-reference pos_proj.pt neg_proj.pt --model Qwen/Qwen3-4B-Base \\
      --gain 0.8 --negative-gain -0.2 --out banks/qwen3-4b
"""

_INSPECT_EXAMPLES = """\
examples:
  seka-rag inspect banks/qwen3
  seka-rag inspect banks/qwen3 --png heads.png
"""

_METHODS = """\
methods, written NAME, NAME@STRENGTH or NAME:DETAIL@STRENGTH:
  none       no highlight                  pasta      attention on all else scaled
  marks      ** around what is highlighted spotlight  attention raised to a share
  reorder    its passage behind the others spa        contrast: the span hidden
  seka       the bank, experts routed      cad        contrast: the span left out
  seka:NAME  one expert of the bank        scaling, random, unweighed: the bank's
                                           keys scaled, other directions, no weights
"""

_EVAL_EXAMPLES = f"""\
{_METHODS}
examples:
  seka-rag eval counterfact --data DATA --limit 200 --json result.json
  seka-rag eval counterfact --data DATA --methods none,seka@0.8,seka,cad@1
  seka-rag eval rag --data mine.jsonl --model Qwen/Qwen3-4B --html report.html
  seka-rag eval position --data DATA --passages 10 --positions 1,5,10
"""

_BENCH_EXAMPLES = f"""\
{_METHODS}
Times are medians over rounds in which all methods take turns; "x plain" is the
ratio to the plain model in the same round, with the distance of its quartiles
behind it; GB is peak memory while reading, beyond the plain model's.

examples:
  seka-rag bench --tokens 1000 --new 16
  seka-rag bench --shapes qwen3-8b --device cuda --methods seka:e0,seka,spotlight
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error here does; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"seka-rag: {message} (see {self.prog} --help)\n")


class _Command(_Parser):
    """A command's parser: its texts stand as they are written."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; what is parsed has `run`, the command."""
    whole = _Parser(
        prog="seka-rag",
        description="Highlight passages of a prompt, and a local model attends to them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"seka-rag {__version__}")
    commands = whole.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )

    asking = commands.add_parser(
        "ask",
        help="answer a question from a folder of documents",
        description="Answer a question from the .txt and .md files of a folder, twice: plainly,\n"
        "and with the best passages highlighted.",
        epilog=_ASK_EXAMPLES,
    )
    asking.add_argument("question", metavar="QUESTION")
    asking.add_argument("--docs", required=True, metavar="FOLDER", help="where the documents are")
    asking.add_argument(
        "--top-k", type=count, default=5, metavar="K", help="passages to read (default 5)"
    )
    asking.add_argument(
        "--policy", default="first:1", metavar="P", help="all, first:K or score (default first:1)"
    )
    add_model(asking)
    add_routing(asking)
    add_answer(asking)
    asking.set_defaults(run=ask)

    generating = commands.add_parser(
        "generate",
        help="answer a prompt with parts of it highlighted",
        description="Answer a prompt from a file or from standard input, twice: plainly, and with\n"
        "the given texts highlighted.",
        epilog=_GENERATE_EXAMPLES,
    )
    add_marked(generating)
    add_model(generating)
    add_routing(generating)
    add_answer(generating)
    generating.set_defaults(run=generate)

    routing = commands.add_parser(
        "route",
        help="show which experts a prompt's highlights use",
        description="Show how much each expert counts for the highlighted texts of a prompt: its\n"
        "mean coefficient over layers and heads, and how far the question is found to\n"
        "be about the text (gate, from 0 to 1).",
        epilog=_ROUTE_EXAMPLES,
    )
    add_marked(routing)
    add_model(routing)
    add_routing(routing)
    routing.add_argument("--png", metavar="FILE", help="draw layers by experts here")
    routing.add_argument("--json", action="store_true", help="print JSON")
    routing.set_defaults(run=route)

    learning = commands.add_parser(
        "learn",
        help="learn a bank for a model",
        description="Learn which directions of a model's keys answer questions, from triplets: a\n"
        "context, a question that it answers, and one that it does not.",
        epilog=_LEARN_EXAMPLES,
    )
    learning.add_argument(
        "--triplets",
        action="append",
        metavar="FROM",
        help="a file of JSON lines, a folder of documents to draft them from, or builtin\n"
        "for those of the package (the default); repeatable",
    )
    learning.add_argument(
        "--method",
        choices=("seka", "differential", "scaling"),
        default="seka",
        help="what is learned (default seka)",
    )
    learning.add_argument(
        "--energy",
        type=share,
        default=0.9,
        metavar="E",
        help="share of the singular values that is kept (default 0.9)",
    )
    learning.add_argument("--heads", metavar="H", help="which KV heads to edit, as below")
    learning.add_argument(
        "--layers", type=layers, metavar="L", help="such as 12-20,24 (default: all)"
    )
    learning.add_argument(
        "--expert",
        metavar="NAME",
        help="learn one expert of the folder; the others are left as they are",
    )
    learning.add_argument(
        "--kind",
        choices=("passage", "instruction"),
        default="passage",
        help="the highlights that it is for (default passage)",
    )
    add_made(learning)
    learning.set_defaults(run=learn)

    tuning = commands.add_parser(
        "tune",
        help="find the gain of a bank",
        description="Weigh the bank's directions, find the gain with the greatest help among\n"
        "those whose harm stays within bounds, and write both into the bank.",
        epilog=_TUNE_EXAMPLES,
    )
    add_model(tuning)
    tuning.add_argument(
        "--examples",
        default="builtin",
        metavar="FILE",
        help="JSON lines, or builtin for those of the package (the default)",
    )
    tuning.add_argument(
        "--heads",
        action="append",
        default=[],
        metavar="H",
        help="KV heads to try, as in learn; repeatable (default: the bank's)",
    )
    tuning.add_argument(
        "--max-loss",
        type=share,
        default=0.05,
        metavar="X",
        help="answers that an unrelated highlight may cost (default 0.05)",
    )
    tuning.add_argument(
        "--max-divergence",
        type=finite,
        default=0.1,
        metavar="X",
        help="mean KL from the plain model that it may cause, nats (default 0.1)",
    )
    tuning.add_argument(
        "--steps",
        type=natural,
        default=150,
        metavar="N",
        help="steps of weighing; 0 leaves the directions as they are (default 150)",
    )
    tuning.add_argument("--expert", metavar="NAME", help="which to tune, where there are several")
    tuning.add_argument("--png", metavar="FILE", help="draw the curve here")
    tuning.add_argument(
        "--out", metavar="FOLDER", help="where the tuned bank goes (default: in its place)"
    )
    tuning.set_defaults(run=tune)

    importing = commands.add_parser(
        "import-reference",
        help="make a bank of the SEKA authors' projection files",
        description="Make a bank of one or two .pt files that the SEKA authors' code wrote. They\n"
        "are read as tensors alone: nothing in them is run.",
        epilog=_IMPORT_EXAMPLES,
    )
    importing.add_argument("positive", metavar="POS.pt")
    importing.add_argument("negative", metavar="NEG.pt", nargs="?")
    importing.add_argument("--gain", type=finite, default=1.0, metavar="G", help="g+ (default 1)")
    importing.add_argument(
        "--negative-gain", type=finite, default=0.0, metavar="G", help="g- (default 0)"
    )
    add_made(importing)
    importing.set_defaults(run=import_reference)

    inspecting = commands.add_parser(
        "inspect",
        help="show what a bank holds",
        description="Show a bank: its heads, their ranks and key shifts, and where it comes from.",
        epilog=_INSPECT_EXAMPLES,
    )
    inspecting.add_argument(
        "bank", metavar="BANK", nargs="?", help="folder, file or hub name (default: the embedded)"
    )
    inspecting.add_argument(
        "--png", metavar="FILE", help="draw key shifts, discrimination and spectra here"
    )
    inspecting.add_argument("--expert", metavar="NAME", help="which, where there are several")
    inspecting.add_argument("--json", action="store_true", help="print JSON")
    inspecting.set_defaults(run=inspect, model=None)

    measure = commands.add_parser(
        "eval",
        help="measure what highlighting does, and what it harms",
        description="Measure what highlighting does, and what it harms.",
        epilog=_EVAL_EXAMPLES,
    )
    tasks = measure.add_subparsers(title="tasks", metavar="TASK", required=True)
    for name, command in TASKS.items():
        task = tasks.add_parser(
            name,
            help=command.summary,
            description=command.description,
            epilog=_EVAL_EXAMPLES,
        )
        command.add_to(task)
        add_evaluation(task)
        add_model(task)
        add_routing(task)
        task.set_defaults(run=evaluate, task=name)

    costing = commands.add_parser(
        "bench",
        help="measure what methods cost",
        description="Measure what methods cost: reading a prompt, writing, and memory.",
        epilog=_BENCH_EXAMPLES,
    )
    add_bench(costing)
    add_model(costing)
    add_routing(costing)
    costing.set_defaults(run=bench)
    return whole
