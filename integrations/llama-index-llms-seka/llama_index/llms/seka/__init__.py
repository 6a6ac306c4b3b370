"""seka-rag for LlamaIndex: what is highlighted in prompts and messages, a local model attends to.

Nothing here decides how a model is steered: that is `seka_rag`.
"""

from llama_index.llms.seka.base import QA_TEMPLATE, SekaLLM
from llama_index.llms.seka.messages import highlight, mark

__all__ = ["QA_TEMPLATE", "SekaLLM", "highlight", "mark"]
