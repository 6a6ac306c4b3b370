"""`import seka_rag` is light, and its public names are exactly those that can be imported."""

import subprocess
import sys

import seka_rag

HEAVY = "torch transformers numpy bm25s matplotlib tokenizers langchain_core llama_index vllm"


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, seka_rag; print(*sorted(set({HEAVY.split()}) & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_all_is_what_can_be_imported():
    assert list(seka_rag.__all__) == sorted(seka_rag.__all__)
    for name in seka_rag.__all__:
        assert getattr(seka_rag, name) is not None
    assert set(seka_rag.__all__) <= set(dir(seka_rag))
