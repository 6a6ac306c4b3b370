"""Remote: an engine whose model a vLLM server runs, with the plugin vllm-seka in it.

The chat template, the spans and the finding of calls are this side's, as ever; token ids and gains
go to the server, and token ids come back. How they are written is `wire`'s to know, how they get
there `line`'s. Nothing here runs a model.
"""

import copy
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transformers import AutoTokenizer

from seka_rag.asking import Asking, Options
from seka_rag.bank import Bank
from seka_rag.errors import ModelNotFoundError, PromptError, ServerError
from seka_rag.experts import Experts, load
from seka_rag.highlight import check_gain
from seka_rag.inputs import Row, read_prompt
from seka_rag.line import Line
from seka_rag.offering import offer_of
from seka_rag.prompts import Prompt, as_chat
from seka_rag.requests import Event, FinishReason, Job, Usage
from seka_rag.sampling import Sampling
from seka_rag.tokens import control_ids, tokenize
from seka_rag.wire import Body, address, body_of, chosen, form_of, read_logprobs
from seka_rag.writing import Writer

if TYPE_CHECKING:
    import httpx2


class Secret(Protocol):
    """A text that shows itself on request alone, such as pydantic's SecretStr."""

    def get_secret_value(self) -> str: ...


@dataclass(frozen=True)
class RemoteModel:
    """What is known here of the model behind a server."""

    name: str  # under which it is served
    tokenizer: Any
    context_length: int | None
    gain: float  # of a highlight that has none of its own

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, whether or not it fits the model."""
        return len(read_prompt(self.tokenizer, prompt, gain=0, default_gain=0).ids)

    def read(self, prompt: Prompt, *, gain: float | None = None) -> Row:
        """Return the prompt's tokens and their gains; what does not fit the model is an error."""
        row = read_prompt(self.tokenizer, prompt, gain=gain, default_gain=self.gain)
        limit = self.context_length
        if limit is not None and len(row.ids) >= limit:
            raise PromptError(
                f"the prompt has {len(row.ids)} tokens, and with an answer the server takes "
                f"{limit}: drop passages, or serve the model with a longer max_model_len"
            )
        return row


class RemoteEngine(Asking):
    """Asks a vLLM server that has the plugin, as an Engine asks its own model.

    `model` is the name under which the server knows it, None for the one that it serves;
    `tokenizer` a folder, a name on the hub or a tokenizer, None for that of `model`. `api_key` is
    shown nowhere. `gain` is for highlights without one of their own; unless given, it is that of
    `bank`, which is read for nothing else, or what the plugin says that its bank's is, else 1.
    `timeout`: seconds that a request may take which names no other; None waits for ever.
    `max_retries`: how often a request is sent again that the server had no room for, or that could
    not be sent, until something of its answer has come. `transport`: httpx's, for proxies or
    certificates of one's own.

    A seed makes a draw repeatable, but it is another draw than an Engine's. A server without the
    plugin gives an UnsteerableError to every prompt with highlights.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        tokenizer: Any = None,
        api_key: str | Secret | None = None,
        bank: str | Path | Bank | Experts | None = None,
        gain: float | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        transport: "httpx2.AsyncBaseTransport | None" = None,
    ) -> None:
        check_gain(gain)
        if bank is not None and gain is None:
            gain = (bank if isinstance(bank, Bank | Experts) else load(bank)).gain
        self._timeout = timeout
        self._line = Line(address(base_url), _plain(api_key), max_retries, transport)
        self._stop = weakref.finalize(self, self._line.close)  # at the interpreter's end, too
        try:
            card = chosen(self._line.wait(self._line.whole("GET", "models"), timeout), model)
            self.steered = RemoteModel(
                str(card["id"]),
                _tokenizer(tokenizer, model, card),
                length if isinstance(length := card.get("max_model_len"), int) else None,
                1.0 if gain is None else gain,
            )
        except BaseException:
            self.close()
            raise
        self._root = str(card.get("root"))
        self._given_gain, self._gain_is_known = str(gain), gain is not None
        self._reading = threading.Lock()  # a fast tokenizer encodes for one thread at a time
        self._controls = control_ids(self.steered.tokenizer)
        # The thread of the line decodes with a tokenizer of its own.
        self._decoder = copy.deepcopy(self.steered.tokenizer)

    def __repr__(self) -> str:
        return f"RemoteEngine({self._line.shown!r}, model={self.steered.name!r})"

    def __enter__(self) -> "RemoteEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop: requests that are not done get an EngineClosedError."""
        self._stop()

    @property
    def identity(self) -> dict[str, str]:
        """What tells this model from others, as far as the server says: not its weights or bank."""
        return {
            "name": self.steered.name,
            "base_url": self._line.shown,
            "root": self._root,
            "default_gain": self._given_gain,
        }

    def _submitted(
        self,
        prompt: Prompt,
        sampling: Sampling | None,
        options: Options,
        tell: Callable[[Event], None],
        *,
        streams: bool = False,
    ) -> Job:
        sampling, timeout = sampling or Sampling(), options.get("timeout", self._timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        row = self._row(prompt, options.get("gain"), timeout)
        tokenizer, length = self.steered.tokenizer, self.steered.context_length
        choice = options.get("tool_choice", "auto")
        offer = offer_of(tokenizer, as_chat(prompt), choice)
        form = form_of(options, offer, choice)
        with self._reading:
            opening = tokenize(tokenizer, form.opening, add_special_tokens=False).ids
        limit = sampling.max_new_tokens
        if length is not None:
            limit = min(limit, length - len(row.ids))
        job = _Request(
            row,
            sampling,
            "auto",
            max(limit, len(opening) + 1),
            self._controls,
            Writer(self._decoder, sampling.stop, special=offer is not None),
            tell,
            streams=streams,
            offer=offer,
            deadline=deadline,
            opening=opening,
            closing=form.closing,
            asker=self,
        )
        job.body = body_of(job, self.steered.name, opening, form.schema)
        self._line.send(job)
        return job

    def _row(self, prompt: Prompt, gain: float | None, timeout: float | None) -> Row:
        """Return the prompt as it is sent. The first highlights wait for the gain of the bank."""
        with self._reading:
            known, row = self._gain_is_known, self.steered.read(prompt, gain=gain)
        if known or not any(row.gains):
            return row
        found = self._line.wait(self._line.probe(self.steered.name, row.ids[:1]), timeout)
        with self._reading:
            if found is not None:
                self.steered = replace(self.steered, gain=found)
            self._gain_is_known = True
            return self.steered.read(prompt, gain=gain)


@dataclass(eq=False)
class _Request(Job):
    """One request on its way to the server and back. The thread of the line alone changes it."""

    body: Body = field(default_factory=dict)
    opening: Sequence[int] = ()  # what a forced call begins with: written here, not by the model
    closing: str = ""  # what it ends with
    asker: object = None  # which lives as long as its requests
    abandon: Callable[[], object] | None = None  # set by the line
    _reason: FinishReason | None = None
    _counted: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for token_id in self.opening:
            self._push(token_id)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "cancelled" and value and self.abandon is not None:
            self.abandon()  # do not wait for the next token

    def receive(self, answer: Mapping[str, Any]) -> bool:
        """Take in what the server sent; return whether more is wanted."""
        self._counted = answer.get("usage") or self._counted
        for choice in answer.get("choices", ()):
            self.mark("prefilled")
            self._write(choice)
        return not self.writer.stopped or self._reason is not None

    def end(self, reason: FinishReason | None = None) -> None:
        """Tell the caller that this is all."""
        found = reason or ("stop" if self.writer.stopped else self._reason)
        if found is None:
            raise ServerError("the server ended the answer before it was done: ask again")
        if found == "stop" and not self.writer.stopped:
            self._take(self.writer.finish() + self.closing)
        self._finish(found)

    def _write(self, choice: Mapping[str, Any]) -> None:
        ids, reason, stop = (choice.get(n) for n in ("token_ids", "finish_reason", "stop_reason"))
        if ids is None:
            raise ServerError("the server sent no token ids: serve the model with vLLM 0.32 or up")
        if reason not in (None, "stop", "length"):
            raise ServerError(f"the server gave the answer up: its reason is {reason!r}")
        wanted = self.sampling.logprobs
        if wanted is not None and ids:
            self._logprobs += read_logprobs(choice["logprobs"], wanted)
        for number, token_id in enumerate(ids, 1):
            if self.writer.stopped:  # the server may be a few tokens ahead
                break
            # At a stop text the last token is a part of it, else it ends the turn.
            ends = reason == "stop" and number == len(ids) and not isinstance(stop, str)
            ends = ends and (token_id == stop or token_id in self.eos_ids)
            self._push(token_id, shown=not ends)
        del self._logprobs[len(self.token_ids) - len(self.opening) :]
        self._reason = reason or self._reason
        if reason is None:
            self._stream()

    def _push(self, token_id: int, *, shown: bool = True) -> None:
        self.token_ids.append(token_id)
        if shown:
            self._take(self.writer.push(token_id))

    def _usage(self) -> Usage:
        usage = super()._usage()
        if self._counted is None:
            return usage
        ahead = len(self.opening)
        return Usage(
            self._counted["prompt_tokens"] - ahead,
            usage.highlighted_tokens,
            self._counted["completion_tokens"] + ahead,
            usage.waited,
            usage.prefill,
            usage.decode,
        )


def _tokenizer(given: Any, model: str | None, card: Mapping[str, Any]) -> Any:
    if not isinstance(given, str | os.PathLike | None):
        return given
    names = [os.path.expanduser(name) for name in (given, model, card.get("root")) if name]
    folders = [name for name in names if os.path.isdir(name)]
    source = names[0] if given else [*folders, *names, card["id"]][0]
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelNotFoundError(
            f"no tokenizer could be loaded from {source}: pass tokenizer=..., the folder of the "
            f"model that the server runs, or its name on the Hugging Face hub ({reason})"
        ) from error


def _plain(key: str | Secret | None) -> str | None:
    return key if key is None or isinstance(key, str) else key.get_secret_value()
