"""A RAG chain: the best passage is highlighted, and the model follows it and not its memory."""

from pathlib import Path

from langchain_core.runnables import RunnableLambda

from langchain_seka import ChatSeka, HighlightDocuments, SekaRetriever, docs_to_message

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"

retriever = SekaRetriever.from_folder(DOCUMENTS, k=5)
highlighting = HighlightDocuments(policy="first:1")
chat = ChatSeka(max_tokens=32)  # the embedded model; any Hugging Face model works too


def prompt(question):
    """Return the messages: numbered passages, the best highlighted, and the question."""
    found = highlighting.compress_documents(retriever.invoke(question), question)
    return [docs_to_message(found, question)]


for question in ("What is the capital of Austria?", "Who makes Mac Pro?"):
    print(question)
    for name, model in (("plain", chat.bind(gain=0)), ("highlighted", chat)):
        chain = RunnableLambda(prompt) | model
        print(f"  {name + ':':<13}{chain.invoke(question).text}")
