"""Highlighting nodes: which parts of what was retrieved a policy picks, and who gets to see that.

A node that passes is copied. The copy shows signed markers in the view that language models get
(`MetadataMode.LLM`) and nowhere else: its text, its metadata, what is embedded and what is dumped
are those of the node. Markers that others wrote into text or metadata are neutralised in that view.
Which policy picks what is not decided here.
"""

import re
from functools import cache
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
)
from pydantic import Field, PrivateAttr, field_validator
from seka_rag import (
    DEFAULT_POLICY,
    Highlight,
    Passage,
    Segment,
    check_policy,
    flatten,
    highlighted,
    mark,
    neutralise,
)

_LONGEST = 400  # characters
# Pieces end behind a space, or where there is none.
_PIECE = re.compile(rf".{{1,{_LONGEST}}}(?:\s+|\Z)|.{{1,{_LONGEST}}}\s*", re.DOTALL)


class SekaHighlightPostprocessor(BaseNodePostprocessor):
    """Shows a language model what of the nodes a policy highlights; none is left out.

    Policies: "all", "first:K", "score", "sentences" and "sentences:K", see `seka_rag.policies`. A
    `gain` of None is the bank's own. Scores are those of the nodes; without them, the words shared
    with the query count. Put it last: what changes a text behind it takes its highlights away.
    """

    policy: str = Field(default=DEFAULT_POLICY)
    gain: float | None = Field(default=None)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        return check_policy(policy)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows it."""
        return "SekaHighlightPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = [Passage(_text(each.node), score=each.score) for each in nodes]
        question = "" if query_bundle is None else query_bundle.query_str
        found = highlighted(self.policy, passages, question, gain=self.gain)
        return [
            each.model_copy(update={"node": _shown(each.node, segments)})
            for each, segments in zip(nodes, found, strict=True)
        ]


class _Shown(BaseNode):
    """What is mixed into the class of a node, so that language models see its highlights."""

    _segments: tuple[Segment, ...] = PrivateAttr(default=())

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """Return the text, with its highlights marked for language models alone."""
        shown = self._marked() if metadata_mode == MetadataMode.LLM else self
        return super(_Shown, shown).get_content(metadata_mode)  # type: ignore[safe-super]

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
        """Return the same in blocks."""
        shown = self._marked() if metadata_mode == MetadataMode.LLM else self
        return super(_Shown, shown).get_content_blocks(metadata_mode)  # type: ignore[safe-super]

    def get_metadata_str(self, mode: MetadataMode = MetadataMode.ALL) -> str:
        """Return the metadata, in which nothing can be a marker for language models."""
        text = super().get_metadata_str(mode)
        return neutralise(text) if mode == MetadataMode.LLM else text

    def _marked(self) -> "_Shown":
        """Return a copy whose text is what language models see."""
        text = _text(self)
        segments = self._segments if flatten(self._segments)[0] == text else (text,)
        shown = self.model_copy()
        if text:  # a picture has none
            shown.set_content("".join(_as_text(segment) for segment in segments))
        return shown

    def __reduce__(self) -> tuple[Any, ...]:
        return _shown, (_as(self, type(self).__mro__[2]), self._segments)


def _shown(node: BaseNode, segments: tuple[Segment, ...]) -> BaseNode:
    """Return a copy of the node that shows language models its highlights."""
    shown = _as(node, _showing(type(node)))
    assert isinstance(shown, _Shown)
    shown._segments = segments
    return shown


def _as(node: BaseNode, kind: type[BaseNode]) -> BaseNode:
    """Return a copy of the node, of another class with the same fields."""
    copied = node.model_copy(update={"metadata": dict(node.metadata)})
    copied.__class__ = kind
    return copied


@cache
def _showing(kind: type[BaseNode]) -> type[BaseNode]:
    """Return the class of such copies. It bears the name of the node's, as which it is dumped."""
    if issubclass(kind, _Shown):
        return kind
    return type(kind.__name__, (_Shown, kind), {"__module__": kind.__module__})


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _as_text(segment: Segment) -> str:
    """Return a segment as text, with the blanks around a highlight outside, as they are cut off."""
    if not isinstance(segment, Highlight):
        return neutralise(segment)
    text = segment.text.strip()
    before, _, after = segment.text.partition(text)
    lines = text.splitlines()
    # Of a line that is cut twice, nobody knows the middle: no piece may be as long as that.
    pieces = _PIECE.findall(text) if max(map(len, lines)) > _LONGEST else [text]
    marked = "".join(mark(piece, gain=segment.gain, kind=segment.kind) for piece in pieces)
    return before + marked + after
