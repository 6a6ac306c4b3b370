"""SekaRetriever: the retrieval of seka-rag over nodes. How it scores is not known here."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from seka_rag import Passage, Retriever


class SekaRetriever(BaseRetriever):
    """Finds the nodes that share telling words with a question (BM25), without a network."""

    def __init__(
        self, nodes: Sequence[BaseNode], *, similarity_top_k: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.similarity_top_k = similarity_top_k
        self._nodes = list(nodes)
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in self._nodes]
        self._index = Retriever([Passage(text, str(i)) for i, text in enumerate(texts)])

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=self._nodes[int(passage.source)], score=passage.score)
            for passage in self._index.search(query_bundle.query_str, self.similarity_top_k)
        ]
