"""On a CUDA device: the kernel against PyTorch's operations, and the FlashAttention backends.

In bfloat16 two right answers differ in their last bits, so each comparison stands beside one that
shows how far steering moves the same figures.
"""

import importlib.util

import pytest
import torch
from conftest import make_bank
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, Qwen3Config

from seka_rag.bank import KeyOperator
from seka_rag.editing import EditPlan, edit_keys
from seka_rag.highlight import highlight
from seka_rag.steering import SteeredModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PROMPT = ["Passages: ", highlight("The capital of France is Paris. " * 12), "Where is Ada? " * 9]
FLASH = importlib.util.find_spec("flash_attn") is not None


def model(attention, head_dim=64):
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(5)
    made = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation=attention
    )
    made.generation_config.pad_token_id = 0
    return made.cuda().eval()


@pytest.mark.parametrize(
    ("shape", "columns", "experts"),
    [
        ((1, 700, 8, 128), 8, 1),
        ((3, 90, 2, 64), 20, 4),
        ((2, 57, 3, 80), 5, 1),
        ((1, 60, 2, 256), 3, 3),
        ((1, 200, 2, 64), 256, 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_does_what_pytorch_does(shape, columns, experts, dtype):
    B, T, H, D = shape
    made = torch.Generator().manual_seed(1)
    keys = torch.randn(shape, generator=made).to("cuda", dtype)
    gains = (torch.rand(B, T, generator=made) > 0.4) * 9 * torch.rand(B, T, generator=made)
    basis = torch.randn(H, D, columns, generator=made) / D**0.5
    operator = KeyOperator(
        basis.to("cuda", dtype), torch.rand(H, columns, generator=made).to("cuda", dtype)
    )
    plan = EditPlan.from_gains(gains, "cuda", dtype=dtype)
    factors = None
    if experts > 1:
        factors = torch.rand(len(plan), H, experts, generator=made).to("cuda", dtype)
    expected = edit_keys(keys, operator, plan, factors)  # gradients are on: no kernel
    assert expected.data_ptr() != keys.data_ptr()
    with torch.no_grad():
        edited = edit_keys(keys.clone(), operator, plan, factors)
    untouched = gains.cuda() == 0
    assert torch.equal(edited[untouched], keys[untouched])
    apart = (edited - expected).float().abs().max()
    assert apart < (1e-5 if dtype == torch.float32 else 0.03) * expected.float().abs().max()
    assert (edited - keys).float().abs().max() > 0.2 * expected.float().abs().max()


@pytest.mark.parametrize("layout", ["tokens first", "heads first"])
def test_keys_are_edited_where_they_are_however_they_are_laid_out(layout):
    keys = torch.randn(2, 4, 30, 64, device="cuda").transpose(1, 2)
    if layout == "tokens first":
        keys = keys.contiguous()
    gains = torch.zeros(2, 30)
    gains[0, 3:9] = 1.0
    operator = KeyOperator(torch.randn(4, 64, 5).cuda(), torch.rand(4, 5).cuda())
    plan = EditPlan.from_gains(gains, "cuda")
    expected = edit_keys(keys, operator, plan)
    with torch.no_grad():
        assert edit_keys(keys, operator, plan) is keys
    torch.testing.assert_close(keys, expected, rtol=1e-5, atol=1e-5)


def differences(left, right, prompts):
    """Return the largest difference between two models' log probabilities, and steering's own."""
    steered, other = (each.next_token_logprobs(prompts) for each in (left, right))
    plain = left.next_token_logprobs(prompts, gain=0)
    return (steered - other).abs().max().item(), (steered - plain).abs().max().item()


def test_pytorchs_flash_attention_forced_on(tokenizer):
    made = model("sdpa")
    steered = SteeredModel(made, tokenizer, make_bank(made))
    rows = [PROMPT, PROMPT]
    with sdpa_kernel(SDPBackend.MATH):
        expected, plain = (
            steered.next_token_logprobs(rows),
            steered.next_token_logprobs(rows, gain=0),
        )
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error, where it cannot be used
        found = steered.next_token_logprobs(rows)
    assert (found - expected).abs().max() < 0.2
    assert (plain - expected).abs().max() > 1


@pytest.mark.skipif(not FLASH, reason="the package flash-attn is not installed")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_flash_attn_package_gives_what_sdpa_gives(tokenizer, head_dim):
    left, right = (
        SteeredModel(made, tokenizer, make_bank(made))
        for made in (model("sdpa", head_dim), model("flash_attention_2", head_dim))
    )
    shorter = ["Where is ", highlight("Ada Lovelace"), "?"]
    for prompts in ([PROMPT], [PROMPT, shorter]):  # the second is padded
        apart, moved = differences(left, right, prompts)
        assert apart < 0.2
        assert moved > 1
    texts = [
        each.generate(shorter, max_new_tokens=8, do_sample=False).text for each in (left, right)
    ]
    assert texts[0] == texts[1]
