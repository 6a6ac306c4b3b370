"""The command line: parses, calls the library, prints.

A `SekaError` is one line on stderr and exit status 2. Torch is loaded by the commands, not by these
modules, so that `--help` is fast.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from seka_rag.cli.options import parser
from seka_rag.errors import SekaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # An answer may hold any character; a terminal in another encoding must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        "".join(given).encode()
    except UnicodeEncodeError:
        parser().error("the arguments are not UTF-8 text")
    options = parser().parse_args(given, argparse.Namespace(arguments=given))
    # Both settings are read when transformers is first imported. A bar is for downloads only.
    if options.model is None or Path(options.model).exists():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Without a network it logs every attempt; the error says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
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
