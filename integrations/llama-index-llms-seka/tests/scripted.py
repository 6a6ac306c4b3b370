"""A tiny random model that knows tools, and an engine that writes what a test tells it to.

The template, the reading of prompts, the constraints and the finding of calls are the real ones:
only what the model means is made up.
"""

from collections.abc import Callable

import torch
from seka_rag import Bank, Engine, Highlight, SteeredModel
from seka_rag.architecture import key_sites
from seka_rag.bank import fingerprint
from seka_rag.heads import LayerSubspaces
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TEMPLATE = """
{%- if tools %}{{- '<|im_start|>system\n' }}
{%- for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}
{{- 'Call by <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
# What the model writes, from the text of its prompt; None lets its random weights write.
Script = Callable[[str], str | None]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, with ChatML's control tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=260,
        special_tokens=["<pad>", "<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["a text"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def tiny(*, gain: float = 3.0, seed: int = 7) -> SteeredModel:
    """Return a random model under a random bank."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=65_536,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config).eval()
    return SteeredModel(model, tokenizer(), _bank(model, gain))


def _bank(model: Qwen3ForCausalLM, gain: float) -> Bank:
    sites = key_sites(model)
    generator = torch.Generator().manual_seed(3)
    layers = {}
    for site in sites:
        shape = site.n_kv_heads, site.head_dim, site.head_dim
        basis, negative = (
            torch.linalg.qr(torch.randn(shape, generator=generator)).Q for _ in range(2)
        )
        spectrum = torch.arange(site.head_dim, 0, -1).float().repeat(site.n_kv_heads, 1)
        shift = torch.rand(site.n_kv_heads, generator=generator)
        layers[site.layer] = LayerSubspaces(basis, spectrum, negative, spectrum.clone(), shift)
    return Bank(layers, fingerprint(model, sites), rank=2, heads="all", gain=gain)


class ScriptedEngine(Engine):
    """Reads and checks a request as ever, then writes the script's answer token by token.

    Tokens that a schema or a forced call forbids are an error, as nothing could have written them.
    """

    def __init__(self, script: Script) -> None:
        super().__init__(tiny())
        self._script = script

    def _submit(self, job):
        text = self._script(job.row.rendered.text)
        if text is None:
            return super()._submit(job)
        tokens = self.steered.tokenizer.encode(text, add_special_tokens=False)
        for token in [*tokens, self.steered.tokenizer.eos_token_id]:
            if job.matcher is not None and not job.matcher.finished:
                assert job.matcher.allowed()[token], f"{text!r} is forbidden"
            if not job.write(token, torch.zeros(264)):
                return None
        raise AssertionError("the answer has no end")


class Recording(ScriptedEngine):
    """A scripted engine that keeps the text and the highlights of every prompt that it gets."""

    def __init__(self, script: Script = lambda _: "So be it.") -> None:
        super().__init__(script)
        self.texts: list[str] = []
        self.highlights: list[list[Highlight]] = []

    def _submit(self, job):
        rendered = job.row.rendered
        self.texts.append(rendered.text)
        self.highlights.append(
            [
                Highlight(rendered.text[each.start : each.end], each.gain, each.kind)
                for each in rendered.spans
            ]
        )
        super()._submit(job)
