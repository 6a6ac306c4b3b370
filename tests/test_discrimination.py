import pytest
import torch
from conftest import make_model
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.architecture import key_sites
from seka_rag.discrimination import affinity, auc, last_scores, span_attention, turns, visible
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
            turned=turns(observed.rotation, lengths - 1),
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


@pytest.mark.parametrize("size", [4, 6])  # of 6 dimensions, all turn or the first four
def test_scores_are_products_of_the_turned_vectors(size):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 4, 6, generator=generator)
    keys = torch.randn(1, 5, 2, 6, generator=generator)
    angles = torch.rand(1, 5, size // 2, generator=generator) * 3
    last = torch.tensor([3])

    def turned(vector, by):  # every plane is a complex number
        first, second = vector[:size].chunk(2)
        plane = torch.complex(first, second) * torch.polar(torch.ones(size // 2), by)
        return torch.cat([plane.real, plane.imag, vector[size:]])

    rotation = tuple(f(angles).repeat(1, 1, 2) for f in (torch.cos, torch.sin))
    found = last_scores(
        queries, keys, turned=turns(rotation, last), seen=torch.arange(5)[None] <= 3, scaling=0.5
    )
    for head in range(4):
        for t in range(4):
            key = turned(keys[0, t, head // 2], angles[0, t])
            expected = 0.5 * (turned(queries[0, head], angles[0, 3]) @ key)
            torch.testing.assert_close(found[0, head, t], expected)
        assert found[0, head, 4] == -torch.inf


def test_affinity_is_the_same_with_and_without_blind_tokens():
    scores = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    seen = torch.arange(9)[None] < 7
    known = affinity(scores[..., :7], None, 2)
    assert known.mean(1).abs().max() < 1e-6
    assert known.std(1, unbiased=False).sub(1).abs().max() < 1e-4
    blind = scores.masked_fill(~seen.unsqueeze(1), -torch.inf)
    torch.testing.assert_close(
        affinity(blind, seen, 2), torch.cat([known, torch.zeros(1, 2, 2)], dim=1)
    )


NUMBERS = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)


@given(NUMBERS, NUMBERS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(relevant, irrelevant):
    pairs = [(r > i) + 0.5 * (r == i) for r in relevant for i in irrelevant]
    found = auc(torch.tensor(relevant).unsqueeze(1), torch.tensor(irrelevant).unsqueeze(1))
    assert found.item() == pytest.approx(sum(pairs) / len(pairs))
