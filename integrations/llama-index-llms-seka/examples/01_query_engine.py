"""A query engine: the best passage is highlighted, and the model follows it and not its memory."""

from pathlib import Path

from llama_index.core import SimpleDirectoryReader
from llama_index.core.query_engine import RetrieverQueryEngine

from llama_index.llms.seka import QA_TEMPLATE, SekaLLM
from llama_index.postprocessor.seka import SekaHighlightPostprocessor
from llama_index.retrievers.seka import SekaRetriever

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"

# Without metadata: paths would stand in the prompt.
documents = SimpleDirectoryReader(DOCUMENTS, file_metadata=lambda path: {}).load_data()
retriever = SekaRetriever(documents, similarity_top_k=2)
# Chosen among five questions: the others are answered alike, plain or not.
for question in (
    "What is the capital of Austria?",
    "Where are the headquarters of Standard Chartered?",
):
    print(question)
    for name, gain in (("plain", 0), ("highlighted", None)):
        query_engine = RetrieverQueryEngine.from_args(
            retriever,
            llm=SekaLLM(max_tokens=32, gain=gain),  # any Hugging Face model works too
            node_postprocessors=[SekaHighlightPostprocessor(policy="first:1")],
            text_qa_template=QA_TEMPLATE,
        )
        print(f"  {name + ':':<13}{query_engine.query(question)}")
