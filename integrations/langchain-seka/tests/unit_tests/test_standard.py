"""LangChain's own unit tests of chat models, unmodified."""

from functools import cache

from langchain_tests.unit_tests import ChatModelUnitTests
from scripted import tiny
from seka_rag import Engine

from langchain_seka import ChatSeka


@cache
def engine():
    return Engine(tiny())


class TestChatSeka(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatSeka

    @property
    def chat_model_params(self):
        return {"engine": engine()}

    @property
    def supports_model_override(self):
        return False  # an engine has one model loaded
