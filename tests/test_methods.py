import math
from dataclasses import replace

import pytest
import torch
from conftest import make_bank

from seka_rag.chat import Chat
from seka_rag.errors import BankError, DataError, SekaError
from seka_rag.evaluation.catalogue import parse
from seka_rag.evaluation.reading import spans_of
from seka_rag.evaluation.task import Ask
from seka_rag.experts import Experts, Routing
from seka_rag.heads import default_heads
from seka_rag.highlight import highlight
from seka_rag.prompts import Passage, rag_messages, render
from seka_rag.steering import SteeredModel

OWN = ("seka", "scaling", "random", "unweighed")
SEGMENTS = ["Where was ", highlight("Ada Lovelace"), " born? In ", highlight("Paris"), "."]
CHAT = rag_messages(
    "Where?", [Passage("Ada is here."), Passage("Bob is there.")], gains=[None, 0.0]
)
PROMPTS = [SEGMENTS, CHAT]


@pytest.fixture(scope="module")
def banks(qwen3):
    first = make_bank(qwen3)
    return {"first": first, "second": first.replace(method="random", seed=9, gain=1.5)}


@pytest.fixture(scope="module")
def steered(qwen3, tokenizer, banks):
    return SteeredModel(qwen3, tokenizer, banks["first"])


def read_by(method, model, prompts=PROMPTS, *, seed=0):
    """Return the log probabilities behind the prompts, as a task would ask for them."""
    parsed = parse(method)
    prepared = parsed.prepare(model, seed=seed)
    rows = prepared.rows([parsed.prompt(Ask(prompt)) for prompt in prompts])
    with torch.no_grad():
        return prepared.reading(rows).read().log_softmax(-1)


class TestParse:
    @pytest.mark.parametrize("text", ["none", "marks", "reorder"])
    def test_plain_methods_have_neither_detail_nor_strength(self, text):
        parse(text)
        for wrong in (f"{text}@1", f"{text}:detail", f"{text}:detail@1"):
            with pytest.raises(DataError, match=f"no method {wrong}: write NAME"):
                parse(wrong)

    @pytest.mark.parametrize("name", OWN)
    def test_edits_of_keys_have_a_strength_or_the_banks(self, name):
        assert parse(name).gain is None
        for text, gain in (("1", 1.0), ("0.8", 0.8), ("1e-1", 0.1), ("-2", -2.0), ("0", 0.0)):
            method = parse(f"{name}@{text}")
            assert (method.name, method.gain, method.expert) == (name, gain, None)

    def test_an_expert_goes_with_seka_alone(self):
        assert (parse("seka:one").expert, parse("seka:one").gain) == ("one", None)
        assert (parse("seka:one@2").expert, parse("seka:one@2").gain) == ("one", 2.0)
        for name in OWN[1:]:
            with pytest.raises(DataError, match=f"no method {name}:one@2"):
                parse(f"{name}:one@2")

    @pytest.mark.parametrize("text", ["", "Seka", "@1", ":one", "seka 1", "a:b:c@1"])
    def test_unknown_names_are_refused_with_those_there_are(self, text):
        with pytest.raises(DataError, match="is one of none, marks, reorder, seka, scaling"):
            parse(text)

    @pytest.mark.parametrize("text", ["", "strong", "1@2", "1,5"])
    def test_a_strength_is_a_number(self, text):
        with pytest.raises(DataError, match=f"seka@{text}: '{text}' is no strength"):
            parse(f"seka@{text}")

    @pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
    def test_a_strength_is_finite(self, text):
        with pytest.raises(DataError, match="is no strength: give a finite number"):
            parse(f"seka@{text}")


class TestPlain:
    def test_none_leaves_all_highlights_off(self, steered):
        own = ["Where was ", highlight("Ada Lovelace", gain=5.0), " born? In Paris."]
        plain = steered.with_bank(None)
        asked = ["Where was Ada Lovelace born? In Paris.", *PROMPTS]
        expected = plain.next_token_logprobs(asked, gain=0.0)
        assert torch.equal(read_by("none", steered, [own, *PROMPTS]), expected)
        assert torch.equal(read_by("none", plain, [own, *PROMPTS]), expected)

    def test_marks_are_put_around_every_highlight(self, tokenizer):
        (segments, chat) = (parse("marks").prompt(Ask(prompt)) for prompt in PROMPTS)
        assert segments == "Where was **Ada Lovelace** born? In **Paris**."
        rendered = render(tokenizer, chat)
        assert not rendered.spans
        plain = render(tokenizer, CHAT).text
        assert rendered.text == plain.replace("Ada is here.", "**Ada is here.**")

    def test_marks_leave_what_a_gain_of_nought_turns_off(self):
        off = ["In ", highlight("Paris", gain=0.0), " or ", highlight("Quito", gain=2.0)]
        assert parse("marks").prompt(Ask(off)) == "In Paris or **Quito**"

    def test_marks_are_put_into_every_message_and_the_rest_of_a_chat_stays(self):
        said = {"role": "assistant", "content": "Yes.", "name": "A"}
        system = {"role": "system", "content": ["Be ", highlight("brief", kind="instruction")]}
        chat = Chat(
            [system, {"role": "user", "content": highlight("Now?")}, said], tools=[{"a": 1}]
        )
        marked = parse("marks").prompt(Ask(chat))
        assert marked == replace(
            chat,
            messages=[
                {"role": "system", "content": "Be **brief**"},
                {"role": "user", "content": "**Now?**"},
                said,
            ],
        )

    def test_reorder_reads_what_the_task_put_last(self):
        assert parse("reorder").prompt(Ask("one", last="other")) == "other"
        with pytest.raises(DataError, match="this task has none to put: leave it out"):
            parse("reorder").prompt(Ask("one"))


class TestEditedKeys:
    @pytest.mark.parametrize("name", OWN)
    @pytest.mark.parametrize("gain", [None, 0.5])
    def test_the_edit_is_that_of_the_changed_bank(self, steered, name, gain):
        bank = steered.bank
        changed = {
            "seka": bank,
            "scaling": bank.replace(method="scaling"),
            "random": bank.replace(method="random", seed=4),
            "unweighed": bank.replace(heads=default_heads(bank.layers)),
        }[name]
        found = read_by(name if gain is None else f"{name}@{gain}", steered, seed=4)
        expected = steered.with_bank(changed).next_token_logprobs(PROMPTS, gain=gain)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (found - read_by("none", steered)).abs().max() > 1e-3

    def test_methods_differ(self, steered):
        found = [read_by(f"{name}@1.0", steered) for name in OWN]
        for i, one in enumerate(found):
            assert all((one - other).abs().max() > 1e-3 for other in found[:i])

    def test_a_highlights_own_gain_stays(self, steered):
        own = [["Was ", highlight("Ada", gain=0.3), " born in Paris?"]]
        expected = steered.next_token_logprobs(own)
        torch.testing.assert_close(read_by("seka@2", steered, own), expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("name", ["first", "second"])
    @pytest.mark.parametrize("gain", [None, 2.0])
    def test_one_expert_alone_is_its_bank(self, qwen3, tokenizer, banks, name, gain):
        model = SteeredModel(qwen3, tokenizer, Experts(banks), routing=Routing(abstain=False))
        alone = SteeredModel(qwen3, tokenizer, Experts({name: banks[name]}))
        alone = alone.with_routing(Routing(experts=[name], abstain=False))
        found = read_by(f"seka:{name}" if gain is None else f"seka:{name}@{gain}", model)
        # A gain is the first expert's: the others are edited in proportion.
        own = gain
        expected = alone.next_token_logprobs(PROMPTS, gain=own)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (found - read_by("none", model)).abs().max() > 1e-3

    def test_an_unknown_expert_is_refused_before_anything_is_read(self, qwen3, tokenizer, banks):
        model = SteeredModel(qwen3, tokenizer, Experts(banks))
        with pytest.raises(SekaError, match="third"):
            parse("seka:third").prepare(model, seed=0)

    @pytest.mark.parametrize("name", [*OWN, "seka:first"])
    def test_edits_need_a_bank(self, steered, name):
        with pytest.raises(BankError, match="needs a bank: give one, or leave out"):
            parse(name).prepare(steered.with_bank(None), seed=0)


def test_spans_are_told_without_a_bank(steered):
    own = [highlight("Ada", gain=-3.0), " and ", highlight("Bob", gain=0.0), highlight(" Cleo")]
    (row,) = spans_of(steered.with_bank(None), [own])
    text = [steered.tokenizer.decode([token]) for token in row.ids]
    lit = "".join(part for part, gain in zip(text, row.gains, strict=True) if gain)
    assert lit == "Ada Cleo"
    assert set(row.gains) == {0.0, 1.0}
    assert not any(math.isnan(gain) for gain in row.gains)
