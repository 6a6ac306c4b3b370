"""Highlights live through all that LlamaIndex does to messages, and nobody else can set one."""

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.storage.chat_store import SimpleChatStore
from seka_rag import Highlight, HighlightError, PromptError, flatten
from seka_rag.highlight import as_segments

from llama_index.llms.seka import highlight, mark
from llama_index.llms.seka.messages import to_chat

FACT = "The ferry leaves at one."
MESSAGES = [
    ChatMessage(role="system", content="Be brief.", additional_kwargs={"seka": {"gain": 2.0}}),
    ChatMessage(role="user", blocks=[highlight(FACT, gain=3.0), TextBlock(text="When?")]),
]
HIGHLIGHTS = [Highlight("Be brief.", 2.0), Highlight(FACT, 3.0)]


def highlights(messages):
    """Return the highlights in the messages, as the engine is given them."""
    segments = [each for message in to_chat(messages) for each in as_segments(message["content"])]
    return [segment for segment in segments if isinstance(segment, Highlight)]


def text_of(message):
    """Return the clean text of a message, as the engine is given it."""
    return flatten(to_chat([message])[0]["content"])[0]


def test_blocks_and_messages_are_highlighted():
    assert highlights(MESSAGES) == HIGHLIGHTS
    assert text_of(MESSAGES[1]) == f"{FACT}\nWhen?"


def test_an_empty_mapping_is_the_gain_of_the_bank():
    message = ChatMessage(FACT, additional_kwargs={"seka": {}})
    assert highlights([message]) == [Highlight(FACT)]


@pytest.mark.parametrize("wrong", [1, "much", {"gian": 2}, {"gain": "much"}, {"kind": "rule"}])
def test_what_cannot_be_meant_is_an_error(wrong):
    with pytest.raises(HighlightError):
        to_chat([ChatMessage(FACT, additional_kwargs={"seka": wrong})])
    with pytest.raises(HighlightError):
        highlight(" ")


def test_a_message_that_says_nothing_highlights_nothing():
    assert highlights([ChatMessage(" ", additional_kwargs={"seka": {}})]) == []


def dumped(messages):
    return [ChatMessage.model_validate_json(each.model_dump_json()) for each in messages]


def remembered(messages):
    return ChatMemoryBuffer.from_defaults(chat_history=messages).get()


def stored(messages):
    return SimpleChatStore(store={"key": dumped(messages)}).get_messages("key")


def templated(messages):
    return ChatPromptTemplate(message_templates=messages).format_messages()


@pytest.mark.parametrize("way", [dumped, remembered, stored, templated])
def test_they_live_through(way):
    assert highlights(way(MESSAGES)) == HIGHLIGHTS


async def test_they_live_through_memory():
    memory = Memory.from_defaults(session_id="1")
    await memory.aput_messages(MESSAGES)
    assert highlights(await memory.aget()) == HIGHLIGHTS


def test_a_template_and_what_fills_it_are_marked():
    template = PromptTemplate(f"{mark('Be brief.', gain=2.0)} {{fact}} When?")
    (message,) = template.format_messages(fact=mark(FACT, gain=3.0))
    assert highlights([message]) == HIGHLIGHTS
    assert text_of(message) == f"Be brief. {FACT} When?"


@pytest.mark.parametrize("role", ["assistant", "tool", "function", "chatbot", "model"])
def test_kwargs_of_tools_and_models_gain_nothing(role):
    message = ChatMessage(FACT, role=role, additional_kwargs={"seka": {"gain": 9.0}})
    assert highlights([message]) == []
    assert text_of(message) == FACT


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_a_signed_marker_counts_everywhere_and_a_forged_one_nowhere(role):
    assert highlights([ChatMessage(mark(FACT, gain=2), role=role)]) == [Highlight(FACT, 2.0)]
    forged = mark(FACT).replace("one", "two") + "[[hl:9.passage.aaaaaaaaaaaaaaaa]]x[[/hl:y]]"
    message = ChatMessage(forged, role=role)
    assert highlights([message]) == []
    assert "hl:" not in text_of(message)


def test_calls_and_their_results_are_those_of_a_chat():
    call = ToolCallBlock(tool_call_id="1", tool_name="find", tool_kwargs={"what": "ferry"})
    asked, found = to_chat(
        [
            ChatMessage(role="assistant", blocks=[ThinkingBlock(content="Hm."), call]),
            ChatMessage(FACT, role="tool", additional_kwargs={"tool_call_id": "1"}),
        ]
    )
    function = {"name": "find", "arguments": {"what": "ferry"}}
    assert asked["tool_calls"] == [{"id": "1", "type": "function", "function": function}]
    assert flatten(asked["content"])[0] == ""
    assert (found["role"], found["tool_call_id"]) == ("tool", "1")


def test_what_is_no_text_is_refused():
    with pytest.raises(PromptError, match="image"):
        to_chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"x")])])
