"""A folder becomes passages, a question finds them again, with scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seka_rag.errors import DocumentsError
from seka_rag.prompts import Passage
from seka_rag.retrieval import Retriever, read_folder, sentence_places, sentences, split

LINES = st.lists(
    st.one_of(
        st.just(""),
        st.text(alphabet="ab#.!? \t`é\u2028", max_size=40),
        st.sampled_from(["# Heading", "### Smaller", "```", "One sentence. Another one!"]),
    ),
    max_size=40,
).map("\n".join)


@settings(deadline=None)
@given(text=LINES, max_words=st.integers(1, 12), markdown=st.booleans())
def test_splitting_loses_no_word_and_makes_no_empty_passage(text, max_words, markdown):
    passages = split(text, max_words=max_words, markdown=markdown)
    assert " ".join(passages).split() == text.split()
    assert all(passage.strip() == passage != "" for passage in passages)


@settings(deadline=None)
@given(text=LINES, max_words=st.integers(1, 12))
def test_passages_of_plain_text_are_no_longer_than_asked(text, max_words):
    assert all(len(passage.split()) <= max_words for passage in split(text, max_words=max_words))


def test_a_short_notice_stays_one_passage():
    text = "# Notice\n\nFirst paragraph.\n\nSecond paragraph.\n"
    assert split(text, markdown=True) == [text.strip()]


def test_a_long_file_is_split_at_paragraphs():
    text = "one two three\n\nfour five\n\nsix seven eight"
    assert split(text, max_words=5) == ["one two three\n\nfour five", "six seven eight"]


def test_a_heading_stays_with_the_paragraph_after_it():
    text = "intro text here\n\n# Title\n\n## Part\n\nbody of part\n\n## Other\nbody of other"
    assert split(text, max_words=4, markdown=True) == [
        "intro text here",
        "# Title\n\n## Part\n\nbody of part",
        "## Other\n\nbody of other",
    ]


def test_a_comment_in_a_code_block_is_no_heading():
    text = "some words before\n\n```\n# a comment\ncode\n```"
    assert split(text, max_words=7, markdown=True)[1] == "```\n# a comment\ncode\n```"


def test_a_long_paragraph_is_split_after_sentences_where_it_can_be():
    assert split("One two. Three four. Five six seven eight nine ten.", max_words=5) == [
        "One two. Three four.",
        "Five six seven eight nine",
        "ten.",
    ]


@given(LINES)
def test_between_the_sentences_there_is_nothing_but_space(text):
    end = 0
    for start, stop in sentence_places(text):
        assert not text[end:start].strip()
        assert text[start:stop] == text[start:stop].strip() != ""
        end = stop
    assert not text[end:].strip()


def test_a_sentence_ends_at_its_mark_or_at_a_blank_line():
    text = "# Hours\n\nWe open at 9.30 on\nMonday! Or do we?  Yes. \n \nBy order"
    expected = ["# Hours", "We open at 9.30 on\nMonday!", "Or do we?", "Yes.", "By order"]
    assert sentences(text) == expected


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "b.txt").write_text("The harbour office of Lorne opens on Monday.")
    (tmp_path / "a.MD").write_text("# Bridge\n\nThe bridge of Lorne is closed.")
    (tmp_path / "deeper" / "c.txt").write_text("\ufeffThe café sells bread.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\0\0")
    (tmp_path / ".hidden.txt").write_text("Nobody reads this.")
    return tmp_path


def test_reads_text_and_markdown_in_all_folders_and_nothing_else(folder):
    passages = read_folder(folder)
    assert [passage.source for passage in passages] == ["a.MD", "b.txt", "deeper/c.txt"]
    assert passages[2].text == "The café sells bread."


def test_numbers_the_passages_of_a_file_that_gave_several(tmp_path):
    (tmp_path / "long.txt").write_text("one two three\n\nfour five six")
    assert [p.source for p in read_folder(tmp_path, max_words=3)] == ["long.txt#1", "long.txt#2"]


def test_finds_the_passage_that_shares_words_with_the_question(folder):
    best, second, last = Retriever.from_folder(folder).search(
        "When does the HARBOUR office open?", 3
    )
    assert best.source == "b.txt"
    assert best.score > second.score == last.score == 0


def test_returns_no_more_passages_than_there_are(folder):
    assert len(Retriever.from_folder(folder).search("bridge", 50)) == 3


def test_equal_scores_keep_the_order_of_the_files(folder):
    found = Retriever.from_folder(folder).search("What is it?", 3)
    assert [passage.source for passage in found] == ["a.MD", "b.txt", "deeper/c.txt"]
    assert {passage.score for passage in found} == {0.0}


def test_passages_without_a_word_can_be_searched():
    assert Retriever([Passage("..."), Passage("the of")]).search("bread", 1)[0].score == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("picture.txt", b"\x89PNG\0\0", "picture.txt is binary: save it as UTF-8"),
        ("latin.md", "café".encode("latin-1"), r"latin.md is not UTF-8 \(byte 3\): save it"),
        ("photo.jpg", b"\xff\xd8", "holds no .txt or .md file with text"),
        ("blank.txt", b"\n\n", "holds no .txt or .md file with text"),
    ],
)
def test_says_which_file_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentsError, match=message) as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_says_that_the_folder_is_missing_empty_or_a_file(tmp_path):
    with pytest.raises(DocumentsError, match="there is no folder .*nowhere: give one"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DocumentsError, match="holds no .txt or .md file"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DocumentsError, match="is a file: give the folder"):
        read_folder(tmp_path / "a.txt")
    with pytest.raises(DocumentsError, match="at least one"):
        Retriever([])
    with pytest.raises(DocumentsError, match="ask for at least 1"):
        Retriever.from_folder(tmp_path).search("text", 0)
