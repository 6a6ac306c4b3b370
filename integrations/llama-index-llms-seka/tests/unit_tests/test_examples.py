"""The examples run without a network, and print what the README says that they print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_prints_what_the_readme_says(path):
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    ran = subprocess.run(
        [sys.executable, path], check=True, capture_output=True, text=True, env=settings
    )
    assert ran.stdout.strip() in README
