"""Offline retrieval by the words that a node shares with a question."""

from llama_index.retrievers.seka.base import SekaRetriever

__all__ = ["SekaRetriever"]
