"""Which parts of what was retrieved are highlighted, for a model of `llama_index.llms.seka`."""

from llama_index.postprocessor.seka.base import SekaHighlightPostprocessor

__all__ = ["SekaHighlightPostprocessor"]
