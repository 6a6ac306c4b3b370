"""SekaRetriever finds what the retrieval of seka-rag finds, and leaves the nodes as they are."""

import pytest
from llama_index.core.schema import TextNode
from seka_rag import DocumentsError, Passage, Retriever

from llama_index.retrievers.seka import SekaRetriever

TEXTS = [f"Ferry {i} leaves at {i}." for i in range(6)]
NODES = [TextNode(text=text, metadata={"source": text}) for text in TEXTS]


async def test_it_finds_what_the_core_finds():
    question = "When does ferry 3 leave?"
    expected = Retriever([Passage(text) for text in TEXTS]).search(question, 2)
    retriever = SekaRetriever(NODES, similarity_top_k=2)
    for found in (retriever.retrieve(question), await retriever.aretrieve(question)):
        assert [(each.text, each.score) for each in found] == [(p.text, p.score) for p in expected]
        assert found[0].node is NODES[3]


def test_nothing_to_search_is_an_error():
    with pytest.raises(DocumentsError):
        SekaRetriever([])
