"""Highlights are found in the rendering of any chat template, and slice back to their text."""

from copy import deepcopy

import pytest
from conftest import CHATML
from hypothesis import assume, given
from hypothesis import strategies as st

from seka_rag.errors import HighlightError, PromptError
from seka_rag.highlight import Highlight, flatten, highlight
from seka_rag.prompts import Passage, rag_messages, render

STRIPPING = CHATML.replace("message.content }}", "message.content | trim }}")
# As Gemma does: no system role, its text opens the first user message.
MERGING = (
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m.role }}\n{{ head if loop.first else '' }}"
    "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
)
# As Qwen3 does: tool results are told by how they begin and end, earlier thoughts are dropped.
LOOKING = (
    "{% for m in messages %}{% if m.content.startswith('<tool_response>') and "
    "m.content.endswith('</tool_response>') %}[TOOL]{{ m.content }}{% else %}<|im_start|>"
    "{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip('\n') }}{% endif %}<|im_end|>\n"
    "{% endfor %}"
)
REPEATING = "{% for m in messages %}{{ m.content }}|{% endfor %}{{ messages[-1].content }}"
DROPPING = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"
CUTTING = "{% for m in messages %}{{ m.content[:12] }}|{% endfor %}"
REFUSING = "{{ raise_exception('Roles must alternate') }}"


class Templated:
    """A tokenizer under another template."""

    def __init__(self, tokenizer, template):
        self._tokenizer = tokenizer
        self.chat_template = template

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages, **options):
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **options
        )


def shown(rendered):
    return [rendered.text[span.start : span.end] for span in rendered.spans]


def user(*segments):
    return {"role": "user", "content": list(segments)}


visible = st.text(min_size=1, max_size=12).filter(str.strip)
contents = st.lists(
    st.one_of(st.text(max_size=12), st.builds(highlight, visible)), min_size=1, max_size=4
)
chats = st.lists(contents, min_size=1, max_size=4)


@pytest.mark.parametrize("template", [CHATML, STRIPPING, MERGING, LOOKING])
@given(chats)
def test_spans_slice_back_to_the_text_in_any_template(tokenizer, template, chat):
    assume(not any("</think>" in flatten(content)[0] for content in chat))
    messages = [
        {"role": "user" if i % 2 else "assistant", "content": c} for i, c in enumerate(chat)
    ]
    rendered = render(Templated(tokenizer, template), messages)
    plain = [{**message, "content": flatten(message["content"])[0]} for message in messages]
    assert rendered.text == Templated(tokenizer, template).apply_chat_template(
        plain, tokenize=False, add_generation_prompt=True
    )
    expected = [part.text.strip() for c in chat for part in c if isinstance(part, Highlight)]
    assert [text.strip() for text in shown(rendered)] == expected
    for start, end in rendered.content_regions:
        assert any(rendered.text[start:end].strip() in message["content"] for message in plain)


@given(contents)
def test_a_prompt_of_segments_is_taken_as_it_stands(tokenizer, parts):
    assume(flatten(parts)[0])
    rendered = render(tokenizer, parts)
    assert (rendered.text, rendered.spans) == flatten(parts)
    assert not rendered.is_chat
    assert rendered.content_regions == ()


def test_the_highlighted_passage_is_told_from_its_copies(tokenizer):
    rendered = render(
        tokenizer,
        [
            {"role": "system", "content": "Ada was born in London. user"},
            user("Ada was born in London. ", highlight("Ada was born in London."), " user"),
        ],
    )
    assert shown(rendered) == ["Ada was born in London."]
    before = rendered.text[: rendered.spans[0].start]
    assert before.count("Ada was born in London.") == 2


def test_a_content_that_the_template_writes_too_is_not_confused(tokenizer):
    rendered = render(tokenizer, [user(highlight("user"))])
    assert rendered.text == "<|im_start|>user\nuser<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.spans[0].start == len("<|im_start|>user\n")


def test_a_tool_result_keeps_its_look(tokenizer):
    content = ["<tool_response>", highlight("18 degrees"), "</tool_response>"]
    rendered = render(Templated(tokenizer, LOOKING), [{"role": "user", "content": content}])
    assert rendered.text.startswith("[TOOL]<tool_response>")
    assert shown(rendered) == ["18 degrees"]


def test_what_follows_dropped_thoughts_can_be_highlighted(tokenizer):
    content = ["<think>a long, long thought</think>", highlight("Yes.")]
    rendered = render(Templated(tokenizer, LOOKING), [{"role": "assistant", "content": content}])
    assert shown(rendered) == ["Yes."]
    assert "thought" not in rendered.text


def test_a_repeated_content_is_highlighted_everywhere(tokenizer):
    rendered = render(Templated(tokenizer, REPEATING), [user("a ", highlight("b"), " c")])
    assert shown(rendered) == ["b", "b"]


def test_a_highlight_that_the_template_drops_is_named(tokenizer):
    with pytest.raises(HighlightError, match="'lost' was not found in the chat"):
        render(Templated(tokenizer, DROPPING), [user(highlight("lost")), user("kept")])
    with pytest.raises(HighlightError, match="'quite long' was not found"):
        render(Templated(tokenizer, CUTTING), [user("it is now ", highlight("quite long"))])
    with pytest.raises(HighlightError, match="leaves out part of the highlight 'so</think>Yes.'"):
        render(Templated(tokenizer, LOOKING), [user("<think>", highlight("so</think>Yes."))])


def test_a_refusing_template_and_none_are_told(tokenizer):
    with pytest.raises(PromptError, match="refuses these messages: Roles must alternate"):
        render(Templated(tokenizer, REFUSING), [user("x")])
    with pytest.raises(PromptError, match="has no chat template"):
        render(Templated(tokenizer, None), [user("x")])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        ({"role": "user", "content": "x"}, "one message: put it into a list"),
    ],
)
def test_a_malformed_prompt_is_refused(tokenizer, prompt, message):
    with pytest.raises(PromptError, match=message):
        render(tokenizer, prompt)


def test_a_message_without_content_is_passed_on(tokenizer):
    own = deepcopy(tokenizer)
    own.chat_template = "{% for m in messages %}{{ m.content or m.calls }};{% endfor %}"
    messages = [{"role": "assistant", "content": None, "calls": "f(x)"}, user(highlight("y"))]
    rendered = render(own, messages)
    assert rendered.text == "f(x);y;"
    assert shown(rendered) == ["y"]


def test_passages_are_numbered_and_the_question_comes_last():
    passages = [Passage("One.\n Still one."), Passage("Two.")]
    system, message = rag_messages("Where?", passages, gains=[None, 0], system="Be brief.")
    assert system == {"role": "system", "content": "Be brief."}
    text, spans = flatten(message["content"])
    assert text == "Passages:\n[1] One. Still one.\n[2] Two.\n\nQuestion: Where?"
    assert [(text[s.start : s.end], s.gain) for s in spans] == [("One. Still one.", None)]


def test_no_gains_highlight_nothing_and_no_passages_leave_the_question():
    (message,) = rag_messages("Where?", [Passage("One.")], gains=None)
    assert flatten(message["content"])[1] == ()
    assert rag_messages("Where?", [], gains=[]) == [
        {"role": "user", "content": ["Question: Where?"]}
    ]


def test_gains_must_match_the_passages_and_these_hold_text():
    with pytest.raises(PromptError, match="1 gains for 2 passages"):
        rag_messages("Where?", [Passage("a"), Passage("b")], gains=[1.0])
    with pytest.raises(PromptError, match="passage 2 is empty"):
        rag_messages("Where?", [Passage("a"), Passage(" \n")], gains=None)
