"""seka-rag for LangChain: what is highlighted in messages and documents, a local model attends to.

Nothing here decides how a model is steered: that is `seka_rag`. Names are imported from their
modules when first used, so that the agent middleware alone needs `langchain`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_seka.chat_models import ChatSeka as ChatSeka
    from langchain_seka.documents import HighlightDocumentPrompt as HighlightDocumentPrompt
    from langchain_seka.documents import HighlightDocuments as HighlightDocuments
    from langchain_seka.documents import SekaRetriever as SekaRetriever
    from langchain_seka.documents import docs_to_message as docs_to_message
    from langchain_seka.llms import SekaLLM as SekaLLM
    from langchain_seka.messages import highlight as highlight
    from langchain_seka.messages import mark as mark
    from langchain_seka.middleware import SekaHighlightMiddleware as SekaHighlightMiddleware

_MODULE_OF = {
    "ChatSeka": "chat_models",
    "HighlightDocumentPrompt": "documents",
    "HighlightDocuments": "documents",
    "SekaHighlightMiddleware": "middleware",
    "SekaLLM": "llms",
    "SekaRetriever": "documents",
    "docs_to_message": "documents",
    "highlight": "messages",
    "mark": "messages",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
