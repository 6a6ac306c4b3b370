"""vLLM's V2 runner, where it can be had."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.more


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("static", {"max_num_batched_tokens": 48}),
        ("static", {"enforce_eager": False}),
        ("routed", {}),
    ],
    ids=["chunked", "compiled", "routed"],
)
def test_same_as_the_core(model, kind, options):
    script = Path(__file__).parent / "v2.py"
    run = subprocess.run(
        [sys.executable, str(script), str(model().folder), kind, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = re.search(r"difference (\S+)", run.stdout)
    if found is None and "seka" not in run.stderr:
        pytest.skip(f"the V2 runner does not start here: {run.stderr[-300:]}")
    assert found is not None, run.stderr[-3000:]
    assert "vllm.v1.worker.gpu.model_runner" in run.stdout
    assert float(found[1]) < 1e-4
