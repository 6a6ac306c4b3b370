"""What the last token attends to, against the attentions of an eager model."""

import json
from dataclasses import dataclass

import oracle
import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_routing import gated

from seka_rag.architecture import KeySite, key_sites
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.looking import last_attention, look, token_texts
from seka_rag.evaluation.methods import Steered
from seka_rag.evaluation.reading import spans_of
from seka_rag.evaluation.results import Result, Sample, _sample
from seka_rag.evaluation.task import Ask
from seka_rag.experts import Experts, Routing
from seka_rag.forward import edited
from seka_rag.highlight import flatten, highlight
from seka_rag.inputs import pad
from seka_rag.steering import SteeredModel

PROMPT = ("Passages: The capital of ", highlight("France is Paris."), " Where was Ada born? ")
CHAT = [
    {"role": "system", "content": "The capital of France is Paris."},
    {"role": "user", "content": ["Passages: ", highlight("Ada Löwe 🙂 <|im_end|>"), " Where?"]},
]
ASK = Ask(PROMPT, choices=("Paris", "Rome"), whole=True, max_new_tokens=6)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, tokenizer):
    """The same model twice, as it is used and with attentions that can be read."""
    return tuple(
        SteeredModel(model, tokenizer, make_bank(model))
        for model in (make_model(request.param), make_model(request.param, "eager"))
    )


def attentions(model, ids):
    """Return what an eager model's last token attends to, the mean over layers and heads: (T,)."""
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return torch.stack([each[0, :, -1] for each in found]).mean((0, 1))


def looked(model, ask=ASK, names=("none", "seka")):
    methods = {name: parse(name) for name in names}
    return look(
        model, {n: (m, m.prepare(model, seed=0)) for n, m in methods.items()}, "example", ask
    )


@pytest.mark.parametrize("gain", [0.0, None, -2.0])
def test_shares_are_those_of_an_eager_model(pair, gain):
    sdpa, eager = pair
    row = sdpa.read(PROMPT, gain=gain)
    assert len(row.ids) > 16  # windows are of 8 tokens
    found = last_attention(sdpa, row)
    with oracle.editing(eager.model, sdpa._edit.operators, [row.gains]):
        expected = attentions(eager.model, row.ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
    if gain != 0.0:
        assert not torch.allclose(found, last_attention(sdpa, sdpa.read(PROMPT, gain=0.0)))


@pytest.mark.parametrize("mode", ["inline", "two_pass"])
@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_a_routed_edit_is_seen_as_it_is_made(name, mode, tokenizer):
    sdpa, eager = (
        SteeredModel(
            model,
            tokenizer,
            Experts({"one": gated(make_bank(model), 1), "two": gated(make_bank(model), 2)}),
            routing=Routing(mode=mode),
        )
        for model in (make_model(name), make_model(name, "eager"))
    )
    row = sdpa.read(PROMPT)
    batch = pad([row], pad_id=0, device=eager.model.device)
    router = eager._two_pass(eager._edit, batch) if mode == "two_pass" else None
    with edited(eager.sites, eager._edit, batch, router=router):
        expected = attentions(eager.model, row.ids)
    torch.testing.assert_close(last_attention(sdpa, row), expected, atol=1e-5, rtol=1e-4)


def test_a_sample_holds_the_prompt_what_is_attended_to_and_what_is_written(pair):
    model, _ = pair
    sample = looked(model)
    assert sample.example == "example"
    assert "".join(sample.tokens) == flatten(PROMPT)[0]
    shown = [text for text, on in zip(sample.tokens, sample.highlighted, strict=True) if on]
    assert "France is Paris." in "".join(shown)
    assert len("".join(shown)) < len("France is Paris.") + 8  # tokens at its ends reach over them
    for name, gain in (("none", 0.0), ("seka", None)):
        seen = sample.looks[name]
        expected = last_attention(model, model.read(PROMPT, gain=gain))
        assert seen.attention == pytest.approx(expected.tolist(), abs=1e-6)
        on = [share for share, it in zip(seen.attention, sample.highlighted, strict=True) if it]
        assert seen.mass == pytest.approx(sum(on), abs=1e-4)
        assert 0 < seen.mass < 1
        written = model.generate(PROMPT, gain=gain, max_new_tokens=6, do_sample=False)
        assert seen.answer == written.text
    assert sample.looks["none"].answer != sample.looks["seka"].answer


def test_answers_are_short_whatever_the_task_wants(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    sample = looked(model, Ask(PROMPT, max_new_tokens=100))
    written = model.generate(PROMPT, gain=0.0, max_new_tokens=48, do_sample=False)
    assert sample.looks["none"].answer == written.text


def test_other_tokens_leave_only_the_answer(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    last = ("The capital of ", highlight("France is Paris."))
    sample = looked(model, Ask(PROMPT, last=last), ("marks", "reorder", "none"))
    for name in ("marks", "reorder"):
        assert (sample.looks[name].attention, sample.looks[name].mass) == (None, None)
    assert sample.looks["none"].attention is not None


def test_rivals_that_read_in_a_way_of_their_own_leave_only_the_answer(qwen3, tokenizer):
    @dataclass(frozen=True)
    class Biased(Steered):
        pass

    model = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    plain = parse("none")
    sample = look(model, {"bias": (plain, Biased(model, 0.0))}, "example", ASK)
    assert sample.looks["bias"].attention is None
    assert sample.looks["bias"].mass is None


def test_no_bank_is_needed_to_look_at_the_plain_model(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, None)
    sample = looked(model, names=("none",))
    assert any(sample.highlighted)
    assert sample.looks["none"].mass > 0


def test_queries_that_cannot_be_seen_leave_only_the_answer(qwen3, tokenizer):
    sites = [
        KeySite(site.module, site.layer, site.n_kv_heads, site.head_dim, site.layout)
        for site in key_sites(qwen3)
    ]
    model = SteeredModel(qwen3, tokenizer, None, sites=sites)
    assert last_attention(model, model.read(PROMPT, gain=0.0)) is None
    assert looked(model, names=("none",)).looks["none"].attention is None


def test_no_hook_is_left(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    looked(model)
    assert not any(module._forward_hooks for module in qwen3.modules())
    assert not any(module._forward_pre_hooks for module in qwen3.modules())


def test_a_sample_survives_being_saved(qwen3, tokenizer, tmp_path):
    model = SteeredModel(qwen3, tokenizer, make_bank(qwen3))
    sample = looked(model, Ask(CHAT), ("none", "marks"))
    result = Result("looks", {}, {}, (), (sample,))
    result.save(tmp_path / "result.json")
    assert "NaN" not in (tmp_path / "result.json").read_text()
    assert Result.load(tmp_path / "result.json").samples == (sample,)
    assert isinstance(_sample(json.loads(json.dumps(result.to_dict()))["samples"][0]), Sample)


def test_characters_in_pieces_belong_to_their_first_token(qwen3, tokenizer):
    model = SteeredModel(qwen3, tokenizer, None)
    (row,) = spans_of(model, [CHAT])
    texts = token_texts(tokenizer, row)
    assert len(texts) == len(row.ids)
    assert "".join(texts) == row.rendered.text
    smile = texts.index("🙂")
    assert texts[smile + 1] == ""


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=60, deadline=None)
def test_tokens_are_the_prompt(qwen3, tokenizer, text):
    model = SteeredModel(qwen3, tokenizer, None)
    for row in spans_of(model, [[text], [{"role": "user", "content": text}]]):
        texts = token_texts(tokenizer, row)
        assert len(texts) == len(row.ids)
        assert "".join(texts) == row.rendered.text
