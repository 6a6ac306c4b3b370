"""What is public can be imported, in LlamaIndex's layout and without what nobody asked for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "llama_index.llms.seka",
    "llama_index.postprocessor.seka",
    "llama_index.retrievers.seka",
)
PUBLIC = [(each, name) for each in PACKAGES for name in importlib.import_module(each).__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_public_name_is_there(package, name):
    assert getattr(importlib.import_module(package), name) is not None


@pytest.mark.parametrize(
    ("package", "name", "base"),
    [
        ("llms", "SekaLLM", BaseLLM),
        ("postprocessor", "SekaHighlightPostprocessor", BaseNodePostprocessor),
        ("retrievers", "SekaRetriever", BaseRetriever),
    ],
)
def test_a_class_is_what_llama_index_takes_it_for(package, name, base):
    assert base in getattr(importlib.import_module(f"llama_index.{package}.seka"), name).__mro__


def test_the_packages_above_belong_to_nobody():
    assert not list((ROOT / "llama_index").glob("__init__.py"))
    assert not list((ROOT / "llama_index").glob("*/__init__.py"))


def test_no_langchain_is_needed_and_nothing_is_loaded():
    blocked = "langchain", "langchain_core", "langchain_seka", "langgraph"
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "from llama_index.core import Settings\n"
        "from llama_index.llms.seka import SekaLLM\n"
        "import llama_index.postprocessor.seka, llama_index.retrievers.seka\n"
        "llm = SekaLLM(model='no/such-model')\n"
        "repr(llm), llm.model_dump(), llm.to_dict(), llm.to_payload()\n"
        "assert Settings._llm is None and Settings._embed_model is None\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
