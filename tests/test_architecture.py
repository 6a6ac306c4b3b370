"""Key sites are found in every architecture, and give the very keys that attention caches."""

import pytest
import torch
from conftest import make_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    Olmo2Config,
    Qwen3MoeConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from seka_rag.architecture import KeySite, Layout, key_sites
from seka_rag.errors import ArchitectureError, UnsteerableError
from seka_rag.hooks import recording

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LAYOUTS = {
    "Qwen3ForCausalLM": ("k_norm", Layout.TOKENS_FIRST),
    "Gemma3ForCausalLM": ("k_norm", Layout.HEADS_FIRST),
    "LlamaForCausalLM": ("k_proj", Layout.FLAT),
    "MistralForCausalLM": ("k_proj", Layout.FLAT),
    "Qwen2ForCausalLM": ("k_proj", Layout.FLAT),
}


def test_every_layer_has_a_site_at_its_last_step_before_rotary(model):
    sites = key_sites(model)
    name, layout = LAYOUTS[type(model).__name__]
    assert [site.layer for site in sites] == [0, 1, 2]
    for site in sites:
        attention = model.model.layers[site.layer].self_attn
        assert site.module is getattr(attention, name)
        assert (site.n_kv_heads, site.head_dim, site.layout) == (2, 8, layout)


@pytest.mark.parametrize("length", [1, 2, 3])  # 2 is the number of KV heads, too
def test_the_keys_are_those_that_attention_caches(model, length):
    # The rotary embedding leaves position 0 as it is.
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), recording(key_sites(model)) as keys:
        model(torch.arange(5, 5 + length)[None], past_key_values=cache)
    for layer in range(3):
        assert keys[layer].shape == (1, length, 2, 8)
        torch.testing.assert_close(keys[layer][:, 0], cache.layers[layer].keys[:, :, 0])


def test_a_mixture_of_experts_has_the_same_attention():
    config = Qwen3MoeConfig(**TINY, head_dim=4, num_experts=2, moe_intermediate_size=8)
    config.num_experts_per_tok = 1
    model = AutoModelForCausalLM.from_config(config).eval()
    cache = DynamicCache(config=config)
    with torch.no_grad(), recording(key_sites(model)) as keys:
        model(torch.tensor([[3, 4]]), past_key_values=cache)
    torch.testing.assert_close(keys[1][:, 0], cache.layers[1].keys[:, :, 0])


@pytest.mark.parametrize("layout", list(Layout))
def test_keys_come_back_in_the_layout_they_had(layout):
    shape = {
        Layout.FLAT: (2, 3, 20),
        Layout.TOKENS_FIRST: (2, 3, 4, 5),
        Layout.HEADS_FIRST: (2, 4, 3, 5),
    }[layout]
    site = KeySite(nn.Identity(), 0, 4, 5, layout)
    output = torch.randn(shape)
    assert site.keys_of(output).shape == (2, 3, 4, 5)
    assert torch.equal(site.output_of(site.keys_of(output)), output)


@pytest.mark.parametrize("layout", list(Layout))
def test_keys_of_another_shape_are_refused(layout):
    site = KeySite(nn.Identity(), 6, 4, 5, layout)
    for shape in [(2, 3, 10), (2, 3, 2, 5), (2, 2, 3, 5), (6, 20), (2, 4, 3, 6)]:
        with pytest.raises(UnsteerableError, match="layer 6 made keys of shape"):
            site.keys_of(torch.zeros(shape))


def test_layers_go_by_their_own_numbers_not_by_position():
    model = make_model("llama")
    model.model.layers = nn.ModuleList(reversed(list(model.model.layers)))
    for site in key_sites(model):
        assert site.module is model.model.layers[2 - site.layer].self_attn.k_proj


def test_two_layers_of_one_number_are_refused():
    model = make_model("llama")
    model.model.layers[2].self_attn.layer_idx = 1
    with pytest.raises(ArchitectureError, match="two attention modules .* layer 1"):
        key_sites(model)


def test_a_model_without_key_projections_is_told_what_was_looked_for():
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=2))
    with pytest.raises(ArchitectureError, match=r"no attention module with a k_proj and a layer_i"):
        key_sites(model)


def test_a_key_norm_that_is_not_known_is_refused():
    model = AutoModelForCausalLM.from_config(Olmo2Config(**TINY, pad_token_id=0))
    with pytest.raises(ArchitectureError, match=r"Olmo2Attention, whose k_norm .* pass sites="):
        key_sites(model)


def test_a_norm_of_another_name_is_refused():
    model = make_model("llama")
    model.model.layers[0].self_attn.k_layernorm = nn.Identity()
    with pytest.raises(ArchitectureError, match=r"whose k_layernorm is called in a way"):
        key_sites(model)


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ArchitectureError, match="is an encoder-decoder"):
        key_sites(T5ForConditionalGeneration(config))
