"""ChatSeka and SekaLLM over a server: what they ask of it, and that nothing else changes.

The server is a function in place of the network, which writes what a test tells it to.
"""

import asyncio
import json

import httpx2
import pytest
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, ValidationError
from scripted import ScriptedEngine, tokenizer
from seka_rag import RemoteEngine

from langchain_seka import ChatSeka, SekaLLM, highlight, mark

URL, KEY = "http://seka.test/v1", "sk-very-secret"
HELLO = [HumanMessage(["Read: ", highlight("The ferry leaves at nine.", gain=2.0), " When?"])]


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
def chat(network):
    model = ChatSeka(base_url=URL, api_key=KEY, max_tokens=200)
    yield model
    if model.engine.engine is not None:
        model.engine.engine.close()


def facts(message):
    names = ("content", "tool_calls", "usage_metadata")
    metadata = {**message.response_metadata, "model_name": None}
    return [getattr(message, name) for name in names], metadata


def test_an_answer_is_that_of_a_local_engine(chat, network):
    with ScriptedEngine(answer) as engine:
        local = ChatSeka(engine=engine, max_tokens=200)
        towns = chat.bind_tools([Town])
        assert facts(chat.invoke(HELLO)) == facts(local.invoke(HELLO))
        assert facts(asyncio.run(chat.ainvoke(HELLO))) == facts(local.invoke(HELLO))
        assert facts(towns.invoke(HELLO)) == facts(local.bind_tools([Town]).invoke(HELLO))
        pieces = [list(model.stream(HELLO)) for model in (chat, local)]
        assert len(pieces[0]) > 3
        assert [each.content for each in pieces[0]] == [each.content for each in pieces[1]]
    assert chat.invoke(HELLO).response_metadata["model_name"] == "tiny"
    assert network.asked[0]["vllm_xargs"]["seka"][2] == 2.0


def test_async_streams_come_in_pieces(chat):
    async def read():
        return [piece.content async for piece in chat.astream(HELLO)]

    pieces = asyncio.run(read())
    assert "".join(pieces) == "So be it."
    assert len(pieces) > 3


def test_objects_are_asked_for_by_schema(chat, network):
    found = chat.with_structured_output(Town).invoke("Which of the towns?")
    assert found == Town(name="Bergen")
    schema = network.asked[-1]["structured_outputs"]["json"]
    assert schema["properties"]["name"]["type"] == "string"


def test_settings_reach_the_server(network):
    settings = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "stop": ["\n\n"]}
    chat = ChatSeka(base_url=URL, api_key=KEY, max_tokens=9, gain=4, **settings)
    chat.invoke([HumanMessage(["See ", highlight("this"), "."])])
    chat.engine.get().close()
    assert {name: network.asked[0][name] for name in settings} == settings
    assert network.asked[0]["max_tokens"] == 9
    assert network.asked[0]["vllm_xargs"]["seka"][2] == 4.0


def test_completions_are_asked_for_as_well(network):
    llm = SekaLLM(base_url=URL, api_key=KEY, max_tokens=200)
    prompts = [f"Read: {mark('Ferries.', gain=2)} When?", "And now?"]
    assert llm.batch(prompts) == ["So be it."] * 2
    assert asyncio.run(llm.abatch(prompts)) == ["So be it."] * 2
    assert "".join(llm.stream(prompts[0])) == "So be it."
    assert "hl:" not in network.tokenizer.decode(network.asked[0]["prompt"])
    llm.engine.get().close()


def test_a_server_without_the_plugin_is_refused(chat, network):
    network.plugin = False
    with pytest.raises(NotImplementedError, match="install vllm-seka"):
        chat.invoke(HELLO)
    assert chat.invoke("Hello.").content == "So be it."


def test_making_a_model_asks_nothing_of_the_server(chat, network):
    assert network.keys == set()
    assert chat.engine.engine is None
    assert chat.get_num_tokens_from_messages(HELLO) > 20
    assert chat.get_token_ids("nine") == network.tokenizer.encode("nine")
    assert chat._identifying_params["base_url"] == URL
    assert chat._identifying_params["name"] == "tiny"
    assert network.asked == []


def test_copies_share_the_engine(chat):
    engine = chat.engine.get()
    assert chat.model_copy(update={"temperature": 1.0}).engine.get() is engine
    assert ChatSeka(**{**dict(chat), "top_k": 3}).engine.get() is engine


def test_a_remote_engine_can_be_passed(network, tmp_path):
    with RemoteEngine(URL, tokenizer=tmp_path, api_key=KEY) as engine:
        chat = ChatSeka(engine=engine)
        assert chat.invoke(HELLO).content == "So be it."
        assert chat.profile["max_input_tokens"] == 4096
        assert chat.profile["tool_calling"]


@pytest.mark.parametrize("cls", [ChatSeka, SekaLLM])
def test_the_key_is_sent_and_shown_nowhere(cls, network):
    model = cls(base_url=URL, api_key=KEY, cache=False)
    model.invoke("Hello.")
    assert network.keys == {f"Bearer {KEY}"}
    copy = model.model_copy()
    for shown in (
        *(repr(model), str(model), repr(copy), repr(model.engine), repr(vars(model))),
        *(str(model.model_dump()), model.model_dump_json(), dumps(model)),
        *(str(model._identifying_params), str(model._get_ls_params())),
    ):
        assert KEY not in shown
    model.engine.get().close()


def test_what_belongs_to_a_local_model_is_refused_and_the_key_not_shown():
    for wrong in ({"bank": None}, {"dtype": "auto"}, {"revision": "v1"}, {"engine": 1}):
        with pytest.raises(ValidationError, match="leave out") as caught:
            ChatSeka(**{"base_url": URL, "api_key": KEY, **wrong})
        assert KEY[-8:] not in str(caught.value)
