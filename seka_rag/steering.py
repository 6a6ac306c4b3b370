"""A model whose attention follows highlights: a Hugging Face model, its tokenizer and a bank.

    B  prompts      T  tokens of the longest prompt      V  vocabulary

Prompts are padded on the left. Hooks edit the keys of highlighted tokens while a prompt is
computed, and are gone before the first token is decoded. The model, the tokenizer and their configs
are never changed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from seka_rag.architecture import KeySite, key_sites
from seka_rag.bank import FILE_NAME, Bank, fingerprint
from seka_rag.errors import (
    BankError,
    BankMismatchError,
    ModelNotFoundError,
    PromptError,
)
from seka_rag.experts import Choice, Experts, Routing, as_experts, expert_names, load
from seka_rag.explanation import SpanRouting, explained
from seka_rag.forward import PLAIN, edited, last_logits, last_logprobs, prefill, routed
from seka_rag.inputs import Batch, Row, continuation_ids, pad, padding_id, read_prompt
from seka_rag.modes import setting, steerable_options
from seka_rag.preparation import prepared_bank
from seka_rag.prompts import Prompt
from seka_rag.router import Router
from seka_rag.routing import Edit, Mode, Score

_MINI = Path(__file__).parent / "assets" / "mini"
# Parameters up to which float32 costs little memory; most CPUs compute it several times as fast as
# bfloat16.
_SMALL = 1_000_000_000


@dataclass(frozen=True)
class EditReport:
    """What was edited for one prompt. All zero and empty when nothing was."""

    highlighted_tokens: int = 0  # tokens with a gain other than 0
    layers: tuple[int, ...] = ()
    kv_heads: int = 0  # over all layers
    min_gain: float = 0.0
    max_gain: float = 0.0


@dataclass(frozen=True)
class Generation:
    """What the model wrote after one prompt: the first sequence, and the texts of all."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    report: EditReport
    sequences: tuple[str, ...]
    _routing: Callable[[], list[SpanRouting]] = field(repr=False, compare=False)

    def explain(self) -> list[SpanRouting]:
        """Return, for every highlighted span, how much each expert counted at each head."""
        return self._routing()


class SteeredModel:
    """A model, its tokenizer and the bank that steers it; without one it runs plain prompts.

    `bank` is one bank, or the experts between which `routing` chooses.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        bank: Bank | Experts | None,
        *,
        routing: Routing | None = None,
        sites: Sequence[KeySite] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bank = bank
        self.routing = routing or Routing()
        self.sites = key_sites(model) if sites is None else tuple(sites)
        if bank is not None:
            bank.check(fingerprint(model, self.sites))
            as_experts(bank).chosen(self.routing.experts)  # an unknown name is an error now

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        bank: str | Path | Bank | Experts | None = "auto",
        *,
        experts: Choice = "auto",
        routing: Mode = "inline",
        score: Score = "energy",
        abstain: bool = True,
        directions: int | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, int | str] | None = None,
        attn_implementation: str | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        tokenizer_kwargs: Mapping[str, object] | None = None,
    ) -> "SteeredModel":
        """Return a model from a folder or the Hugging Face hub; without a name, the package's own.

        The bank "auto" is the one in the model's folder, else the one kept for this model in the
        cache, else one is learned and tuned now, which takes minutes, and kept. With None there is
        no bank, and highlights are refused. `experts`, `routing` and what follows say how a prompt
        chooses among several: see `Routing`. `dtype` is that of the weights on disk unless given;
        the package's own model, and small ones on a CPU, are computed in float32.
        """
        source = os.path.expanduser(_MINI if model is None else model)
        wanted = dtype or (torch.float32 if model is None else "auto")
        if not os.path.exists(source) and (source.count("/") > 1 or source[:1] in "/.~"):
            raise ModelNotFoundError(
                f"there is no folder {source}: give a folder that holds a model, or a name on "
                "the Hugging Face hub"
            )
        options = dict(model_kwargs or {})
        if device_map is not None:
            options["device_map"] = device_map
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **(tokenizer_kwargs or {}))
            loaded = AutoModelForCausalLM.from_pretrained(source, dtype=wanted, **options)
        except (OSError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelNotFoundError(
                f"no model could be loaded from {source}: give a folder that holds one, or a name "
                f"on the Hugging Face hub that can be reached ({reason})"
            ) from error
        if dtype is None and _is_small_on_cpu(loaded):
            loaded.to(dtype=torch.float32)  # type: ignore[call-arg]
        chosen = Routing(experts, routing, score, abstain, directions)
        return cls(loaded, tokenizer, None, routing=chosen).with_bank(bank)

    def with_bank(self, bank: str | Path | Bank | Experts | None) -> "SteeredModel":
        """Return the same model and tokenizer under another bank, as in `from_pretrained`."""
        if bank == "auto":
            name = self.model.name_or_path or ""
            folder = Path(name)
            beside = bool(name) and folder.is_dir()
            beside = beside and ((folder / FILE_NAME).is_file() or bool(expert_names(folder)))
            bank = name if beside else prepared_bank(self)
        if bank is not None and not isinstance(bank, Bank | Experts):
            bank = load(bank)
        return SteeredModel(
            self.model, self.tokenizer, bank, routing=self.routing, sites=self.sites
        )

    def with_routing(self, routing: Routing) -> "SteeredModel":
        """Return the same model, tokenizer and bank under another routing."""
        return SteeredModel(
            self.model, self.tokenizer, self.bank, routing=routing, sites=self.sites
        )

    @property
    def context_length(self) -> int | None:
        """The most tokens that the model can read; None if its config does not say."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, whether or not it fits the model."""
        return len(read_prompt(self.tokenizer, prompt, gain=0, default_gain=0).ids)

    def generate(
        self, prompt: Prompt, *, gain: float | None = None, **generate_kwargs: object
    ) -> Generation:
        """Return what the model writes after the prompt.

        `gain` is for highlights without one of their own, in place of the bank's; a gain of 0 turns
        all highlights off. `generate_kwargs` go to the model's own `generate`.
        """
        return self.generate_batch([prompt], gain=gain, **generate_kwargs)[0]

    def generate_batch(
        self, prompts: Sequence[Prompt], *, gain: float | None = None, **generate_kwargs: object
    ) -> list[Generation]:
        """Return what the model writes after each prompt, as `generate` does for one."""
        rows = [self.read(prompt, gain=gain) for prompt in prompts]
        if not rows:
            return []
        for name in ("inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids"):
            if name in generate_kwargs:
                raise PromptError(f"{name} comes from the prompt: leave it out")
        batch = self._pad(rows)
        options, cached = dict(generate_kwargs), 0
        if batch.is_highlighted:
            options, cached = steerable_options(self.model, options, batch.gains)
        config = self.model.generation_config
        if setting("pad_token_id", options, config) is None:
            options["pad_token_id"] = padding_id(self.tokenizer)
        if setting("stop_strings", options, config) is not None:
            options.setdefault("tokenizer", self.tokenizer)
        edit = self._edit if batch.is_highlighted else PLAIN
        in_parts = setting("prefill_chunk_size", options, config) is not None
        router = self._two_pass(edit, batch) if in_parts or self._asks_first else None
        past = cast(Cache | None, setting("past_key_values", options, config))
        with edited(self.sites, edit, batch, start=cached, past=past, router=router) as router:
            output = self.model.generate(  # type: ignore[operator]
                input_ids=batch.ids, attention_mask=batch.mask, **options
            )
        sequences: Tensor = output if isinstance(output, Tensor) else output.sequences
        pad_id, eos_ids = (
            setting(name, options, config) for name in ("pad_token_id", "eos_token_id")
        )
        written = [
            _written(ids, eos_ids, pad_id) for ids in sequences[:, batch.ids.shape[1] :].tolist()
        ]
        n = len(written) // len(rows)
        return [
            self._generation(
                row, written[i * n : (i + 1) * n], partial(self._explained, row, i, router)
            )
            for i, row in enumerate(rows)
        ]

    def explain(self, prompt: Prompt, *, gain: float | None = None) -> list[SpanRouting]:
        """Return, for every highlighted span, how much each expert counts at each head."""
        row = self.read(prompt, gain=gain)
        batch = self._pad([row])
        router = None
        if batch.is_highlighted:
            router = self._two_pass(self._edit, batch) if self._asks_first else None
            with torch.no_grad():
                _, router = last_logits(self.model, self.sites, self._edit, batch, router=router)
        return self._explained(row, 0, router)

    def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        gain: float | None = None,
        first_token_only: bool = False,
    ) -> list[float]:
        """Return log P(continuation | prompt), or that of its first token, for each; in nats."""
        return self.score_batch(
            [prompt], [continuations], gain=gain, first_token_only=first_token_only
        )[0]

    def score_batch(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[str]],
        *,
        gain: float | None = None,
        first_token_only: bool = False,
        batch_size: int = 16,
    ) -> list[list[float]]:
        """Return the scores of every prompt's continuations, as `score` does for one prompt."""
        if len(prompts) != len(continuations):
            raise PromptError(
                f"there are {len(prompts)} prompts and {len(continuations)} lists of "
                "continuations: give one for each"
            )
        rows = [self.read(prompt, gain=gain) for prompt in prompts]
        jobs = [
            (i, j, continuation_ids(self.tokenizer, row, text)[: 1 if first_token_only else None])
            for i, row in enumerate(rows)
            for j, text in enumerate(continuations[i])
        ]
        jobs.sort(key=lambda job: len(rows[job[0]].ids) + len(job[2]))
        scores = [[0.0] * len(texts) for texts in continuations]
        for first in range(0, len(jobs), batch_size):
            batch = jobs[first : first + batch_size]
            keep = max(len(target) for _, _, target in batch)
            # The last token of a continuation predicts nothing that is asked for.
            logprobs = self._logprobs(
                [rows[i].followed_by(target[:-1]) for i, _, target in batch], keep=keep
            )
            for (i, j, target), row in zip(batch, logprobs, strict=True):
                wanted = torch.tensor(target).unsqueeze(1)
                scores[i][j] = row[keep - len(target) :].gather(1, wanted).sum().item()
        return scores

    def next_token_logprobs(
        self, prompts: Sequence[Prompt], *, gain: float | None = None
    ) -> Tensor:
        """Return log P(next token | prompt) from one forward pass: (B, V) float32 on the CPU."""
        rows = [self.read(prompt, gain=gain) for prompt in prompts]
        return self._logprobs(rows, keep=1)[:, 0]

    def read(self, prompt: Prompt, *, gain: float | None = None) -> Row:
        """Return the prompt's tokens and their gains, as the model is given them.

        What cannot be steered, or does not fit the model, is an error here.
        """
        default = 1.0 if self.bank is None else self.bank.gain
        row = read_prompt(self.tokenizer, prompt, gain=gain, default_gain=default)
        limit = self.context_length
        if limit is not None and len(row.ids) > limit:
            raise PromptError(
                f"the prompt has {len(row.ids)} tokens and the model reads {limit}: "
                "drop passages, or use a model with a longer context"
            )
        if any(row.gains) and self.bank is None:
            raise BankError(
                "the prompt has highlights, but there is no bank: pass bank=..., or leave it to "
                'be found or learned (bank="auto"), or set gain=0 for the plain model'
            )
        if any(row.gains):
            self._check_served(row)
        return row

    def _check_served(self, row: Row) -> None:
        """Raise BankError where no expert serves a highlight's kind: it would do nothing."""
        assert self.bank is not None
        serving = as_experts(self.bank).chosen(self.routing.experts)
        for span in row.rendered.spans:
            if span.gain != 0 and not serving[span.kind]:
                raise BankError(
                    f"no expert serves highlights of the kind {span.kind!r}: name one for it in "
                    'experts={...}, or use experts="auto"'
                )

    def prefill(self, rows: Sequence[Row], cache: Cache, *, start: int = 0) -> Tensor:
        """Return the logits (B, V) after the rows, whose keys, edited, and values go to `cache`.

        The first `start` columns of the rows, padded on the left, are in it already.
        """
        batch = self._pad(rows)
        edit = self._edit if batch.is_highlighted else PLAIN
        router = self._two_pass(edit, batch) if self._asks_first else None
        return prefill(self.model, self.sites, edit, batch, cache, start=start, router=router)

    def settled(self, row: Row) -> int:
        """Return how many of the row's tokens have keys that nothing behind them can change.

        Where the prompt's own query routes the edit, these end at the first highlight.
        """
        if self.bank is None or not self._edit.routes:
            return len(row.ids)
        return next((i for i, gain in enumerate(row.gains) if gain), len(row.ids))

    def _pad(self, rows: Sequence[Row]) -> Batch:
        return pad(rows, pad_id=padding_id(self.tokenizer), device=self.model.device)

    def _logprobs(self, rows: Sequence[Row], *, keep: int) -> Tensor:
        """Return log P after the last `keep` tokens of each row: (B, keep, V) float32, CPU."""
        batch = self._pad(rows)
        edit = self._edit if batch.is_highlighted else PLAIN
        router = self._two_pass(edit, batch) if self._asks_first else None
        return last_logprobs(self.model, self.sites, edit, batch, keep=keep, router=router)

    @property
    def _asks_first(self) -> bool:
        return self.routing.mode == "two_pass"

    def _two_pass(self, edit: Edit, batch: Batch) -> Router | None:
        return routed(self.model, self.sites, edit, batch)

    @cached_property
    def _edit(self) -> Edit:
        """What the bank does to keys, each layer's part on the layer's device."""
        assert self.bank is not None
        edit = self.routing.edit(as_experts(self.bank))
        devices = {site.layer: site.device for site in self.sites}
        if unknown := sorted(set(edit.operators) - set(devices)):
            raise BankMismatchError(
                f"the bank edits layers {unknown}, for which there is no key site: pass sites "
                "for them, or learn a bank"
            )
        dtype = self.model.dtype
        # Weights may be stored in 8 bits, and keys are never computed in so few.
        return edit.on(devices, dtype if dtype.itemsize > 1 else None)

    def _explained(self, row: Row, number: int, router: Router | None) -> list[SpanRouting]:
        if not any(row.gains):
            return []
        assert self.bank is not None
        by_kind = as_experts(self.bank).chosen(self.routing.experts).values()
        names = [
            name for name in as_experts(self.bank).banks if any(name in each for each in by_kind)
        ]
        return explained(row, number, self._edit, names, router)

    def _generation(
        self, row: Row, written: Sequence[list[int]], routing: Callable[[], list[SpanRouting]]
    ) -> Generation:
        texts = tuple(str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in written)
        report = self.report_of(row.gains)
        return Generation(texts[0], tuple(written[0]), len(row.ids), report, texts, routing)

    def report_of(self, gains: Sequence[float]) -> EditReport:
        """Return what is edited for a prompt with these gains."""
        edited = [gain for gain in gains if gain != 0]
        if not edited:
            return EditReport()
        operators = self._edit.operators
        heads = sum(int(operator.weights.any(dim=1).sum()) for operator in operators.values())
        layers = tuple(sorted(operators))
        return EditReport(len(edited), layers, heads, min(edited), max(edited))


def _is_small_on_cpu(model: PreTrainedModel) -> bool:
    whole = not getattr(model, "is_quantized", False) and not hasattr(model, "hf_device_map")
    return whole and model.device.type == "cpu" and model.num_parameters() <= _SMALL


def _written(ids: list[int], eos_ids: object, pad_id: object) -> list[int]:
    """Return generated ids up to the end of the turn, without what fills up a short sequence."""
    ends = eos_ids if isinstance(eos_ids, list) else [eos_ids]
    for i, token_id in enumerate(ids):
        if token_id in ends:
            return ids[: i + 1]
    end = len(ids)
    while end > 0 and ids[end - 1] == pad_id:
        end -= 1
    return ids[:end]
