import sys

import pytest

from seka_rag import plots
from seka_rag.errors import DataError, MissingExtraError
from seka_rag.evaluation.results import Rate, Result, Row
from seka_rag.plots import plot_frontier, plot_gains


def rate(value):
    return Rate(value, max(0.0, value - 0.03), min(1.0, value + 0.03), 500)


def made_up(task="counterfact", names=("es", "ps", "locality")):
    rows = [
        Row("none", 0.0, dict(zip(names, map(rate, (0.6, 0.4, 0.95)), strict=True))),
        Row("marks", 0.0, dict(zip(names, map(rate, (0.62, 0.44, 0.9)), strict=True))),
    ]
    for method, slope in (("seka", 0.5), ("scaling", 0.3), ("random", 0.2)):
        for gain in (0.3, 1.0, 2.0, 4.0, 6.0):
            part = 1 - 0.6 ** (gain * slope * 3)
            values = (0.6 + 0.38 * part, 0.4 + 0.5 * part, 0.95 - 0.8 * part / (0.4 + slope))
            rows.append(Row(method, gain, dict(zip(names, map(rate, values), strict=True))))
    return Result(task, {}, {}, tuple(rows))


@pytest.mark.parametrize("draw", [plot_gains, plot_frontier])
@pytest.mark.parametrize(
    "result", [made_up(), made_up("conflicts", ("gold", "absent", "wrong"))], ids=lambda r: r.task
)
def test_a_figure_is_written_whole(draw, result, tmp_path):
    path = draw(result, tmp_path / "figures" / "one.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [found.name for found in path.parent.iterdir()] == ["one.png"]


@pytest.mark.parametrize(
    ("task", "names", "panels"),
    [
        ("positions", ("at_01", "mean", "worst"), 2),
        ("instructions", ("complied", "upper", "lower"), 1),
    ],
)
def test_of_many_rates_those_over_all_are_drawn(task, names, panels, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(len(figure.axes)))
    plot_gains(made_up(task, names), tmp_path / "one.png")
    assert drawn == [panels]


def test_unknown_rates_and_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match="no rates fluency and ps: choose from es, ps, locality"):
        plot_frontier(made_up(), tmp_path / "one.png", x="fluency")
    with pytest.raises(DataError, match="use .png, .pdf or .svg"):
        plot_gains(made_up(), tmp_path / "one.docx")
    with pytest.raises(DataError, match="no rows to draw"):
        plot_gains(Result("counterfact", {}, {}, ()), tmp_path / "one.png")
    assert not list(tmp_path.iterdir())


def test_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "seka-rag\[plots\]"'):
        plot_gains(made_up(), tmp_path / "one.png")
