"""Each module imports only from levels below its own; heavy libraries stay where they belong."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "seka_rag"
LEVELS = (
    ("errors",),
    (
        "highlight",
        "contrast",
        "subspace",
        "discrimination",
        "heads",
        "architecture",
        "modes",
        "files",
        "sampling",
        "writing",
        "toolcalls",
        "schemas",
        "vocabulary",
        "offsets",
        "kernels",
    ),
    ("tokens", "bank", "grammar", "markers"),
    ("chat",),
    ("places",),
    ("prompts",),
    ("editing", "inputs", "reference", "budget"),
    ("routing",),
    ("experts", "router"),
    ("hooks",),
    ("forward", "labelled", "explanation"),
    ("builtin",),
    ("learning", "calibration", "weighing"),
    ("preparation",),
    ("steering", "decoding"),
    ("reuse",),
    ("offering",),
    ("requests",),
    ("calls",),
    ("asking",),
    ("worker", "retrieval", "compiled", "wire"),
    ("engine", "policies", "line"),
    ("remote",),
    ("serving",),
    ("drafting",),
    ("evaluation",),
    ("plots", "report"),
    ("cli",),
)
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
ONLY_IN = {
    "transformers": {
        "architecture",
        "hooks",
        "steering",
        "learning",
        "calibration",
        "preparation",
        "forward",
        "labelled",
        "builtin",
        "decoding",
        "reuse",
        "compiled",
        "worker",
        "remote",
        "evaluation",
    },
    "matplotlib": {"plots"},
    "triton": {"kernels"},
    **dict.fromkeys(("langchain", "langchain_core", "llama_index", "vllm"), set()),
}


def imported_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "seka_rag":
            yield from (
                f"seka_rag.{alias.name}" for alias in node.names if alias.name != "__version__"
            )
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_module_imports_only_from_levels_below_it():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if module in ("__init__", "__main__"):
            continue
        for name in imported_names(ast.parse(path.read_text("utf-8"))):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            inner = top == "seka_rag" and target != module
            if inner and LEVEL.get(target, len(LEVELS)) >= LEVEL[module]:
                faults.append(f"{module} imports {name}")
            if module not in ONLY_IN.get(top, {module}):
                faults.append(f"{module} imports {name}")
    assert not faults
