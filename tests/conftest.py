"""Tiny random models of every architecture, a tokenizer trained in memory, random banks."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from seka_rag.architecture import key_sites
from seka_rag.bank import Bank, fingerprint
from seka_rag.heads import LayerSubspaces

torch.set_num_threads(1)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS = {
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "llama": lambda: LlamaConfig(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**{**SHAPE, "head_dim": 8}),
}
ARCHITECTURES = tuple(CONFIGS)


def make_model(name, attn_implementation="sdpa", *, seed=7):
    """Return a random model in float32; its weights are large, so that keys matter."""
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    config.initializer_range = 0.3
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)
    model.generation_config.eos_token_id = None  # random models end their turn at random
    model.generation_config.pad_token_id = 0
    return model.eval()


def make_bank(model, sites=None, **settings):
    """Return a bank of random bases: rank 2, all heads, gain 3, unless set otherwise."""
    sites = key_sites(model) if sites is None else sites
    generator = torch.Generator().manual_seed(3)
    layers = {}
    for site in sites:
        heads, dim = site.n_kv_heads, site.head_dim
        basis, negative = (
            torch.linalg.qr(torch.randn(heads, dim, dim, generator=generator)).Q for _ in range(2)
        )
        spectrum = torch.arange(dim, 0, -1).float().repeat(heads, 1)
        shift = torch.rand(heads, generator=generator)
        layers[site.layer] = LayerSubspaces(basis, spectrum, negative, spectrum.clone(), shift)
    settings = {"rank": 2, "heads": "all", "gain": 3.0, **settings}
    return Bank(layers, fingerprint(model, sites), **settings)


@pytest.fixture(scope="session")
def evaluation_data():
    """The folder of the evaluation data, for tests marked `data`."""
    if "SEKA_RAG_DATA" not in os.environ:
        pytest.skip("SEKA_RAG_DATA names no folder of evaluation data")
    return Path(os.environ["SEKA_RAG_DATA"])


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer with ChatML's control tokens and template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    text = "The capital of France is Paris. Passages: Question: Where was Ada Lovelace born? " * 5
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(request):
    """A tiny random model of each architecture, in float32, with SDPA."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def qwen3():
    return make_model("qwen3")
