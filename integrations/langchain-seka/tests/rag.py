"""Questions over notices through the whole chain: retriever, compressor, message, chat.

    python tests/rag.py --json FILE [--base-url http://localhost:8000]

    conflicts  240 notices contradict what the model remembers; an answer is grounded that says what
               the notice says
    beside     the same questions, where every notice that is found is about something else; an
               answer is wrong that is neither what is well known nor says that it is not told

The notices are those of `integrations/make_conflicts.py`, the model is the embedded one, here or
behind a server that has the plugin vllm-seka.
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import langchain_core
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda
from seka_rag import Engine, RemoteEngine, SteeredModel, __version__

from langchain_seka import ChatSeka, HighlightDocuments, SekaRetriever, docs_to_message

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "conflicts.jsonl").read_text("utf-8").splitlines()
]
_RETRIEVER = SekaRetriever(documents=[Document(row["notice"]) for row in ROWS], k=5)
_HIGHLIGHTS = HighlightDocuments(policy="first:1")


def rates(base_url: str | None = None) -> dict[str, dict[str, int]]:
    """Return how many answers are grounded or wrong, plain and highlighted."""
    with engine_at(base_url) as engine:
        chat = ChatSeka(engine=engine, max_tokens=16)
        models = {"plain": chat.bind(gain=0), "highlighted": chat}
        return {
            "grounded": {
                name: grounded(_answers(model, conflicts)) for name, model in models.items()
            },
            "wrong_beside": {
                name: wrong(_answers(model, beside)) for name, model in models.items()
            },
        }


def engine_at(base_url: str | None) -> Engine | RemoteEngine:
    """Return an engine on the embedded model: in this process, or a server's."""
    return RemoteEngine(base_url) if base_url else Engine(SteeredModel.from_pretrained())


def conflicts(row: dict[str, str]) -> list[BaseMessage]:
    """Return the question over what is found."""
    return _asked(row, _RETRIEVER.invoke(row["question"]))


def beside(row: dict[str, str]) -> list[BaseMessage]:
    """Return the question over what is found beside the notice that answers."""
    found = _RETRIEVER.invoke(row["question"])
    return _asked(row, [each for each in found if each.page_content != row["notice"]])


def _asked(row: dict[str, str], found: Sequence[Document]) -> list[BaseMessage]:
    noted = _HIGHLIGHTS.compress_documents(found[:4], row["question"])
    return [docs_to_message(noted, row["question"])]


def _answers(model, prompt):
    return [answer.text.lower() for answer in (RunnableLambda(prompt) | model).batch(ROWS)]


def grounded(texts: Sequence[str]) -> int:
    """Return how many answers say what the notice says."""
    return sum(row["answer"].lower() in text for row, text in zip(ROWS, texts, strict=True))


def wrong(texts: Sequence[str]) -> int:
    """Return how many answers are neither known nor say that the passages do not tell."""
    return sum(
        row["remembered"].lower() not in text and "do not" not in text
        for row, text in zip(ROWS, texts, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--base-url")
    options = parser.parse_args()
    found = rates(options.base_url)
    settings = {
        "command": "python integrations/langchain-seka/tests/rag.py --json FILE",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"seka-rag": __version__, "langchain-core": langchain_core.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": len(ROWS),
        "server": options.base_url is not None,
    }
    print(found)  # noqa: T201
    result = {"settings": settings, "counts": {"docs_to_message": found}}
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
