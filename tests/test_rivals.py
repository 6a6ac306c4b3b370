"""PASTA, SpotLight, SPA and CAD against their formulas, and how answers are read under a method."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from conftest import make_bank, make_model

from seka_rag.builtin import builtin_examples
from seka_rag.errors import DataError, UnsteerableError
from seka_rag.evaluation import attention_bias, pasta, spotlight
from seka_rag.evaluation.answering import answers
from seka_rag.evaluation.cad import Cad, without
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.methods import EditedKeys
from seka_rag.evaluation.pasta import Head, Pasta, heads_of, profile
from seka_rag.evaluation.reading import CachedReading, spans_of
from seka_rag.evaluation.spa import Spa
from seka_rag.evaluation.spotlight import Spotlight, raising
from seka_rag.evaluation.task import Ask
from seka_rag.highlight import highlight
from seka_rag.inputs import continuation_ids
from seka_rag.steering import SteeredModel

PROMPTS = [
    ("The capital of France is ", highlight("Lovelace"), ". Question: Where was Ada born?"),
    ("Passages: ", highlight("Paris is born"), " France ", highlight("born", gain=-2.0), " Ada:"),
    "The capital of Paris is France. Where?",
    (highlight("Question:"), " Where was Ada Lovelace born?"),
]
NONE = [PROMPTS[2], "Where was Ada born? The"]
TOKENS = [[40, 52, 61], [33, 70, 45], [90, 34, 38], [57, 57, 120]]
RIVALS = {
    "pasta": Pasta.of(0.05, "all"),
    "spotlight": Spotlight.of(0.4, None),
    "spotlight:paper": Spotlight.of(0.4, "paper"),
    "spa": Spa.of(2.5, None),
    "cad": Cad.of(1.5, None),
}
NEUTRAL = {
    "pasta": Pasta.of(1.0, "all"),
    "spotlight": Spotlight.of(1e-30, None),
    "spotlight:paper": Spotlight.of(1e-30, "paper"),
    "spa": Spa.of(1.0, None),
    "cad": Cad.of(0.0, None),
}


@pytest.fixture(scope="module")
def steered(model, tokenizer):
    return SteeredModel(model, tokenizer, None)


def read(steered, method, prompts, tokens=()):
    """The log probabilities after the prompts, and after each of the tokens they go on with."""
    prepared = method.prepare(steered, seed=0)
    reading = prepared.reading(prepared.rows(prompts))
    found = [reading.read()]
    found += [reading.step([row[i] for row in tokens]) for i in range(len(tokens and tokens[0]))]
    return torch.stack(found).log_softmax(-1)


def plain(steered, prompts, tokens=()):
    return read(steered, parse("none"), prompts, tokens)


def state(model):
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    entries = dict(spotlight.ALL_ATTENTION_FUNCTIONS._local_mapping)
    return hooks, entries, model.config.to_dict(), model.config._attn_implementation


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_strength_that_does_nothing_is_the_plain_model(steered, name):
    expected = plain(steered, PROMPTS, TOKENS)
    torch.testing.assert_close(
        read(steered, NEUTRAL[name], PROMPTS, TOKENS), expected, atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("name", RIVALS)
def test_a_strength_that_does_something_changes_the_highlighted_rows_alone(steered, name):
    expected = plain(steered, PROMPTS, TOKENS)
    found = read(steered, RIVALS[name], PROMPTS, TOKENS)
    change = (found - expected).abs().amax((0, 2))
    assert all(change[[0, 1]] > 0.05)
    assert change[2] < 1e-4
    if name in ("spa", "cad"):
        assert change[2] == 0


@pytest.mark.parametrize("name", RIVALS)
def test_without_highlights_nothing_differs_by_a_bit(steered, name):
    assert torch.equal(
        read(steered, RIVALS[name], NONE, TOKENS[:2]), plain(steered, NONE, TOKENS[:2])
    )


@pytest.mark.parametrize("name", RIVALS)
def test_a_batch_says_what_each_of_its_rows_says_alone(steered, name):
    together = read(steered, RIVALS[name], PROMPTS, TOKENS)
    for i, prompt in enumerate(PROMPTS):
        alone = read(steered, RIVALS[name], [prompt], [TOKENS[i]])
        torch.testing.assert_close(together[:, i : i + 1], alone, atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_going_on_is_reading_the_longer_prompt(steered, name):
    stepped = read(steered, RIVALS[name], PROMPTS, TOKENS)
    prepared = RIVALS[name].prepare(steered, seed=0)
    rows = prepared.rows(PROMPTS)
    for n in range(1, 4):
        longer = [row.followed_by(more[:n]) for row, more in zip(rows, TOKENS, strict=True)]
        at_once = prepared.reading(longer).read().log_softmax(-1)
        torch.testing.assert_close(stepped[n], at_once, atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_the_model_is_as_it_was_also_after_an_exception(steered, name):
    before = state(steered.model)
    read(steered, RIVALS[name], PROMPTS, TOKENS)
    assert state(steered.model) == before
    prepared = RIVALS[name].prepare(steered, seed=0)
    reading = prepared.reading(prepared.rows(PROMPTS))
    mlp = steered.model.model.layers[1].mlp
    handle = mlp.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            reading.read()
    finally:
        handle.remove()
    assert state(steered.model) == before


@pytest.fixture(scope="module")
def eager(model, tokenizer):
    """The same model, which tells its attention."""
    name = model.config.model_type.removesuffix("_text")
    return SteeredModel(make_model(name, "eager"), tokenizer, None)


def first_layer(steered, prompts, around):
    """Attention (B, Q, T, S), values and what the heads of layer 0 make of them (B, T, Q, D)."""
    attention = steered.sites[0].attention
    seen = {}
    handles = [
        attention.register_forward_hook(lambda m, i, o: seen.update(weights=o[1])),
        attention.v_proj.register_forward_hook(lambda m, i, o: seen.update(values=o)),
        attention.o_proj.register_forward_pre_hook(lambda m, i: seen.update(outputs=i[0])),
    ]
    try:
        CachedReading(
            steered, [row.scaled(0.0) for row in spans_of(steered, prompts)], around
        ).read()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def padding(steered, prompts):
    rows = spans_of(steered, prompts)
    longest = max(len(row.ids) for row in rows)
    return torch.tensor([[i >= longest - len(row.ids) for i in range(longest)] for row in rows])


def test_pasta_scales_the_attention_of_its_heads(eager):
    columns = attention_bias.highlighted(spans_of(eager, PROMPTS), eager.model.device)
    chosen = [Head(0, 1), Head(0, 2), Head(2, 0)]
    before = first_layer(eager, PROMPTS, nullcontext)["weights"]
    after = first_layer(
        eager,
        PROMPTS,
        partial(pasta.steering, eager, columns, heads=chosen, alpha=0.01),
    )["weights"]
    scaled = torch.where(columns[:, None, None], before, 0.01 * before)
    scaled = scaled / scaled.sum(-1, keepdim=True)
    expected = before.clone()
    expected[:, [1, 2]] = scaled[:, [1, 2]]
    expected[2] = before[2]  # nothing is highlighted
    real = padding(eager, PROMPTS)
    for i, rows in enumerate(real):
        torch.testing.assert_close(after[i][:, rows], expected[i][:, rows], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("published", [False, True])
def test_spotlight_gives_the_span_its_share_in_every_head_and_query(steered, eager, published):
    target = 0.3
    columns = attention_bias.highlighted(spans_of(steered, PROMPTS), steered.model.device)
    before = first_layer(eager, PROMPTS, nullcontext)
    bias = partial(raising, target=target, published=published)
    after = first_layer(steered, PROMPTS, partial(spotlight.steering, steered, columns, bias))
    weights = before["weights"]
    span = columns[:, None, None].expand_as(weights)
    share = (weights * span).sum(-1, keepdim=True)
    factor = target / share if published else target * (1 - share) / (share * (1 - target))
    raised = torch.where(span & (share > 0) & (share < target), weights * factor, weights)
    raised = raised / raised.sum(-1, keepdim=True)
    site = steered.sites[0]
    values = before["values"].unflatten(-1, (site.n_kv_heads, -1)).transpose(1, 2)
    values = values.repeat_interleave(site.n_query_heads // site.n_kv_heads, dim=1)
    expected = (raised @ values).transpose(1, 2).flatten(2)
    real = padding(steered, PROMPTS)
    torch.testing.assert_close(after["outputs"][real], expected[real], atol=1e-4, rtol=1e-3)
    low = ((share > 0) & (share < target))[:, :, :, 0] & real[:, None]
    assert low.any()
    if not published:
        shares = (raised * span).sum(-1)
        torch.testing.assert_close(shares[low], torch.full_like(shares[low], target))


def test_the_share_is_exact_where_it_was_below_and_untouched_elsewhere():
    torch.manual_seed(0)
    logits = 6 * torch.randn(3, 4, 5, 9)
    logits[:, :, 0, 3:] = torch.finfo(logits.dtype).min  # sees nothing of the span
    logits[:, :, 1, :3] = torch.finfo(logits.dtype).min
    logits[:, :, 1, 6:] = torch.finfo(logits.dtype).min  # sees nothing else
    span = torch.zeros(3, 1, 1, 9, dtype=torch.bool)
    span[..., 3:6] = True
    for target in (1e-6, 0.2, 0.9):
        bias = raising(logits, span, target=target)
        new = (logits + bias * span).softmax(-1)
        old = logits.softmax(-1)
        share, was = ((part * span).sum(-1) for part in (new, old))
        below = was < target
        below[:, :, 0] = False
        assert torch.allclose(share[below], torch.tensor(target), rtol=1e-4)
        assert torch.equal(new[~below], old[~below])
        assert below.any()
        published = raising(logits, span, target=target, published=True)
        share = ((logits + published * span).softmax(-1) * span).sum(-1)
        expected = target / (1 + target - was)
        assert torch.allclose(share[below], expected[below], rtol=1e-4)
        assert not published.squeeze(-1)[~below].any()


def test_many_queries_are_computed_in_parts(steered, monkeypatch):
    whole = read(steered, RIVALS["spotlight"], PROMPTS)
    monkeypatch.setattr(spotlight, "_QUERIES", 4)
    torch.testing.assert_close(
        read(steered, RIVALS["spotlight"], PROMPTS), whole, atol=1e-4, rtol=0
    )


def test_spa_is_the_contrast_with_a_prompt_whose_span_nobody_sees(eager, steered):
    omega = 2.5
    for prompt in PROMPTS[:2]:
        (row,) = spans_of(eager, [prompt])
        mask = torch.tensor([[gain == 0 for gain in row.gains]]).long()
        ids, positions = torch.tensor([row.ids]), torch.arange(len(row.ids))[None]
        full = eager.model(input_ids=ids, position_ids=positions).logits[:, -1]
        masked = eager.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        expected = omega * full + (1 - omega) * masked[:, -1]
        found = read(steered, Spa.of(omega, None), [prompt])[0]
        torch.testing.assert_close(found, expected.log_softmax(-1), atol=5e-4, rtol=0)


def test_cad_is_the_contrast_with_the_prompt_without_its_highlights(steered):
    alpha = 1.5
    for prompt in PROMPTS[:2]:
        (row,) = spans_of(steered, [prompt])
        bare = [i for i, gain in zip(row.ids, row.gains, strict=True) if gain == 0]
        full, rest = (
            steered.model(input_ids=torch.tensor([ids])).logits[:, -1] for ids in (row.ids, bare)
        )
        expected = ((1 + alpha) * full - alpha * rest).log_softmax(-1)
        torch.testing.assert_close(
            read(steered, Cad.of(alpha, None), [prompt])[0], expected, atol=5e-4, rtol=0
        )
        assert without(row).ids == bare
        assert without(row).prompt_tokens == len(bare)


@pytest.mark.parametrize("method", [Spa(), Cad()])
def test_a_prompt_that_is_highlighted_as_a_whole_is_refused(qwen3, tokenizer, method):
    with pytest.raises(DataError, match="nothing left to read"):
        read(SteeredModel(qwen3, tokenizer, None), method, [(highlight("Where was Ada"),)])


@pytest.mark.parametrize(
    ("rival", "strength", "detail"),
    [
        (Pasta, 0.0, None),
        (Pasta, 1.5, None),
        (Pasta, math.nan, None),
        (Pasta, None, "some"),
        (Pasta, None, "top:"),
        (Pasta, None, "top:0"),
        (Pasta, None, "top:-1"),
        (Pasta, None, "all:3"),
        (Spotlight, 0.0, None),
        (Spotlight, 1.0, None),
        (Spotlight, math.nan, None),
        (Spotlight, None, "all"),
        (Spa, -1.0, None),
        (Spa, math.inf, None),
        (Spa, None, "all"),
        (Cad, -0.5, None),
        (Cad, math.nan, None),
        (Cad, None, "all"),
    ],
)
def test_says_what_is_wrong_with_a_strength_or_a_detail(rival, strength, detail):
    with pytest.raises(DataError, match=rival.__name__.lower()):
        rival.of(strength, detail)


def test_defaults_are_those_of_the_papers():
    assert Pasta.of(None, None) == Pasta(0.01, None, False)
    assert Pasta.of(None, "top:5") == Pasta(0.01, 5, False)
    assert Spotlight.of(None, "paper") == Spotlight(0.2, True)
    assert Spa.of(None, None) == Spa(1.4)
    assert Cad.of(None, None) == Cad(0.5)


def test_attention_that_takes_no_bias_is_refused(tokenizer):
    steered = SteeredModel(make_model("qwen3", "eager"), tokenizer, None)
    with pytest.raises(UnsteerableError, match="attn_implementation='sdpa'"):
        Spotlight().prepare(steered, seed=0)
    steered.model.config._attn_implementation = "flash_attention_2"
    for method in (Pasta(every=True), Spotlight(), Spa()):
        with pytest.raises(UnsteerableError, match="flash_attention_2"):
            method.prepare(steered, seed=0)


def test_a_layer_that_is_passed_by_is_an_error(qwen3, tokenizer):
    steered = SteeredModel(qwen3, tokenizer, None)
    (row,) = spans_of(steered, PROMPTS[:1])
    columns = attention_bias.highlighted([row], qwen3.device)
    bias = partial(raising, target=0.5)
    for around in (
        pasta.steering(steered, columns, heads=heads_of(steered), alpha=0.5),
        spotlight.steering(steered, columns, bias),
    ):
        with pytest.raises(UnsteerableError, match="passed by"), around:
            pass


def test_another_model_goes_on_as_it_is_while_one_is_under_spotlight(qwen3, tokenizer):
    steered = SteeredModel(qwen3, tokenizer, None)
    other = make_model("qwen3", seed=8)
    ids = torch.tensor([spans_of(steered, PROMPTS[:1])[0].ids])
    expected = other(input_ids=ids).logits
    columns = attention_bias.highlighted(spans_of(steered, PROMPTS[:1]), qwen3.device)
    with spotlight.steering(steered, columns, partial(raising, target=0.5)):
        steered.model(input_ids=ids)
        assert torch.equal(other(input_ids=ids).logits, expected)


@pytest.fixture
def tiny(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, None)


def test_the_profile_ranks_heads_by_what_steering_each_alone_does(tiny, tokenizer):
    examples = builtin_examples(tokenizer, n=6, seed=1)
    ranked = profile(tiny, examples, k=12)
    assert sorted(ranked) == sorted(heads_of(tiny))
    helped = []
    for head in ranked[::5]:
        margins = []
        for example in (each for each in examples if each.related):
            rows = spans_of(tiny, [example.prompt])
            reading = pasta.reading(tiny, rows, heads=[head], alpha=0.01)
            margins.append(_margin(tiny, reading, rows[0], example))
        helped.append(sum(margins))
    assert helped == pytest.approx(sorted(helped, reverse=True), abs=1e-3)
    assert helped[0] > helped[-1] + 0.1


def test_the_profile_is_made_once_for_a_model_and_a_seed(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(pasta, "builtin_examples", lambda *_, **named: [named["seed"]])
    monkeypatch.setattr(
        pasta, "profile", lambda *given, **named: calls.append((given[1], named)) or ()
    )
    method = Pasta(0.02)
    for seed in (3, 3, 4):
        method.prepare(tiny, seed=seed)
    assert calls == [([3], {"k": 1, "alpha": 0.02}), ([4], {"k": 1, "alpha": 0.02})]
    Pasta(0.02, every=True).prepare(tiny, seed=3)
    assert len(calls) == 2


def test_more_heads_than_there_are_is_an_error(tiny):
    with pytest.raises(DataError, match="the 12 there are"):
        Pasta(top=13).prepare(tiny, seed=0)


def _margin(steered, reading, row, example):
    """log P(wanted) - log P(rival) where they part, read token by token."""
    wanted, rival = (
        continuation_ids(steered.tokenizer, row, text) for text in (example.wanted, example.rival)
    )
    logits = reading.read()
    for first, second in zip(wanted, rival, strict=False):
        if first != second:
            return (logits[0, first] - logits[0, second]).item()
        logits = reading.step([first])
    raise AssertionError


ASKS = [
    Ask(PROMPTS[0], (" Paris", " France", " born")),
    Ask(PROMPTS[1], (" Ada Lovelace", " France is"), whole=True),
    Ask(PROMPTS[0], (" Where was Ada born?", " is"), whole=True),
    *(Ask(prompt, max_new_tokens=n) for prompt, n in zip(PROMPTS, (5, 1, 3, 4), strict=True)),
    Ask(PROMPTS[2], ("Paris", "France")),
]


@pytest.mark.parametrize("name", RIVALS)
def test_answers_under_a_rival_are_what_its_readings_say(steered, name):
    method = RIVALS[name]
    found = answers(steered, method, method.prepare(steered, seed=0), ASKS, batch_size=3)
    for ask, answer in zip(ASKS, found, strict=True):
        (row,) = spans_of(steered, [ask.prompt])
        if not ask.choices:
            assert answer.text == _greedy(steered, method, ask)
            continue
        expected = [
            _logprob(steered, method, ask, _ids(steered, row, text, whole=ask.whole))
            for text in ask.choices
        ]
        assert answer.logprobs == pytest.approx(expected, abs=1e-3)


def _ids(steered, row, text, *, whole):
    ids = continuation_ids(steered.tokenizer, row, text)
    return ids if whole else ids[:1]


def _logprob(steered, method, ask, ids):
    found = read(steered, method, [ask.prompt], [ids[:-1]] if ids[1:] else ())
    return sum(found[i, 0, token].item() for i, token in enumerate(ids))


def _greedy(steered, method, ask):
    prepared = method.prepare(steered, seed=0)
    reading = prepared.reading(prepared.rows([ask.prompt]))
    ids, logits = [], reading.read()
    while True:
        ids.append(int(logits.argmax()))
        if len(ids) == ask.max_new_tokens:
            return steered.tokenizer.decode(ids, skip_special_tokens=True)
        logits = reading.step(ids[-1:])


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", ["none", "seka"])
def test_answers_are_those_of_the_steered_model(model, tokenizer, name, early, monkeypatch):
    steered = SteeredModel(model, tokenizer, make_bank(model))
    method, gain = (parse("none"), 0) if name == "none" else (EditedKeys("seka"), None)
    prepared = method.prepare(steered, seed=0)
    options = {"gain": gain, "max_new_tokens": 8, "do_sample": False}
    ends = []
    if early:  # an end that comes up within an answer
        written = max(
            (one.token_ids for one in steered.generate_batch(PROMPTS, **options)), key=len
        )
        ends = [1, written[len(written) // 2]]
        monkeypatch.setattr(model.generation_config, "eos_token_id", ends)

    asks = [Ask(prompt, max_new_tokens=8) for prompt in PROMPTS]
    found = answers(steered, method, prepared, asks, batch_size=len(asks))
    for answer, written in zip(found, steered.generate_batch(PROMPTS, **options), strict=True):
        ids = [token for token in written.token_ids if token not in ends]
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)

    for texts, whole in (((" Paris", " France", "born"), False), ((" Paris is", " Ada"), True)):
        asks = [Ask(prompt, texts, whole) for prompt in PROMPTS]
        found = answers(steered, method, prepared, asks, batch_size=3)
        for ask, answer in zip(asks, found, strict=True):
            scores = steered.score(ask.prompt, texts, gain=gain, first_token_only=not whole)
            assert answer.logprobs == pytest.approx(scores, abs=2e-3)
            if not whole:
                likeliest = steered.next_token_logprobs([ask.prompt], gain=gain).max().item()
                assert answer.first == (scores[0] > likeliest - 1e-3)
