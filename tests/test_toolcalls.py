"""Calls are found in whatever a model writes, and what is no call stays text."""

import json
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import PromptError
from seka_rag.toolcalls import (
    Format,
    ToolCall,
    as_object,
    call_frame,
    parse_tool_calls,
    tool_call_format,
)

FORMATS = get_args(Format)
NAMES = ("find", "get_weather", "no-op")
TAGS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "\\ud83d", ";")

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.sampled_from([*TAGS, '"}', "}]", "]", "{", '{"name": "find", "arguments": {}}']),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=4)
written_calls = st.lists(st.tuples(st.sampled_from(NAMES), objects), min_size=1, max_size=4)
# Text that may be anything but a call: pieces of every format, in any order.
pieces = st.sampled_from(
    [
        *TAGS,
        *"{}[],\n ",
        '{"name": "find", "arguments": {"a": "}"}}',
        '{"name": "find", "parameters": {}}',
        '{"name": "unknown", "arguments": {}}',
        '{"name": "find"',
        '{"name": ["find"], "arguments": {}}',
        '"arguments": {"b": 1e999}}',
        "find",
        "NaN",
        '"',
        "\\",
        "[" * 5000,
        '{"a":' * 5000,
        "9" * 5000,
    ]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=9)), max_size=12).map("".join)

# Calls of llama3 are separated by ; which goes with them.
around = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=";")).map(str.strip)


def write(form, name, arguments, *, ensure_ascii=False):
    frame = call_frame(form)
    return (
        frame.opening(name)
        + json.dumps(arguments, ensure_ascii=ensure_ascii)
        + (frame.after_arguments)
    )


def plain(calls):
    return [(call.name, call.arguments) for call in calls]


def parsed(text, form):
    left, calls = parse_tool_calls(text, form, NAMES)
    return left, plain(calls)


@pytest.mark.parametrize("form", FORMATS)
@given(written_calls, st.sampled_from(["", " ", "\n"]), st.booleans())
def test_what_is_written_is_read(form, calls, gap, ensure_ascii):
    between = ";" if form == "llama3" else ""
    text = f"{between}{gap}".join(
        write(form, name, given, ensure_ascii=ensure_ascii) for name, given in calls
    )
    left, found = parse_tool_calls(f"{gap}{text}{gap}", form, NAMES)
    assert left == ""
    assert plain(found) == calls
    assert [call.id for call in found] == [f"call{i:05}" for i in range(len(calls))]


@pytest.mark.parametrize("form", FORMATS)
@given(around, objects, around)
def test_the_text_around_a_call_stays(form, before, given_arguments, after):
    call = write(form, "find", given_arguments)
    left, found = parsed(f"{before}\n{call}\n{after}", form)
    assert found == [("find", given_arguments)]
    assert left == "\n".join(text for text in (before, after) if text)


@pytest.mark.parametrize("form", FORMATS)
@given(texts)
def test_no_text_raises_and_nothing_is_lost(form, text):
    left, calls = parse_tool_calls(text, form, NAMES)
    assert all(isinstance(call, ToolCall) and call.name in NAMES for call in calls)
    json.dumps([call.arguments for call in calls], allow_nan=False, ensure_ascii=False).encode()
    if not calls:
        assert left == text
    # What is left is in the text, in order.
    assert re.search(".*?".join(map(re.escape, left.split())), text, re.DOTALL)


@pytest.mark.parametrize("form", FORMATS)
@given(objects)
def test_a_call_cut_short_and_one_of_an_unknown_tool_stay_text(form, arguments):
    frame = call_frame(form)
    cut = frame.opening("find") + json.dumps(arguments)[:-1]
    assert parsed(cut, form) == (cut, [])
    unknown = write(form, "rm", arguments)
    assert parsed(unknown, form) == (unknown, [])


@given(objects, objects)
def test_the_list_of_mistral_holds_several_calls(first, second):
    items = [
        {"name": "find", "arguments": first, "id": "abcdefghi"},
        {"name": "no-op", "arguments": second},
    ]
    for text in (f"[TOOL_CALLS]{json.dumps(items)}", json.dumps(items, indent=1)):
        assert parsed(text, "mistral") == ("", [("find", first), ("no-op", second)])
    items[1]["name"] = "unknown"
    text = f"[TOOL_CALLS]{json.dumps(items)}"
    assert parsed(text, "mistral") == (text, [])


CALL = '{"name": "find", "arguments": {"a": 1}}'
FOUND = [("find", {"a": 1})]


@pytest.mark.parametrize(
    ("form", "text", "left"),
    [
        # The closing tag is missing: at the end, and before the next call.
        ("hermes", f"<tool_call>{CALL}", ""),
        ("hermes", f"<tool_call>{CALL}\n<tool_call>{{oops", "<tool_call>{oops"),
        ("hermes", f"So:\n<tool_call>\n{CALL}\n</tool_call>\nDone.", "So:\nDone."),
        ("hermes", f"<tool_call><tool_call>{CALL}</tool_call>", "<tool_call>"),
        ("hermes", f"<tool_call>[{CALL}]</tool_call>", ""),
        ("hermes", f"<tool_call>{CALL.replace('arguments', 'parameters')}</tool_call>", ""),
        ("llama3", CALL, ""),
        ("llama3", f"<|python_tag|>{CALL};", ""),
        ("llama3", f"Let me see: <|python_tag|> {CALL}", "Let me see:"),
        ("llama3", f"Let me see:\n  {CALL}\nDone.", "Let me see:\nDone."),
        ("llama3", '{"type": "function", "name": "find", "parameters": {"a": 1}}', ""),
        ("llama3", '{"name": "find", "parameters": "{\\"a\\": 1}"}', ""),
        ("mistral", f"Sure.[TOOL_CALLS] [{CALL}]", "Sure."),
        ("mistral", f"[TOOL_CALLS]{CALL}", ""),
        ("mistral", f" [{CALL}]", ""),
        ("mistral", '[TOOL_CALLS]find[ARGS]{"a": 1}', ""),
        ("mistral", '[TOOL_CALLS]find[CALL_ID]VvvODy9mT[ARGS]{"a": 1}', ""),
        ("mistral", '[TOOL_CALLS]find{"a": 1}', ""),
    ],
)
def test_ways_of_writing_one_call(form, text, left):
    assert parsed(text, form) == (left, FOUND)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", CALL),
        ("hermes", f"<tool_call>{CALL} and more</tool_call>"),
        ("hermes", "<tool_call>{'name': 'find', 'arguments': {}}</tool_call>"),
        ("hermes", '<tool_call>{"name": "find", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "find", "arguments": "a"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "find", "a": 1}</tool_call>'),
        ("hermes", '<tool_call>{"name": "find", "arguments": {"a": NaN}}</tool_call>'),
        # A tool that is not known writes about one that is.
        ("hermes", f"<tool_call>{json.dumps({'name': 'say', 'arguments': f'<tool_call>{CALL}'})}"),
        ("llama3", f"You could write {CALL} to find it."),
        ("llama3", f'{{"plan": [\n{CALL}\n]}}'),
        ("llama3", '{"name": "Ada", "parameters": {}}'),
        ("mistral", CALL),
        ("mistral", f"See [{CALL}]"),
        ("mistral", "[TOOL_CALLS]find[ARGS][1]"),
    ],
)
def test_what_is_no_call(form, text):
    assert parsed(text, form) == (text, [])


@pytest.mark.parametrize("rest", ["", ', "arguments": null', ', "arguments": ""', ', "id": "1"'])
def test_a_call_may_have_no_arguments(rest):
    text = f'<tool_call>{{"name": "no-op"{rest}}}</tool_call>'
    assert parsed(text, "hermes") == ("", [("no-op", {})])


def test_line_breaks_in_strings_and_halves_of_characters_are_taken():
    text = '{"name": "find", "parameters": {"a": "x\ny", "b": "\\ud83d", "c": "\\ud83d\\ude42"}}'
    expected = {"a": "x\ny", "b": "\N{REPLACEMENT CHARACTER}", "c": "🙂"}
    assert parsed(text, "llama3") == ("", [("find", expected)])


def test_a_later_turn_continues_the_count():
    _, (call,) = parse_tool_calls(CALL, "llama3", NAMES, first=7)
    assert call == ToolCall("find", {"a": 1}, "call00007")


def test_an_object_in_a_string_is_read():
    assert as_object(' {"a": 1}\n') == {"a": 1}
    assert as_object(" ") == {}
    assert as_object("[1]") is as_object('{"a": 1} b') is as_object("{") is None


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("<tool_call>\n{{ call | tojson }}\n</tool_call>", "hermes"),
        ("{{ '<|python_tag|>' + call }}", "llama3"),
        ("<|start_header_id|>ipython<|end_header_id|>", "llama3"),
        ("[TOOL_CALLS] {{ calls | tojson }}", "mistral"),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", "mistral_args"),
    ],
)
def test_the_template_tells_the_format(template, form):
    assert tool_call_format(template) == form


@pytest.mark.parametrize("template", ["{{ messages }}", "<tool_call><function={{ name }}>"])
def test_a_template_without_a_known_format_is_refused(template):
    with pytest.raises(PromptError, match="none of the formats of tool calls that are known"):
        tool_call_format(template)
