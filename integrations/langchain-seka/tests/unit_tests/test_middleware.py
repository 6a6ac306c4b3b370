"""An agent's instructions and findings are highlighted in the request, and nowhere else.

Only the wrapper is being tested: what the model writes is scripted.
"""

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from scripted import ScriptedEngine
from seka_rag import Highlight, HighlightError

from langchain_seka import ChatSeka, SekaHighlightMiddleware, highlight

RULES = "You help. <rule>Answer in one word.</rule> Be kind."
FACT = "The ferry leaves at one."
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "ferry"}}\n</tool_call>'


@tool(response_format="content_and_artifact")
def search(query: str) -> tuple[str, list[Document]]:
    """Find what is known."""
    return f"Found: {FACT}", [Document(FACT)]


class Recording(ScriptedEngine):
    """A scripted engine that keeps the highlights of the requests it gets."""

    def __init__(self):
        super().__init__(lambda text: "One." if FACT in text else CALL)
        self.highlights = []

    def _submit(self, job):
        text, spans = job.row.rendered.text, job.row.rendered.spans
        found = [Highlight(text[each.start : each.end], each.gain, each.kind) for each in spans]
        self.highlights.append(found)
        super()._submit(job)


def run(middleware, *, system_prompt=RULES, asynchronously=False):
    """Return the highlights of the two requests of an agent's run, and its messages."""
    engine = Recording()
    agent = create_agent(
        ChatSeka(engine=engine),
        [search],
        system_prompt=system_prompt,
        middleware=[middleware],
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "1"}}
    asked = {"messages": [HumanMessage("When does the ferry leave?")]}
    if asynchronously:
        state = asyncio.run(agent.ainvoke(asked, config))
    else:
        state = agent.invoke(asked, config)
    assert state["messages"][-1].text == "One."
    return engine.highlights, state["messages"]


@pytest.mark.parametrize("asynchronously", [False, True])
def test_a_tag_and_what_a_tool_has_found(asynchronously):
    middleware = SekaHighlightMiddleware(tag="rule", instruction_gain=2, gain=1.5)
    (first, second), messages = run(middleware, asynchronously=asynchronously)
    rule = Highlight("Answer in one word.", 2, "instruction")
    assert first == [rule]
    assert second == [rule, Highlight(FACT, 1.5)]
    result = next(message for message in messages if isinstance(message, ToolMessage))
    assert result.content == f"Found: {FACT}"


@pytest.mark.parametrize("instructions", ["all", [RULES]])
def test_all_of_the_prompt(instructions):
    middleware = SekaHighlightMiddleware(instructions=instructions, policy=None)
    (first, second), _ = run(middleware)
    assert first == second == [Highlight(RULES, None, "instruction")]


def test_texts_of_the_prompt_beside_blocks_that_are_highlighted():
    prompt = SystemMessage([highlight("Be brief.", gain=3), {"type": "text", "text": RULES}])
    middleware = SekaHighlightMiddleware(instructions=["Be kind."], policy=None)
    (first, _), _ = run(middleware, system_prompt=prompt)
    assert first == [Highlight("Be brief.", 3), Highlight("Be kind.", None, "instruction")]


def test_what_is_not_in_the_prompt_is_an_error():
    with pytest.raises(HighlightError, match="Be rude"):
        run(SekaHighlightMiddleware(instructions=["Be rude."]))
    with pytest.raises(HighlightError, match="Be rude"):
        run(SekaHighlightMiddleware(instructions=["Be rude."]), system_prompt=None)
    with pytest.raises(HighlightError, match="order"):
        run(SekaHighlightMiddleware(tag="order"))
    with pytest.raises(HighlightError, match="between"):
        run(SekaHighlightMiddleware(tag="rule"), system_prompt="<rule> </rule>")


def test_what_stands_between_tags_is_not_what_is_like_it():
    middleware = SekaHighlightMiddleware(tag="rule", policy=None)
    (first, _), _ = run(middleware, system_prompt="Be kind. <rule> Be\nkind. </rule>")
    assert first == [Highlight("Be\nkind.", None, "instruction")]


def test_documents_out_of_a_checkpoint_are_documents():
    stored = {"page_content": FACT, "metadata": {}}
    message = ToolMessage(f"Found: {FACT}", tool_call_id="1", artifact=[stored])
    (changed,) = SekaHighlightMiddleware()._messages([message])
    assert changed.content != message.content
    assert message.content == f"Found: {FACT}"
