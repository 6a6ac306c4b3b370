import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seka_rag import cli
from seka_rag.bank import Bank
from seka_rag.drafting import draft_triplets
from seka_rag.errors import DocumentsError, TripletError

FERRY = "The ferry to Brenholm leaves at 14:30 from the old pier.\n\nNobody is on board at night."
MUSEUM = (
    "# Museum\n\nTickets for the museum cost 12 euros on weekdays. The guide is called Mira Solt."
)


def folder_of(tmp_path, **texts):
    for name, text in texts.items():
        (tmp_path / f"{name}.md").write_text(text, "utf-8")
    return tmp_path


def spans(triplet):
    return [text[start:end] for text, (start, end) in triplet.parts()]


def test_the_point_of_a_sentence_is_asked_for(tmp_path):
    triplets = draft_triplets(folder_of(tmp_path, ferry=FERRY, museum=MUSEUM))
    drafted = {spans(t)[0]: t.relevant.partition("\n")[0] for t in triplets}
    assert drafted["14:30"] == (
        "Question: What is missing here: The ferry to Brenholm leaves at … from the old pier."
    )
    assert drafted["12 euros"] == (
        "Question: What is missing here: Tickets for the museum cost … on weekdays."
    )
    assert "Mira Solt" in drafted
    assert "on board at night" not in drafted  # its last three words
    assert drafted["board at night"].endswith("Nobody is on ….")


def test_the_other_question_is_about_another_document(tmp_path):
    for triplet in draft_triplets(folder_of(tmp_path, ferry=FERRY, museum=MUSEUM)):
        about_ferry = "ferry" in triplet.neutral
        assert ("ferry" in triplet.irrelevant.partition("\n")[0]) <= (not about_ferry)
        assert triplet.relevant.partition("\n")[0] != triplet.irrelevant.partition("\n")[0]


def test_the_same_folder_gives_the_same_triplets(tmp_path):
    folder = folder_of(tmp_path, ferry=FERRY, museum=MUSEUM)
    assert draft_triplets(folder) == draft_triplets(folder)


WORDS = st.sampled_from(
    'ferry Ada "the moon" 40 euros 3.5 at night, Rome; of New York isn\'t 12% € £9 a — # b'.split(
        " "
    )
)
TEXTS = st.lists(
    st.lists(WORDS, min_size=1, max_size=14).map(lambda words: " ".join(words) + "."), max_size=5
).map(lambda parts: "  ".join(parts))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([" ", "\n", "\n\n"]))
def test_an_answer_stands_once_in_its_passage_and_not_in_its_question(tmp_path, one, other, join):
    folder = folder_of(tmp_path, one=one.replace("  ", join), other=other.replace("  ", join))
    try:
        triplets = draft_triplets(folder)
    except (TripletError, DocumentsError):
        return
    for triplet in triplets:
        answer = spans(triplet)[0]
        assert len(set(spans(triplet))) == 1
        assert triplet.neutral.removeprefix("Context: ").count(answer) == 1
        assert answer == answer.strip()
        assert "…" in triplet.relevant


@pytest.mark.parametrize("texts", [{"one": FERRY}, {"one": "Too short.", "two": "This too."}])
def test_where_nothing_can_be_asked_it_is_said(tmp_path, texts):
    if len(texts) == 1:
        texts = {"one": "The ferry to Brenholm leaves at 14:30 from the old pier."}
    with pytest.raises(TripletError, match="at least two passages"):
        draft_triplets(folder_of(tmp_path, **texts))


def test_a_folder_is_learned_from(tmp_path, tokenizer, capsys):
    from conftest import make_model

    model, docs = tmp_path / "model", tmp_path / "docs"
    docs.mkdir()
    make_model("qwen3").save_pretrained(model)
    tokenizer.save_pretrained(model)
    for i in range(24):
        (docs / f"{i}.txt").write_text(f"The ferry of pier {i} leaves at {i}:30 from the quay.")
    given = ["learn", "--model", str(model), "--triplets", str(docs), "--out", str(tmp_path / "b")]
    assert cli.main(given) == 0
    assert Bank.from_pretrained(tmp_path / "b").n_triplets == 24
