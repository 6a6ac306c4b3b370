"""Whatever a synthesizer does to texts, the model sees just the highlighted words highlighted."""

import asyncio
import random
import re

import pytest
from llama_index.core import KeywordTableIndex, MockEmbedding, SummaryIndex, VectorStoreIndex
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, TextNode
from scripted import Recording

from llama_index.llms.seka import SekaLLM
from llama_index.postprocessor.seka import SekaHighlightPostprocessor
from llama_index.retrievers.seka import SekaRetriever

MODES = (
    "refine",
    "compact",
    "tree_summarize",
    "simple_summarize",
    "accumulate",
    "compact_accumulate",
)
WINDOWS = (8192, 1400)
# Between the words of a node: spaces, line ends, quotes, backslashes, braces, other scripts.
STYLES = (" ", "\n", "\n\n", " 'it\"s' ", " \\ ", " {x} ", " ü \n 東京。 ", " 🚢 ", ". ", " [ [hl ")
WORDS = re.compile(r"[hp]\d+w\d+")


def nodes(seed, *, longest=900):
    """Return nodes of words found nowhere else: h for highlighted, p for plain."""
    rng = random.Random(seed)
    made = []
    for i, style in enumerate(rng.sample(STYLES, 6)):
        kind = "hp"[i % 2]
        words = [f"{kind}{i}w{j}" for j in range(rng.choice((3, 40, longest)))]
        text = "".join(word + (style if rng.random() < 0.5 else " ") for word in words)
        made.append(TextNode(text=f"ferry {text}" if kind == "h" else text))
    return made


def seen(engine):
    """Return the words that are highlighted in the prompts, those that are not, and other text."""
    inside, outside, strange = set(), set(), ""
    for text, highlights in zip(engine.texts, engine.highlights, strict=True):
        assert "[[hl" not in text
        assert "[[/hl" not in text
        for each in highlights:
            inside.update(WORDS.findall(each.text))
            strange += each.text
        marked = [each.text for each in highlights]
        for each in sorted(marked, key=len, reverse=True):
            text = text.replace(each, " ")
        outside.update(WORDS.findall(text))
    return inside, outside, strange


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
def test_just_the_highlighted_words_are_highlighted(mode, window):
    for seed in range(3):
        engine = Recording()
        given = nodes(seed)
        query_engine = RetrieverQueryEngine.from_args(
            SummaryIndex(given).as_retriever(),
            llm=SekaLLM(engine=engine, context_window=window),
            node_postprocessors=[SekaHighlightPostprocessor(policy="first:6")],
            response_mode=mode,
        )
        response = query_engine.query("Which ferry?")
        words = {word for node in given for word in WORDS.findall(node.text)}
        inside, outside, strange = seen(engine)
        highlighted = {word for word in words if word.startswith("h")}
        if mode != "simple_summarize":  # which cuts off what does not fit
            assert inside == highlighted
            assert outside == words - highlighted
        assert inside <= highlighted
        assert inside
        assert not any(word.startswith("h") for word in outside)
        assert "Query" not in strange
        assert "context" not in strange.lower()
        for found in response.source_nodes:
            clean = found.node.get_content(metadata_mode=MetadataMode.ALL)
            assert clean in {node.text for node in given}


@pytest.mark.parametrize(
    "index",
    [
        lambda nodes: SummaryIndex(nodes),
        lambda nodes: VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4)),
        lambda nodes: KeywordTableIndex(nodes, llm=SekaLLM(engine=Recording(lambda _: "ferry"))),
    ],
    ids=["summary", "vector", "keyword"],
)
def test_a_query_engine_of_an_index(index):
    engine = Recording(lambda text: "KEYWORDS: ferry" if "keywords" in text else "At one.")
    llm = SekaLLM(engine=engine)
    given = [TextNode(text="The ferry leaves at one."), TextNode(text="A bus is red.")]
    query_engine = index(given).as_query_engine(
        llm=llm, node_postprocessors=[SekaHighlightPostprocessor(policy="sentences:1")]
    )
    response = asyncio.run(query_engine.aquery("When does the ferry leave?"))
    assert str(response) == "At one."
    assert [each.text for each in engine.highlights[-1]] == ["The ferry leaves at one."]
    assert not any("[[hl" in text for text in engine.texts)


def test_a_streaming_query_engine():
    engine = Recording(lambda _: "At one.")
    query_engine = RetrieverQueryEngine.from_args(
        SekaRetriever([TextNode(text="The ferry leaves at one.")]),
        llm=SekaLLM(engine=engine),
        node_postprocessors=[SekaHighlightPostprocessor()],
        streaming=True,
    )
    assert "".join(query_engine.query("When does the ferry leave?").response_gen) == "At one."
    assert [each.text for each in engine.highlights[0]] == ["The ferry leaves at one."]
