import re
from copy import deepcopy

import pytest

from seka_rag.builtin import builtin_examples, relations
from seka_rag.evaluation.relations import RELATIONS
from seka_rag.highlight import Highlight
from seka_rag.labelled import halves, read_choices
from seka_rag.prompts import render

N = 200


@pytest.fixture(scope="module", params=["chat", "no chat"])
def known(request, tokenizer):
    """A tokenizer with a chat template and one without, and the examples made for it."""
    used = tokenizer if request.param == "chat" else deepcopy(tokenizer)
    if request.param == "no chat":
        used.chat_template = None
    return used, builtin_examples(used, n=N)


def pieces(prompt):
    if isinstance(prompt, list):
        return [piece for message in prompt for piece in message["content"]]
    return list(prompt)


def lit(example):
    """Return the highlighted text, of which there is one."""
    (found,) = (
        piece.text
        for piece in pieces(example.prompt)
        if isinstance(piece, Highlight) and piece.gain != 0
    )
    return found


def whole(example):
    return "".join(p if isinstance(p, str) else p.text for p in pieces(example.prompt))


def test_half_are_related(known):
    _, examples = known
    assert len(examples) == 4 * N
    assert sum(example.related for example in examples) == 2 * N


def test_a_highlight_answers_if_and_only_if_the_example_is_related(known):
    for example in known[1]:
        assert (example.wanted in lit(example)) == example.related
        assert (example.rival in lit(example)) != example.related or example.rival in example.wanted


def test_every_example_can_be_read(known):
    tokenizer, examples = known
    choices = read_choices(tokenizer, examples)
    assert all(choice.wanted != choice.rival for choice in choices)
    for half in halves(examples):
        assert len(half) == pytest.approx(len(examples) / 2, abs=4)


def test_of_contested_passages_each_is_highlighted_in_turn(tokenizer):
    examples = builtin_examples(tokenizer, n=60)[:90]
    for first, second, apart in zip(examples[::3], examples[1::3], examples[2::3], strict=True):
        assert (first.wanted, first.rival) == (second.rival, second.wanted)
        # The same two passages in the same order, whichever is highlighted.
        assert len({render(tokenizer, e.prompt).text for e in (first, second)}) == 1
        assert not apart.related


def test_of_a_fact_memory_is_contradicted_only_under_the_highlight(tokenizer):
    examples = builtin_examples(tokenizer, n=60)[90:]
    for i in range(0, len(examples), 5):
        override, absent, wrong, corrected, aside = examples[i : i + 5]
        assert override.rival not in whole(override)
        assert absent.wanted not in whole(absent)
        assert wrong.wanted in whole(wrong)
        assert wrong.wanted not in lit(wrong)
        assert whole(corrected).count(corrected.rival) == whole(aside).count(corrected.rival) == 1
        assert aside.wanted not in whole(aside)


def test_the_same_seed_draws_the_same_examples(tokenizer):
    assert builtin_examples(tokenizer, n=9) == builtin_examples(tokenizer, n=9)
    assert builtin_examples(tokenizer, n=9) != builtin_examples(tokenizer, n=9, seed=1)


def test_the_facts_are_well_formed():
    assert sum(len(relation.facts) for relation in relations()) >= 500
    for relation in relations():
        assert len(set(relation.facts.values())) >= 6
        for template in relation.passages:
            assert sorted(re.findall(r"\{(\w+)\}", template)) == ["subject", "value"]
        for template in (*relation.questions, *relation.clozes):
            assert re.findall(r"\{(\w+)\}", template) == ["subject"]
        assert not set(relation.invented) & set(relation.facts)
        for subject, value in relation.facts.items():
            assert value not in subject
            assert subject not in value


def test_the_facts_do_not_use_the_sentences_of_the_evaluation():
    judged = {
        re.sub(r"\{[xy]\}", "_", text).casefold()
        for relation in RELATIONS.values()
        for text in (*relation.passages, *relation.questions)
    }
    for relation in relations():
        for text in (*relation.passages, *relation.questions, *relation.clozes):
            assert re.sub(r"\{\w+\}", "_", text).casefold() not in judged
