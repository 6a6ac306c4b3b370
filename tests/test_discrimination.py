import pytest
import torch
from conftest import make_model
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.architecture import key_sites
from seka_rag.discrimination import auc, last_scores, rotate, span_attention, visible
from seka_rag.hooks import observing


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama", "mistral", "qwen2"])
def test_the_share_is_that_of_the_models_own_attention_weights(name):
    model = make_model(name, attn_implementation="eager")
    ids = torch.randint(3, 400, (2, 14), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([14, 11])  # the second row is padded on the right
    mask = (torch.arange(14) < lengths.unsqueeze(1)).long()
    span = torch.zeros(2, 14, dtype=torch.bool)
    span[0, 7:10] = span[1, 4:6] = True
    shares = {}

    def look(site, observed):
        scores = last_scores(
            observed.queries[torch.arange(2), lengths - 1],
            observed.keys,
            rotation=observed.rotation,
            last=lengths - 1,
            seen=visible(14, torch.zeros(2), lengths - 1, window=site.window),
            scaling=site.scaling,
        )
        shares[site.layer] = span_attention(scores, span.unsqueeze(1).float())

    with observing(key_sites(model), look):
        output = model(ids, attention_mask=mask, output_attentions=True)
    for layer, weights in enumerate(output.attentions):
        for row in range(2):
            looks = weights[row, :, lengths[row] - 1]  # (query heads, T)
            expected = (looks * span[row]).sum(-1, keepdim=True)
            torch.testing.assert_close(shares[layer][row], expected, atol=1e-5, rtol=1e-4)
        # A share that is the same whatever the layer would tell nothing.
        assert shares[layer].std() > 1e-4


def test_a_rotation_keeps_lengths_and_turns_by_the_angle():
    angles = torch.tensor([0.3, 1.1])
    cos, sin = (f(angles).repeat(2) for f in (torch.cos, torch.sin))
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 2.0, 5.0]), cos, sin)
    a, b = angles
    expected = torch.stack([a.cos(), -2 * b.sin(), a.sin(), 2 * b.cos(), torch.tensor(5.0)])
    torch.testing.assert_close(turned, expected)


NUMBERS = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)


@given(NUMBERS, NUMBERS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(relevant, irrelevant):
    pairs = [(r > i) + 0.5 * (r == i) for r in relevant for i in irrelevant]
    found = auc(torch.tensor(relevant).unsqueeze(1), torch.tensor(irrelevant).unsqueeze(1))
    assert found.item() == pytest.approx(sum(pairs) / len(pairs))
