"""A chat engine over documents, and its answer as it is written."""

from pathlib import Path

from llama_index.core import SimpleDirectoryReader
from llama_index.core.chat_engine import ContextChatEngine

from llama_index.llms.seka import SekaLLM
from llama_index.postprocessor.seka import SekaHighlightPostprocessor
from llama_index.retrievers.seka import SekaRetriever

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"
QUESTION = "Where are the headquarters of Standard Chartered?"

documents = SimpleDirectoryReader(DOCUMENTS, file_metadata=lambda path: {}).load_data()
chat = ContextChatEngine.from_defaults(
    SekaRetriever(documents, similarity_top_k=2),
    llm=SekaLLM(max_tokens=32),
    node_postprocessors=[SekaHighlightPostprocessor(policy="first:1")],
    context_template="Passages:\n{context_str}",
)
print("|".join(chat.stream_chat(QUESTION).response_gen))
