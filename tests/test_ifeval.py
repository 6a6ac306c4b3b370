import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tasks import as_json, lit, order

from seka_rag.errors import DataError
from seka_rag.evaluation.ifeval import SPLITS, IFEval, added
from seka_rag.evaluation.ifeval_checks import KINDS, fault, followed
from seka_rag.evaluation.task import Answer
from seka_rag.prompts import render

AT_LEAST = {"relation": "at least"}
LESS = {"relation": "less than"}
OPTION = "My answer is maybe."
# Of each kind: its settings, answers that follow it, answers that do not.
TABLE = [
    (
        "keywords:existence",
        {"keywords": ["sun", "sea"]},
        ["The Sun and the sea.", "SEASIDE sunshine"],
        ["The sun.", "moon"],
    ),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 2, **AT_LEAST},
        ["sun Sun", "sun, sunny, sun"],
        ["sun", "moon"],
    ),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 2, **LESS},
        ["moon", "Sun"],
        ["sun sun"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "c++"]},
        ["A rocky way", "C and C+"],
        ["Rock on", "(rock)", "use C++ now"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 3, "let_relation": "at least"},
        ["eEe", "Every tree"],
        ["see", "none"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": "less than"},
        ["So!", "So"],
        ["So!!"],
    ),
    ("change_case:english_capital", {}, ["ALL OF IT, 2 TIMES"], ["All", "12", "aLL"]),
    ("change_case:english_lowercase", {}, ["all of it, 2 times"], ["All", "12", "ALL"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["GO to the U.S. or the UK", "NOW or NEVER"],
        ["Go NOW", "go"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "less than"},
        ["go now"],
        ["go NOW", "I go"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, **AT_LEAST},
        ["a b c", "a, b - c d"],
        ["a b"],
    ),
    ("length_constraints:number_words", {"num_words": 3, **LESS}, ["a b"], ["a b c"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, **AT_LEAST},
        ["One. Two!", "One? Two. Three."],
        ["One.", "One, two"],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}, ["One."], ["One. Two."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n\n***\n\ntwo\n***"],
        [
            "one",
            "one\n***\n***\ntwo",
            "one\n***\ntwo\n***\nthree",
            "one\n******\ntwo",
            "one\n****\ntwo",
        ],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"first_word": "elm", "num_paragraphs": 2, "nth_paragraph": 2},
        ["One.\n\nElm trees.", 'One\n\n\n"Elm", he said'],
        ["One.\n\nElms.", "Elm.\n\nTwo.", "One.\n\nElm.\n\nThree.", "Elm"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["Of these:\n* one\n* two", "- one\n  - two"],
        ["* one", "* one\n* two\n- three", "**one**\n**two**"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two* and *three*"],
        ["*one*", "* *\n* *", "one"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<A day>>\nIt was"],
        ["A day", "<< >>", "<A day>", "<<A\nday>>"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\nx\nSECTION 2\ny"],
        ["SECTION 1\nx", "Section 1\nSection 2", "SECTION\nSECTION"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```JSON\n[]\n```", "```\n{}\n```"],
        ["a: 1", "{'a': 1}", 'Here: {"a": 1}', "[" * 100_000],
    ),
    (
        "detectable_format:constrained_response",
        {},
        [OPTION, f"I think so. {OPTION}", "My answer is yes."],
        ["maybe", "My answer is perhaps."],
    ),
    ("punctuation:no_comma", {}, ["one; two"], ["one, two"]),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        ["So. That is all.", 'So. that is ALL.\n"'],
        ["That is all. Bye.", "That is all"],
    ),
    ("startend:quotation", {}, ['"So it is."', ' "a" or "b"\n'], ['"', "So", '"So" it is', "'So'"]),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. Hello", "Bye. p.s. Hello"],
        ["Bye.", "PS Hello", "stop.s."],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Bye.\nP.P.S Hello", "P.P.S. Hello", "P. P. S. Hello"],
        ["P.S. Hello"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [town]", "[a] [b] [c]"],
        ["[name]", "[] []", "(name) (town)"],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******\none\n******\ntwo", "one ****** two ******"],
        ["one", "one\n******\none", "one\n******", "a\n******\nb\n******\nc"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Tell me why. "},
        ["Tell me why. Because", " tell me WHY.\nBecause"],
        ["Because. Tell me why.", "Tell me"],
    ),
]


class TestChecks:
    @pytest.mark.parametrize(("kind", "settings", "good", "bad"), TABLE)
    def test_answers_that_follow_and_that_do_not(self, kind, settings, good, bad):
        assert fault(kind, settings) == ""
        assert [text for text in good if not followed(kind, text, settings)] == []
        assert [text for text in bad if followed(kind, text, settings)] == []
        assert not followed(kind, " \n", settings)

    def test_the_table_has_every_kind(self):
        assert {row[0] for row in TABLE} == set(KINDS)
        assert {row[0] for row in TABLE if row[1].get("relation")} == {
            kind for kind, known in KINDS.items() if ("relation", str) in known.needs
        }

    @pytest.mark.parametrize(("kind", "settings", "good", "bad"), TABLE)
    def test_settings_that_lack_something_are_told(self, kind, settings, good, bad):
        for name in settings:
            lacking = {key: value for key, value in settings.items() if key != name}
            assert repr(name) in fault(kind, lacking)
            assert repr(name) in fault(kind, {**settings, name: None})

    @given(st.text(), st.sampled_from(TABLE))
    def test_no_text_breaks_a_check(self, text, row):
        assert followed(row[0], text, row[1]) in (True, False)

    @given(st.text(), st.integers(0, 5), st.sampled_from(["keywords:frequency", "letter"]))
    def test_less_than_is_what_at_least_is_not(self, text, n, which):
        if which == "letter":
            kind, settings = "keywords:letter_frequency", {"letter": "a", "let_frequency": n}
            name = "let_relation"
        else:
            kind, settings, name = which, {"keyword": "a", "frequency": n}, "relation"
        verdicts = [followed(kind, text, {**settings, name: r}) for r in ("less than", "at least")]
        assert sum(verdicts) == bool(text.strip())

    def test_a_relation_is_one_of_two(self):
        settings = {"num_words": 3, "relation": "at most"}
        assert "one of less than, at least" in fault("length_constraints:number_words", settings)


class TestWhatIsAdded:
    @pytest.mark.parametrize(
        ("without", "prompt", "piece"),
        [
            ("Say why.", "Say why. Be short.", "Be short."),
            ("Say why. Make it good.", "Say why. Make it short. Make it good.", "Make it short."),
            ("Say why.", "Be short. Say why.", "Be short."),
            ("Say why.", "Say why without commas.", "without commas"),
            ("Say why?", "Say why and be short.", "and be short."),
            ("Say why. Thanks.", "Say why.\n\nBe short.\n\nThanks.", "Be short."),
            ("Say why.", "Tell me why. Be short.", None),
            ("Say why.", "Say why.", None),
            ("Say why.", "Say why. ", None),
        ],
    )
    def test_the_piece_is_found(self, without, prompt, piece):
        place = added(without, prompt)
        assert (None if place is None else prompt[slice(*place)]) == piece

    @given(st.text(), st.text(), st.text())
    def test_what_is_added_to_a_text_is_found(self, before, piece, after):
        prompt = before + piece + after
        place = added(before + after, prompt)
        if not piece.strip():
            return
        if place is None:  # space alone, in the reading that was taken
            assert piece.strip() != piece
            return
        start, end = place
        assert prompt[start:end] == prompt[start:end].strip() != ""
        assert end - start <= len(piece)


def written(tmp_path, rows, split="format"):
    names = {"format": "ifeval_single_instr_format.jsonl", "full": "input_data.jsonl"}
    as_json(tmp_path / "ifeval" / names[split], rows)
    return IFEval(tmp_path, split=split)


class TestIFEval:
    def test_the_instruction_is_highlighted(self, tmp_path, tokenizer):
        task = written(tmp_path, [order(0)])
        (example,) = task.examples(tokenizer)[0]
        (ask,) = task.prompts(example)
        assert lit(tokenizer, ask.prompt) == ["Do not use any commas."]
        assert {span.kind for span in render(tokenizer, ask.prompt).spans} == {"instruction"}
        assert order(0)["prompt"] in render(tokenizer, ask.prompt).text
        assert ask.max_new_tokens == 256
        assert task.score(example, [Answer("one two")]) == {"strict": 1.0, "instruction": 1.0}
        assert task.score(example, [Answer("one, two")]) == {"strict": 0.0, "instruction": 0.0}

    def test_rows_that_cannot_be_used_are_counted(self, tmp_path, tokenizer):
        language = {"instruction_id_list": ["language:response_language"], "kwargs": [{}]}
        rows = [order(0), order(1, **language), order(2, prompt_without_instruction="Sing.")]
        examples, counts = written(tmp_path, rows).examples(tokenizer)
        assert [one.id for one in examples] == ["format:1"]
        assert counts == {"read": 3, "language": 1, "not_apart": 1, "used": 1}

    def test_sentences_that_order_are_found_behind_the_first(self, tmp_path, tokenizer):
        prompt = (
            'Tell me of commas and "sun" and P.S. in a letter. Be kind, i.e. warm. Use no commas, '
            'i.e. none at all. The word "sun" must appear at least 2 times.\nAdd a postscript.'
        )
        kinds = ["punctuation:no_comma", "keywords:frequency", "detectable_content:postscript"]
        settings = [
            {},
            {"keyword": "sun", "frequency": 2, **AT_LEAST},
            {"postscript_marker": "P.S."},
        ]
        row = {"prompt": prompt, "instruction_id_list": kinds, "kwargs": settings}
        alone = {**row, "prompt": prompt.partition(" Be")[0]}
        task = written(tmp_path, [row, alone], "full")
        examples, counts = task.examples(tokenizer)
        assert (len(examples), counts["not_apart"]) == (1, 1)
        (ask,) = task.prompts(examples[0])
        assert lit(tokenizer, ask.prompt) == [
            "Use no commas, i.e. none at all.",
            'The word "sun" must appear at least 2 times.',
            "Add a postscript.",
        ]
        score = task.score(examples[0], [Answer("The sun is the sun.")])
        assert score == {"strict": 0.0, "instruction": pytest.approx(2 / 3)}
        done = Answer("The sun is the sun. P.S. Bye.")
        assert task.score(examples[0], [done]) == {"strict": 1.0, "instruction": 1.0}

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"kwargs": []}, "'kwargs' must list an object for each"),
            ({"kwargs": [None]}, "'kwargs' must list an object for each"),
            ({"kwargs": {"a": 1}}, "'kwargs' must list an object for each"),
            ({"instruction_id_list": ["punctuation:no_dot"]}, "'punctuation:no_dot' is unknown"),
            ({"instruction_id_list": ["keywords:existence"]}, "needs 'keywords', and it is None"),
            ({"instruction_id_list": []}, "'instruction_id_list' must be a list of texts"),
            ({"prompt_without_instruction": None}, "'prompt_without_instruction' must be a text"),
        ],
    )
    def test_faulty_rows(self, changed, message, tmp_path, tokenizer):
        with pytest.raises(DataError, match=f"instr_format.jsonl, line 2: .*{message}"):
            written(tmp_path, [order(0), order(1, **changed)]).examples(tokenizer)

    def test_unknown_splits(self, tmp_path, tokenizer):
        with pytest.raises(DataError, match="use one of single, format, include, exclude, full"):
            IFEval(tmp_path, split="multi").examples(tokenizer)


@pytest.mark.data
def test_the_real_orders_stand_in_their_prompts(evaluation_data, tokenizer):
    used = {}
    for split in SPLITS:
        task = IFEval(evaluation_data, split=split)
        examples, counts = task.examples(tokenizer)
        used[split] = counts["used"]
        for example in examples:
            (ask,) = task.prompts(example)
            found = lit(tokenizer, ask.prompt)
            assert found == [example.prompt[slice(*place)] for place in example.places]
            assert json.dumps([dict(order.settings) for order in example.orders])
    assert used["single"] == used["format"] + used["include"] + used["exclude"] > 300
    assert used["full"] > 350
