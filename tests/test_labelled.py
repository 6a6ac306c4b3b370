import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import CalibrationError
from seka_rag.highlight import highlight
from seka_rag.labelled import Example, batches, halves, padded, read_choices, read_examples

EXAMPLES = st.lists(
    st.builds(
        Example,
        st.just([highlight("Ada"), " is"]),
        st.sampled_from("abcdefgh"),
        st.sampled_from("ijkl"),
        st.booleans(),
    )
)


@given(EXAMPLES)
def test_halves_part_the_examples_and_keep_those_with_the_same_answers_together(examples):
    first, second = halves(examples)
    assert sorted(map(id, first + second)) == sorted(map(id, examples))
    one, other = (
        {(e.related, frozenset((e.wanted, e.rival))) for e in half} for half in (first, second)
    )
    assert not one & other
    assert halves(examples) == (first, second)


def test_halves_have_like_numbers_of_either_kind():
    examples = [
        Example([highlight("Ada"), " is"], f"{i}", "x", related)
        for i in range(40)
        for related in (True, False)
    ]
    for half in halves(examples):
        assert [sum(e.related is kind for e in half) for kind in (True, False)] == [20, 20]


@given(st.integers(20, 300))
def test_batches_hold_everything_within_the_budget(tokenizer, budget):
    examples = [
        Example(["So " * i, highlight("Ada"), " is"], "a", "b", related)
        for i in range(20)
        for related in (True, False)
    ]
    choices = read_choices(tokenizer, examples)
    found = list(batches(choices, budget))
    assert sorted(id(c) for batch in found for c in batch) == sorted(map(id, choices))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(c.row.ids) for c in batch) <= budget


def test_gains_are_multiplied_and_answers_are_not_highlighted(tokenizer):
    examples = [
        Example([highlight("Ada", gain=2.0), " is"], "in Rome", "in Oslo", related)
        for _ in range(10)
        for related in (True, False)
    ]
    choice = read_choices(tokenizer, examples)[0]
    assert tokenizer.decode(choice.row.ids).startswith("Ada isin ")
    assert tokenizer.decode([choice.wanted])[0] != tokenizer.decode([choice.rival])[0]
    batch = padded([choice], tokenizer, device=torch.device("cpu"), gain=0.5)
    assert set(batch.gains.flatten().tolist()) == {0.0, 1.0}


LINE = {"prompt": "Ada is here. Where?", "highlight": "here", "wanted": "here", "rival": "there"}


def test_examples_are_read_from_a_file(tmp_path):
    chat = {**LINE, "prompt": [{"role": "user", "content": "Ada is here."}], "related": False}
    (tmp_path / "e.jsonl").write_text(f"{json.dumps(LINE)}\n\n{json.dumps(chat)}\n")
    first, second = read_examples(tmp_path / "e.jsonl")
    assert first == Example(("Ada is ", highlight("here"), ". Where?"), "here", "there", True)
    assert second.prompt == [{"role": "user", "content": ("Ada is ", highlight("here"), ".")}]
    assert second.related is False


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"highlight": "nowhere"}, "line 2: .*nowhere"),
        ({"highlight": 3}, "highlight must be a text"),
        ({"wanted": None}, "wanted and rival must be texts"),
        ({"related": "no"}, "related is 'no'"),
        ({"prompt": 5}, "prompt must be"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "in none of the messages"),
    ],
)
def test_a_wrong_example_is_named(tmp_path, changed, message):
    (tmp_path / "e.jsonl").write_text(f"{json.dumps(LINE)}\n{json.dumps({**LINE, **changed})}\n")
    with pytest.raises(CalibrationError, match=message):
        read_examples(tmp_path / "e.jsonl")
