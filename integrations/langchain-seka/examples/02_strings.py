"""Chains that join strings: documents are marked, and a retriever tool's findings as well."""

from pathlib import Path

from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.prompts import ChatPromptTemplate

from langchain_seka import ChatSeka, HighlightDocumentPrompt, HighlightDocuments, SekaRetriever

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"
QUESTION = "Where are the headquarters of Standard Chartered?"

retriever = ContextualCompressionRetriever(
    base_retriever=SekaRetriever.from_folder(DOCUMENTS, k=5),
    base_compressor=HighlightDocuments(policy="first:1"),
)
prompt = ChatPromptTemplate([("human", "Passages:\n{context}\n\nQuestion: {question}")])
chat = ChatSeka(max_tokens=32)
for name, model in (("plain", chat.bind(gain=0)), ("highlighted", chat)):
    chain = create_stuff_documents_chain(model, prompt, document_prompt=HighlightDocumentPrompt())
    answer = chain.invoke({"context": retriever.invoke(QUESTION), "question": QUESTION})
    print(f"{name + ':':<13}{answer}")
