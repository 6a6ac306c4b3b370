"""A steered model against an oracle, in every way of generating; and what it refuses."""

from copy import deepcopy
from dataclasses import replace

import oracle
import pytest
import torch
from conftest import ARCHITECTURES, make_bank, make_model
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache

from seka_rag.bank import fingerprint
from seka_rag.errors import (
    BankError,
    BankMismatchError,
    HighlightError,
    ModelNotFoundError,
    PromptError,
    SekaError,
    UnsteerableError,
)
from seka_rag.highlight import flatten, highlight
from seka_rag.steering import EditReport, SteeredModel

STEPS = 6
PROMPT = ["Where was ", highlight("Ada Lovelace"), " born? The ", highlight("city", gain=-2.0), "."]
SHORT = ["The capital of ", highlight("France is")]
CHAT = [
    {"role": "system", "content": "The capital of France is Paris."},
    {"role": "user", "content": ["Passages: ", highlight("The capital of France is Paris.")]},
]


@pytest.fixture(scope="module")
def steered(model, tokenizer):
    return SteeredModel(model, tokenizer, make_bank(model))


@pytest.fixture(scope="module")
def qwen(qwen3, tokenizer):
    return SteeredModel(qwen3, tokenizer, make_bank(qwen3))


def n_hooks(steered):
    return sum(len(module._forward_hooks) for module in steered.model.modules())


def gains_of(steered, prompt, default=3.0):
    """Return ids and gains of a prompt of segments, read off the tokenizer's offsets."""
    text, spans = flatten(prompt)
    found = steered.tokenizer(text, return_offsets_mapping=True)
    gains = [0.0] * len(found["input_ids"])
    for i, (start, end) in enumerate(found["offset_mapping"]):
        for span in spans:
            if start < span.end and span.start < end:
                gains[i] = default if span.gain is None else span.gain
    return found["input_ids"], gains


def expected_text(steered, prompt, steps=STEPS):
    ids, gains = gains_of(steered, prompt)
    operators = steered.bank.operators()
    written = oracle.greedy(steered.model, operators, ids, gains, steps=steps)
    while written[-1] == steered.tokenizer.pad_token_id:  # taken for what fills up a short row
        written.pop()
    return written


def plain_ids(steered, prompt, steps=STEPS, **options):
    ids = steered.tokenizer(flatten(prompt)[0], return_tensors="pt").input_ids
    written = steered.model.generate(ids, max_new_tokens=steps, **options)
    return written[:, ids.shape[1] :].tolist()


# What the model sees


@pytest.mark.parametrize("prompt", [PROMPT, CHAT])
def test_ids_are_the_same_with_and_without_highlights(qwen, prompt, monkeypatch):
    seen = []
    plain = qwen.model.forward

    def forward(*args, **options):
        seen.append(options["input_ids"].tolist())
        return plain(*args, **options)

    monkeypatch.setattr(qwen.model, "forward", forward)
    qwen.next_token_logprobs([prompt])
    if prompt is PROMPT:
        qwen.next_token_logprobs([flatten(PROMPT)[0]])
    else:
        clean = [{**message, "content": flatten(message["content"])[0]} for message in CHAT]
        qwen.next_token_logprobs([clean])
        text = qwen.tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=True)
        assert seen[0] == [qwen.tokenizer(text)["input_ids"]]
    assert seen[0] == seen[1]


def test_a_chat_highlights_the_passage_and_not_its_copy_in_the_system_prompt(qwen):
    generation = qwen.generate(CHAT, max_new_tokens=1)
    copy = "The capital of France is Paris."
    inside = len(qwen.tokenizer(" " + copy)["input_ids"])
    assert abs(generation.report.highlighted_tokens - inside) <= 1


# Gain 0 is the plain model, bit for bit


def test_gain_0_generates_what_the_plain_model_does(steered):
    generation = steered.generate(PROMPT, gain=0, max_new_tokens=STEPS)
    assert [list(generation.token_ids)] == plain_ids(steered, PROMPT)
    assert generation.report == EditReport()


def test_gain_0_has_the_logits_of_the_plain_model(steered):
    inputs = steered.tokenizer(flatten(PROMPT)[0], return_tensors="pt")
    with torch.no_grad():
        logits = steered.model(**inputs, use_cache=False, logits_to_keep=1).logits
    plain = logits[:, -1].float().log_softmax(-1)
    assert torch.equal(steered.next_token_logprobs([PROMPT], gain=0), plain)
    unmarked = [highlight("Where was Ada Lovelace", gain=0), " born? The city."]
    assert torch.equal(steered.next_token_logprobs([unmarked]), plain)
    assert not torch.allclose(steered.next_token_logprobs([PROMPT]), plain, atol=1e-2)


# Against the oracle


def test_cached_decoding_equals_whole_steered_passes(steered):
    generation = steered.generate(PROMPT, max_new_tokens=STEPS)
    assert list(generation.token_ids) == expected_text(steered, PROMPT)
    assert generation.prompt_tokens == len(gains_of(steered, PROMPT)[0])
    assert n_hooks(steered) == 0


def test_the_logits_of_every_step_equal_those_of_whole_steered_passes(steered):
    steps = []

    def record(input_ids, scores):
        steps.append(scores[0].clone())
        return scores

    generation = steered.generate(PROMPT, max_new_tokens=STEPS, logits_processor=[record])
    ids, gains = gains_of(steered, PROMPT)
    operators = steered.bank.operators()
    whole = oracle.logits(steered.model, operators, [*ids, *generation.token_ids], gains)
    for i, scores in enumerate(steps[: len(generation.token_ids)]):
        torch.testing.assert_close(scores, whole[len(ids) - 1 + i], atol=1e-4, rtol=1e-4)


def test_highlights_change_what_is_written(steered):
    assert expected_text(steered, PROMPT) != plain_ids(steered, PROMPT)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_is_steered_alike_alone_and_padded_in_a_batch(name, attention, tokenizer):
    model = make_model(name, attention)
    steered = SteeredModel(model, tokenizer, make_bank(model))
    operators = steered.bank.operators()
    together = steered.next_token_logprobs([SHORT, PROMPT, "The capital of"])
    for prompt, row in zip([SHORT, PROMPT, "The capital of"], together, strict=True):
        ids, gains = gains_of(steered, prompt)
        expected = oracle.logits(model, operators, ids, gains)[-1].log_softmax(-1)
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
        alone = steered.next_token_logprobs([prompt])[0]
        torch.testing.assert_close(row, alone, atol=1e-4, rtol=1e-4)


def test_a_batch_writes_what_each_prompt_does_alone(steered):
    prompts = [SHORT, PROMPT, "The capital of"]
    batch = steered.generate_batch(prompts, max_new_tokens=STEPS)
    for prompt, generation in zip(prompts, batch, strict=True):
        assert list(generation.token_ids) == expected_text(steered, prompt)
    assert [generation.report.min_gain for generation in batch] == [3.0, -2.0, 0.0]
    assert batch[2].report == EditReport()


MODES = {
    "chunks": {"prefill_chunk_size": 3},
    "chunks of one": {"prefill_chunk_size": 1},
    "static cache": {"cache_implementation": "static"},
    "static cache, chunks": {"cache_implementation": "static", "prefill_chunk_size": 4},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "config": {"generation_config": GenerationConfig(pad_token_id=0, prefill_chunk_size=2)},
    "as a dict": {"return_dict_in_generate": True, "output_scores": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_greedy_mode_equals_the_oracle(steered, mode):
    options = deepcopy(MODES[mode])
    generation = steered.generate(PROMPT, max_new_tokens=STEPS, **options)
    assert list(generation.token_ids) == expected_text(steered, PROMPT)
    assert n_hooks(steered) == 0


def test_a_repetitive_prompt_is_steered_under_prompt_lookup(steered):
    # The first pass holds the prompt and three drafted tokens.
    prompt = ["a b c d e a b c d e ", highlight("a b c d e"), " a b c"]
    generation = steered.generate(prompt, max_new_tokens=STEPS, prompt_lookup_num_tokens=3)
    assert list(generation.token_ids) == expected_text(steered, prompt)


def test_an_assistant_model_does_not_change_what_is_written(steered):
    assistant = make_model("llama")
    generation = steered.generate(PROMPT, max_new_tokens=STEPS, assistant_model=assistant)
    assert list(generation.token_ids) == expected_text(steered, PROMPT)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_prefilled_cache_is_continued(steered, kind):
    config = steered.model.config
    cache = (
        DynamicCache(config=config)
        if kind == "dynamic"
        else StaticCache(config=config, max_cache_len=64)
    )
    ids, gains = gains_of(steered, PROMPT)
    n = next(i for i, gain in enumerate(gains) if gain)
    with torch.no_grad():
        steered.model(torch.tensor([ids[:n]]), past_key_values=cache, use_cache=True)
    generation = steered.generate(PROMPT, max_new_tokens=STEPS, past_key_values=cache)
    assert list(generation.token_ids) == expected_text(steered, PROMPT)


def test_an_empty_cache_is_filled(steered):
    cache = DynamicCache(config=steered.model.config)
    generation = steered.generate(PROMPT, max_new_tokens=STEPS, past_key_values=cache)
    assert list(generation.token_ids) == expected_text(steered, PROMPT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of dynamo
@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 4}])
def test_compiled_decoding_keeps_no_trace_of_the_steering_before_it(qwen, options):
    # What generate does on a GPU; the "eager" backend needs no compiler.
    compiled = CompileConfig(backend="eager", fullgraph=False)
    compiled._compile_all_devices = True
    options = {**options, "cache_implementation": "static", "compile_config": compiled}
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for gain in (None, 0, None, 0):
        generation = qwen.generate(PROMPT, gain=gain, max_new_tokens=STEPS, **options)
        plain, steered = plain_ids(qwen, PROMPT)[0], expected_text(qwen, PROMPT)
        assert list(generation.token_ids) == (plain if gain == 0 else steered)
    assert graphs["unique_graphs"] > before


def test_beams_are_those_of_a_steered_beam_search(steered):
    ids, gains = gains_of(steered, PROMPT)
    operators = steered.bank.operators()
    expected = oracle.beams(steered.model, operators, ids, gains, steps=3, width=3)
    generation = steered.generate(
        PROMPT, max_new_tokens=3, num_beams=3, num_return_sequences=3, length_penalty=0.0
    )
    assert list(generation.token_ids) == expected[0]
    assert generation.sequences == tuple(
        steered.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected
    )
    batch = steered.generate_batch([SHORT, PROMPT], max_new_tokens=3, num_beams=3)
    assert list(batch[1].token_ids) == expected[0]


def test_sampled_sequences_are_drawn_from_the_steered_distribution(steered):
    # At a temperature near 0 every sample is the likeliest token.
    batch = steered.generate_batch(
        [PROMPT, SHORT],
        max_new_tokens=3,
        do_sample=True,
        num_return_sequences=3,
        temperature=1e-4,
        top_k=0,
    )
    for prompt, generation in zip([PROMPT, SHORT], batch, strict=True):
        assert list(generation.token_ids) == expected_text(steered, prompt, steps=3)
        assert len(generation.sequences) == 3
        assert len(set(generation.sequences)) == 1


# Scores


def test_scores_equal_the_oracle(steered):
    ids, gains = gains_of(steered, PROMPT)
    texts = [" The", " The capital of Paris", " born"]
    for text, score, first in zip(
        texts,
        steered.score(PROMPT, texts),
        steered.score(PROMPT, texts, first_token_only=True),
        strict=True,
    ):
        target = steered.tokenizer(text)["input_ids"]
        logits = oracle.logits(steered.model, steered.bank.operators(), ids + target, gains)
        each = [
            logits[len(ids) - 1 + i].log_softmax(-1)[token].item() for i, token in enumerate(target)
        ]
        assert score == pytest.approx(sum(each), abs=1e-3)
        assert first == pytest.approx(each[0], abs=1e-4)


def test_scores_of_a_batch_equal_those_of_its_prompts(qwen):
    prompts, texts = [SHORT, CHAT, PROMPT], [[" Paris", " a b c d"], ["Paris"], [" Paris"]]
    together = qwen.score_batch(prompts, texts, batch_size=3)
    alone = [qwen.score(prompt, own) for prompt, own in zip(prompts, texts, strict=True)]
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_first_token_scores_are_those_of_the_next_token(qwen):
    score = qwen.score(PROMPT, [" The"], first_token_only=True)[0]
    token = qwen.tokenizer(" The")["input_ids"][0]
    assert score == pytest.approx(qwen.next_token_logprobs([PROMPT])[0, token].item(), abs=1e-5)


def test_scores_leave_the_tokens_of_the_prompt_alone(qwen):
    ids = qwen.tokenizer("of Fr")["input_ids"]
    target = qwen.tokenizer("ance")["input_ids"]
    assert qwen.tokenizer("of France")["input_ids"] != ids + target
    with torch.no_grad():
        logprobs = qwen.model(torch.tensor([ids + target])).logits[0].log_softmax(-1)
    expected = sum(logprobs[len(ids) - 1 + i, token].item() for i, token in enumerate(target))
    assert qwen.score("of Fr", ["ance"])[0] == pytest.approx(expected, abs=1e-3)


def test_an_empty_continuation_is_refused(qwen):
    with pytest.raises(PromptError, match="has no token: give it some text"):
        qwen.score("The", [""])
    with pytest.raises(PromptError, match="1 prompts and 2 lists of continuations"):
        qwen.score_batch(["The"], [["a"], ["b"]])


# Gains and reports


def test_the_report_says_what_was_edited(qwen3, tokenizer):
    steered = SteeredModel(qwen3, tokenizer, make_bank(qwen3, heads="only:0.1,2.0,2.1"))
    report = steered.generate(PROMPT, max_new_tokens=1).report
    marked = [gain for gain in gains_of(steered, PROMPT)[1] if gain]
    assert report == EditReport(len(marked), (0, 2), 3, -2.0, 3.0)


def test_a_gain_given_replaces_the_banks_but_not_a_highlights_own(qwen):
    report = qwen.generate(PROMPT, gain=0.5, max_new_tokens=1).report
    assert (report.min_gain, report.max_gain) == (-2.0, 0.5)
    own = ["Where was ", highlight("Ada Lovelace", gain=3.0), " born?"]
    banks = ["Where was ", highlight("Ada Lovelace"), " born?"]
    assert torch.equal(qwen.next_token_logprobs([own]), qwen.next_token_logprobs([banks]))


def test_another_bank_shares_the_model(qwen):
    other = qwen.with_bank(make_bank(qwen.model, method="scaling", gain=0.5))
    assert other.model is qwen.model
    assert other.generate(SHORT, max_new_tokens=1).report.max_gain == 0.5
    plain = qwen.with_bank(None)
    assert torch.equal(
        plain.next_token_logprobs([SHORT], gain=0), qwen.next_token_logprobs([SHORT], gain=0)
    )


def test_text_and_ids_end_where_the_turn_does(qwen):
    ids, gains = gains_of(qwen, PROMPT)
    written = expected_text(qwen, PROMPT)
    generation = qwen.generate_batch(
        [PROMPT, SHORT], max_new_tokens=STEPS, eos_token_id=written[2]
    )[0]
    assert list(generation.token_ids) == written[: written.index(written[2]) + 1]
    assert generation.text == generation.sequences[0]


def test_no_prompts_give_no_generations(qwen):
    assert qwen.generate_batch([]) == []
    assert qwen.score_batch([], []) == []


def test_tokens_can_be_counted_whatever_their_number(qwen):
    assert qwen.count_tokens(PROMPT) == len(gains_of(qwen, PROMPT)[0])
    assert qwen.context_length == 256
    assert qwen.count_tokens("a b " * 300) > 256


# What is the caller's stays as it was


def test_model_tokenizer_and_configs_are_never_changed(tokenizer):
    model = make_model("qwen3")
    steered = SteeredModel(model, tokenizer, make_bank(model))
    before = (
        {name: weight.clone() for name, weight in model.state_dict().items()},
        model.config.to_dict(),
        model.generation_config.to_dict(),
        tokenizer.padding_side,
        tokenizer.special_tokens_map,
    )
    steered.generate_batch([PROMPT, SHORT], max_new_tokens=2, num_beams=2)
    steered.score(CHAT, ["Paris"])
    assert all(torch.equal(before[0][name], weight) for name, weight in model.state_dict().items())
    assert before[1:] == (
        model.config.to_dict(),
        model.generation_config.to_dict(),
        tokenizer.padding_side,
        tokenizer.special_tokens_map,
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_exception_in_the_middle_of_generate_leaves_the_model_unharmed(steered, layer):
    expected = plain_ids(steered, PROMPT)

    def fail(module, inputs, output):
        raise RuntimeError("out of memory")

    handle = steered.model.model.layers[layer].register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            steered.generate(PROMPT, max_new_tokens=2)
        with pytest.raises(RuntimeError, match="out of memory"):
            steered.next_token_logprobs([PROMPT])
        assert n_hooks(steered) == 1
    finally:
        handle.remove()
    assert plain_ids(steered, PROMPT) == expected


def test_an_exception_while_decoding_leaves_the_model_unharmed(qwen):
    class Stop:
        def __call__(self, input_ids, scores):
            assert n_hooks(qwen) == 0
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        qwen.generate(PROMPT, max_new_tokens=3, logits_processor=[Stop()])
    assert n_hooks(qwen) == 0


# Never unsteered in silence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_cache": False}, "leave use_cache on"),
        ({"generation_config": GenerationConfig(use_cache=False)}, "leave use_cache on"),
        ({"cache_implementation": "paged"}, "a paged cache"),
        ({"custom_generate": "someone/something"}, "a custom generate"),
        ({"trust_remote_code": True}, "a custom generate"),
        ({"token_healing": True}, "token healing"),
        ({"assistant_early_exit": 1}, "cannot draft for itself"),
    ],
)
def test_modes_that_cannot_be_steered_are_refused(qwen, options, message):
    with pytest.raises(UnsteerableError, match=message):
        qwen.generate(PROMPT, max_new_tokens=2, **options)
    assert n_hooks(qwen) == 0


def test_a_model_that_drafts_for_itself_is_refused(qwen):
    with pytest.raises(UnsteerableError, match="give another assistant_model"):
        qwen.generate(PROMPT, assistant_model=qwen.model)


def test_a_mode_that_cannot_be_steered_runs_plain_prompts(qwen):
    generation = qwen.generate(PROMPT, gain=0, max_new_tokens=STEPS, use_cache=False)
    assert [list(generation.token_ids)] == plain_ids(qwen, PROMPT)


def test_highlights_in_the_cached_part_are_refused(qwen):
    ids, gains = gains_of(qwen, PROMPT)
    for n, message in (
        (next(i for i, gain in enumerate(gains) if gain) + 1, "a highlighted token is among"),
        (len(ids), "at least one must be left to compute"),
    ):
        cache = DynamicCache(config=qwen.model.config)
        with torch.no_grad():
            qwen.model(torch.tensor([ids[:n]]), past_key_values=cache)
        with pytest.raises(UnsteerableError, match=message):
            qwen.generate(PROMPT, past_key_values=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, "leave past_key_values out"),
        ({"prefill_chunk_size": 2}, "leave prefill_chunk_size or past_key_values out"),
    ],
)
def test_modes_that_compute_a_cached_prompt_again_are_refused(qwen, options, message):
    cache = DynamicCache(config=qwen.model.config)
    ids, _ = gains_of(qwen, PROMPT)
    with torch.no_grad():
        qwen.model(torch.tensor([ids[:1]]), past_key_values=cache)
    with pytest.raises(UnsteerableError, match=message):
        qwen.generate(PROMPT, past_key_values=cache, **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_a_compiled_model_is_refused(tokenizer):
    model = make_model("qwen3")
    model.compile()
    steered = SteeredModel(model, tokenizer, make_bank(model))
    for call in (lambda: steered.generate(PROMPT), lambda: steered.next_token_logprobs([PROMPT])):
        with pytest.raises(UnsteerableError, match="the model is compiled: pass the plain one"):
            call()
    other = make_model("llama")
    other.forward = torch.compile(other.forward)
    with pytest.raises(UnsteerableError, match="the model is compiled"):
        SteeredModel(other, tokenizer, make_bank(other)).generate(PROMPT)


def test_highlights_without_a_bank_are_refused(qwen):
    plain = qwen.with_bank(None)
    with pytest.raises(BankError, match="there is no bank: pass bank="):
        plain.generate(PROMPT)
    assert plain.generate("The capital of", max_new_tokens=2).report == EditReport()


def test_a_bank_for_another_model_is_refused(tokenizer):
    with pytest.raises(BankMismatchError, match="does not fit"):
        SteeredModel(make_model("qwen3"), tokenizer, make_bank(make_model("gemma3", seed=8)))


def test_a_bank_that_edits_a_layer_without_a_site_is_refused(qwen):
    sites = qwen.sites[:2]
    bank = replace(qwen.bank, fingerprint=fingerprint(qwen.model, sites))
    some = SteeredModel(qwen.model, qwen.tokenizer, bank, sites=sites)
    with pytest.raises(BankMismatchError, match=r"edits layers \[2\], for which there is no key"):
        some.generate(PROMPT)


def test_a_bank_that_keeps_no_head_is_refused(qwen):
    with pytest.raises(BankError, match="no head"):
        qwen.with_bank(make_bank(qwen.model, heads="threshold:99")).generate(PROMPT)


def test_a_prompt_longer_than_the_context_is_refused(qwen):
    with pytest.raises(PromptError, match="tokens and the model reads 256: drop passages"):
        qwen.generate("a b " * 300)


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "inputs_embeds"])
def test_what_comes_from_the_prompt_cannot_be_passed(qwen, name):
    with pytest.raises(PromptError, match=f"{name} comes from the prompt"):
        qwen.generate(PROMPT, **{name: None})


def test_a_gain_that_is_no_number_is_refused(qwen):
    with pytest.raises(HighlightError, match="the gain is nan"):
        qwen.generate(PROMPT, gain=float("nan"))


# Loading


def test_a_saved_model_brings_its_bank(qwen, tmp_path):
    qwen.model.save_pretrained(tmp_path)
    qwen.tokenizer.save_pretrained(tmp_path)
    plain = SteeredModel.from_pretrained(tmp_path, None)
    assert plain.bank is None
    qwen.bank.save_pretrained(tmp_path)
    loaded = SteeredModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(loaded.next_token_logprobs([CHAT]), qwen.next_token_logprobs([CHAT]))
    eager = SteeredModel.from_pretrained(tmp_path, qwen.bank, attn_implementation="eager")
    assert eager.model.config._attn_implementation == "eager"
    assert eager.bank is qwen.bank


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "a/b/c"])
def test_an_unknown_folder_is_named_in_one_line(name):
    with pytest.raises(ModelNotFoundError, match=f"there is no folder {name}") as raised:
        SteeredModel.from_pretrained(name)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_model_is_named_in_one_line(tmp_path):
    with pytest.raises(SekaError, match="no model could be loaded from") as raised:
        SteeredModel.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(SekaError, match="no model could be loaded from") as raised:
        SteeredModel.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, torch.float32), ("auto", torch.bfloat16)], ids=str
)
def test_a_small_model_on_a_cpu_is_computed_in_float32_unless_told(qwen, tmp_path, asked, expected):
    make_model("qwen3").bfloat16().save_pretrained(tmp_path)
    qwen.tokenizer.save_pretrained(tmp_path)
    loaded = SteeredModel.from_pretrained(tmp_path, None, dtype=asked)
    assert loaded.model.dtype == expected
