"""Wire: what a vLLM server with the plugin vllm-seka is asked, and what it answers, as plain data.

Nothing here sends anything, waits or knows of threads; tokenizers and models stay with the caller.

    POST /v1/completions   prompt        token ids
      vllm_xargs:          seka          start, end and gain of each highlighted run of tokens, in
                                         one flat list of numbers
                           seka_kinds    what each is, where not all are passages
                           seka_owners   which highlight each belongs to, where one has several
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

from seka_rag.asking import Options
from seka_rag.errors import GrammarError, PromptError, ServerError, UnsteerableError
from seka_rag.inputs import Row
from seka_rag.offering import Offer
from seka_rag.requests import Job
from seka_rag.sampling import TokenLogprob
from seka_rag.toolcalls import call_frame

Body: TypeAlias = dict[str, Any]

_CALL = '{"name": "'  # how a call begins in most formats
# What a server would else take from the model's generation_config.json.
_NEUTRAL = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_p": 0.0,
}


@dataclass(frozen=True)
class Form:
    """What an answer must look like: what is written for the model before and behind, and JSON."""

    opening: str = ""
    closing: str = ""
    schema: Mapping[str, Any] | None = None


def form_of(options: Options, offer: Offer | None, choice: str) -> Form:
    """Return the form that was asked for; one that a server cannot keep to is an error."""
    if options.get("constraint") is not None:
        raise UnsteerableError("a server takes no constraint but a schema: pass schema=...")
    if options.get("experts", "auto") != "auto":
        raise UnsteerableError(
            "which experts steer is settled where the server is started: leave experts out"
        )
    schema = options.get("schema")
    if offer is None or choice in ("auto", "none"):
        return Form(schema=None if schema is None else _as_object(schema))
    if schema is not None:
        raise PromptError("an answer has one form: give a schema or a forced tool")
    frame = call_frame(offer.form)
    names = list(offer.parameters) if choice == "any" else [choice]
    if len(names) == 1:
        # A blank would be a token of its own, which no model was taught to write before JSON.
        opening = frame.opening(names[0]).rstrip(" ")
        return Form(opening, frame.after_arguments, offer.parameters[names[0]])
    if not frame.before_name.endswith(_CALL):
        raise UnsteerableError(
            f"a server cannot force a call of one of several tools on this model: name one of "
            f"{', '.join(names)}"
        )
    key = frame.before_arguments.split('"')[2]
    return Form(
        frame.before_name.removesuffix(_CALL),
        frame.after_arguments.removeprefix("}"),
        {
            "$defs": {name: _moved(offer.parameters[name], f"#/$defs/{name}") for name in names},
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"name": {"const": name}, key: {"$ref": f"#/$defs/{name}"}},
                    "required": ["name", key],
                    "additionalProperties": False,
                }
                for name in names
            ],
        },
    )


def _as_object(schema: Mapping[str, Any] | str) -> Mapping[str, Any]:
    try:
        found = json.loads(schema) if isinstance(schema, str) else schema
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"a schema is a JSON object, and this is none: {error}") from error
    if not isinstance(found, Mapping):
        raise GrammarError(f"a schema is a JSON object, and this is {type(found).__name__}")
    return found


def _moved(schema: Any, to: str) -> Any:
    """Return the schema with references that hold where it is a part of another."""
    if isinstance(schema, list | tuple):
        return [_moved(each, to) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, to)
        for key, value in schema.items()
    }


def body_of(
    request: Job, model: str, opening: Sequence[int], schema: Mapping[str, Any] | None
) -> Body:
    """Return what is sent: the prompt and, as written already, what the answer begins with."""
    sampling, xargs = request.sampling, xargs_of(request.row)
    optional: Body = {
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stream_options": {"include_usage": True} if request.streams else None,
        "logprobs": sampling.logprobs,
        "return_tokens_as_token_ids": None if sampling.logprobs is None else True,
        "structured_outputs": None if schema is None else {"json": schema},
        "vllm_xargs": xargs,
    }
    return {
        "model": model,
        "prompt": [*request.row.ids, *opening],
        "max_tokens": request.limit - len(opening),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        **_NEUTRAL,
        "skip_special_tokens": request.offer is None,
        "return_token_ids": True,
        "stream": request.streams,
        **{name: value for name, value in optional.items() if value is not None},
    }


def xargs_of(row: Row) -> Body | None:
    """Return the highlights, as runs of tokens of one span; None where there are none."""
    spans, start = row.rendered.spans, 0
    numbers, kinds, owners = list[float](), list[str](), list[int]()
    for (gain, owner), run in itertools.groupby(zip(row.gains, row.owners, strict=True)):
        end = start + len(list(run))
        if gain:
            numbers += [start, end, float(gain)]
            kinds.append(spans[owner].kind)
            owners.append(owner)
        start = end
    if not numbers:
        return None
    xargs: Body = {"seka": numbers}
    if {*kinds} != {"passage"}:
        xargs["seka_kinds"] = kinds
    if len({*owners}) < len(owners):  # else each run is a highlight of its own
        order = list(dict.fromkeys(owners))
        xargs["seka_owners"] = [order.index(owner) for owner in owners]
    return xargs


def read_logprobs(found: Mapping[str, Any], wanted: int) -> list[TokenLogprob]:
    """Return what the server says of its tokens, which it names as token_id:17."""

    def number(name: str) -> int:
        return int(name.rpartition(":")[2])

    likeliest = (
        sorted(((number(name), value) for name, value in top.items()), key=lambda pair: -pair[1])
        for top in found["top_logprobs"]
    )
    return [
        TokenLogprob(number(name), value, tuple(top[:wanted]))
        for name, value, top in zip(
            found["tokens"], found["token_logprobs"], likeliest, strict=True
        )
    ]


def chosen(listing: Body, model: str | None) -> Mapping[str, Any]:
    """Return what the server says of the model."""
    cards = [card for card in listing.get("data", ()) if "id" in card]
    for card in cards:
        if model in (card["id"], card.get("root")) or (model is None and not card.get("parent")):
            return cast(Mapping[str, Any], card)
    names = ", ".join(str(card["id"]) for card in cards) or "no model"
    raise ServerError(
        f"the server knows {names}, and not {model!r}: pass the name as model=..., and where its "
        "tokenizer is as tokenizer=..."
    )


def address(base_url: str) -> str:
    """Return where the API begins."""
    url = str(base_url).rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise PromptError('base_url is where a server listens, such as "http://localhost:8000/v1"')
    return url if url.endswith("/v1") else f"{url}/v1"


def seconds_to_wait(after: str | None) -> float | None:
    """Return how long a Retry-After asks to wait; None where it says nothing."""
    if after is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(after))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    return None
