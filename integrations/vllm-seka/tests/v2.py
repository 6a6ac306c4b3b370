"""Compare vLLM's V2 runner, on a CPU in Triton's interpreter, with the core: FOLDER KIND OPTIONS.

vLLM runs its V2 runner on a CPU where Triton has a CPU backend, which no package on PyPI brings. So
one is pretended while vLLM looks. FOLDER is that of a model, KIND static or routed. This leans on
much that vLLM may change; it says nothing about the plugin if it cannot start.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

import conftest  # noqa: F401  the environment comes first
import triton.backends


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True


triton.backends.backends["cpu"] = type("Backend", (), {"driver": _Driver, "compiler": None})
import vllm.triton_utils  # noqa: E402, F401  looks for a backend now

del triton.backends.backends["cpu"]  # Inductor must not find half a backend

if __name__ == "__main__":
    import json
    import sys
    from pathlib import Path

    import tiny
    from seka_rag import Bank
    from serving import PROMPTS, ask, difference, engine

    folder, kind = Path(sys.argv[1]), sys.argv[2]
    options = json.loads(sys.argv[3])
    bank = folder / kind
    core = tiny.core(folder, Bank.from_pretrained(bank))
    with engine(folder, bank=str(bank), **options) as llm:
        runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
        print("runner", *(each.__module__ for each in type(runner.model_runner).__mro__))
        found = [difference(core, each) for each in ask(llm, list(PROMPTS.values()), n=8)]
    print("difference", max(found))
