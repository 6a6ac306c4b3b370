"""Questions over notices through the whole chain: retriever, compressor, message, chat.

    conflicts  240 notices contradict what the model remembers; an answer is grounded that says what
               the notice says
    beside     the same questions, where every notice that is found is about something else; an
               answer is wrong that is neither what is well known nor says that it is not told

The notices are those of `integrations/make_conflicts.py`.
"""

import json
from pathlib import Path

import pytest
import torch
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from seka_rag import Engine, SteeredModel

from langchain_seka import ChatSeka, HighlightDocuments, SekaRetriever, docs_to_message

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[3] / "conflicts.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture(scope="module")
def answers():
    """The answers to all questions, by ("conflicts" or "beside", "plain" or "highlighted")."""
    torch.set_num_threads(2)
    retriever = SekaRetriever(documents=[Document(row["notice"]) for row in ROWS], k=5)
    highlights = HighlightDocuments(policy="first:1")

    def messages(row, *, beside):
        found = retriever.invoke(row["question"])
        if beside:
            found = [document for document in found if document.page_content != row["notice"]]
        noted = highlights.compress_documents(found[:4], row["question"])
        return [docs_to_message(noted, row["question"])]

    with Engine(SteeredModel.from_pretrained()) as engine:
        chat = ChatSeka(engine=engine, max_tokens=16)
        return {
            (kind, name): [
                answer.text.lower()
                for answer in (
                    RunnableLambda(lambda row, kind=kind: messages(row, beside=kind == "beside"))
                    | model
                ).batch(ROWS)
            ]
            for kind in ("conflicts", "beside")
            for name, model in (("plain", chat.bind(gain=0)), ("highlighted", chat))
        }


def grounded(texts):
    return sum(row["answer"].lower() in text for row, text in zip(ROWS, texts, strict=True))


def wrong(texts):
    return sum(
        row["remembered"].lower() not in text and "do not" not in text
        for row, text in zip(ROWS, texts, strict=True)
    )


def test_a_notice_that_answers_is_followed(answers):
    assert len(ROWS) >= 200
    assert grounded(answers["conflicts", "highlighted"]) >= 0.95 * len(ROWS)
    assert grounded(answers["conflicts", "plain"]) <= 0.75 * len(ROWS)


def test_notices_beside_the_point_mislead_no_more_than_before(answers):
    plain, highlighted = (wrong(answers["beside", name]) for name in ("plain", "highlighted"))
    assert highlighted <= plain + 0.02 * len(ROWS)
