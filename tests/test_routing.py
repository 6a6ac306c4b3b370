import math

import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.bank import Bank
from seka_rag.discrimination import affinity, last_scores, turns, visible
from seka_rag.experts import Experts, Routing
from seka_rag.forward import edited
from seka_rag.highlight import highlight
from seka_rag.hooks import observing, recording
from seka_rag.routing import Gate, Route, alignment, evidence, focused, shares
from seka_rag.steering import SteeredModel

PROMPT = (
    "Notes. ",
    highlight("The ferry leaves at noon."),
    " ",
    highlight("Answer in French.", kind="instruction"),
    " When does it leave? ",
)
LONGER = ("Well, well, well, well, and once more well. ", *PROMPT)


def gated(bank, seed):
    """Return the bank with random weights, gates and focus."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    weights = {layer: 0.5 * draw(*f.spectrum.shape) for layer, f in bank.layers.items()}
    gates = {layer: (draw(4, 2), draw(1), draw(2, 2)) for layer in bank.layers}
    return bank.weighed(weights, gates, examples=1)


def three(model):
    """Return two gated experts for passages and one without a gate for instructions."""
    bank = make_bank(model)
    return Experts(
        {
            "one": gated(bank, 1),
            "other": gated(bank, 2),
            "orders": make_bank(model, heads="only:0.0,1.0,1.1,2.1", kind="instruction"),
        }
    )


def steered_of(name, tokenizer, **routing):
    model = make_model(name)
    return SteeredModel(model, tokenizer, three(model), routing=Routing(**routing))


def route_of(directions, spectrum, edited=None):
    heads, experts = spectrum.shape[:2]
    edited = torch.ones(heads, experts, dtype=torch.bool) if edited is None else edited
    return Route.of(directions, spectrum, edited, None)


class TestPureFunctions:
    def test_alignment_is_the_sum_of_the_definition(self):
        generator = torch.Generator().manual_seed(0)
        queries = torch.randn(2, 4, 8, generator=generator)  # two query heads a KV head
        directions = torch.randn(2, 3, 8, 5, generator=generator)
        spectrum = torch.rand(2, 3, 5, generator=generator)
        route = route_of(directions, spectrum)
        for score, power in (("signed", 1), ("energy", 2)):
            found = alignment(queries, route, score)
            for row in range(2):
                for head in range(2):
                    q = queries[row, 2 * head : 2 * head + 2].mean(0)
                    for expert in range(3):
                        terms = (
                            (q @ directions[head, expert, :, k]).item() ** power
                            * spectrum[head, expert, k].item()
                            for k in range(5)
                        )
                        assert found[row, head, expert].item() == pytest.approx(
                            sum(terms), abs=1e-4
                        )

    @given(
        st.lists(st.floats(-5, 5).map(lambda a: round(a, 4)), min_size=3, max_size=3),
        st.lists(st.booleans(), min_size=3, max_size=3),
        st.lists(st.booleans(), min_size=3, max_size=3),
        st.sampled_from(["signed", "energy"]),
    )
    def test_coefficients_are_shares_among_those_who_may(self, aligned, allowed, edited, score):
        if score == "energy":
            aligned = [abs(a) for a in aligned]
        usable = torch.tensor(allowed) & torch.tensor(edited)
        found = shares(torch.tensor(aligned), usable, score)
        usable = usable.tolist()
        if sum(usable) == 1 and score == "signed":
            assert found.tolist() == [float(u) for u in usable]
            return
        values = [a if u else 0.0 for a, u in zip(aligned, usable, strict=True)]
        sizes = [abs(v) for v in values]
        whole = max(sizes) if score == "signed" else sum(sizes)
        expected = [v / whole if whole else 0.0 for v in values]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)

    def test_evidence_and_focus_are_those_of_their_definitions(self):
        attention = torch.tensor([[[0.2, 0.0], [0.7, 0.1]]])  # one row, 2 query heads, 2 spans
        gate = Gate(
            torch.tensor([[1.0], [2.0], [5.0], [0.0]]),
            torch.tensor([0.0]),
            torch.tensor([[[3.0, -1.0]]]),
        )
        found = evidence(attention, gate)[0, :, 0].tolist()
        expected = [
            0.2 + math.log(0.201) + 2 * 0.7,
            0.0 + math.log(0.001) + 2 * 0.1,
        ]
        assert found == pytest.approx(expected, abs=1e-5)
        weights = focused(torch.tensor([[0.0], [0.5]]), gate)[:, 0, 0].tolist()
        assert weights == pytest.approx([2 / (1 + math.e), 2 / (1 + math.exp(-0.5))])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["inline", "two_pass"])
def test_a_row_is_the_same_alone_and_in_a_batch(name, mode, tokenizer):
    steered = steered_of(name, tokenizer, mode=mode)
    alone = steered.next_token_logprobs([PROMPT], gain=1.0)[0]
    batch = steered.next_token_logprobs([LONGER, PROMPT, ("plain ",)], gain=1.0)
    torch.testing.assert_close(batch[1], alone, atol=1e-5, rtol=1e-5)
    plain = steered.next_token_logprobs([PROMPT], gain=0.0)[0]
    assert (alone - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("score", ["energy", "signed"])
def test_two_passes_route_as_the_paper_says(name, score, tokenizer):
    """The coefficients are those of the plain prompt's last queries, computed head by head."""
    steered = steered_of(name, tokenizer, mode="two_pass", score=score, abstain=False)
    seen = {}

    def look(site, observed):
        seen[site.layer] = observed.queries[0, -1]

    with observing(steered.sites, look):
        steered.next_token_logprobs([PROMPT], gain=0.0)
    passage, order = steered.explain(PROMPT)
    assert passage.experts == ("one", "other", "orders")
    for place, layer in enumerate(passage.layers):
        for head in range(2):
            q = seen[layer][2 * head : 2 * head + 2].mean(0)
            q = q / q.norm()
            aligned = []
            for name_of in ("one", "other"):
                found = steered.bank.banks[name_of].layers[layer]
                along = found.basis[head, :, :2].T @ q
                along = along**2 if score == "energy" else along
                aligned.append((along * found.spectrum[head, :2]).sum().item())
            whole = sum(aligned) if score == "energy" else max(map(abs, aligned))
            expected = [a / whole for a in aligned] + [0.0]
            assert passage.coefficients[place, head].tolist() == pytest.approx(expected, abs=1e-4)
            kept = (layer, head) in ((0, 0), (1, 0), (1, 1), (2, 1))
            assert order.coefficients[place, head].tolist() == [0.0, 0.0, float(kept)]
    assert passage.gates.eq(1).all()


def test_inline_and_two_passes_agree_where_nothing_was_edited_before(tokenizer):
    """The first layer's queries and keys are those of the plain prompt in both."""
    first, second = (
        steered_of("qwen3", tokenizer, mode=mode).explain(PROMPT) for mode in ("inline", "two_pass")
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.coefficients[0], other.coefficients[0])
        torch.testing.assert_close(one.gates[0], other.gates[0])
        assert not torch.allclose(first[0].gates[2], second[0].gates[2], atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma3"])
def test_the_edit_is_the_sum_over_experts_gates_and_focus(name, tokenizer):
    """Keys of the first layer, against a loop over tokens, heads and experts."""
    steered = steered_of(name, tokenizer)
    row = steered.read(PROMPT, gain=1.5)
    passage, order = steered.explain(PROMPT, gain=1.5)
    plain, affinities = {}, {}
    batch = steered._pad([row])

    last = torch.tensor([len(row.ids) - 1])

    def look(site, observed):
        plain[site.layer] = observed.keys[0]
        seen = visible(len(row.ids), torch.zeros(1), last, window=site.window)
        scores = last_scores(
            observed.queries[:, -1],
            observed.keys,
            turned=turns(observed.rotation, last),
            seen=seen,
            scaling=site.scaling,
        )
        affinities[site.layer] = affinity(scores, seen, site.n_kv_heads)[0]

    with torch.no_grad():
        with observing(steered.sites[:1], look):
            steered.next_token_logprobs([PROMPT], gain=0.0)
        # The recorder's hooks come after the editor's: it sees the keys as they were edited.
        with edited(steered.sites, steered._edit, batch), recording(steered.sites) as keys:
            steered.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    layer = steered.sites[0].layer
    for t, (gain, owner) in enumerate(zip(row.gains, row.owners, strict=True)):
        for head in range(2):
            k = plain[layer][t, head]
            expected = k.clone()
            if gain:
                span = (passage, order)[owner]
                for m, bank in enumerate(steered.bank.banks.values()):
                    found = bank.layers[layer]
                    weights = found.weights if found.weights is not None else torch.zeros(2, 8)
                    if found.weights is None:
                        weights[:, :2] = 1.0
                    projection = found.basis[head] @ weights[head].diag() @ found.basis[head].T
                    factor = span.coefficients[0, head, m]
                    if found.focus is not None:
                        slope, constant = found.focus[head]
                        factor = (
                            factor * 2 * (affinities[layer][t, head] * slope + constant).sigmoid()
                        )
                    expected = expected + gain * factor * (projection @ k)
            torch.testing.assert_close(keys[layer][0, t, head], expected, atol=1e-4, rtol=1e-4)


def test_gates_are_between_nothing_and_all_and_abstaining_can_be_left_out(tokenizer):
    passage, order = steered_of("qwen3", tokenizer).explain(PROMPT)
    assert ((passage.gates[:, :2] > 0) & (passage.gates[:, :2] < 1)).all()
    assert order.gates[:, 2].eq(1).all()  # an expert without a gate
    for span in steered_of("qwen3", tokenizer, abstain=False).explain(PROMPT):
        assert span.gates.eq(1).all()


def test_a_gate_that_is_shut_leaves_the_prompt_as_it_was(tokenizer):
    model = make_model("qwen3")
    bank = gated(make_bank(model), 1)
    shut = {
        layer: (torch.zeros(4, 2), torch.tensor([-200.0]), torch.zeros(2, 2))
        for layer in bank.layers
    }
    weights = {layer: found.weights for layer, found in bank.layers.items()}
    steered = SteeredModel(model, tokenizer, bank.weighed(weights, shut, examples=1))
    plain = steered.next_token_logprobs([PROMPT], gain=0.0)
    assert torch.equal(steered.next_token_logprobs([PROMPT], gain=5.0), plain)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 2, "num_beams": 2}])
def test_beams_are_routed_as_their_prompt(options, tokenizer):
    steered = steered_of("qwen3", tokenizer)
    found = steered.generate(PROMPT, gain=1.0, max_new_tokens=3, do_sample=False, **options)
    first, second = found.explain(), steered.explain(PROMPT, gain=1.0)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.coefficients, other.coefficients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_chunked_prefill_takes_two_passes_by_itself(name, tokenizer):
    inline, two_pass = (steered_of(name, tokenizer, mode=mode) for mode in ("inline", "two_pass"))
    settings = {"gain": 1.0, "max_new_tokens": 6, "do_sample": False}
    whole = two_pass.generate(PROMPT, **settings)
    chunked = inline.generate(PROMPT, prefill_chunk_size=7, **settings)
    assert chunked.token_ids == whole.token_ids
    for one, other in zip(chunked.explain(), whole.explain(), strict=True):
        torch.testing.assert_close(one.coefficients, other.coefficients)


def test_a_continuation_is_routed_from_where_the_prompt_ends(tokenizer):
    steered = steered_of("qwen3", tokenizer)
    [first, second] = steered.score(PROMPT, ["a", "ab c d"], gain=1.0, first_token_only=True)
    whole = steered.next_token_logprobs([PROMPT], gain=1.0)[0]
    [one, other] = (
        steered.tokenizer(text, add_special_tokens=False)["input_ids"][0]
        for text in ("a", "ab c d")
    )
    assert [first, second] == pytest.approx([whole[one].item(), whole[other].item()], abs=1e-5)
    [long] = steered.score(PROMPT, ["ab c d"], gain=1.0)
    assert long <= second


def test_one_gated_bank_is_an_expert_for_every_kind(tokenizer, tmp_path):
    model = make_model("qwen3")
    bank = gated(make_bank(model), 1)
    back = Bank.from_pretrained(bank.save_pretrained(tmp_path))
    one, other = (SteeredModel(model, tokenizer, each) for each in (bank, back))
    assert torch.equal(*(each.next_token_logprobs([PROMPT], gain=1.0) for each in (one, other)))
    spans = one.explain(PROMPT)
    assert [span.kind for span in spans] == ["passage", "instruction"]
    assert all(span.experts == ("default",) and span.gates.lt(1).all() for span in spans)
