"""Tiny models with random weights, made on the spot, and banks of random directions for them."""

from pathlib import Path

import torch
from seka_rag import Bank, SteeredModel, fingerprint
from seka_rag.heads import LayerSubspaces
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = 500
GAIN = 3.0  # of a highlight that has none of its own
_CLASSES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


def make_model(folder: Path, kind: str, *, kv_heads: int = 2, seed: int = 0) -> Path:
    """Return the folder of a model of 4 layers. Its attention is far from uniform."""
    torch.manual_seed(seed)
    config_class, model_class = _CLASSES[kind]
    options = dict(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    if kind != "qwen2":
        options["head_dim"] = 32
    if kind == "gemma3":
        options |= {"sliding_window": 48, "query_pre_attn_scalar": 32}
    model = model_class(config_class(**options))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() == 2:
                weights.normal_(0, 1.0 if "embed" in name else 0.12)
            elif "norm" in name:
                weights.add_(torch.randn_like(weights) * 0.2)
    model.float().save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word, w3 to w499."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def core(folder: Path, bank: Bank | None = None) -> SteeredModel:
    """Return the model in the core, under a bank."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return SteeredModel(model, tokenizer(folder), bank)


def random_bank(folder: Path, *, seed: int = 1, **settings: object) -> Bank:
    """Return a bank of random directions, and of gates at random if it is `gated`."""
    steered = core(folder)
    gated = settings.pop("gated", False)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sites = steered.sites
    heads, size, queries = sites[0].n_kv_heads, sites[0].head_dim, sites[0].n_query_heads
    layers = {}
    for site in sites:
        learned = LayerSubspaces(
            torch.linalg.qr(normal(heads, size, size)).Q,
            normal(heads, size).abs().sort(descending=True).values,
            torch.linalg.qr(normal(heads, size, size)).Q,
            normal(heads, size).abs().sort(descending=True).values,
            normal(heads).abs(),
        )
        layers[site.layer] = learned
    bank = Bank(
        layers,
        fingerprint(steered.model, sites),
        rank=4,
        energy=None,
        heads="all",
        **settings,  # type: ignore[arg-type]
    )
    if gated:
        columns = (torch.arange(size) < 6).float()
        bank = bank.weighed(
            {layer: normal(heads, size) * columns for layer in layers},
            {
                layer: (normal(queries, 2) * 0.3, normal(1) + 1, normal(heads, 2) * 0.5)
                for layer in layers
            },
            examples=1,
        )
    return bank


def words(ids: list[int]) -> str:
    """Return the text of which these are the tokens."""
    return " ".join(f"w{i}" for i in ids)


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a model."""
    # AutoTokenizer goes by the kind of model, and would make another.
    return PreTrainedTokenizerFast.from_pretrained(folder)
