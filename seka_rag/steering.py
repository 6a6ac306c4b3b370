"""A model whose attention follows highlights: a Hugging Face model, its tokenizer and a bank.

    B  prompts      T  tokens of the longest prompt      V  vocabulary

Prompts are padded on the left. Hooks edit the keys of highlighted tokens while a prompt is computed, and are gone
before the first token is decoded. The model, the tokenizer and their configs are never changed.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from seka_rag.architecture import KeySite, key_sites
from seka_rag.bank import FILE_NAME, Bank, KeyOperator, fingerprint
from seka_rag.editing import placed
from seka_rag.errors import (
    BankError,
    BankMismatchError,
    ModelNotFoundError,
    PromptError,
    UnsteerableError,
)
from seka_rag.highlight import check_gain
from seka_rag.hooks import editing
from seka_rag.prompts import Prompt, Rendered, render
from seka_rag.tokens import Encoded, encode_chat, gain_map, tokenize

_MINI = Path(__file__).parent / "assets" / "mini"


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
    """What the model wrote after one prompt; `text` and `token_ids` are those of the first sequence."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    report: EditReport
    sequences: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One prompt, ready for the model."""

    rendered: Rendered
    ids: list[int]
    gains: list[float]


class SteeredModel:
    """A model, its tokenizer and the bank that steers it. Without a bank it runs plain prompts only."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        bank: Bank | None,
        *,
        sites: Sequence[KeySite] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bank = bank
        self.sites = key_sites(model) if sites is None else tuple(sites)
        if bank is not None:
            bank.check(fingerprint(model, self.sites))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        bank: str | Path | Bank | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, int | str] | None = None,
        attn_implementation: str | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        tokenizer_kwargs: Mapping[str, object] | None = None,
    ) -> "SteeredModel":
        """Return a model from a folder or the Hugging Face hub; by default the one that comes with the package.

        Without `bank`, the one in the model's folder is used if there is one. `dtype` is that of the weights on disk
        unless given.
        """
        source = str(_MINI if model is None else Path(model).expanduser())
        if not Path(source).exists() and (source.count("/") > 1 or source[:1] in "/.~"):
            raise ModelNotFoundError(
                f"there is no folder {source}: give a folder that holds a model, or a name on the Hugging Face hub"
            )
        options = dict(model_kwargs or {})
        if device_map is not None:
            options["device_map"] = device_map
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **(tokenizer_kwargs or {}))
            loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", **options)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelNotFoundError(
                f"no model could be loaded from {source}: give a folder that holds one, or a name on the Hugging Face "
                f"hub that can be reached ({reason})"
            ) from error
        if bank is None and (Path(source) / FILE_NAME).is_file():
            bank = source
        if bank is not None and not isinstance(bank, Bank):
            bank = Bank.from_pretrained(bank)
        return cls(loaded, tokenizer, bank)

    def with_bank(self, bank: Bank | None) -> "SteeredModel":
        """Return the same model and tokenizer under another bank."""
        return SteeredModel(self.model, self.tokenizer, bank, sites=self.sites)

    @property
    def context_length(self) -> int | None:
        """The most tokens that the model can read; None if its config does not say."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, whether or not it fits the model."""
        return len(self._encode(render(self.tokenizer, prompt)).ids)

    def generate(
        self, prompt: Prompt, *, gain: float | None = None, **generate_kwargs: object
    ) -> Generation:
        """Return what the model writes after the prompt.

        `gain` is for highlights without one of their own, in place of the bank's; a gain of 0 turns all highlights off.
        `generate_kwargs` go to the model's own `generate`.
        """
        return self.generate_batch([prompt], gain=gain, **generate_kwargs)[0]

    def generate_batch(
        self, prompts: Sequence[Prompt], *, gain: float | None = None, **generate_kwargs: object
    ) -> list[Generation]:
        """Return what the model writes after each prompt, as `generate` does for one."""
        rows = [self._row(prompt, gain) for prompt in prompts]
        if not rows:
            return []
        ids, mask, gains = self._pad([row.ids for row in rows], [row.gains for row in rows])
        for name in ("inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids"):
            if name in generate_kwargs:
                raise PromptError(f"{name} comes from the prompt: leave it out")
        options = dict(generate_kwargs)
        if self._setting("pad_token_id", options) is None:
            options["pad_token_id"] = self._pad_id
        if self._setting("stop_strings", options) is not None:
            options.setdefault("tokenizer", self.tokenizer)
        start = 0
        if any(map(any, gains)):
            start = self._check_steerable(gains, options)
            # A compiled prefill would keep the hooks that it was compiled with.
            if self._setting("prefill_chunk_size", options) is not None:
                options["disable_compile"] = True
        with self._edited(gains, start=start):
            output = self.model.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]
        sequences: Tensor = output if isinstance(output, Tensor) else output.sequences
        written = sequences[:, ids.shape[1] :].tolist()
        n = len(written) // len(rows)
        pad_id = self._setting("pad_token_id", options)
        return [
            self._generation(
                row, [_without_padding(ids, pad_id) for ids in written[i * n : i * n + n]]
            )
            for i, row in enumerate(rows)
        ]

    def score(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        gain: float | None = None,
        first_token_only: bool = False,
    ) -> list[float]:
        """Return log P(continuation | prompt) for each continuation, in nats; or that of its first token."""
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
                f"there are {len(prompts)} prompts and {len(continuations)} lists of continuations: give one for each"
            )
        rows = [self._row(prompt, gain) for prompt in prompts]
        jobs = [
            (i, j, self._continuation_ids(row, text)[: 1 if first_token_only else None])
            for i, row in enumerate(rows)
            for j, text in enumerate(continuations[i])
        ]
        jobs.sort(key=lambda job: len(rows[job[0]].ids) + len(job[2]))
        scores = [[0.0] * len(texts) for texts in continuations]
        for first in range(0, len(jobs), batch_size):
            batch = jobs[first : first + batch_size]
            keep = max(len(target) for _, _, target in batch)
            # The last token of a continuation predicts nothing that is asked for.
            ids = [rows[i].ids + target[:-1] for i, _, target in batch]
            gains = [rows[i].gains + [0.0] * (len(target) - 1) for i, _, target in batch]
            logprobs = self._logprobs(ids, gains, keep=keep)
            for (i, j, target), row in zip(batch, logprobs, strict=True):
                wanted = torch.tensor(target).unsqueeze(1)
                scores[i][j] = row[keep - len(target) :].gather(1, wanted).sum().item()
        return scores

    def next_token_logprobs(
        self, prompts: Sequence[Prompt], *, gain: float | None = None
    ) -> Tensor:
        """Return log P(next token | prompt) for all prompts in one forward pass: (B, V) float32 on the CPU."""
        rows = [self._row(prompt, gain) for prompt in prompts]
        return self._logprobs([row.ids for row in rows], [row.gains for row in rows], keep=1)[:, 0]

    def _encode(self, rendered: Rendered, continuation: str = "") -> Encoded:
        text = rendered.text + continuation
        if rendered.is_chat:
            return encode_chat(self.tokenizer, text, rendered.content_regions)
        return tokenize(self.tokenizer, text, add_special_tokens=True)

    def _row(self, prompt: Prompt, gain: float | None) -> _Row:
        """Return the prompt with the gain of each of its tokens."""
        check_gain(gain)
        rendered = render(self.tokenizer, prompt)
        encoded = self._encode(rendered)
        limit = self.context_length
        if limit is not None and len(encoded.ids) > limit:
            raise PromptError(
                f"the prompt has {len(encoded.ids)} tokens and the model reads {limit}: drop passages, or use "
                "a model with a longer context"
            )
        default = gain if gain is not None else 1.0 if self.bank is None else self.bank.gain
        gains = gain_map(encoded.offsets, rendered.spans, default_gain=default)
        if gain == 0:
            gains = [0.0] * len(gains)
        if any(gains) and self.bank is None:
            raise BankError(
                "the prompt has highlights, but no bank was given: pass bank=..., learn one with seka_rag.learn, or "
                "set gain=0 for the plain model"
            )
        return _Row(rendered, encoded.ids, gains)

    def _continuation_ids(self, row: _Row, continuation: str) -> list[int]:
        """Return the tokens of a text that follows the prompt, whose own tokens stay as they are."""
        joined = self._encode(row.rendered, continuation).ids
        n = len(row.ids)
        if joined[:n] != row.ids:
            joined = row.ids + tokenize(self.tokenizer, continuation, add_special_tokens=False).ids
        if len(joined) == n:
            raise PromptError(f"the continuation {continuation!r} has no token: give it some text")
        return joined[n:]

    @property
    def _pad_id(self) -> int:
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token_id, int):
                return token_id
        return 0

    def _pad(
        self, ids: Sequence[list[int]], gains: Sequence[list[float]]
    ) -> tuple[Tensor, Tensor, list[list[float]]]:
        """Return ids and mask (B, T) on the model's device, and gains (B, T), padded on the left."""
        longest = max(map(len, ids))
        blanks = [longest - len(row) for row in ids]
        padded = [[self._pad_id] * n + row for n, row in zip(blanks, ids, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in blanks]
        device = self.model.device
        return (
            torch.tensor(padded, device=device),
            torch.tensor(mask, device=device),
            [[0.0] * n + row for n, row in zip(blanks, gains, strict=True)],
        )

    @torch.no_grad()
    def _logprobs(
        self, ids: Sequence[list[int]], gains: Sequence[list[float]], *, keep: int
    ) -> Tensor:
        """Return the log-probabilities after the last `keep` tokens of each row: (B, keep, V) float32 on the CPU."""
        input_ids, mask, padded_gains = self._pad(ids, gains)
        options: dict[str, object] = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            options["logits_to_keep"] = keep
        if any(map(any, padded_gains)):
            self._check_uncompiled()
        with self._edited(padded_gains):
            logits: Tensor = self.model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                **options,
            ).logits
        return logits[:, -keep:].float().log_softmax(-1).cpu()

    def _edited(
        self, gains: Sequence[Sequence[float]], *, start: int = 0
    ) -> AbstractContextManager[None]:
        if not any(map(any, gains)):
            return nullcontext()
        return editing(self.sites, self._operators, gains, start=start)

    @cached_property
    def _operators(self) -> dict[int, KeyOperator]:
        """The bank's operators, each on the device of its layer."""
        assert self.bank is not None
        operators = self.bank.operators()
        sites = {site.layer: site for site in self.sites}
        if unknown := sorted(set(operators) - set(sites)):
            raise BankMismatchError(
                f"the bank edits layers {unknown}, for which there is no key site: pass sites for them, or learn a bank"
            )
        placed_operators = {}
        for layer, operator in operators.items():
            weight = next(sites[layer].module.parameters(), None)
            # Weights that are kept off the device say nothing about where the keys will be.
            known = weight is not None and not weight.is_meta
            placed_operators[layer] = placed(operator, weight.device) if known else operator
        return placed_operators

    def _generation(self, row: _Row, written: Sequence[list[int]]) -> Generation:
        texts = tuple(str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in written)
        return Generation(texts[0], tuple(written[0]), len(row.ids), self._report(row.gains), texts)

    def _report(self, gains: Sequence[float]) -> EditReport:
        edited = [gain for gain in gains if gain != 0]
        if not edited:
            return EditReport()
        heads = sum(int(op.weights.any(dim=1).sum()) for op in self._operators.values())
        layers = tuple(sorted(self._operators))
        return EditReport(len(edited), layers, heads, min(edited), max(edited))

    def _setting(self, name: str, options: Mapping[str, object]) -> object:
        """Return what `generate` will use for a setting: an option, else a given config, else the model's own."""
        configs = (options.get("generation_config"), self.model.generation_config)
        values = (options.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    def _check_steerable(
        self, gains: Sequence[Sequence[float]], options: Mapping[str, object]
    ) -> int:
        """Return how many positions the cache holds; raise UnsteerableError where highlights would be lost."""
        self._check_uncompiled()
        setting = {name: self._setting(name, options) for name in _MODES}
        if setting["use_cache"] is False:
            raise UnsteerableError(
                "without a cache every step computes the prompt again: leave use_cache on"
            )
        if setting["cache_implementation"] == "paged":
            raise UnsteerableError(
                "a paged cache packs several prompts into one row: use a dynamic or static cache"
            )
        if setting["custom_generate"] is not None or setting["trust_remote_code"]:
            raise UnsteerableError(
                "a custom generate may call the model in any way: use a decoding mode of transformers"
            )
        if setting["token_healing"]:
            raise UnsteerableError("token healing changes the prompt's tokens: leave it out")
        if setting["assistant_early_exit"] is not None or setting["assistant_model"] is self.model:
            raise UnsteerableError(
                "a model cannot draft for itself while it is steered: give another assistant_model, or "
                "prompt_lookup_num_tokens"
            )
        cache = setting["past_key_values"]
        cached = 0 if cache is None else int(cache.get_seq_length())  # type: ignore[attr-defined]
        if cached == 0:
            return 0
        if (
            setting["assistant_model"] is not None
            or setting["prompt_lookup_num_tokens"] is not None
        ):
            raise UnsteerableError(
                "assisted decoding computes the whole prompt, cached or not: pass no past_key_values"
            )
        if cached >= len(gains[0]):
            raise UnsteerableError(
                f"the cache holds {cached} positions and the prompt has {len(gains[0])}: at least one must be left to "
                "compute"
            )
        if any(any(row[:cached]) for row in gains):
            raise UnsteerableError(
                f"a highlighted token is among the first {cached} positions, whose keys are in the cache already: "
                "highlight what comes after them, or pass an empty cache"
            )
        return cached

    def _check_uncompiled(self) -> None:
        """Raise UnsteerableError for a compiled model, which may run without its hooks, or keep them for ever."""
        for module in self.model.modules():
            if (
                type(module).__name__ == "OptimizedModule"
                or module._compiled_call_impl is not None
                or hasattr(module.forward, "_torchdynamo_orig_callable")
            ):
                raise UnsteerableError(
                    "the model is compiled: pass the plain one; generate(cache_implementation='static') compiles "
                    "decoding on its own, and steering is over by then"
                )


_MODES = (
    "assistant_early_exit",
    "assistant_model",
    "cache_implementation",
    "custom_generate",
    "past_key_values",
    "prompt_lookup_num_tokens",
    "token_healing",
    "trust_remote_code",
    "use_cache",
)


def _without_padding(ids: list[int], pad_id: object) -> list[int]:
    """Return generated ids up to the end of the turn; a pad token that also ends the turn stays once."""
    end = len(ids)
    while end > 0 and ids[end - 1] == pad_id:
        end -= 1
    return ids[:end]
