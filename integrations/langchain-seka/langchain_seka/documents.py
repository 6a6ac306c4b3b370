"""Documents: which parts of what was retrieved are highlighted, and how that reaches a prompt.

`HighlightDocuments` notes the highlights in the metadata of copies; the text of a document stays
clean. `docs_to_message` puts them into the blocks of a message, `HighlightDocumentPrompt` into a
marked string, for chains that join strings. What others wrote can mark nothing on either way.
Which policy picks what is not decided here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate, StringPromptTemplate
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr, field_validator, model_validator
from seka_rag import (
    DEFAULT_POLICY,
    Highlight,
    Passage,
    Retriever,
    Segment,
    Segments,
    check_policy,
    flatten,
    highlighted,
    mark,
    neutralise,
)

from langchain_seka.messages import highlight

HIGHLIGHTS = "seka_highlights"
"""The metadata of a document that say what of it is highlighted; it may be nothing."""
_SCORES = ("relevance_score", "score")


class HighlightDocuments(BaseDocumentCompressor):
    """Notes on copies of the documents what of them a policy highlights; none is left out.

    Policies: "all", "first:K", "score", "sentences" and "sentences:K", see `seka_rag.policies`. A
    `gain` of None is the bank's own. Scores are read from the metadata `score_keys`; a document
    without one is matched by the words that it shares with the query.
    """

    policy: str = DEFAULT_POLICY
    gain: float | None = None
    score_keys: Sequence[str] = _SCORES

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        return check_policy(policy)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the documents, in their order, with their highlights noted."""
        passages = [to_passage(document, self.score_keys) for document in documents]
        found = highlighted(self.policy, passages, query, gain=self.gain)
        return [_noted(*pair) for pair in zip(documents, found, strict=True)]


class HighlightDocumentPrompt(StringPromptTemplate):
    """A document as a string in which its highlights are marked, and no marker of others is left.

    `template` may name other metadata in braces. For `create_stuff_documents_chain` and
    `create_retriever_tool`, behind `HighlightDocuments`.
    """

    template: str = "{page_content}"
    input_variables: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _name_variables(self) -> Self:
        named = PromptTemplate.from_template(self.template).input_variables
        self.input_variables = [*named, HIGHLIGHTS]
        return self

    def format(self, **kwargs: Any) -> str:
        """Return the text; every value but the highlights is taken for what others wrote."""
        spans = kwargs.pop(HIGHLIGHTS, ())
        values = {name: neutralise(str(value)) for name, value in kwargs.items()}
        values["page_content"] = marked(_segments(kwargs["page_content"], spans))
        return PromptTemplate.from_template(self.template).format(**values)

    @property
    def _prompt_type(self) -> str:
        return "seka-document"


class SekaRetriever(BaseRetriever):
    """Finds the documents that share telling words with a question (BM25), without a network."""

    documents: list[Document]
    k: int = 4
    _index: Retriever = PrivateAttr()

    @model_validator(mode="after")
    def _make_index(self) -> Self:
        texts = [document.page_content for document in self.documents]
        self._index = Retriever([Passage(text, str(i)) for i, text in enumerate(texts)])
        return self

    @classmethod
    def from_folder(cls, folder: str | Path, *, k: int = 4) -> Self:
        """Return a retriever over the .txt and .md files in a folder and those below it."""
        passages = Retriever.from_folder(folder).passages
        documents = [Document(each.text, metadata={"source": each.source}) for each in passages]
        return cls(documents=documents, k=k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        found = self._index.search(query, self.k if k is None else k)
        return [
            _with(self.documents[int(passage.source)], score=passage.score) for passage in found
        ]


def docs_to_message(documents: Sequence[Document], question: str = "") -> HumanMessage:
    """Return a message of numbered passages, highlighted as noted, with the question behind them.

    Documents on which nothing is noted are plain.
    """
    blocks: list[Any] = [_plain("Passages:")] if documents else []
    for i, document in enumerate(documents, 1):
        blocks.append(_plain(f"\n[{i}] "))
        spans = document.metadata.get(HIGHLIGHTS, ())
        blocks += [_block(segment) for segment in _segments(document.page_content, spans)]
    if question:
        blocks.append(_plain(f"\n\nQuestion: {question}" if documents else f"Question: {question}"))
    return HumanMessage(blocks)


def to_passage(document: Document, score_keys: Sequence[str] = _SCORES) -> Passage:
    """Return the document as seka-rag takes it."""
    scores = [document.metadata[key] for key in score_keys if key in document.metadata]
    score = next((float(each) for each in scores if isinstance(each, int | float)), None)
    return Passage(document.page_content, str(document.metadata.get("source", "")), score)


def marked(segments: Segments) -> str:
    """Return the segments as a string in which what is highlighted is marked."""
    listed = (segments,) if isinstance(segments, str | Highlight) else segments
    return "".join(
        mark(each.text, gain=each.gain, kind=each.kind)
        if isinstance(each, Highlight)
        else neutralise(each)
        for each in listed
    )


def _noted(document: Document, segments: Segments) -> Document:
    spans = [
        {"start": span.start, "end": span.end, "gain": span.gain, "kind": span.kind}
        for span in flatten(segments)[1]
    ]
    return _with(document, **{HIGHLIGHTS: spans})


def _with(document: Document, **metadata: Any) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, **metadata}})


def _segments(text: str, spans: Sequence[dict[str, Any]]) -> list[Segment]:
    """Return the text in segments, highlighted where the spans say."""
    segments: list[Segment] = []
    end = 0
    for span in spans:
        segments.append(text[end : span["start"]])
        end = span["end"]
        segments.append(Highlight(text[span["start"] : end], span["gain"], span["kind"]))
    return [segment for segment in (*segments, text[end:]) if segment]


def _block(segment: Segment) -> dict[str, Any]:
    if isinstance(segment, Highlight):
        return highlight(_one_line(segment.text), gain=segment.gain, kind=segment.kind)
    return _plain(_one_line(segment))


def _plain(text: str) -> dict[str, Any]:
    return {"type": "text", "text": neutralise(text)}


def _one_line(text: str) -> str:
    return neutralise(re.sub(r"\s*\n\s*", " ", text))
