"""One engine at a time, in this process: the environment that makes it small, and shared models."""

import os

# Read when vLLM is imported.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from seka_rag import Bank, SteeredModel


@dataclass
class Model:
    """A tiny model on disk, with a bank that asks nobody and one that routes."""

    folder: Path
    static: Bank
    routed: Bank

    def bank(self, *, routed: bool) -> Bank:
        return self.routed if routed else self.static

    def bank_folder(self, *, routed: bool) -> str:
        return str(self.folder / ("routed" if routed else "static"))

    def core(self, *, routed: bool = False) -> SteeredModel:
        return tiny.core(self.folder, self.bank(routed=routed))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Return models by architecture and number of KV heads; each is made once."""
    made: dict[tuple[str, int], Model] = {}

    def get(kind: str = "qwen3", kv_heads: int = 2) -> Model:
        if (kind, kv_heads) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{kv_heads}")
            tiny.make_model(folder, kind, kv_heads=kv_heads)
            static = tiny.random_bank(folder, gain=tiny.GAIN)
            routed = tiny.random_bank(folder, gated=True, gain=tiny.GAIN)
            static.save_pretrained(folder / "static")
            routed.save_pretrained(folder / "routed")
            made[kind, kv_heads] = Model(folder, static, routed)
        return made[kind, kv_heads]

    return get


@pytest.fixture(scope="session")
def tokenizer(model: Callable[..., Model]) -> object:
    """Return a tokenizer of one token a word."""
    return tiny.tokenizer(model().folder)
