"""Tokens that are bytes stand for every character of which they hold one."""

import unicodedata
from itertools import accumulate, pairwise

import pytest
import tiktoken
from conftest import CHATML, make_bank
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from seka_rag.errors import PromptError
from seka_rag.highlight import Span, highlight
from seka_rag.inputs import read_prompt
from seka_rag.offsets import byte_offsets, encoding_inside, special_tokens
from seka_rag.steering import SteeredModel
from seka_rag.tokens import control_ids, control_tokens, encode_chat, gain_map, tokenize

CONTROLS = {"<|im_start|>": 500, "<|im_end|>": 501, "<|end|>": 502}
# Halves of characters alone, and joined to what stands before and behind them.
MERGES = (
    b"th",
    b"the",
    b" the",
    b"\r\n",
    b"\xf0\x9f",  # of an emoji
    b" \xf0\x9f",
    b"a\xf0\x9f",
    b"\x99\x82",
    b"\x99\x82b",
    b"\xd7\xa9",  # a Hebrew letter
    b"\xe2\x80",  # of a zero-width joiner
    b"\x8d\xf0\x9f",
    b"\xcc\x81",  # a combining accent
    b"<|",
    b"|>",
    b"<|im",
)
WORDS = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ANYTHING = r"(?s:.+)"


def make_encoding(pattern):
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {merged: rank for rank, merged in enumerate(MERGES, start=256)}
    return tiktoken.Encoding(
        "test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=CONTROLS
    )


class Wrapper(PreTrainedTokenizer):
    """A slow tokenizer around an encoding, as models bring them: ids pass through strings."""

    def __init__(self, encoding, *, normalise=False, **options):
        self.inner = encoding
        self.normalise = normalise
        self.ids = {
            encoding.decode_single_token_bytes(i).decode("latin-1"): i
            for i in [*range(256 + len(MERGES)), *CONTROLS.values()]
        }
        self.strings = {token_id: string for string, token_id in self.ids.items()}
        super().__init__(chat_template=CHATML, **options)

    @property
    def vocab_size(self):
        return len(self.ids)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text):
        text = unicodedata.normalize("NFC", text) if self.normalise else text
        return [self.strings[i] for i in self.inner.encode(text, allowed_special="all")]

    def _convert_token_to_id(self, token):
        return self.ids[token]

    def _convert_id_to_token(self, index):
        return self.strings.get(index, "")

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).encode("latin-1").decode("utf-8", "replace")

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [CONTROLS["<|end|>"], *token_ids_0, CONTROLS["<|end|>"]]


def make_fast(**pre_tokenizer):
    """Return a fast tokenizer whose merges, too, hold halves of characters."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **pre_tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the 🙂b a🙂 שלום 👩‍👧 e\u0301\r\n" * 5, "a🙃 the 😀b"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


ENCODINGS = {"words": make_encoding(WORDS), "anything": make_encoding(ANYTHING)}
WRAPPER = Wrapper(ENCODINGS["words"], eos_token="<|im_end|>")
FAST = {"words": make_fast(), "anything": make_fast(use_regex=False)}
every_tokenizer = pytest.mark.parametrize(
    "tokenizer",
    [*ENCODINGS.values(), WRAPPER, *FAST.values()],
    ids=lambda each: type(each).__name__,
)
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)

PIECES = (
    [
        "🙂",
        "🙃b",
        "a😀",
        " 🙂",
        "👩‍👩‍👧",
        "🇫🇷",
        "שלום",
        "مرحبا",
        "e\u0301",
        "\u0301",
        "\u200b",
        "\u200d",
    ]
    + ["\ufeff", "\u202e", "\r\n", "\n", "\t", " the", "the", "中文", "\x00", "\ufffd"]
    + ["<|im_end|>", "<|im_start|>", "<|im_", "<|", "|>", "end|>"]
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=8).map("".join)


def pieces_of(tokenizer, ids):
    """Return the bytes of each token."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        to_byte = {character: byte for byte, character in enumerate(byte_alphabet())}
        tokens = tokenizer.convert_ids_to_tokens(ids)
        return [bytes(to_byte[character] for character in token) for token in tokens]
    encoding = encoding_inside(tokenizer) or tokenizer
    return [encoding.decode_single_token_bytes(token_id) for token_id in ids]


def byte_alphabet():
    """Return the character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in plain)
    moved = {byte: 256 + n for n, byte in enumerate(others)}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


@every_tokenizer
@given(texts)
def test_every_character_is_covered_and_offsets_never_go_back(tokenizer, text):
    encoded = tokenize(tokenizer, text, add_special_tokens=False)
    assert {i for offset in encoded.offsets for i in range(*offset)} == set(range(len(text)))
    for (start, end), (next_start, next_end) in pairwise(encoded.offsets):
        assert start <= next_start <= end <= next_end
        assert next_start >= end - 1


@every_tokenizer
@given(texts, st.data())
def test_a_run_of_tokens_stands_for_text_that_holds_its_bytes(tokenizer, text, data):
    encoded = tokenize(tokenizer, text, add_special_tokens=False)
    n = len(encoded.ids)
    first = data.draw(st.integers(0, n))
    run = slice(first, data.draw(st.integers(first, n)))
    covered = [i for offset in encoded.offsets[run] for i in offset]
    shown = text[min(covered, default=0) : max(covered, default=0)].encode()
    held = b"".join(pieces_of(tokenizer, encoded.ids[run]))
    assert held in shown
    assert len(shown) <= len(held) + 6  # no more than what completes two characters


@every_tokenizer
@given(texts.filter(bool), st.data())
def test_a_highlight_covers_exactly_the_tokens_that_share_a_byte_with_it(tokenizer, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    encoded = tokenize(tokenizer, text, add_special_tokens=False)
    gains, _ = gain_map(encoded.offsets, [Span(start, end)], default_gain=1.0)
    first, last = len(text[:start].encode()), len(text[:end].encode())
    borders = pairwise(accumulate(map(len, pieces_of(tokenizer, encoded.ids)), initial=0))
    assert gains == [float(a < last and b > first) for a, b in borders]


@pytest.mark.parametrize("fast", FAST.values(), ids=FAST)
@given(texts)
def test_offsets_from_bytes_are_those_of_a_fast_tokenizer(fast, text):
    encoded = tokenize(fast, text, add_special_tokens=False)
    assert byte_offsets(pieces_of(fast, encoded.ids), text) == encoded.offsets


@every_encoding
@given(texts)
def test_the_ids_are_those_of_the_encoding(encoding, text):
    expected = encoding.encode(text, allowed_special="all")
    assert tokenize(encoding, text, add_special_tokens=True).ids == expected
    wrapper = Wrapper(encoding)
    assert tokenize(wrapper, text, add_special_tokens=False).ids == expected


def test_each_piece_of_a_character_stands_for_all_of_it():
    encoded = tokenize(ENCODINGS["anything"], "a🙂b", add_special_tokens=False)
    assert pieces_of(ENCODINGS["anything"], encoded.ids) == [b"a\xf0\x9f", b"\x99\x82b"]
    assert encoded.offsets == [(0, 2), (1, 3)]


@given(texts)
@example("<|end|>")
def test_special_tokens_that_a_wrapper_adds_stand_for_nothing(text):
    bare = tokenize(WRAPPER, text, add_special_tokens=False)
    encoded = tokenize(WRAPPER, text, add_special_tokens=True)
    assert encoded.ids == WRAPPER(text)["input_ids"]
    assert encoded.ids == [502, *bare.ids, 502]
    assert encoded.offsets == [(0, 0), *bare.offsets, (len(text), len(text))]


def test_an_added_token_that_the_encoding_does_not_know_stands_for_its_text():
    wrapper = Wrapper(ENCODINGS["words"])
    wrapper.add_tokens(["<extra>"])
    text = "🙂<extra>the"
    encoded = tokenize(wrapper, text, add_special_tokens=False)
    assert [text[slice(*offset)] for offset in encoded.offsets[-2:]] == ["<extra>", "the"]


def test_a_tokenizer_that_changes_the_text_is_refused():
    wrapper = Wrapper(ENCODINGS["words"], normalise=True)
    with pytest.raises(PromptError, match="changes the text"):
        tokenize(wrapper, "cafe\u0301", add_special_tokens=True)
    composed = tokenize(wrapper, "caf\u00e9", add_special_tokens=False)
    assert composed.offsets[-1] == (3, 4)


@every_encoding
def test_a_lone_surrogate_is_refused(encoding):
    with pytest.raises(PromptError, match="changes the text"):
        tokenize(encoding, "a\ud83d", add_special_tokens=False)


def test_an_encoding_is_found_under_any_name():
    assert encoding_inside(WRAPPER) is ENCODINGS["words"]
    assert encoding_inside(object()) is None


def test_the_special_tokens_of_an_encoding_are_control_tokens():
    written = {token_id: token for token, token_id in CONTROLS.items()}
    assert special_tokens(ENCODINGS["words"]) == written
    for tokenizer in (ENCODINGS["words"], WRAPPER):
        assert control_tokens(tokenizer) == written
        assert control_ids(tokenizer) == set(written)


@pytest.mark.parametrize("tokenizer", [*ENCODINGS.values(), WRAPPER])
@given(texts)
def test_contents_spell_no_control_token(tokenizer, content):
    before, after = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    text = before + content + after
    encoded = encode_chat(tokenizer, text, [(len(before), len(before) + len(content))])
    assert [i for i in encoded.ids if i in CONTROLS.values()] == [500, 501, 500]
    assert b"".join(pieces_of(tokenizer, encoded.ids)) == text.encode()
    assert {i for offset in encoded.offsets for i in range(*offset)} == set(range(len(text)))


@given(texts)
def test_a_harmless_chat_is_encoded_as_the_encoding_does(content):
    content = content.replace("|>", "")
    text = f"<|im_start|>user\n{content}<|im_end|>\n"
    for encoding in ENCODINGS.values():
        encoded = encode_chat(encoding, text, [(17, 17 + len(content))])
        assert encoded.ids == encoding.encode(text, allowed_special="all")


@given(texts, texts.filter(str.strip))
def test_a_highlight_in_a_chat_changes_no_id(before, marked):
    def read(*content):
        message = {"role": "user", "content": content}
        return read_prompt(WRAPPER, [message], gain=None, default_gain=2.0)

    row = read(f"{before} ", highlight(marked), " end")
    assert row.ids == read(f"{before} {marked} end").ids
    assert row.rendered.text[slice(*span_of(row))] == marked


def span_of(row):
    (span,) = row.rendered.spans
    return span.start, span.end


def test_a_model_with_a_wrapped_encoding_is_steered(qwen3):
    model = SteeredModel(qwen3, WRAPPER, make_bank(qwen3))
    prompt = [{"role": "user", "content": ["Who? ", highlight("🙂🙂"), " Ada"]}]
    result = model.generate(prompt, max_new_tokens=3, do_sample=False)
    assert result.report.highlighted_tokens == len(ENCODINGS["words"].encode(" 🙂🙂"))
    assert result.prompt_tokens == model.count_tokens(prompt)
