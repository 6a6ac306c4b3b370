import sys

import pytest

from seka_rag import plots
from seka_rag.errors import DataError, MissingExtraError
from seka_rag.evaluation.results import Figure, Result, Row
from seka_rag.plots import plot_frontier, plot_gains


def figure(value):
    return Figure(value, max(0.0, value - 0.03), min(1.0, value + 0.03), 500)


def made_up(task="counterfact", names=("es", "ps", "locality")):
    rows = [
        Row("none", dict(zip(names, map(figure, (0.6, 0.4, 0.95)), strict=True))),
        Row("marks", dict(zip(names, map(figure, (0.62, 0.44, 0.9)), strict=True))),
    ]
    for method, slope in (("seka", 0.5), ("scaling", 0.3), ("random", 0.2), ("another", 0.1)):
        for strength in (6.0, 0.3, 1.0, 2.0, 4.0):
            part = 1 - 0.6 ** (strength * slope * 3)
            values = (0.6 + 0.38 * part, 0.4 + 0.5 * part, 0.95 - 0.8 * part / (0.4 + slope))
            found = dict(zip(names, map(figure, values), strict=True))
            rows.append(Row(f"{method}@{strength}", found))
    return Result(task, {}, {}, tuple(rows))


def drawn_by(draw, result, tmp_path, monkeypatch):
    """Return the panels of a drawing, each as its lines by label."""
    kept = []
    monkeypatch.setattr(plots, "_save", lambda drawing, path: kept.append(drawing))
    draw(result, tmp_path / "one.png")
    return [{line.get_label(): line for line in axes.lines} for axes in kept[0].axes]


@pytest.mark.parametrize("draw", [plot_gains, plot_frontier])
@pytest.mark.parametrize(
    "result", [made_up(), made_up("conflicts", ("gold", "absent", "wrong"))], ids=lambda r: r.task
)
def test_a_figure_is_written_whole(draw, result, tmp_path):
    path = draw(result, tmp_path / "figures" / "one.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [found.name for found in path.parent.iterdir()] == ["one.png"]


@pytest.mark.parametrize("draw", [plot_gains, plot_frontier])
def test_rows_of_one_method_are_a_curve_by_rising_strength(draw, tmp_path, monkeypatch):
    result = made_up()
    for panel in drawn_by(draw, result, tmp_path, monkeypatch):
        assert set(panel) == {"none", "marks", "seka", "scaling", "random", "another"}
        assert len(panel["seka"].get_xdata()) == 5
    (first, *_) = drawn_by(plot_gains, result, tmp_path, monkeypatch)
    assert list(first["seka"].get_xdata()) == [0.3, 1.0, 2.0, 4.0, 6.0]
    assert first["seka"].get_ydata()[1] == result.row("seka@1.0").figures["es"].value
    assert set(first["none"].get_ydata()) == {0.6}


@pytest.mark.parametrize("draw", [plot_gains, plot_frontier])
def test_a_strength_of_a_methods_own_is_not_on_its_curve(draw, tmp_path, monkeypatch):
    result = made_up()
    own = Row("seka", result.row("seka@2.0").figures)
    result = Result("counterfact", {}, {}, (own, *result.rows))
    (panel, *_) = drawn_by(draw, result, tmp_path, monkeypatch)
    assert len(panel["seka"].get_xdata()) == 5
    assert panel["seka, default"].get_ydata()[0] in (
        own.figures["es"].value,
        own.figures["ps"].value,
    )


@pytest.mark.parametrize(
    ("task", "names", "panels"),
    [
        ("counterfact", ("es", "locality", "memory"), 2),
        ("position-facts", ("at_01", "at_02", "mean"), 1),
        ("instructions", ("complied", "upper", "lower"), 1),
        ("another", ("at_1", "at_2", "at_3"), 3),
    ],
)
def test_of_many_figures_those_over_all_are_drawn(task, names, panels, tmp_path, monkeypatch):
    assert len(drawn_by(plot_gains, made_up(task, names), tmp_path, monkeypatch)) == panels


def test_figures_that_a_row_lacks_are_left_out_of_its_curve(tmp_path, monkeypatch):
    result = made_up()
    less = Row("seka@9.0", {"es": figure(0.5)})
    result = Result("counterfact", {}, {}, (*result.rows, less, Row("empty", {})))
    es, ps, _ = drawn_by(plot_gains, result, tmp_path, monkeypatch)
    assert len(es["seka"].get_xdata()) == len(ps["seka"].get_xdata()) + 1 == 6
    assert "empty" not in es


def test_unknown_figures_and_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match="no figures fluency and ps: choose from es, ps, locality"):
        plot_frontier(made_up(), tmp_path / "one.png", x="fluency")
    with pytest.raises(DataError, match="no figures None and None: choose from at_01, mean, other"):
        plot_frontier(made_up("position-facts", ("at_01", "mean", "other")), tmp_path / "one.png")
    with pytest.raises(DataError, match="use .png, .pdf or .svg"):
        plot_gains(made_up(), tmp_path / "one.docx")
    with pytest.raises(DataError, match="no rows to draw"):
        plot_gains(Result("counterfact", {}, {}, ()), tmp_path / "one.png")
    assert not list(tmp_path.iterdir())


def test_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "seka-rag\[plots\]"'):
        plot_gains(made_up(), tmp_path / "one.png")
