"""SekaLLM over a server: what it asks of it, and that nothing else changes.

The server is a function in place of the network, which writes what a test tells it to.
"""

import asyncio
import json

import httpx2
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ValidationError
from scripted import ScriptedEngine, tokenizer
from seka_rag import RemoteEngine

from llama_index.llms.seka import SekaLLM, highlight, mark

URL, KEY = "http://seka.test/v1", "sk-very-secret"
HELLO = [ChatMessage([highlight("The ferry leaves at nine.", gain=2.0)]), ChatMessage("When?")]


class Town(BaseModel):
    name: str


def answer(prompt):
    """What the model writes after a prompt."""
    if "towns" in prompt:
        return '{"name": "Bergen"}'
    if "Call by" in prompt:
        call = {"name": "Town", "arguments": {"name": "Oslo"}}
        return f"Let me see.\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return "So be it."


class Network:
    """A server without sockets."""

    def __init__(self, folder):
        self.tokenizer = tokenizer()
        self.tokenizer.save_pretrained(folder)
        self.card = {"id": "tiny", "root": str(folder), "max_model_len": 4096, "parent": None}
        self.asked, self.keys, self.plugin = [], set(), True

    def __call__(self, request):
        self.keys.add(request.headers["Authorization"])
        if request.method == "GET":
            return httpx2.Response(200, json={"data": [self.card]})
        body = json.loads(request.content)
        runs = body.get("vllm_xargs", {}).get("seka", [])
        if self.plugin and max(runs[1::3], default=0) > len(body["prompt"]):
            return httpx2.Response(400, json={"error": {"message": "seka: no such tokens"}})
        self.asked.append(body)
        text = answer(self.tokenizer.decode(body["prompt"]))
        ids = [*self.tokenizer.encode(text), self.tokenizer.eos_token_id]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        if not body.get("stream"):
            choice = {"text": text, "token_ids": ids, "finish_reason": "stop"}
            return httpx2.Response(200, json={"choices": [choice], "usage": usage})
        ends = [None] * (len(ids) - 1) + ["stop"]
        pieces = [
            {"choices": [{"text": "", "token_ids": [token], "finish_reason": end}]}
            for token, end in zip(ids, ends, strict=True)
        ]
        lines = [f"data: {json.dumps(each)}\n\n" for each in [*pieces, {"usage": usage}]]
        return httpx2.Response(200, content="".join([*lines, "data: [DONE]\n\n"]).encode())


@pytest.fixture
def network(monkeypatch, tmp_path):
    network = Network(tmp_path)

    async def send(transport, request):
        await request.aread()
        return network(request)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", send)
    return network


@pytest.fixture
def llm(network):
    llm = SekaLLM(base_url=URL, api_key=KEY, max_tokens=200)
    yield llm
    if llm.engine.engine is not None:
        llm.engine.engine.close()


def town_tool():
    def town(name: str) -> str:
        """Look a town up."""
        return name

    return FunctionTool.from_defaults(town, name="Town")


def facts(response):
    return response.message.model_dump(), {**response.raw, "model": None}


async def gathered(stream):
    return [each async for each in await stream]


def test_an_answer_is_that_of_a_local_engine(llm, network):
    with ScriptedEngine(answer) as engine:
        local = SekaLLM(engine=engine, max_tokens=200)
        whole = local.chat(HELLO)
        assert facts(llm.chat(HELLO)) == facts(whole)
        assert facts(asyncio.run(llm.achat(HELLO))) == facts(whole)
        pieces = [[each.delta for each in model.stream_chat(HELLO)] for model in (llm, local)]
        assert len(pieces[0]) > 3
        assert pieces[0] == pieces[1]
        assert [each.delta for each in asyncio.run(gathered(llm.astream_chat(HELLO)))] == pieces[0]
    assert llm.chat(HELLO).raw["model"] == "tiny"
    assert network.asked[0]["vllm_xargs"]["seka"][2] == 2.0


def test_tools_and_objects(llm, network):
    response = llm.chat_with_tools([town_tool()], "Where?")
    (call,) = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("Town", {"name": "Oslo"})
    assert llm.structured_predict(Town, PromptTemplate("Which of the towns?")).name == "Bergen"
    assert "name" in network.asked[-1]["structured_outputs"]["json"]["properties"]


def test_completions_are_asked_for_as_well(llm, network):
    prompt = f"Read: {mark('Ferries.', gain=2)} When?"
    assert llm.complete(prompt, formatted=True).text == "So be it."
    assert asyncio.run(llm.acomplete(prompt)).text == "So be it."
    assert [each.text for each in llm.stream_complete(prompt)][-1] == "So be it."
    assert "hl:" not in network.tokenizer.decode(network.asked[0]["prompt"])


def test_the_context_window_is_the_servers(llm, network):
    assert network.keys == set()  # nothing is asked until it is needed
    metadata = llm.metadata
    assert metadata.context_window == 4096
    assert metadata.is_function_calling_model
    assert metadata.model_name == "tiny"
    assert network.asked == []


def test_a_server_without_the_plugin_is_refused(llm, network):
    network.plugin = False
    with pytest.raises(NotImplementedError, match="install vllm-seka"):
        llm.chat(HELLO)
    assert llm.complete("Hello.").text == "So be it."


def test_a_remote_engine_can_be_passed(network, tmp_path):
    with RemoteEngine(URL, tokenizer=tmp_path, api_key=KEY) as engine:
        llm = SekaLLM(engine=engine)
        assert llm.chat(HELLO).message.content == "So be it."
        assert llm.metadata.context_window == 4096


def test_the_key_is_sent_and_shown_nowhere(llm, network):
    llm.complete("Hello.")
    assert network.keys == {f"Bearer {KEY}"}
    for shown in (
        *(repr(llm), str(llm), repr(llm.engine), repr(vars(llm)), str(llm.to_payload())),
        *(str(llm.model_dump()), llm.model_dump_json(), llm.to_json(), str(llm.to_dict())),
        *(str(llm.metadata), str(llm.engine.identity)),
    ):
        assert KEY not in shown


def test_what_belongs_to_a_local_model_is_refused_and_the_key_not_shown():
    for wrong in ({"bank": None}, {"dtype": "auto"}, {"revision": "v1"}, {"engine": 1}):
        with pytest.raises(ValidationError, match="leave out") as caught:
            SekaLLM(**{"base_url": URL, "api_key": KEY, **wrong})
        assert KEY[-8:] not in str(caught.value)
