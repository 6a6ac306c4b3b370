"""What a constraint allows always ends in JSON that fits, whatever the model would rather write."""

import gc
import json
import random
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import llguidance
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import seka_rag
from seka_rag import Constraint, GrammarError, MissingExtraError
from seka_rag.vocabulary import vocabulary_of

MINI = Path(seka_rag.__file__).parent / "assets" / "mini"
FLAT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "$defs": {
        "person": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "role": {"enum": ["author", "editor", "naïve reader 🙂", 7, None]},
                "friends": {"type": "array", "items": {"$ref": "#/$defs/person"}, "maxItems": 2},
            },
            "required": ["name", "role"],
            "additionalProperties": False,
        }
    },
    "properties": {
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        "people": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1},
        "rating": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["people", "rating"],
    "additionalProperties": False,
}
SCHEMAS = {
    "flat": FLAT,
    "nested": NESTED,
    "enum": {"enum": ["a", "ab", 'say "hi"\n', 2, None, {"k": [1]}]},
    "integer": {"type": "integer", "minimum": -3, "exclusiveMaximum": 112},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    "union": {"anyOf": [FLAT, {"type": "array", "prefixItems": [{"const": "x"}], "items": False}]},
    "text": {"type": "string", "minLength": 2, "maxLength": 9},
    "date": {"type": "string", "format": "date"},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
    "anything": {"type": "object"},
}
# Without strings or numbers of any length, and without recursion.
BOUNDED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "level": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 4},
    },
    "required": ["name", "level", "tags"],
    "additionalProperties": False,
}
PREFIX, SUFFIX = '<tool_call>\n{"name": "%s", "arguments": ', "}\n</tool_call>"


@pytest.fixture(scope="module")
def mini():
    return AutoTokenizer.from_pretrained(MINI)


@pytest.fixture(scope="module")
def constraints(mini):
    return {name: Constraint.json_schema(mini, schema) for name, schema in SCHEMAS.items()}


@pytest.fixture(scope="module")
def texts(mini):
    """The text of every token of mini."""
    return [mini.decode([token_id]) for token_id in range(len(mini))]


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def copy_of(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<|im_end|>",
        pad_token="<pad>",
    )


def allowed_ids(matcher):
    return matcher.allowed().nonzero().flatten().tolist()


def walk(tokenizer, matcher, choose, *, limit=400):
    """Return the ids chosen from those allowed, and whether they came to their end."""
    ids = []
    while not matcher.finished and len(ids) < limit:
        token_id = choose(allowed_ids(matcher))
        if token_id == tokenizer.eos_token_id:
            break
        matcher.accept(token_id)
        ids.append(token_id)
    return ids, len(ids) < limit


def at_random(texts, seed):
    """Return a choice that is random, but drawn to what ends texts, lists and objects."""
    rng = random.Random(seed)
    closing = ('"', "]", "}", "\n", "<|im_end|>")

    def choose(allowed):
        if rng.random() < 0.4:
            allowed = [i for i in allowed if texts[i].startswith(closing)] or allowed
        return rng.choice(allowed)

    return choose


def spell(tokenizer, matcher, text):
    """Accept the text as the tokenizer writes it, each token of which must be allowed."""
    for token_id in ids_of(tokenizer, text):
        assert matcher.allowed()[token_id], tokenizer.decode([token_id])
        matcher.accept(token_id)


def takes(tokenizer, constraint, text):
    """Return whether the constraint takes the text, and takes it to be complete."""
    matcher = constraint.matcher()
    try:
        for token_id in ids_of(tokenizer, text):
            matcher.accept(token_id)
        matcher.accept(tokenizer.eos_token_id)
    except GrammarError:
        return False
    return True


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_walks_write_json_that_fits(mini, texts, constraints, name, seed):
    ids, ended = walk(mini, constraints[name].matcher(), at_random(texts, seed))
    if ended:
        text = mini.decode(ids)
        jsonschema.validate(json.loads(text), SCHEMAS[name])
        assert "\ufffd" not in text
        assert "\n" not in text


def test_most_random_walks_end(mini, texts, constraints):
    matcher = constraints["nested"].matcher
    assert sum(walk(mini, matcher(), at_random(texts, seed))[1] for seed in range(20)) > 15


@pytest.mark.parametrize(
    "wish",
    [
        lambda i, text: sum(map(str.isspace, text)),
        lambda i, text: text.count('"') + text.count("\\"),
        lambda i, text: text.count(","),
        lambda i, text: sum(map(str.isdigit, text)),
        lambda i, text: len(text),
        lambda i, text: i,
        lambda i, text: -i,
    ],
    ids=["blanks", "quotes", "commas", "digits", "length", "last", "first"],
)
def test_no_wish_of_the_model_makes_bounded_json_endless(mini, texts, wish):
    matcher = Constraint.json_schema(mini, BOUNDED).matcher()
    ids, ended = walk(
        mini, matcher, lambda allowed: max(allowed, key=lambda i: wish(i, texts[i])), limit=250
    )
    assert ended
    jsonschema.validate(json.loads(mini.decode(ids)), BOUNDED)


def test_an_endless_string_is_for_the_caller_to_cut(mini, texts, constraints):
    matcher = constraints["flat"].matcher()
    _, ended = walk(
        mini, matcher, lambda allowed: max(allowed, key=lambda i: texts[i].count(" ")), limit=60
    )
    assert not ended
    assert not matcher.finished


def test_one_blank_may_follow_a_comma_or_a_colon_and_no_other(mini, constraints):
    for text in ('{"name":"x","age":3}', '{"name": "x", "age": 3}', '{"name": "x","age":3}'):
        assert takes(mini, constraints["flat"], text)
    for text in (
        '{"name":  "x","age":3}',
        '{"name" :"x","age":3}',
        '{ "name":"x","age":3}',
        '{"name":"x",\n"age":3}',
        ' {"name":"x","age":3}',
        '{"name":"x","age":3} ',
    ):
        assert not takes(mini, constraints["flat"], text)


@pytest.mark.parametrize("value", ["naïve 🙂 שלום", 'a "b" \\ / c', "\t\n\u0001", "</s>"])
def test_strings_hold_any_text(mini, constraints, value):
    for ascii_only in (False, value.isascii()):
        matcher = constraints["flat"].matcher()
        spell(mini, matcher, json.dumps({"name": value, "age": 3}, ensure_ascii=ascii_only))
        assert matcher.finished


def test_no_string_holds_half_a_surrogate_pair_or_a_control_token(mini, constraints):
    matcher = constraints["flat"].matcher()
    spell(mini, matcher, '{"name": "')
    assert not matcher.allowed()[mini.all_special_ids].any()
    assert not takes(mini, constraints["flat"], '{"name": "\\ud83d", "age": 3}')


def test_any_object_is_json(mini):
    constraint = Constraint.json(mini)
    assert takes(mini, constraint, '{"a": [1, {"b": null}], "c": {}}')
    assert not takes(mini, constraint, "[1]")


def test_a_schema_may_come_as_text(mini):
    constraint = Constraint.json_schema(mini, json.dumps(SCHEMAS["integer"]))
    assert takes(mini, constraint, "-3")
    assert not takes(mini, constraint, "112")


def frame(tokenizer, name, schema=FLAT):
    return Constraint.framed(tokenizer, PREFIX % name, schema, SUFFIX)


def test_a_frame_is_written_as_the_tokenizer_would(mini):
    text = PREFIX % "add" + '{"name": "Ada", "age": 36}' + SUFFIX
    matcher = frame(mini, "add").matcher()
    spell(mini, matcher, text)
    assert matcher.finished
    certain = []
    matcher = frame(mini, "add").matcher()
    while len(allowed := allowed_ids(matcher)) == 1:
        certain += allowed
        matcher.accept(allowed[0])
    assert certain == ids_of(mini, text)[: len(certain)]
    assert mini.decode(certain).startswith((PREFIX % "add").rstrip())


def test_tokens_may_cross_the_borders_of_a_frame(mini):
    text, start, end = 'call: {"name": "x", "age": 3}}!', len("call: "), len("}!")
    offsets = mini(text, return_offsets_mapping=True)["offset_mapping"]
    for border in (start, len(text) - end):
        assert any(a < border < b for a, b in offsets)
    matcher = Constraint.framed(mini, "call: ", FLAT, "}!").matcher()
    spell(mini, matcher, text)
    assert matcher.finished


def test_one_of_several_frames_is_written_whole(mini, texts):
    nothing = {"type": "object", "additionalProperties": False}
    tools = {"get": FLAT, "get_all": BOUNDED, "g": nothing}
    either = Constraint.any_of([frame(mini, name, schema) for name, schema in tools.items()])
    names = set()
    for seed in range(40):
        ids, ended = walk(mini, either.matcher(), at_random(texts, seed))
        if not ended:
            continue
        call = mini.decode(ids)
        assert call.startswith("<tool_call>\n")
        assert call.endswith("\n</tool_call>")
        read = json.loads(call.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        jsonschema.validate(read["arguments"], tools[read["name"]])
        names.add(read["name"])
    assert names == set(tools)


def test_alternatives_may_nest_and_share_a_prefix(mini):
    numbers = Constraint.framed(mini, "is ", {"type": "integer"}, "!")
    words = Constraint.framed(mini, "is ", {"type": "string"}, "?")
    either = Constraint.any_of([Constraint.any_of([numbers, words]), Constraint.json(mini)])
    for text in ("is 12!", 'is "x"?', '{"is": 12}'):
        assert takes(mini, either, text)
    for text in ("is 12?", 'is "x"!', "12"):
        assert not takes(mini, either, text)


def test_alternatives_that_cannot_be_told_apart_are_refused(mini):
    frames = [Constraint.json(mini), Constraint.framed(mini, '{"name": "f", "x": ', FLAT, "}")]
    with pytest.raises(GrammarError, match="begins like JSON after ''"):
        Constraint.any_of(frames)


def test_alternatives_are_some_and_for_one_tokenizer(mini, tokenizer):
    with pytest.raises(GrammarError, match="there are 0 constraints"):
        Constraint.any_of([])
    with pytest.raises(GrammarError, match="not all for one tokenizer"):
        Constraint.any_of([Constraint.json(mini), Constraint.json(tokenizer)])


def test_control_tokens_in_a_frame_are_those_tokens(tokenizer):
    other = copy_of(tokenizer)
    other.add_tokens(["<call>", "<call>now"])
    matcher = Constraint.framed(other, "<|im_start|>a<call>now", FLAT, "<call>").matcher()
    for name in ("<|im_start|>", "a", "<call>now"):
        expected = ids_of(other, name)
        assert len(expected) == 1
        assert allowed_ids(matcher) == expected
        matcher.accept(expected[0])
    spell(other, matcher, '{"name": "", "age": 3}')
    assert allowed_ids(matcher) == ids_of(other, "<call>")


def test_certain_text_is_written_unchanged_by_a_normalizer(mini):
    accent = "cafe\u0301"
    assert ids_of(mini, accent) == ids_of(mini, "café")
    constraint = Constraint.framed(mini, accent + " ", {"enum": [accent]}, "")
    ids, ended = walk(mini, constraint.matcher(), lambda allowed: allowed[0])
    assert ended
    assert mini.decode(ids) == f'{accent} "{accent}"'


def test_any_characters_may_be_literal(mini):
    text = "a\x00b\x7f\u2028\\\"'/%{}\t\r\n🙂\ufeff | # // <x> <[3]>"
    ids, _ = walk(
        mini, Constraint.framed(mini, text, {"const": 1}, text).matcher(), lambda ids: ids[0]
    )
    assert mini.decode(ids) == f"{text}1{text}"


def test_matchers_of_one_constraint_do_not_disturb_each_other(mini, texts, constraints):
    first, second = (constraints["nested"].matcher() for _ in range(2))
    before = second.allowed()
    walk(mini, first, at_random(texts, 1))
    assert torch.equal(second.allowed(), before)


def test_threads_may_share_a_constraint(mini, texts, constraints):
    def ids(seed):
        return walk(mini, constraints["nested"].matcher(), at_random(texts, seed), limit=60)

    alone = [ids(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ids, range(24))) == alone


def test_the_turn_may_end_exactly_where_the_text_is_complete(mini, constraints):
    matcher, eos = constraints["integer"].matcher(), mini.eos_token_id
    for text, complete, finished in (("", 0, 0), ("1", 1, 0), ("1", 1, 0), ("1", 1, 1)):
        spell(mini, matcher, text)
        assert matcher.allowed()[eos] == complete
        assert matcher.finished == finished
    assert allowed_ids(matcher) == [eos]
    matcher.accept(eos)
    assert matcher.finished
    assert allowed_ids(matcher) == [eos]


def test_a_turn_that_may_go_on_is_finished_once_it_has_ended(mini, constraints):
    matcher, eos = constraints["integer"].matcher(), mini.eos_token_id
    spell(mini, matcher, "1")
    matcher.accept(eos)
    assert matcher.finished
    assert allowed_ids(matcher) == [eos]
    with pytest.raises(GrammarError, match="may not come here"):
        matcher.accept(ids_of(mini, "1")[0])


def test_several_tokens_may_end_a_turn_and_the_model_may_be_wider(mini, constraints):
    ends, width = {0, 7, len(mini) + 3}, len(mini) + 5
    matcher = constraints["flat"].matcher(vocab_size=width, eos_token_ids=ends)
    assert matcher.allowed().shape == (width,)
    assert matcher.allowed().dtype == torch.bool
    spell(mini, matcher, '{"name": "')
    assert not matcher.allowed()[list(ends)].any()
    spell(mini, matcher, 'x", "age": 3}')
    assert set(allowed_ids(matcher)) == ends


def test_the_model_may_be_narrower_than_the_tokenizer(mini, constraints):
    matcher = constraints["flat"].matcher(vocab_size=3000)
    assert matcher.allowed().shape == (3000,)
    with pytest.raises(GrammarError, match="may not come here"):
        matcher.accept(3000)
    with pytest.raises(GrammarError, match="no token may follow"):
        constraints["flat"].matcher(vocab_size=3).allowed()


@pytest.mark.parametrize("ends", [[], [-1], [10**6]])
def test_some_token_of_the_model_must_end_a_turn(constraints, ends):
    with pytest.raises(GrammarError, match="pass the model's vocab_size"):
        constraints["flat"].matcher(eos_token_ids=ends)


def test_a_literal_end_of_the_turn_is_an_error(mini):
    matcher = Constraint.framed(mini, "<|im_end|>", FLAT, "").matcher()
    with pytest.raises(GrammarError, match="holds one that ends a turn"):
        matcher.allowed()


@pytest.mark.parametrize("token_id", [-1, 0, 1, 2, 5000, 10**9, 2**40])
def test_what_may_not_come_is_refused_and_changes_nothing(mini, constraints, token_id):
    matcher = constraints["flat"].matcher()
    before = matcher.allowed()
    with pytest.raises(GrammarError, match="may not come here"):
        matcher.accept(token_id)
    assert torch.equal(matcher.allowed(), before)


def test_a_request_that_exhausts_the_grammar_fails_alone(mini, monkeypatch):
    limits = llguidance.LLParserLimits(max_lexer_states=40)
    monkeypatch.setattr(llguidance, "LLParserLimits", lambda **_: limits)
    constraint = Constraint.json_schema(mini, {"type": "string", "pattern": "^(ab|a.{9}c|b)*$"})
    matcher = constraint.matcher()
    with pytest.raises(GrammarError, match="too many states"):
        walk(mini, matcher, lambda allowed: allowed[-1])
    assert not matcher.finished
    assert takes(mini, constraint, '"b"')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "x-guidance": {"lenient": True}, "propertyNames": {}}, "propertyNames"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead"),
        ({"type": "string", "format": "zebra"}, "zebra"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf constraints are not"),
        ({"type": "zebra"}, "zebra"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum .5. is greater"),
        ({"type": "string", "pattern": "^a$", "minLength": 5}, "Unsatisfiable"),
        ({"enum": []}, "Unsatisfiable"),
        ({"$ref": "#"}, "without end"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
        ({"anyOf": [{"allOf": [{"$ref": "#"}]}, {"$ref": "#/anyOf/0"}]}, "without end"),
        (
            {
                "$defs": {"a/b": {"properties": {"x": {"$ref": "#"}}, "required": ["x"]}},
                "$ref": "#/$defs/a~1b",
            },
            "without end",
        ),
        ("{", "is none"),
        ("[1]", "is none"),
        (True, "is none"),
        ({"const": float("nan")}, "is none"),
        ({"const": object()}, "is none"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(mini, schema, message):
    with pytest.raises(GrammarError, match=message) as caught:
        Constraint.json_schema(mini, schema)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert "x-guidance" not in str(caught.value)


def test_recursion_that_can_end_is_followed(mini):
    schema = {
        "$defs": {
            "list": {"anyOf": [{"$ref": "#/$defs/pair"}, {"type": "null"}]},
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"$ref": "#/$defs/list"}],
                "items": False,
                "minItems": 2,
            },
        },
        "$ref": "#/$defs/list",
    }
    constraint = Constraint.json_schema(mini, schema)
    assert takes(mini, constraint, "[1, [2, null]]")
    assert not takes(mini, constraint, "[1, [2]]")


def test_a_literal_that_is_no_text_is_refused(mini):
    with pytest.raises(GrammarError, match="cannot be followed"):
        Constraint.framed(mini, "\ud800", FLAT, "")


def test_a_tokenizer_is_read_once_and_not_kept(mini):
    assert vocabulary_of(mini) is vocabulary_of(mini)
    other = AutoTokenizer.from_pretrained(MINI)
    kept = weakref.ref(other)
    constraint = Constraint.json(other)
    assert constraint._vocabulary is vocabulary_of(other)
    del other
    gc.collect()
    assert kept() is None
    assert constraint.matcher().allowed().any()


def test_a_tokenizer_keeps_its_padding_and_truncation_which_do_not_count(tokenizer):
    other = copy_of(tokenizer)
    text = "The capital of France is Paris."
    expected = ids_of(other, text)
    other("x", truncation=True, padding="max_length", max_length=3)
    before = other.backend_tokenizer.to_str()
    read = vocabulary_of(other).tokens
    assert read.tokenize_str(text) == expected
    assert read.tokenize_str("x") == ids_of(tokenizer, "x")
    assert other.backend_tokenizer.to_str() == before


def test_runs_of_blanks_are_no_control_tokens(tokenizer):
    other = copy_of(tokenizer)
    other.add_tokens(["   ", "<call>"])
    token_id = other.convert_tokens_to_ids("<call>")
    assert vocabulary_of(other).literal("   <call>") == f'"   " <[{token_id}]>'


def sentencepiece_like(*, by_normalizer):
    """Return a tokenizer with ▁ for blanks, which falls back on bytes."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(['The capital of France is Paris. {"name": "Ada"} ' * 5], trainer)
    described = json.loads(core.to_str())
    described["added_tokens"] = described["added_tokens"][:2]  # the bytes are no control tokens
    core = Tokenizer.from_str(json.dumps(described))
    if by_normalizer:
        prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        core.normalizer = normalizers.Sequence([normalizers.NFC(), *prepend])
    else:
        core.normalizer = None
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("by_normalizer", [True, False])
def test_tokenizers_with_marked_blanks_and_bytes(by_normalizer):
    tokenizer = sentencepiece_like(by_normalizer=by_normalizer)
    constraint = Constraint.framed(tokenizer, "e\u0301 🙂 is ", NESTED, " now")
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    for seed in range(10):
        ids, ended = walk(tokenizer, constraint.matcher(), at_random(texts, seed))
        if ended:
            text = tokenizer.decode(ids)
            assert text.startswith("e\u0301 🙂 is ")
            assert text.endswith(" now")
            jsonschema.validate(json.loads(text[len("e\u0301 🙂 is ") : -len(" now")]), NESTED)


def test_tokenizers_that_cannot_be_read_are_named():
    class Slow:
        eos_token_id = 0

    with pytest.raises(GrammarError, match="Slow .* load the fast tokenizer"):
        Constraint.json(Slow())
    core = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    with pytest.raises(GrammarError, match="cannot read .* decoder"):
        Constraint.json(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[UNK]"))


def test_without_llguidance_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"seka-rag\[structured\]"):
        Constraint.json(AutoTokenizer.from_pretrained(MINI))
