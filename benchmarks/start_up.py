"""How long starting takes: the import, the help, the demo. Medians of fresh processes, in seconds.

    python benchmarks/start_up.py

Writes benchmarks/results/start_up.json. The first run of each, which fills caches, is not counted.
"""

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
RUNS = 5
COMMANDS = {
    "python": [sys.executable, "-c", ""],
    "import seka_rag": [sys.executable, "-c", "import seka_rag"],
    "seka-rag ask --help": [sys.executable, "-m", "seka_rag", "ask", "--help"],
    "examples/demo.py": [sys.executable, "examples/demo.py"],
}


def seconds(command: list[str]) -> float:
    """Return how long the command takes, start to end."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


results = {}
for name, command in COMMANDS.items():
    runs = [seconds(command) for _ in range(RUNS + 1)][1:]
    results[name] = {"median": round(median(runs), 3), "runs": [round(run, 3) for run in runs]}
    print(f"{name:20} {results[name]['median']:7.3f} s")

found = {
    "command": "python benchmarks/start_up.py",
    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    "versions": {
        "python": platform.python_version(),
        **{name: version(name) for name in ("seka-rag", "torch", "transformers")},
    },
    "date": datetime.now(UTC).isoformat(timespec="seconds"),
    "seconds": results,
}
target = ROOT / "benchmarks" / "results" / "start_up.json"
target.parent.mkdir(parents=True, exist_ok=True)
beside = target.with_suffix(".tmp")
beside.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
beside.replace(target)
