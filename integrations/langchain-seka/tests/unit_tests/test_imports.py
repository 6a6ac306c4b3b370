"""What is public can be imported, without what nobody asked for."""

import subprocess
import sys

import pytest

import langchain_seka


@pytest.mark.parametrize("name", langchain_seka.__all__)
def test_every_public_name_is_there(name):
    assert getattr(langchain_seka, name)


def test_neither_llama_index_nor_langchain_is_needed():
    blocked = "llama_index", "langchain", "langgraph"
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "from langchain_seka import ChatSeka, SekaLLM, highlight, mark\nChatSeka(), SekaLLM()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
