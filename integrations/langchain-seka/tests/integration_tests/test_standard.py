"""LangChain's own integration tests of chat models, unmodified.

Only the wrapper is being tested: a model small enough for a test can meet a schema, but does not
mean what it writes. So answers are scripted. Prompts go through a real template, answers through
the real constraints, streams and the finding of calls.
"""

import json
from functools import cache

from langchain_tests.integration_tests import ChatModelIntegrationTests
from scripted import ScriptedEngine

from langchain_seka import ChatSeka


def call(name, **arguments):
    """Return a call as a model writes it."""
    given = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>'


JOKE = {"setup": "Why do cats purr?", "punchline": "They idle."}
# What the last turn says, whether tools are offered, and what is answered.
ANSWERS = (
    ("magic_function(3)", True, call("magic_function", input=3)),
    ("magic_function_no_args()", True, call("magic_function_no_args")),
    ("Hello!", True, call("magic_function", input=1)),
    ("weather in San Francisco", True, call("get_weather", location="San Francisco, CA")),
    ("Pirate greeting", True, call("greeting_generator", answer_style="pirate")),
    ("你好啊集团", True, call("unicode_customer", customer_name="你好啊集团", description="科技")),
    ("株式会社", True, call("unicode_customer", customer_name="株式会社", description="技術")),
    ("What is 3 + 4", True, call("my_adder_tool", a=3, b=4)),
    ("joke about cats", False, json.dumps(JOKE)),
)


def answer(prompt):
    """Return what a model that means what it writes could answer."""
    question = prompt.rsplit("<|im_start|>", 2)[1]
    offered = "<tool_call>" in prompt.split("<|im_end|>")[0]
    for text, needs_tools, written in ANSWERS:
        if text in question and question.startswith("user") and offered == needs_tools:
            return written
    return "So be it."


@cache
def engine():
    return ScriptedEngine(answer)


class TestChatSeka(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatSeka

    @property
    def chat_model_params(self):
        return {"engine": engine(), "max_tokens": 512}

    @property
    def supports_model_override(self):
        return False  # an engine has one model loaded

    @property
    def supports_json_mode(self):
        return True
