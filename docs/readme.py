"""Rewrite what README.md quotes: its program's output, that of `$ seka-rag` commands, its tables.

    python docs/readme.py

The tests compare README.md with `refreshed`, so that it cannot rot.
"""

import io
import os
import re
import runpy
import shlex
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path

from seka_rag.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROGRAM = ROOT / "examples" / "01_highlight.py"


def refreshed(text: str) -> str:
    """Return the text of a README with its program, outputs and tables as they are now."""
    text = runpy.run_path(str(ROOT / "docs" / "tables.py"))["refreshed"](text)
    program = PROGRAM.read_text("utf-8").partition("\n\n")[2]
    text = re.sub(
        r"```python\n.*?```(.*?)```\n.*?```",
        lambda found: f"```python\n{program}```{found[1]}```\n{_output_of_program()}```",
        text,
        count=1,
        flags=re.DOTALL,
    )
    return re.sub(
        r"```\n\$ seka-rag (.*?)\n.*?```",
        lambda found: f"```\n$ seka-rag {found[1]}\n{_output_of_command(found[1])}```",
        text,
        flags=re.DOTALL,
    )


def _output_of_program() -> str:
    with redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(PROGRAM))
    return output.getvalue()


def _output_of_command(command: str) -> str:
    os.environ["COLUMNS"] = "80"
    # `--help` ends with SystemExit.
    with redirect_stdout(io.StringIO()) as output, chdir(ROOT), suppress(SystemExit):
        if main(shlex.split(command)) != 0:
            raise RuntimeError(f"seka-rag {command} failed")
    return output.getvalue()


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text("utf-8")), "utf-8")
