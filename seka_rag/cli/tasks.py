"""The tasks of `eval`: what is said of each, which options it has, and what they make."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seka_rag.cli.shared import count, natural, positions

Options = argparse.Namespace


@dataclass(frozen=True)
class TaskCommand:
    """One task as the command line has it."""

    module: str  # of seka_rag.evaluation, imported when the task is run
    type: str
    summary: str
    description: str
    limit: str  # what is counted, and how many there are by default
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # options, for argparse
    data: str = "FOLDER"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that choose examples."""
        helped = "the evaluation data" if self.data == "FOLDER" else "your questions"
        parser.add_argument("--data", required=True, type=Path, metavar=self.data, help=helped)
        parser.add_argument("--limit", type=count, metavar="N", help=self.limit)
        parser.add_argument(
            "--seed", type=int, default=0, metavar="S", help="which are drawn (default 0)"
        )
        for name, settings in self.own.items():
            parser.add_argument(f"--{name.replace('_', '-')}", **settings)

    def build(self, options: Options) -> Any:
        """Return the task; what was not given has the task's own default."""
        from importlib import import_module

        made = getattr(import_module(f"seka_rag.evaluation.{self.module}"), self.type)
        known = {each.name for each in fields(made)}
        given = {name: getattr(options, name) for name in ("data", "seed", *self.own)}
        given["cases" if "cases" in known else "limit"] = options.limit
        return made(**{name: value for name, value in given.items() if value is not None})


def _split(*names: str) -> Mapping[str, Any]:
    return {
        "choices": names,
        "metavar": "S",
        "help": f"{', '.join(names[:-1])} or {names[-1]} (default {names[0]})",
    }


def _passages(default: int) -> Mapping[str, Any]:
    return {"type": count, "metavar": "K", "help": f"in a prompt (default {default})"}


_COUNTERFACT = _split("val", "train", "edit")
_POSITIONS = {"type": positions, "metavar": "P"}
_NEW_TOKENS = {"type": count, "metavar": "N"}

TASKS: Mapping[str, TaskCommand] = {
    "counterfact": TaskCommand(
        "counterfact",
        "CounterFact",
        "is a new fact followed, and it alone?",
        "How often the model follows a highlighted new fact when asked in the same words\n"
        "(es) or others (ps), and answers about another subject truly (locality).",
        "rows to use (default: all)",
        {"split": _COUNTERFACT},
    ),
    "conflicts": TaskCommand(
        "conflicts",
        "Conflicts",
        "does the right passage win, and does a wrong highlight harm?",
        "One of several passages is highlighted. It contradicts memory and answers\n"
        "(gold), or is about another subject while the answer is in memory alone\n"
        "(absent) or in a plain passage (wrong).",
        "cases of a kind (default 300)",
        {"split": _COUNTERFACT, "passages": _passages(6)},
    ),
    "position": TaskCommand(
        "position",
        "Position",
        "is a passage read wherever it stands?",
        "Lost in the middle: real questions over passages, of which one answers. It is\n"
        "put at several positions (at_01 ...): how often an answer of the data is in\n"
        "what is written. The other passages are those of other questions.",
        "questions to use (default: all)",
        {
            "passages": _passages(20),
            "positions": {**_POSITIONS, "help": "such as 1,10,20 (default: five, evenly)"},
            "highlight": {
                "choices": ("gold", "middle", "all"),
                "metavar": "H",
                "help": "gold, middle or all: which passages (default gold)",
            },
            "max_new_tokens": {**_NEW_TOKENS, "help": "of an answer (default 32)"},
        },
    ),
    "position-facts": TaskCommand(
        "position_facts",
        "PositionFacts",
        "the same over short facts",
        "One of several passages answers, and is highlighted. The same cases are put\n"
        "with it at every position (at_01 ...): how often the answer comes first of all.",
        "cases at each position (default 100)",
        {
            "split": _COUNTERFACT,
            "passages": _passages(12),
            "positions": {**_POSITIONS, "help": "such as 1-3,12 (default: all)"},
        },
    ),
    "instructions": TaskCommand(
        "instructions",
        "Instructions",
        "is an order about the answer's form obeyed?",
        "A long system prompt holds orders about the form of the answer that cannot be\n"
        "obeyed together; one is highlighted. How often the answer has its form and is\n"
        "right, over all (complied) and for each kind of order.",
        "cases in all (default 320)",
        {
            "split": _COUNTERFACT,
            "orders": {
                "type": Path,
                "metavar": "FILE",
                "help": "other wordings: blocks of a kind's name and its wordings",
            },
            "competing": {
                "type": natural,
                "metavar": "K",
                "help": "orders that cannot be obeyed as well (default 2)",
            },
        },
    ),
    "dynamicqa": TaskCommand(
        "dynamicqa",
        "DynamicQA",
        "does a passage of Wikipedia win over memory?",
        "A highlighted passage of Wikipedia has another name in the place of the true\n"
        "one: how often that name is likelier as the answer (follows).",
        "rows to use (default: all)",
        {
            "split": _split("static", "temporal"),
            "max_words": {"type": count, "metavar": "N", "help": "of a passage (default 150)"},
        },
    ),
    "memotrap": TaskCommand(
        "memotrap",
        "MemoTrap",
        "is an instruction obeyed against a proverb known by heart?",
        "A proverb is to be ended, or translated, otherwise than everybody knows it; the\n"
        "instruction is highlighted. How often what obeys is likelier (follows).",
        "rows to use (default: all)",
        {"split": _split("ending", "translation")},
    ),
    "ifeval": TaskCommand(
        "ifeval",
        "IFEval",
        "are verifiable instructions followed?",
        "Instructions that a program can check, highlighted: how often all of a prompt\n"
        "are followed (strict), and what share of them (instruction).",
        "prompts to use (default: all)",
        {
            "split": _split("single", "full", "format", "include", "exclude"),
            "max_new_tokens": {**_NEW_TOKENS, "help": "of an answer (default 256)"},
        },
    ),
    "biasbios": TaskCommand(
        "biasbios",
        "BiasBios",
        "is the occupation read off a biography?",
        "A biography whose first sentence, which tells, is highlighted: how often the\n"
        "right one of 28 occupations is the likeliest (accuracy).",
        "biographies to use (default: all)",
    ),
    "pronouns": TaskCommand(
        "pronouns",
        "Pronouns",
        "is the order to write they for she and he obeyed?",
        "A biography is to be told again with other pronouns; the order is highlighted.\n"
        "What share of them is changed, and how much of the rest is kept.",
        "biographies to use (default: all)",
        {"max_new_tokens": {**_NEW_TOKENS, "help": "of an answer (default 256)"}},
    ),
    "rag": TaskCommand(
        "rag",
        "RAG",
        "does highlighting help on questions of your own?",
        "JSON lines with a question, passages and an answer: how often the answer is the\n"
        "one given (exact_match), or in what is written (grounded), and words in common\n"
        '(f1). A line may say in "highlight" which passages; else the policy does.',
        "questions to use (default: all)",
        {
            "policy": {"metavar": "P", "help": "all, first:K, score or sentences:K (first:1)"},
            "max_new_tokens": {**_NEW_TOKENS, "help": "of an answer (default 64)"},
        },
        data="FILE",
    ),
}
