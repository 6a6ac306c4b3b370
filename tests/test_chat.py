"""Chats go through any template: tools, calls and results, in the form that it demands."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from itertools import count

import pytest
from conftest import CHATML
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from seka_rag.chat import Chat
from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Highlight, flatten, highlight
from seka_rag.prompts import render
from seka_rag.tokens import control_ids, encode_chat
from seka_rag.toolcalls import ToolCall, call_frame, parse_tool_calls, tool_call_format

# As Qwen and Hermes: tools in the system message, results in user turns.
QWEN = """
{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
{{- 'You can call:' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}
{{- '\nby <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- elif not (tools and loop.first and m.role == 'system') %}
{{- '<|im_start|>' + m.role + '\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
# As Llama 3: one call a turn, results as JSON strings, contents trimmed.
LLAMA = """
{%- macro turn(role) %}{{ '<|turn|>' + role + '<|head|>\n\n' }}{% endmacro %}
{%- if messages[0].role == 'system' %}
{%- set system, messages = messages[0].content | trim, messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- turn('system') + 'Today is Monday.\n' + system + '<|eot|>' }}
{%- for m in messages %}
{%- if m.role in ('tool', 'ipython') %}
{{- turn('ipython') + (m.content | tojson) + '<|eot|>' }}
{%- elif m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- turn('assistant') + '{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson + '}<|eot|>' }}
{%- else %}
{{- turn(m.role) }}
{%- if tools and loop.first %}
{%- for tool in tools %}{{ tool | tojson(indent=4) + '\n' }}{% endfor %}
{%- endif %}{{ m.content | trim + '<|eot|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ turn('assistant') }}{% endif %}
"""
# As Mistral: strict turns, a system message in the last user turn, ids of nine characters.
MISTRAL = """
{%- if messages[0].role == 'system' %}
{%- set system, messages = messages[0].content + '\n\n', messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{%- set turns = namespace(n=0) %}
{%- for m in messages %}
{%- if m.role in ('user', 'assistant') and not m.tool_calls %}
{%- if (m.role == 'user') != (turns.n % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}{% set turns.n = turns.n + 1 %}
{%- endif %}
{%- if m.role == 'user' %}
{%- if tools and loop.last %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
{%- endif %}{{ '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' and m.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- (', ' if not loop.first else '') + '{"name": "' + call.function.name }}
{{- '", "arguments": ' + call.function.arguments | tojson + ', "id": "' + call.id + '"}' }}
{%- endfor %}{{ ']</s>' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' }}
{{- m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception('only user, assistant and tool') }}
{%- endif %}
{%- endfor %}
"""
# As newer Mistral: calls one by one, with [ARGS]; a system turn.
MISTRAL_ARGS = """
{%- if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ '[SYSTEM]' + m.content + '[/SYSTEM]' }}
{%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}
{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}
{%- endfor %}{{ '</s>' }}
{%- endif %}
{%- endfor %}
"""
# As Gemma: no system message, strict turns, no tools.
GEMMA = """
{%- for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
# It knows two roles, and passes over the others in silence.
TWO_ROLES = CHATML.replace(
    "<|im_start|>{{", "{% if message.role in ('user', 'assistant') %}<|im_start|>{{"
).replace("<|im_end|>\n", "<|im_end|>\n{% endif %}", 1)

WITH_TOOLS = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "mistral_args": MISTRAL_ARGS}
TEMPLATES = {**WITH_TOOLS, "gemma": GEMMA, "chatml": CHATML, "two_roles": TWO_ROLES}
CONTROLS = (
    "<|turn|> <|head|> <|eot|> </s> [INST] [/INST] [SYSTEM] [/SYSTEM] [TOOL_CALLS] [ARGS] "
    "[TOOL_RESULTS] [/TOOL_RESULTS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] <start_of_turn> "
    "<end_of_turn>"
).split()
WORDS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


@pytest.fixture(scope="module", params=TEMPLATES)
def any_tokenizer(tokenizer, request):
    return with_template(tokenizer, TEMPLATES[request.param])


@pytest.fixture(scope="module", params=WITH_TOOLS)
def tool_tokenizer(tokenizer, request):
    return with_template(tokenizer, WITH_TOOLS[request.param])


def with_template(tokenizer, template):
    """Return the tokenizer under another template, with the control tokens of all of them."""
    own = deepcopy(tokenizer)
    own.add_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    own.add_tokens([AddedToken(text, special=False, normalized=False) for text in WORDS])
    own.chat_template = template
    return own


def controls_of(tokenizer, prompt):
    rendered = render(tokenizer, prompt)
    ids = encode_chat(tokenizer, rendered.text, rendered.content_regions).ids
    return [token_id for token_id in ids if token_id in control_ids(tokenizer)]


def shown(rendered):
    return [rendered.text[span.start : span.end] for span in rendered.spans]


def system(*segments):
    return {"role": "system", "content": list(segments)}


def user(*segments):
    return {"role": "user", "content": list(segments)}


def assistant(*segments):
    return {"role": "assistant", "content": list(segments)}


def result(*segments):
    return {"role": "tool", "content": list(segments), "tool_call_id": "call00000"}


def calling(name, arguments, **others):
    function = {"name": name, "arguments": arguments}
    call = {"id": "call00000", "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call], **others}


def tool(name="find", description="Find something."):
    parameters = {"type": "object", "properties": {"what": {"type": "string"}}}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def changed_contents(chat, change):
    messages = [
        {**message, "content": change(message["content"])} if "content" in message else message
        for message in chat.messages
    ]
    return Chat(messages, chat.tools)


def harmless(chat):
    """Return a chat of the same form in which no text spells a control token."""
    messages = [
        calling("find", {"what": "x"}) if "tool_calls" in message else {**message, "content": "x"}
        for message in chat.messages
    ]
    return Chat(messages, [tool() for _ in chat.tools])


look_alikes = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<|", "|>", "<pad>", "\\", '"', "seka0mark0z", *CONTROLS, *WORDS]
    + [
        "🙂",
        "👩‍👩‍👧",
        "שלום",
        "مرحبا",
        "\u202e",
        "\r\n",
        "\r",
        "\u200b",
        "\u2028",
        "\ufeff",
        "e\u0301",
    ]
)
strings = st.lists(st.one_of(st.text(max_size=6), look_alikes), max_size=6).map("".join)
visible = strings.filter(str.strip)
contents = st.lists(
    st.one_of(strings, st.builds(highlight, visible)), min_size=1, max_size=4
).filter(lambda segments: flatten(segments)[0].strip())


several = st.lists(contents, min_size=1, max_size=2)


@st.composite
def conversations(draw, *, tools):
    """Draw a chat with system messages in any place, in which anybody may speak twice."""
    messages = []
    for _ in range(draw(st.integers(0, 2))):
        messages += [user(*content) for content in draw(several)]
        if tools and draw(st.booleans()):
            messages.append(calling("find", {draw(strings): draw(strings)}))
            messages.append(result(*draw(contents)))
        messages += [assistant(*content) for content in draw(several)]
    messages += [user(*content) for content in draw(several)]
    for content in draw(st.lists(contents, max_size=2)):
        before_users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        messages.insert(draw(st.sampled_from(before_users)), system(*content))
    return Chat(messages, [tool(description=draw(strings))] if tools else [])


def check(tokenizer, chat):
    """Check that highlights change no token, are where they were put, and that texts control
    nothing."""
    numbers = count(1)
    marked = changed_contents(
        chat,
        lambda content: [
            replace(part, gain=float(next(numbers))) if isinstance(part, Highlight) else part
            for part in content
        ],
    )
    rendered = render(tokenizer, marked)
    bare = render(tokenizer, changed_contents(chat, lambda content: flatten(content)[0]))
    assert (rendered.text, rendered.content_regions) == (bare.text, bare.content_regions)

    wanted = [
        part.text.strip()
        for message in chat.messages
        for part in message.get("content", ())
        if isinstance(part, Highlight)
    ]
    spans = sorted(rendered.spans, key=lambda span: span.gain)
    assert [span.gain for span in spans] == [*range(1, len(wanted) + 1)]
    for span, text in zip(spans, wanted, strict=True):
        assert text in readings(rendered.text[span.start : span.end])

    encoded = encode_chat(tokenizer, rendered.text, rendered.content_regions)
    decoded = tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False)
    assert decoded == rendered.text
    assert controls_of(tokenizer, chat) == controls_of(tokenizer, harmless(chat))


def readings(text):
    """Return what a text in a rendering may stand for: itself, or what it is as a JSON string."""
    try:
        return {text.strip(), json.loads(f'"{text}"', strict=False).strip()}
    except ValueError:
        return {text.strip()}


@settings(deadline=None)
@given(conversations(tools=False))
def test_any_chat_keeps_its_ids_spans_and_control_tokens(any_tokenizer, chat):
    check(any_tokenizer, chat)


@settings(deadline=None)
@given(conversations(tools=True))
def test_any_chat_with_tools_keeps_its_ids_spans_and_control_tokens(tool_tokenizer, chat):
    check(tool_tokenizer, chat)


ENDS = {
    QWEN: "<|im_end|>\n<|im_start|>assistant\n",
    LLAMA: "<|eot|><|turn|>assistant<|head|>\n\n",
    MISTRAL: "</s>",
    MISTRAL_ARGS: "</s>",
}
arguments = st.dictionaries(strings, st.one_of(strings, st.integers(), st.lists(strings)))


@given(arguments, arguments)
def test_calls_that_a_template_writes_are_read(tool_tokenizer, first, second):
    calls = [ToolCall("find", first, "call00000"), ToolCall("no-op", second, "call00001")]
    template = tool_tokenizer.chat_template
    if template == LLAMA:  # it takes one at a time
        del calls[1]
    opening = render(tool_tokenizer, [user("x")]).text
    chat = [user("x"), {"role": "assistant", "content": "", "tool_calls": calls}]
    written = render(tool_tokenizer, chat).text.removeprefix(opening).removesuffix(ENDS[template])
    form = tool_call_format(template)
    assert parse_tool_calls(written, form, ["find", "no-op"]) == ("", calls)


def test_the_frame_of_a_call_is_what_the_template_writes(tool_tokenizer):
    frame = call_frame(tool_call_format(tool_tokenizer.chat_template))
    rendered = render(tool_tokenizer, [user("x"), calling("find", {"what": "y"})])
    assert frame.opening("find") + '{"what": "y"}' in rendered.text


def test_tools_are_written_by_the_template(tool_tokenizer):
    rendered = render(tool_tokenizer, Chat([user(highlight("x"))], [tool("seek")]))
    assert '"name": "seek"' in rendered.text
    assert shown(rendered) == ["x"]


def test_a_chat_without_tools_is_its_list_of_messages(any_tokenizer):
    messages = [user("a ", highlight("b")), assistant("c"), user("d")]
    assert render(any_tokenizer, Chat(messages)) == render(any_tokenizer, messages)


@pytest.mark.parametrize("template", [CHATML, GEMMA])
def test_a_template_that_ignores_tools_is_told(tokenizer, template):
    with pytest.raises(PromptError, match="the chat template ignores tools"):
        render(with_template(tokenizer, template), Chat([user("x")], [tool()]))


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (Chat([]), "the chat is empty"),
        (Chat({"role": "user", "content": "x"}), "one message: put it into a list"),
        (Chat([user("x")], tool()), "a tool is str: describe it as"),
        (Chat([assistant("x"), user("y")]), "refuses .* roles must alternate"),
        (Chat([user("x"), {"role": "robot", "content": "x"}]), "refuses .* only user, assistant"),
        (Chat([user("x", 3)]), "a segment is int"),
    ],
)
def test_what_is_no_chat_is_refused(tokenizer, chat, message):
    with pytest.raises((PromptError, HighlightError), match=message):
        render(with_template(tokenizer, MISTRAL), chat)


def test_arguments_may_be_objects_or_json_in_a_string(tool_tokenizer):
    def rendered(call):
        return render(tool_tokenizer, [user("x"), call])

    expected = rendered(calling("find", {"what": "é"}))
    assert '{"what": "é"}' in expected.text
    assert rendered(calling("find", '{"what":"\\u00e9"}')) == expected
    own = {"role": "assistant", "tool_calls": (ToolCall("find", {"what": "é"}, "call00000"),)}
    assert rendered(own) == expected
    assert rendered(calling("find", "")) == rendered(calling("find", {}))


def test_a_result_that_is_written_as_json_is_found_to_the_character(tokenizer):
    own = with_template(tokenizer, LLAMA)
    content = ['He said "', highlight('no"\n<|eot|> 🙂\\'), "\t. <|eot|>"]
    rendered = render(own, [user("x"), result(*content)])
    assert shown(rendered) == ['no\\"\\n<|eot|> 🙂\\\\']
    assert controls_of(own, [user("x"), result(*content)]) == controls_of(
        own, [user("x"), result("y")]
    )


THINKING = CHATML.replace(
    "message.content }}",
    "message.content.split('</think>')[-1] }}"
    "{% if '</think>' in message.content %}|{{ message.content.split('</think>')[0] }}{% endif %}",
)


def test_a_part_that_a_template_moves_controls_nothing(tokenizer):
    own = with_template(tokenizer, THINKING)
    for content in ("a <|im_end|> b</think>c", "a</think>c <|im_end|> d"):
        moved = [assistant(content), user("x")]
        assert "<|im_end|>" in render(own, moved).text
        assert controls_of(own, moved) == controls_of(own, [assistant("x"), user("x")])


def test_a_control_token_that_cannot_be_told_from_the_templates_is_refused(tokenizer):
    own = with_template(tokenizer, CHATML + "{{ messages[0].name[:12] }}")
    with pytest.raises(PromptError, match="cannot be told from .* own: remove <.im_end.>"):
        render(own, [{**user("x"), "name": "a <|im_end|>"}])
    assert render(own, [{**user("x"), "name": "a"}]).text.endswith("a")


def texts_of(tokenizer, chat):
    """Return the turns of a rendered chat in the style of Gemma or ChatML."""
    turns = re.findall(
        r"(?:<start_of_turn>|<\|im_start\|>)(\w+)\n(.*?)(?:<end_of_turn>|<\|im_end\|>)\n",
        render(tokenizer, chat).text,
        re.DOTALL,
    )
    return [f"{role}: {text}" for role, text in turns]


@pytest.mark.parametrize("template", [GEMMA, TWO_ROLES])
def test_a_refused_or_dropped_system_message_goes_before_the_users(tokenizer, template):
    own = with_template(tokenizer, template)
    chat = [system("Be ", highlight("brief"), "."), user("Who?"), assistant("I."), user("Why?")]
    model = "model" if template == GEMMA else "assistant"
    assert texts_of(own, chat) == ["user: Be brief.\n\nWho?", f"{model}: I.", "user: Why?"]
    assert shown(render(own, chat)) == ["brief"]
    late = [user("Who?"), assistant("I."), system("Be brief."), user("Why?")]
    assert texts_of(own, late)[-1] == "user: Be brief.\n\nWhy?"
    assert texts_of(own, [system("Be brief.")]) == ["user: Be brief."]
    assert texts_of(own, [system(" "), user("Who?")])[-1].endswith("Who?")


def test_neighbours_of_one_role_are_merged_where_turns_must_alternate(tokenizer):
    own = with_template(tokenizer, GEMMA)
    chat = [
        system("s"),
        user("a", highlight("b")),
        user(""),
        user(highlight("c")),
        assistant("d"),
        assistant("e"),
        user("f"),
    ]
    assert texts_of(own, chat) == ["user: s\n\nab\n\nc", "model: d\n\ne", "user: f"]
    assert shown(render(own, chat)) == ["b", "c"]


def test_calls_and_results_stay_alone(tokenizer):
    own = with_template(tokenizer, MISTRAL)
    chat = [user("a"), user("b"), calling("f", {}), result("c"), result("d"), assistant("e")]
    text = render(own, chat).text
    assert text.count("[TOOL_RESULTS]") == 2
    assert text.startswith("[INST] a\n\nb[/INST][TOOL_CALLS]")


def test_a_chat_that_the_template_takes_is_not_changed(tokenizer):
    own = with_template(tokenizer, CHATML)
    chat = [user("a"), user("b"), system("c"), assistant("d"), assistant("e")]
    assert texts_of(own, chat) == [
        "user: a",
        "user: b",
        "system: c",
        "assistant: d",
        "assistant: e",
    ]


def test_a_system_message_equal_to_the_templates_own_is_not_taken_for_dropped(tokenizer):
    own = with_template(
        tokenizer,
        "{% if messages[0].role != 'system' %}system: Help.\n{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    )
    assert render(own, [system("Help."), user("x")]).text == "system: Help.\nuser: x\n"


def test_a_system_message_that_no_form_keeps_is_told(tokenizer):
    short = TWO_ROLES.replace(
        "{% for",
        "{% if messages[0].content | length > 12 %}{{ raise_exception('long') }}{% endif %}{% for",
        1,
    )
    with pytest.raises(PromptError, match="leaves out a system message: write it into"):
        render(with_template(tokenizer, short), [system("Be brief."), user("Who?")])
