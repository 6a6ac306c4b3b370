"""Questions over notices through a whole query engine: index, postprocessor, synthesizer, model.

    python tests/rag.py --json FILE [--base-url http://localhost:8000]

    conflicts  240 notices contradict what the model remembers; an answer is grounded that says what
               the notice says
    beside     the same questions, where every notice that is found is about something else; an
               answer is wrong that is neither what is well known nor says that it is not told

Both with `QA_TEMPLATE`, and with the template that LlamaIndex uses if it is given none. The notices
are those of `integrations/make_conflicts.py`, the model is the embedded one, here or behind a
server that has the plugin vllm-seka.
"""

import argparse
import asyncio
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import llama_index.core
from llama_index.core import SummaryIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import BaseQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from seka_rag import Engine, RemoteEngine, SteeredModel, __version__

from llama_index.llms.seka import QA_TEMPLATE, SekaLLM
from llama_index.postprocessor.seka import SekaHighlightPostprocessor
from llama_index.retrievers.seka import SekaRetriever

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "conflicts.jsonl").read_text("utf-8").splitlines()
]
_NOTICE_FOR = {row["question"]: row["notice"] for row in ROWS}
_INDEX = SummaryIndex([TextNode(text=row["notice"]) for row in ROWS])
_RETRIEVER = SekaRetriever(list(_INDEX.docstore.docs.values()), similarity_top_k=5)
TEMPLATES = {"qa_template": {"text_qa_template": QA_TEMPLATE}, "default_template": {}}


class Found(BaseNodePostprocessor):
    """Takes of an index the best nodes for a question, with or without the one that answers."""

    beside: bool

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        assert query_bundle is not None
        found = _RETRIEVER.retrieve(query_bundle)
        notice = _NOTICE_FOR[query_bundle.query_str]
        return [each for each in found if not self.beside or each.text != notice][:4]


def rates(
    templates: Sequence[str] = tuple(TEMPLATES), base_url: str | None = None
) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many answers are grounded or wrong, plain and highlighted, with each template."""
    with engine_at(base_url) as engine:
        models = {
            "plain": SekaLLM(engine=engine, max_tokens=16, gain=0),
            "highlighted": SekaLLM(engine=engine, max_tokens=16),
        }
        return {
            template: {
                count: {
                    name: counted(_answers(query_engine(llm, template, beside=beside)))
                    for name, llm in models.items()
                }
                for count, counted, beside in (
                    ("grounded", grounded, False),
                    ("wrong_beside", wrong, True),
                )
            }
            for template in templates
        }


def engine_at(base_url: str | None) -> Engine | RemoteEngine:
    """Return an engine on the embedded model: in this process, or a server's."""
    return RemoteEngine(base_url) if base_url else Engine(SteeredModel.from_pretrained())


def query_engine(llm: SekaLLM, template: str, *, beside: bool) -> BaseQueryEngine:
    """Return what answers questions over the notices."""
    postprocessors = [Found(beside=beside), SekaHighlightPostprocessor(policy="first:1")]
    return _INDEX.as_query_engine(
        llm=llm, node_postprocessors=postprocessors, **TEMPLATES[template]
    )


def _answers(engine: BaseQueryEngine) -> list[str]:
    async def gathered() -> list[str]:
        answers = await asyncio.gather(*(engine.aquery(row["question"]) for row in ROWS))
        return [str(answer).lower() for answer in answers]

    return asyncio.run(gathered())


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
    settings = {
        "command": "python integrations/llama-index-llms-seka/tests/rag.py --json FILE",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"seka-rag": __version__, "llama-index-core": llama_index.core.__version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": len(ROWS),
        "server": options.base_url is not None,
    }
    found: dict[str, dict[str, dict[str, int]]] = {}
    for template in TEMPLATES:
        found |= rates([template], options.base_url)
        print(found)  # noqa: T201
        result = {"settings": settings, "counts": found}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
