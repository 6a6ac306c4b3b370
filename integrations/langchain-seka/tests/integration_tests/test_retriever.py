"""LangChain's own integration tests of retrievers, unmodified."""

from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_seka import SekaRetriever


class TestSekaRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return SekaRetriever

    @property
    def retriever_constructor_params(self):
        return {"documents": [Document(f"Ferry {i} leaves at {i}.") for i in range(5)]}

    @property
    def retriever_query_example(self):
        return "When does ferry 3 leave?"
