"""RemoteEngine against a server in the test, which speaks as vLLM does and steers as the plugin.

It takes token ids and gains from the wire and gives them to a local Engine: so what comes back over
HTTP must be what that engine says itself.
"""

import asyncio
import gc
import json
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import make_bank, make_model
from test_chat import WITH_TOOLS, with_template

from seka_rag import (
    Chat,
    Constraint,
    Engine,
    LazyEngine,
    RemoteEngine,
    Sampling,
    SteeredModel,
    highlight,
)
from seka_rag.errors import (
    EngineClosedError,
    GrammarError,
    HighlightError,
    ModelNotFoundError,
    PromptError,
    RequestTimeoutError,
    ServerError,
    UnsteerableError,
)
from seka_rag.highlight import Span
from seka_rag.inputs import Row
from seka_rag.prompts import Rendered
from seka_rag.requests import Completion, Job
from seka_rag.wire import xargs_of
from seka_rag.writing import Writer

KEY = "sk-very-secret"
TEN = Sampling(max_new_tokens=10)
WORDS = "The capital of France is Paris and Ada Lovelace was born there".split()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def make_prompt(seed):
    rng = random.Random(seed)
    words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))]
    at = rng.randrange(len(words))
    word = highlight(words[at], gain=rng.choice([None, 2.0, -1.0, 0.1]))
    segments = [" ".join(words[:at]) + " ", word, " " + " ".join(words)]
    return [{"role": "user", "content": segments}] if seed % 2 else segments


PROMPTS = [make_prompt(seed) for seed in range(32)]


class Server(ThreadingHTTPServer):
    """What `vllm serve` is to a client. `faults` come first, each in place of one answer."""

    daemon_threads = True

    def __init__(self, engine):
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine = engine
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.reset()

    def reset(self):
        self.plugin, self.says_gain = True, True
        self.faults, self.asked, self.headers, self.times = [], [], [], []
        self.length, self.left, self.pause = 4096, threading.Event(), 0.0

    @property
    def answered(self):
        """The bodies of all requests for an answer but probes."""
        return [body for body in self.asked if body.get("vllm_xargs") != PROBE]

    def handle_error(self, *_):
        pass  # clients that leave


PROBE = {"seka": [0, 1_000_000_000, 1.0]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        name = {"id": "tiny", "root": "/nowhere/tiny", "parent": None}
        lora = {"id": "other", "root": "/nowhere/other", "parent": "tiny"}
        self.reply(200, {"data": [lora, {**name, "max_model_len": self.server.length}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(body)
        server.headers.append(dict(self.headers))
        server.times.append(time.monotonic())
        if server.faults and body.get("vllm_xargs") != PROBE:
            return server.faults.pop(0)(self)
        if "seka" in body.get("vllm_xargs", {}) and server.plugin:
            ends = body["vllm_xargs"]["seka"][1::3]
            if max(ends) > len(body["prompt"]):
                gain = f"; the bank's gain is {server.engine.steered.bank.gain}"
                return self.refuse(
                    400,
                    f"seka: a span ends at {max(ends)} and the prompt has {len(body['prompt'])} "
                    f"tokens{gain if server.says_gain else ''}",
                )
        if body.get("stream"):
            self.stream(body)
        else:
            (answer,) = self.answers(body)
            self.reply(200, answer)

    def answers(self, body):
        """Yield what the engine writes, as vLLM puts it."""
        events = queue.SimpleQueue()
        if not self.server.plugin:
            body = {name: value for name, value in body.items() if name != "vllm_xargs"}
        engine, streams = self.server.engine, bool(body.get("stream"))
        job = job_of(engine, body, events.put, streams=streams)
        engine._submit(job)
        last = None
        try:
            while not isinstance(event := events.get(), Completion):
                if isinstance(event, BaseException):
                    raise event
                if last is not None:
                    yield {"choices": [choice_of(body, last, None, None)]}
                    time.sleep(self.server.pause)
                last = event
            last = last or event
            ended = event.token_ids[-1:] and event.token_ids[-1] in job.eos_ids
            by_text = event.finish_reason == "stop" and not ended and job.writer.stopped
            stop = body["stop"][0] if by_text else None
            usage = {
                "prompt_tokens": len(body["prompt"]),
                "completion_tokens": len(event.token_ids),
            }
            choice = choice_of(body, last, event.finish_reason, stop)
            if streams:
                yield {"choices": [choice]}
                yield {"choices": [], "usage": usage}
            else:
                yield {"choices": [choice], "usage": usage}
        finally:
            job.cancelled = True

    def stream(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for answer in self.answers(body):
                self.piece(f"data: {json.dumps(answer, ensure_ascii=False)}\n\n")
            self.piece("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.left.set()
            raise

    def piece(self, text):
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def reply(self, status, found, **headers):
        data = json.dumps(found).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, **headers):
        kind = "BadRequestError" if status == 400 else "Error"
        error = {"message": message, "type": kind, "param": None, "code": status}
        self.reply(status, {"error": error}, **headers)

    def hang_up(self):
        self.close_connection = True
        self.connection.close()


def job_of(engine, body, tell, *, streams):
    """Return the request that the plugin makes of what is on the wire."""
    ids, xargs = body["prompt"], body.get("vllm_xargs", {})
    flat = xargs.get("seka", [])
    runs = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    kinds = xargs.get("seka_kinds", ["passage"] * len(runs))
    gains, owners = [0.0] * len(ids), [-1] * len(ids)
    for number, (start, end, gain) in enumerate(runs):
        gains[start:end] = [gain] * (end - start)
        owners[start:end] = [number] * (end - start)
    spans = tuple(Span(0, 1, kind=kind) for kind in kinds)
    row = Row(Rendered("", spans, (), is_chat=False), ids, gains, owners, len(ids))
    sampling = Sampling(
        body["max_tokens"],
        body["temperature"],
        body.get("top_p", 1.0),
        body.get("top_k", 0),
        body.get("seed"),
        tuple(body.get("stop", ())),
        body.get("logprobs"),
    )
    matcher = None
    if form := body.get("structured_outputs"):
        constraint = Constraint.json_schema(engine.steered.tokenizer, form["json"])
        # As in vLLM, the end of the turn is written after the JSON.
        matcher = Patient(constraint.matcher(vocab_size=512, eos_token_ids={1}))
    eos_ids = frozenset({1}) if matcher else engine._eos_ids
    special = not body.get("skip_special_tokens", True)
    writer = Writer(engine._decoder, sampling.stop, special=special)
    return Job(
        row,
        sampling,
        "auto",
        sampling.max_new_tokens,
        eos_ids,
        writer,
        tell,
        streams,
        None,
        matcher,
    )


class Patient:
    """A matcher that waits for the token that ends the turn."""

    finished = False

    def __init__(self, matcher):
        self.allowed, self.accept = matcher.allowed, matcher.accept


def choice_of(body, piece, reason, stop):
    logprobs = None
    if piece.logprobs:
        named = [(f"token_id:{each.token_id}", each) for each in piece.logprobs]
        logprobs = {
            "tokens": [name for name, _ in named],
            "token_logprobs": [each.logprob for _, each in named],
            "top_logprobs": [
                {name: each.logprob, **{f"token_id:{i}": value for i, value in each.top}}
                for name, each in named
            ],
        }
    ids = list(piece.token_ids) if body.get("return_token_ids") else None
    return {
        "index": 0,
        "text": piece.text,
        "token_ids": ids,
        "logprobs": logprobs,
        "finish_reason": reason,
        "stop_reason": stop,
    }


@pytest.fixture(scope="module")
def local(tokenizer):
    model = make_model("qwen3")
    model.config.max_position_embeddings = 4096
    with Engine(SteeredModel(model, tokenizer, make_bank(model))) as engine:
        yield engine


@pytest.fixture(scope="module")
def running(local):
    with Server(local) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running):
    running.reset()
    return running


@pytest.fixture
def engine(server, tokenizer):
    with RemoteEngine(server.url, tokenizer=tokenizer, api_key=KEY) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected(local):
    return local.batch(PROMPTS, TEN)


def facts(completion):
    """All of a completion but the times."""
    usage = completion.usage
    return (
        completion.text,
        completion.token_ids,
        completion.finish_reason,
        completion.tool_calls,
        usage.prompt_tokens,
        usage.highlighted_tokens,
        usage.completion_tokens,
    )


def test_a_batch_is_what_the_local_engine_says(engine, local, expected):
    assert list(map(facts, engine.batch(PROMPTS, TEN))) == list(map(facts, expected))
    plain = [each.token_ids for each in local.batch(PROMPTS, TEN, gain=0)]
    assert plain != [each.token_ids for each in expected]  # else nothing is shown by it


def test_many_threads_get_their_own_answers(engine, expected):
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda prompt: engine.generate(prompt, TEN), PROMPTS))
    assert list(map(facts, found)) == list(map(facts, expected))


def test_many_tasks_get_their_own_answers(engine, expected):
    async def ask():
        return await asyncio.gather(*(engine.agenerate(prompt, TEN) for prompt in PROMPTS))

    assert list(map(facts, asyncio.run(ask()))) == list(map(facts, expected))


def test_streams_say_what_generate_says(engine, expected):
    streams = [engine.stream(prompt, TEN) for prompt in PROMPTS]
    for stream, whole in zip(streams, expected, strict=True):
        chunks = list(stream)
        assert facts(stream.completion) == facts(whole)
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert sum((chunk.token_ids for chunk in chunks), ()) == whole.token_ids


def test_async_streams_say_what_generate_says(engine, expected):
    async def read(prompt):
        async with engine.astream(prompt, TEN) as stream:
            text = "".join([chunk.text async for chunk in stream])
        return text, stream.completion

    async def ask():
        return await asyncio.gather(*map(read, PROMPTS))

    found = asyncio.run(ask())
    assert [facts(completion) for _, completion in found] == list(map(facts, expected))
    assert all(text == completion.text for text, completion in found)


def test_one_probe_comes_before_all_highlights(engine, server):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda prompt: engine.generate(prompt, TEN), PROMPTS[:8]))
    probes = [body for body in server.asked if body.get("vllm_xargs") == PROBE]
    assert len(probes) == 1
    assert server.asked[0] == probes[0]
    assert probes[0]["max_tokens"] == 1


def test_what_is_sent_is_tokens_and_runs_of_gains(engine, server, tokenizer):
    prompt = ["Read: ", highlight("Paris", gain=2.5), " and ", highlight("Ada Lovelace"), "."]
    engine.generate(prompt, Sampling(max_new_tokens=3, stop=("§",), seed=5), gain=1.5)
    (body,) = server.answered
    flat = body["vllm_xargs"]["seka"]
    runs = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    texts = [tokenizer.decode(body["prompt"][start:end]).strip() for start, end, _ in runs]
    assert list(zip(texts, flat[2::3], strict=True)) == [("Paris", 2.5), ("Ada Lovelace", 1.5)]
    assert "seka_kinds" not in body["vllm_xargs"]
    assert all(isinstance(place, int) for place in [*flat[::3], *flat[1::3]])
    assert tokenizer.decode(body["prompt"]) == "Read: Paris and Ada Lovelace."
    assert body | {"prompt": None, "vllm_xargs": None} == {
        "model": "tiny",
        "prompt": None,
        "max_tokens": 3,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_p": 0.0,
        "skip_special_tokens": True,
        "return_token_ids": True,
        "stream": False,
        "seed": 5,
        "stop": ["§"],
        "vllm_xargs": None,
    }


def test_kinds_are_sent_where_not_all_are_passages(engine, server):
    prompt = [highlight("Answer briefly.", gain=2, kind="instruction"), highlight("Paris", gain=2)]
    engine.generate(prompt, TEN)
    (xargs,) = [body["vllm_xargs"] for body in server.answered]
    assert xargs["seka_kinds"] == ["instruction", "passage"]
    assert xargs["seka"][1] == xargs["seka"][3]  # the runs touch, and stay two
    assert all(isinstance(gain, float) for gain in xargs["seka"][2::3])
    assert "seka_owners" not in xargs


def test_runs_of_one_highlight_are_named_as_such():
    spans = (Span(0, 9), Span(3, 5, kind="instruction"))
    gains, owners = [0.0, 1.0, 2.0, 1.0, 0.0], [-1, 0, 1, 0, -1]
    row = Row(Rendered("", spans, (), is_chat=False), [7] * 5, gains, owners, 5)
    assert xargs_of(row) == {
        "seka": [1, 2, 1.0, 2, 3, 2.0, 3, 4, 1.0],
        "seka_kinds": ["passage", "instruction", "passage"],
        "seka_owners": [0, 1, 0],
    }
    assert xargs_of(row.scaled(0)) is None


def test_without_a_gain_the_banks_own_is_used(engine, server, local, tokenizer):
    prompt = ["Where? ", highlight("Paris"), "!"]
    assert engine.generate(prompt, TEN).text == local.generate(prompt, TEN).text
    assert server.answered[-1]["vllm_xargs"]["seka"][2] == 3.0
    server.says_gain = False
    bank = local.steered.bank
    for settings, gain in (({}, 1.0), ({"gain": 2.0}, 2.0), ({"bank": bank}, 3.0)):
        with RemoteEngine(server.url, tokenizer=tokenizer, **settings) as other:
            other.generate(prompt, TEN)
            assert server.answered[-1]["vllm_xargs"]["seka"][2] == gain
            other.generate(prompt, TEN, gain=4.0)
            assert server.answered[-1]["vllm_xargs"]["seka"][2] == 4.0


def test_no_thread_reads_a_prompt_before_the_gain_is_known(engine, server, monkeypatch):
    probe = engine._line.probe

    async def lingering(*args):
        found = await probe(*args)
        await asyncio.sleep(0.3)
        return found

    monkeypatch.setattr(engine._line, "probe", lingering)
    prompt = ["Where? ", highlight("Paris"), "!"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.generate, prompt, TEN)
        while not engine._line.steers:
            time.sleep(0.01)
        found = [pool.submit(engine.generate, prompt, TEN).result(), first.result()]
    assert found[0].token_ids == found[1].token_ids
    assert [body["vllm_xargs"]["seka"][2] for body in server.answered] == [3.0, 3.0]


def test_a_server_without_the_plugin_is_refused(engine, server, local):
    server.plugin = False
    for _ in range(2):
        with pytest.raises(UnsteerableError, match="install vllm-seka"):
            engine.generate(PROMPTS[0], TEN)
    with pytest.raises(UnsteerableError, match="install vllm-seka"):
        asyncio.run(engine.agenerate(PROMPTS[0], TEN))
    assert server.answered == []
    server.asked.clear()
    plain = engine.generate(PROMPTS[0], TEN, gain=0)
    assert facts(plain) == facts(local.generate(PROMPTS[0], TEN, gain=0))
    assert [body.get("vllm_xargs") for body in server.asked] == [None]  # and no probe
    assert engine.generate("Hello.", TEN).usage.highlighted_tokens == 0
    server.plugin = True
    assert engine.generate(PROMPTS[0], TEN).usage.highlighted_tokens > 0


def test_after_a_broken_connection_the_plugin_is_looked_for_again(engine, server):
    engine.generate(PROMPTS[0], TEN)
    server.plugin, server.faults = False, [Handler.hang_up]
    with pytest.raises(UnsteerableError, match="install vllm-seka"):
        engine.generate(PROMPTS[0], TEN)


def test_a_stop_text_ends_the_answer_as_in_the_engine(engine, local):
    long = local.generate(PROMPTS[1], Sampling(max_new_tokens=40)).text
    stop = long[10:12]
    sampling = Sampling(max_new_tokens=40, stop=(stop, "never"))
    whole = local.generate(PROMPTS[1], sampling)
    assert whole.finish_reason == "stop"
    assert facts(engine.generate(PROMPTS[1], sampling)) == facts(whole)
    with engine.stream(PROMPTS[1], sampling) as stream:
        assert "".join(chunk.text for chunk in stream) == whole.text
    assert facts(stream.completion) == facts(whole)
    cut = Sampling(max_new_tokens=len(whole.token_ids), stop=(stop,))
    assert engine.generate(PROMPTS[1], cut).finish_reason == "stop"  # and not for its length


def test_a_stop_text_is_seen_where_the_server_passes_it_by(engine, server, tokenizer):
    ids = tokenizer.encode("one two three", add_special_tokens=False)
    for reason in (None, "length"):
        choices = [{"token_ids": ids, "text": "", "finish_reason": reason}]
        server.faults = [scripted([{"choices": choices}, {"choices": choices}])]
        stream = engine.stream("Hi", Sampling(stop=(" two",)))
        assert "".join(chunk.text for chunk in stream) == stream.completion.text == "one"
        assert stream.completion.finish_reason == "stop"
        assert len(stream.completion.token_ids) < len(ids)


def test_the_token_that_ends_a_turn_is_counted_and_not_shown(server, local, tokenizer):
    ends = local.generate(PROMPTS[3], TEN).token_ids[6]
    saved, local._eos_ids = local._eos_ids, frozenset({ends})
    try:
        whole = local.generate(PROMPTS[3], TEN)
        with RemoteEngine(server.url, tokenizer=tokenizer) as engine:
            engine._controls = frozenset({ends})
            assert facts(engine.generate(PROMPTS[3], TEN)) == facts(whole)
            assert whole.token_ids[-1] == ends
            assert whole.finish_reason == "stop"
    finally:
        local._eos_ids = saved


def test_logprobs_are_those_of_the_engine(engine, local):
    sampling = Sampling(max_new_tokens=5, logprobs=3)
    whole = local.generate(PROMPTS[2], sampling)
    assert engine.generate(PROMPTS[2], sampling).logprobs == whole.logprobs
    chunks = list(engine.stream(PROMPTS[2], sampling))
    assert sum((chunk.logprobs for chunk in chunks), ()) == whole.logprobs


def test_draws_follow_the_seed(engine, local):
    sampling = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9, top_k=20, seed=3)
    assert facts(engine.generate(PROMPTS[0], sampling)) == facts(
        local.generate(PROMPTS[0], sampling)
    )


def test_a_schema_is_passed_on_and_met(engine, server, local):
    found = engine.generate("Where?", Sampling(max_new_tokens=60), schema=SCHEMA)
    assert set(json.loads(found.text)) == {"city", "days"}
    assert found.text == local.generate("Where?", Sampling(max_new_tokens=60), schema=SCHEMA).text
    assert found.finish_reason == "stop"
    engine.generate("Where?", Sampling(max_new_tokens=60), schema=json.dumps(SCHEMA))
    assert [body["structured_outputs"] for body in server.asked] == [{"json": SCHEMA}] * 2
    for wrong in ("{", "[]", {"enum": {1, 2}}):
        with pytest.raises(GrammarError, match="a schema is a JSON object"):
            engine.generate("Where?", schema=wrong)


@pytest.fixture(params=WITH_TOOLS)
def with_tools(request, server, tokenizer):
    own = with_template(tokenizer, WITH_TOOLS[request.param])
    model = make_model("qwen3")
    model.config.max_position_embeddings = 4096
    with Engine(SteeredModel(model, own, make_bank(model))) as local:
        running, server.engine = server.engine, local
        with RemoteEngine(server.url, tokenizer=own) as engine:
            yield request.param, engine, local
        server.engine = running


def tool(name, parameters=SCHEMA):
    function = {"name": name, "description": "Look it up.", "parameters": parameters}
    return {"type": "function", "function": function}


def asking(*tools):
    content = ["How warm is it in ", highlight("Paris"), "?"]
    return Chat([{"role": "user", "content": content}], tools)


LONG = Sampling(max_new_tokens=150)


def test_a_forced_call_is_a_call(with_tools, server):
    _, engine, local = with_tools
    chat = asking(tool("weather"), tool("news"))
    found = engine.generate(chat, LONG, tool_choice="weather")
    (call,) = found.tool_calls
    assert (call.name, call.id, found.text) == ("weather", "call00000", "")
    assert set(call.arguments) == {"city", "days"}
    assert found.finish_reason == "stop"
    usage = found.usage
    assert usage.prompt_tokens == local.generate(chat, TEN).usage.prompt_tokens
    assert usage.completion_tokens == len(found.token_ids)
    with engine.stream(chat, LONG, tool_choice="weather") as stream:
        assert "".join(chunk.text for chunk in stream) == ""
    assert stream.completion.tool_calls == found.tool_calls
    assert stream.completion.token_ids == found.token_ids
    assert server.asked[-1]["structured_outputs"] == {"json": SCHEMA}
    assert server.asked[-1]["skip_special_tokens"] is False


def test_a_call_of_any_tool_can_be_forced(with_tools):
    form, engine, _ = with_tools
    points = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": ["here", "there"]}},
    }
    chat = asking(tool("weather"), tool("find", points))
    if form == "mistral_args":  # the name is no JSON there
        with pytest.raises(UnsteerableError, match="name one of weather, find"):
            engine.generate(chat, LONG, tool_choice="any")
        chat = asking(tool("find", points))
    (call,) = engine.generate(chat, LONG, tool_choice="any").tool_calls
    assert call.name in ("weather", "find")
    assert call.arguments.keys() in ({"city", "days"}, {"at"})


@pytest.mark.parametrize("with_tools", ["qwen"], indirect=True)
def test_calls_that_the_model_makes_are_found(with_tools, server):
    _, engine, local = with_tools
    text = 'Let me see.\n<tool_call>\n{"name": "news", "arguments": {"city": "Rome"}}\n</tool_call>'
    ids = local.steered.tokenizer.encode(text, add_special_tokens=False)
    pieces = [{"choices": [{"token_ids": [i], "text": "", "finish_reason": None}]} for i in ids]
    pieces.append({"choices": [{"token_ids": [1], "text": "", "finish_reason": "stop"}]})
    server.faults = [scripted(pieces)]
    stream = engine.stream(asking(tool("news")), LONG)
    assert "".join(chunk.text for chunk in stream).strip() == "Let me see."
    (call,) = stream.completion.tool_calls
    assert (call.name, call.arguments) == ("news", {"city": "Rome"})


def test_what_cannot_be_sent_is_refused(engine, local, server):
    constraint = Constraint.json(local.steered.tokenizer)
    with pytest.raises(UnsteerableError, match="pass schema"):
        engine.generate("Where?", constraint=constraint)
    with pytest.raises(UnsteerableError, match="leave experts out"):
        engine.generate("Where?", experts=["a"])
    with pytest.raises(PromptError, match="tool_choice"):
        engine.generate("Where?", tool_choice="any")
    with pytest.raises(HighlightError, match="gain"):
        engine.generate("Where?", gain=float("nan"))
    assert server.asked == []


def scripted(pieces, *, breaks=False):
    """Return a handler that streams these pieces, and may break off behind them."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.piece(f"data: {json.dumps(piece, ensure_ascii=False)}\n\n")
        if breaks:
            handler.hang_up()
        else:
            handler.piece("data: [DONE]\n\n")
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def test_line_ends_of_unicode_do_not_cut_a_stream(engine, server, tokenizer):
    text = "a\u2028b\x85c\x0bd"
    ids = tokenizer.encode(text, add_special_tokens=False)
    choice = {"token_ids": ids, "text": text, "finish_reason": "length"}
    server.faults = [scripted([{"choices": [choice]}])]
    assert "".join(chunk.text for chunk in engine.stream("Hi", TEN)) == text


def busy(status=503, **headers):
    return lambda handler: handler.refuse(status, "no room", **headers)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("streams", [False, True])
def test_a_busy_server_is_asked_again(engine, server, local, status, streams):
    server.faults = [busy(status)] * 2
    whole = local.generate("Where?", TEN)
    if streams:
        assert "".join(chunk.text for chunk in engine.stream("Where?", TEN)) == whole.text
    else:
        assert engine.generate("Where?", TEN).text == whole.text
    assert len(server.asked) == 3
    pauses = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert pauses[0] >= 0.25
    assert pauses[1] >= 0.5


def test_a_server_that_stays_busy_is_given_up(engine, server):
    server.faults = [busy()] * 3
    with pytest.raises(ServerError, match=r"answers 503: no room"):
        engine.generate("Where?", TEN)
    assert len(server.asked) == 3
    assert server.faults == []


def test_what_retry_after_says_is_waited_for(engine, server):
    server.faults = [busy(429, Retry_After="1")]
    engine.generate("Where?", TEN)
    assert 1.0 <= server.times[1] - server.times[0] < 2.0
    server.faults = [busy(429, Retry_After="3600")]
    with pytest.raises(ServerError, match="429"):  # nobody waits for an hour
        engine.generate("Where?", TEN)
    server.faults = [busy(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")]
    engine.generate("Where?", TEN)
    assert server.times[-1] - server.times[-2] < 1.0


def test_a_connection_that_breaks_before_the_answer_is_made_again(engine, server):
    server.faults = [Handler.hang_up]
    assert engine.generate("Where?", TEN).finish_reason == "length"
    assert len(server.asked) == 2


def test_nothing_is_asked_again_once_the_answer_has_begun(engine, server):
    piece = {"choices": [{"token_ids": [70], "text": "x", "finish_reason": None}]}
    server.faults = [scripted([piece], breaks=True)]
    with pytest.raises(ServerError, match="broke the answer off"):
        list(engine.stream("Where?", TEN))
    server.faults = [scripted([piece])]  # the end of a proxy that lost its server
    with pytest.raises(ServerError, match="before it was done"):
        list(engine.stream("Where?", TEN))
    error = {"error": {"message": "out of\n memory", "type": "InternalServerError", "code": 500}}
    server.faults = [scripted([piece, error])]
    with pytest.raises(ServerError, match="answers 500: out of memory"):
        list(engine.stream("Where?", TEN))
    error = {"error": {"message": "seka: no bank", "type": "BadRequestError", "code": 400}}
    server.faults = [scripted([error])]  # vLLM looks at a prompt when the stream has begun
    with pytest.raises(PromptError, match="seka: no bank"):
        list(engine.stream("Where?", TEN))
    assert len(server.asked) == 4


def test_what_the_server_says_reaches_the_caller_in_one_line(engine, server):
    server.faults = [busy(401), lambda handler: handler.refuse(400, f"too\n  long for {KEY}")]
    with pytest.raises(ServerError, match="answers 401: no room"):
        engine.generate("Where?", TEN)
    with pytest.raises(PromptError, match="refuses the request: too long for …$"):
        engine.generate("Where?", TEN)
    server.faults = [lambda handler: handler.reply(422, {"detail": [{"msg": "no int"}]})]
    with pytest.raises(PromptError, match="no int"):
        engine.generate("Where?", TEN)
    server.faults = [lambda handler: handler.reply(200, "hello")]
    with pytest.raises(ServerError, match="not of the OpenAI API"):
        engine.generate("Where?", TEN)
    choice = {"text": "x", "finish_reason": "stop"}
    server.faults = [lambda handler: handler.reply(200, {"choices": [choice]})]
    with pytest.raises(ServerError, match="no token ids"):
        engine.generate("Where?", TEN)
    choice = {"text": "x", "finish_reason": "abort", "token_ids": []}
    server.faults = [lambda handler: handler.reply(200, {"choices": [choice]})]
    with pytest.raises(ServerError, match="'abort'"):
        engine.generate("Where?", TEN)


def slow(seconds):
    def wait(handler):
        time.sleep(seconds)
        handler.reply(200, {"choices": []})

    return wait


def test_time_is_up_in_threads_and_loops(engine, server):
    server.faults = [slow(1.0)] * 3
    for timeout in (0.2, 0.0):
        before = time.monotonic()
        with pytest.raises(RequestTimeoutError, match="time is up"):
            engine.generate("Where?", TEN, timeout=timeout)
        assert time.monotonic() - before < 0.8
    with pytest.raises(RequestTimeoutError, match="time is up"):
        asyncio.run(engine.agenerate("Where?", TEN, timeout=0.2))


def test_closing_a_stream_ends_the_request(engine, server):
    server.pause = 0.05
    with engine.stream("Where?", Sampling(max_new_tokens=400)) as stream:
        first = next(stream)
    assert server.left.wait(2)
    rest = list(stream)  # what was written until then
    assert stream.completion.finish_reason == "cancelled"
    assert first.text + "".join(chunk.text for chunk in rest) == stream.completion.text


def test_a_stream_that_is_let_go_of_ends_the_request(engine, server):
    server.pause = 0.05
    next(engine.stream("Where?", Sampling(max_new_tokens=400)))
    gc.collect()
    assert server.left.wait(2)


def test_a_cancelled_task_ends_the_request(engine, server):
    server.pause = 0.05

    async def leave():
        stream = engine.astream("Where?", Sampling(max_new_tokens=400))
        await anext(stream)
        task = asyncio.ensure_future(anext_forever(stream))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def anext_forever(stream):
        async for _ in stream:
            pass

    asyncio.run(leave())
    assert server.left.wait(2)


def test_a_ticking_coroutine_is_not_held_up(engine, server, monkeypatch):
    """Neither reading a prompt nor waiting for the server is done in the caller's event loop."""
    server.faults = [slow(0.6)]
    threads = set()
    read = type(engine.steered).read

    def reading(*args, **kwargs):
        threads.add(threading.current_thread())
        time.sleep(0.2)
        return read(*args, **kwargs)

    monkeypatch.setattr(type(engine.steered), "read", reading)
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def ask():
        ticking = asyncio.ensure_future(tick())
        with pytest.raises(ServerError):
            await engine.agenerate("Where?", TEN)
        ticking.cancel()
        return threading.current_thread()

    assert asyncio.run(ask()) not in threads
    assert len(ticks) > 40  # of about 80


def test_requests_of_a_closed_engine_are_told(server, tokenizer):
    engine = RemoteEngine(server.url, tokenizer=tokenizer)
    server.pause = 0.05
    stream = engine.stream("Where?", Sampling(max_new_tokens=400))
    next(stream)
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError, match="before the answer was done"):
        list(stream)
    with pytest.raises(EngineClosedError, match="open another"):
        engine.generate("Where?", TEN)
    stream.close()


def test_who_waits_for_a_probe_is_told_of_the_end_as_well(engine, server, monkeypatch):
    monkeypatch.setattr(Handler, "do_POST", lambda _: time.sleep(1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engine.generate, ["To ", highlight("Paris")], TEN)
        time.sleep(0.2)
        engine.close()
        with pytest.raises(EngineClosedError, match="before the answer was done"):
            waiting.result(0.5)


def test_an_engine_lives_as_long_as_its_requests_and_then_its_thread_ends(server, tokenizer):
    before = threading.active_count()
    stream = RemoteEngine(server.url, tokenizer=tokenizer).stream("Where?", TEN)
    gc.collect()
    assert sum(len(chunk.token_ids) for chunk in stream) == 10
    thread = next(each for each in threading.enumerate() if each.name == "seka-rag remote")
    del stream
    gc.collect()
    thread.join(2)
    assert not thread.is_alive()
    assert threading.active_count() <= before + 2  # the server's own may linger


def test_a_prompt_that_does_not_fit_is_not_sent(server, tokenizer):
    server.length = 40
    with RemoteEngine(server.url, tokenizer=tokenizer) as engine:
        assert engine.steered.context_length == 40
        with pytest.raises(PromptError, match="the server takes 40"):
            engine.generate("Where? " * 40, TEN)
        n = engine.steered.count_tokens("Where?")
        engine.generate("Where?", Sampling(max_new_tokens=100))
        assert server.asked[-1]["max_tokens"] == 40 - n


def test_the_model_is_found_by_name_or_as_the_one_that_is_served(server, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for name, source, served in (
        (None, tokenizer, "tiny"),
        ("/nowhere/tiny", tokenizer, "tiny"),
        ("other", str(tmp_path), "other"),
        ("tiny", tmp_path, "tiny"),
    ):
        with RemoteEngine(server.url, model=name, tokenizer=source) as engine:
            assert engine.steered.name == engine.identity["name"] == served
            assert engine.steered.tokenizer.encode("Paris") == tokenizer.encode("Paris")
    with pytest.raises(ServerError, match="knows other, tiny, and not 'third'"):
        RemoteEngine(server.url, model="third", tokenizer=tokenizer)
    with pytest.raises(ModelNotFoundError, match="pass tokenizer="):
        RemoteEngine(server.url)


def test_addresses_are_taken_with_and_without_the_version(server, tokenizer):
    with RemoteEngine(server.url.removesuffix("/v1") + "/", tokenizer=tokenizer) as engine:
        assert engine.identity["base_url"] == server.url
    for wrong in ("localhost:8000", "", "ftp://here", "http://"):
        with pytest.raises(PromptError, match="base_url"):
            RemoteEngine(wrong)
    with pytest.raises(ServerError, match="cannot be reached"):
        RemoteEngine("http://127.0.0.1:9/v1", max_retries=0)


def test_the_key_is_sent_and_shown_nowhere(engine, server, tokenizer):
    engine.generate(PROMPTS[0], TEN)
    assert {headers.get("Authorization") for headers in server.headers} == {f"Bearer {KEY}"}
    secret = server.url.replace("http://", f"http://me:{KEY}@")
    with RemoteEngine(secret, tokenizer=tokenizer) as other:
        shown = repr((other, other.identity))
    assert server.url in shown
    lazy = LazyEngine({"model": None, "base_url": server.url, "api_key": KEY}, engine)
    for text in (repr(engine), repr(lazy), str(engine.identity), shown, repr(vars(engine))):
        assert KEY not in text


def test_a_lazy_engine_asks_a_server(server, tokenizer, tmp_path, local):
    tokenizer.save_pretrained(tmp_path)
    loading = {"model": None, "bank": "auto", "revision": None, "dtype": None, "device_map": None}
    lazy = LazyEngine({**loading, "base_url": server.url, "api_key": None})
    assert server.headers == []  # until it is needed
    with pytest.raises(ModelNotFoundError):
        lazy.get()
    lazy.engine = RemoteEngine(server.url, tokenizer=tmp_path)
    with lazy.get():
        assert asyncio.run(lazy.aget()) is lazy.get()
        assert lazy.name == lazy.identity["name"] == "tiny"
        assert lazy.identity["base_url"] == server.url
        assert lazy.encode("Paris") == tokenizer.encode("Paris")
        assert lazy.bos == ""
        assert lazy.count(PROMPTS[1]) == local.steered.count_tokens(PROMPTS[1])
        assert lazy.get().generate(PROMPTS[1], TEN).text == local.generate(PROMPTS[1], TEN).text


@pytest.mark.parametrize(("name", "value"), [("bank", None), ("dtype", "auto"), ("revision", "v1")])
def test_a_server_has_weights_and_bank_itself(name, value):
    with pytest.raises(PromptError, match=f"leave out {name}"):
        LazyEngine({"model": None, "base_url": "http://localhost/v1", name: value})
