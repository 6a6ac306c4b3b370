"""Reports: what a page holds, that text stays text, and that nothing is asked for."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seka_rag.report
from seka_rag.errors import DataError
from seka_rag.evaluation.results import Figure, Look, Result, Row, Sample
from seka_rag.report import write_report
from seka_rag.report.tables import table
from seka_rag.report.texts import text

VOID = {"meta", "br", "img", "link", "input", "hr"}
NAN = Figure(math.nan, math.nan, math.nan, 0)


class Page(HTMLParser):
    """A page as a list of elements, each with its attributes and the text inside."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            each
            for each in self.elements
            if each["tag"] == tag and all(each.get(k) == v for k, v in wanted.items())
        ]

    @property
    def text(self):
        return self.all("body")[0]["text"]


def figure(value, width=0.01, n=100):
    return Figure(value, max(0.0, value - width), min(1.0, value + width), n)


def rows(**methods):
    return tuple(
        Row(name, {k: figure(v) for k, v in each.items()}) for name, each in methods.items()
    )


SAMPLE = Sample(
    "which <one>?",
    ("<|im", "", "Bonn", " is", " <b>near</b>", " & far"),
    (False, False, True, True, False, False),
    {
        "none": Look("Paris", (0.5, 0.1, 0.1, 0.1, 0.1, 0.1), 0.2),
        "seka@1": Look(" Bonn <i>", (0.1, 0.1, 0.4, 0.2, 0.1, 0.1), 0.6),
        "marks": Look("Paris"),
    },
)
RESULT = Result(
    "conflicts",
    {
        "model": "mini",
        "experts": {"a": {"digest": "d1", "gain": 1.0}, "b": {"digest": "d2", "gain": 2.0}},
        "versions": {"torch": "2.13.0"},
        "date": "2026-11-29T13:02:57+00:00",
        "command": 'seka-rag eval conflicts --model "x"',
        "bank": None,
        "whole": True,
        "names": ["p", "q"],
    },
    {"read": 240, "alike": 7},
    (
        Row(
            "none", {"gold": figure(0.5), "at_01": figure(0.4), "at_05": figure(0.3), "at_10": NAN}
        ),
        Row("seka@0.5", {"gold": figure(0.8), "at_01": figure(0.9), "at_05": figure(0.85)}),
        Row("seka@1", {"gold": figure(0.9), "at_01": figure(0.9), "at_10": figure(0.8)}),
    ),
    (SAMPLE,),
)


@pytest.fixture
def read(tmp_path):
    def read(*results):
        return Page(write_report(results, tmp_path / "report.html").read_text(encoding="utf-8"))

    return read


def test_everything_is_on_the_page(read):
    page = read(RESULT)
    for row in RESULT.rows:
        assert page.all("th", scope="row", text=row.method)
    for name in ("gold", "at_01", "at_05", "at_10"):
        assert any(each["text"].split()[0] == name for each in page.all("th", scope="col"))
    for said in ("conflicts on mini", "3 methods, 100 examples, 2026-11-29", "d1", "2.13.0", "240"):
        assert said in page.text
    assert 'seka-rag eval conflicts --model "x"' in page.text
    assert "p, q" in page.text
    assert "80.0 [79.0, 81.0]" in " ".join(page.text.split())


def test_the_report_of_a_saved_result_is_the_same(tmp_path):
    RESULT.save(tmp_path / "result.json")
    found = Result.load(tmp_path / "result.json")
    first, second = (
        write_report([each], tmp_path / name).read_bytes()
        for each, name in ((RESULT, "first.html"), (found, "deep/er/second.html"))
    )
    assert first == second


def test_a_page_asks_for_nothing(read, tmp_path):
    read(RESULT, RESULT)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"src=|href=\"?http|@import|url\(|<script|<link|https?://", source)
    assert "default-src 'none'" in source


def test_a_page_can_be_read_without_looking(read):
    page = read(RESULT, RESULT)
    assert page.all("html", lang="en")
    assert len(page.all("h1")) == 1
    levels = [int(each["tag"][1]) for each in page.elements if re.fullmatch("h[1-6]", each["tag"])]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    names = [each["id"] for each in page.elements if "id" in each]
    assert len(set(names)) == len(names)
    for each in page.elements:
        for name in each.get("aria-labelledby", "").split():
            assert name in names
    assert all(each["role"] == "img" for each in page.all("svg"))
    assert len(page.all("svg")) == len(page.all("desc"))
    captions = page.all("caption")
    assert len(captions) == len([t for t in page.all("table") if t.get("class") != "small"])


def test_several_results_each_have_a_section_and_a_link(read):
    other = replace(RESULT, task="positions", samples=())
    page = read(RESULT, other)
    assert [each["href"] for each in page.all("a")] == ["#r1", "#r2"]
    assert [each["text"] for each in page.all("h2")] == ["conflicts on mini", "positions on mini"]
    assert len(page.all("article")) == 1


def test_the_highest_and_what_reaches_it_are_marked():
    figures = [figure(0.9), figure(0.9), Figure(0.8, 0.7, 0.95, 100), figure(0.5), NAN]
    shown = tuple(Row(f"m{i}", {"x": each, "same": figure(0.4)}) for i, each in enumerate(figures))
    page = Page(f"<body>{table(shown, ['x', 'same'], 't', 'Scores')}</body>")
    cells = [each["text"].split()[0] for each in page.all("td")]
    assert cells[0::2] == ["90.0", "90.0", "80.0≈", "50.0", "–"]
    assert [each["text"] for each in page.all("b")] == ["90.0", "90.0", "Bold"]
    assert cells[1::2] == ["40.0"] * 5  # where all are the same, none is marked


def test_n_stands_where_it_is_told_apart():
    shown = (
        Row("a", {"x": figure(0.1, n=5), "y": figure(0.1, n=7)}),
        Row("b", {"x": figure(0.2, n=6), "y": figure(0.1, n=7)}),
    )
    page = Page(f"<body>{table(shown, ['x', 'y'], 't', 'Scores')}</body>")
    assert [" ".join(each["text"].split()) for each in page.all("th", scope="col")] == [
        "method",
        "x",
        "y n = 7",
    ]
    assert ["n = " in each["text"] for each in page.all("td")] == [True, False, True, False]


def test_a_figure_that_is_no_number_is_a_dash(read):
    page = read(Result("t", {}, {}, (Row("none", {"x": NAN}), Row("seka", {}))))
    assert [each["text"] for each in page.all("td")] == ["–", "–"]
    assert "nan" not in page.text


def points(page, colour):
    return [each for each in page.all("path") if each.get("class") == f"point {colour}"]


def test_curves_have_a_point_for_each_figure_and_gaps_where_there_is_none(read):
    page = read(replace(RESULT, samples=()))
    assert len(page.all("svg")) == 2  # gold over the strength, and at_…
    assert len(points(page, "kn")) == 2  # at_10 is no number; over strengths it is level
    assert len(points(page, "k0")) == 2 + 2 + 2
    assert "seka@1, 10: 80.0 [79.0, 81.0]" in [each["text"] for each in page.all("title")]


def test_a_gap_cuts_the_line(read):
    row = Row("none", {"p1": figure(0.1), "p2": figure(0.2), "p3": NAN, "p4": figure(0.4)})
    page = read(Result("t", {}, {}, (row,)))
    lines = [each["d"] for each in page.all("path", class_="line kn")]
    assert [each.count(",") for each in lines] == [2, 1]


def test_one_number_is_no_curve_and_one_strength_neither(read):
    page = read(Result("t", {}, {}, rows(**{"none": {"top1": 0.5}, "seka@2": {"top1": 0.6}})))
    assert not page.all("svg")
    assert page.all("td")


def test_strengths_far_apart_stand_on_a_logarithmic_axis(read):
    found = {f"seka@{at}": {"x": 0.5} for at in (0.1, 1, 10)}
    page = read(Result("t", {}, {}, rows(**found, **{"spa@3": {"x": 0.4}, "none": {"x": 0.4}})))
    (line,) = page.all("path", class_="line k0")
    first, middle, last = (float(each.partition(",")[0]) for each in line["d"][1:].split("L"))
    assert middle - first == pytest.approx(last - middle, abs=0.2)
    assert "in the table alone: spa@3." in page.text


def test_names_at_the_ends_of_lines_do_not_overlap(read):
    found = {f"method{i}": {"p1": 0.5, "p2": 0.5} for i in range(30)}
    page = read(Result("t", {}, {}, rows(**found)))
    svg = page.all("svg")[0]
    labels = [each for each in page.all("text") if each["text"].startswith("method")]
    heights = sorted(float(each["y"]) for each in labels)
    assert len(labels) == 30
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 13
    assert heights[0] > 0
    assert heights[-1] < float(svg["viewbox"].split()[3])


def test_samples_show_the_prompt_with_highlights_and_shares(read):
    page = read(RESULT)
    prompts = page.all("div", class_="prompt")
    assert [each["text"] for each in prompts] == ["".join(SAMPLE.tokens)] * 2
    assert [each["text"] for each in page.all("mark")] == ["Bonn is"] * 2
    shaded = [each for each in page.all("span") if each.get("title") == "40.0\xa0%"]
    assert [(each["text"], each["class"]) for each in shaded] == [("Bonn", "h9")]
    assert "on the highlight 20.0\xa0% → 60.0\xa0%" in page.text
    assert [each["text"] for each in page.all("dd", class_="answer")] == [
        "Paris",
        "Bonn <i>",
        "Paris",
    ]
    assert page.text.count("differs from none") == 1
    assert page.text.count("same as none") == 1
    opened = [each for each in page.all("details") if "open" in each]
    assert [each["text"].split()[0] for each in opened] == ["none", "seka@1"]


def test_samples_without_attention_show_the_prompt_once(read):
    looks = {"marks": Look(""), "cad": Look("Bonn")}
    page = read(replace(RESULT, samples=(replace(SAMPLE, looks=looks),)))
    assert len(page.all("div", class_="prompt")) == 1
    assert "nothing" in page.text
    assert [each["text"] for each in page.all("mark")] == ["Bonn is"]


def test_no_samples_no_rows_and_no_results(read, tmp_path):
    page = read(Result("t", {}, {}, ()))
    assert "0 methods, 0 examples" in page.text
    assert not page.all("article")
    with pytest.raises(DataError, match="at least one"):
        write_report([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x>', "&amp;", "</style>", "a@1", "p_7"]
    ),
)
SHARE = st.floats(0, 1) | st.just(math.nan)


@st.composite
def results(draw):
    names = draw(st.lists(TEXT, max_size=4, unique=True))
    made = tuple(
        Row(
            method,
            {
                name: Figure(v, v, v, draw(st.integers(0, 9)))
                for name in names
                for v in [draw(SHARE)]
            },
        )
        for method in draw(st.lists(TEXT, max_size=4, unique=True))
    )
    tokens = draw(st.lists(TEXT, max_size=5))
    shares = tuple(draw(SHARE) for _ in tokens)
    looks = {draw(TEXT): Look(draw(TEXT), shares, draw(SHARE)), draw(TEXT): Look(draw(TEXT))}
    sample = Sample(draw(TEXT), tuple(tokens), tuple(draw(st.booleans()) for _ in tokens), looks)
    values = TEXT | st.none() | st.booleans() | st.integers() | st.lists(TEXT, max_size=2)
    some = draw(
        st.dictionaries(TEXT, values | st.dictionaries(TEXT, values, max_size=2), max_size=4)
    )
    return Result(draw(TEXT), some, {draw(TEXT): 1}, made, (sample,))


@given(st.lists(results(), min_size=1, max_size=2))
@settings(max_examples=150, deadline=None)
def test_whatever_results_hold_stays_text(tmp_path_factory, found):
    target = tmp_path_factory.mktemp("report") / "report.html"
    page = Page(write_report(found, target).read_text(encoding="utf-8"))
    assert not page.all("script")
    assert not page.all("img")
    assert len(page.all("style")) == 1
    assert len(page.all("article")) == len(found)
    for result in found:
        for row in result.rows:
            assert not row.figures or unescape(text(row.method)) in page.text


def test_nothing_heavy_is_imported():
    heavy = {"torch", "numpy", "transformers"}
    code = f"import sys, seka_rag.report; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Contrast


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def mixed(over, under, share):
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme):
    style = Path(seka_rag.report.__file__).with_name("style.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for name in ("ink", "soft", "accent", "k0", "k1", "k2", "k3", "k4", "k5", "kn"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    darkest = max(int(each) for each in re.findall(r"--a: (\d+)%", style)) / 100
    shade = mixed(colours["heat"], colours["page"], darkest)
    assert contrast(colours["ink"], shade) >= 4.5
    assert contrast(colours["ink"], colours["tint"]) >= 4.5
