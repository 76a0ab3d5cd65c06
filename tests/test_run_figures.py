"""Figures of runs that are named: which runs, what each figure shows, and that all of it is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_run_store import CONFIG, write_run

from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import Matches, RankedDetections
from ssldet.errors import RequestError, UnknownName
from ssldet.evaluation.confusion import Confusion
from ssldet.evaluation.precision_recall import recall_and_precision
from ssldet.report import run_drawing, run_figures
from ssldet.report.run_figures import Bars, Cost, Line, Panel, figure_runs, place_of


def config(**fields: Any) -> dict[str, Any]:
    return resolve({**CONFIG["experiment"], **fields}, preset="smoke").model_dump(mode="json")


def write(results: Path, key: str, by_class: dict[str, float], *, log: str = "", **fields: Any) -> str:
    """A finished run; gives its id."""
    value = {"mean": float(np.mean(list(by_class.values()))), "per_class": by_class}
    metrics = {"video_map": {"yowo": {"thresholds": {"0.5": value}}}}
    folder = write_run(results, key * 12, config=config(**fields), metrics=metrics)
    (folder / "log.jsonl").write_text(log)
    return key * 12


def lines(**losses: float) -> str:
    return "".join(json.dumps({"step": 10 * i, "losses": losses}) + "\n" for i in range(1, 4))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path, "a", {"left": 0.2, "right": 0.4}, log=lines(box=2.0))
    write(tmp_path, "b", {"left": 0.5}, log=lines(box=1.0, box_u=3.0), strategy="fixmatch")
    write(tmp_path, "c", {"left": 0.1}, seed=1)
    return tmp_path


def texts(figure: Figure) -> str:
    FigureCanvasAgg(figure).draw()
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def figure(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["figure", *map(str, arguments)])


# ---------------------------------------------------------------------------------------------------- runs


def test_labels_tell_runs_apart_by_as_little_as_needed(results: Path) -> None:
    assert [label.partition(",")[0] for label in figure_runs(["a", "b"], [results])] == ["supervised", "fixmatch"]
    seeds = [label.rpartition(", ")[2] for label in figure_runs(["a", "c"], [results])]
    assert seeds == ["seed 0", "seed 1"]
    write(results, "d", {"left": 0.3})
    assert [label[-14:] for label in figure_runs(["a", "d"], [results])] == [f"({'a' * 12})", f"({'d' * 12})"]


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "name the runs"), (["f"], "no run begins with 'f'"), (["e"], "is not done"), (["a"] * 7, "6 can be told")],
)
def test_runs_that_cannot_be_drawn_are_refused(results: Path, names: list[str], message: str) -> None:
    write_run(results, "e" * 12, "failed", config=config())
    with pytest.raises(RequestError, match=message):
        figure_runs(names, [results])


def test_a_number_is_found_by_its_title_in_runs_on_the_same_data(results: Path) -> None:
    runs = figure_runs(["a", "b"], [results])
    assert place_of(runs, "V@0.5") == ("video_map", "yowo", "0.5")
    with pytest.raises(UnknownName, match=r"V@0\.5"):
        place_of(runs, "V@0.6")
    write(results, "d", {"left": 0.3}, dataset_options={"flavour": "ava"})
    with pytest.raises(RequestError, match="one data set"):
        place_of(figure_runs(["a", "d"], [results]), "V@0.5")


# ------------------------------------------------------------------------------------------- what is shown


def test_curves_are_panels_of_the_series_that_any_run_has(results: Path) -> None:
    panels = {panel.title: panel.lines for panel in run_figures.log_panels(figure_runs(["a", "b"], [results]))}
    assert {title: [list(line.ys) for line in of] for title, of in panels.items()} == {
        "loss term box": [[2.0] * 3, [1.0] * 3],
        "loss term box_u": [[3.0] * 3],
    }
    with pytest.raises(RequestError, match=r"log\.jsonl"):
        run_figures.log_panels(figure_runs(["c"], [results]))


def test_bars_are_percent_of_the_classes_that_any_run_has(results: Path) -> None:
    runs = figure_runs(["a", "b"], [results])
    bars = run_figures.class_bars(runs, place_of(runs, "V@0.5"), "V@0.5")
    assert bars.classes == ("left", "right")
    np.testing.assert_allclose(bars.values_rk, [[20, 40], [50, np.nan]])


def test_precision_falls_with_what_is_wrong_before_a_hit() -> None:
    ranked = RankedDetections(np.zeros(4, int), np.array([1, 0, 2, 1], np.uint64), np.array([2, 3, 1, 1]))
    matches = Matches(("a",), (0.5, 0.75), {"0.5": (0,), "0.75": (1,)}, "yowo", np.array([[4]]), {0: ranked})
    recall, precision = recall_and_precision(matches, 0, "0.5")  # hits at ranks 1, 2 and 7
    np.testing.assert_allclose(recall, [1 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(precision, [1, 1, 3 / 7])
    np.testing.assert_allclose(recall_and_precision(matches, 0, "0.75"), [[1 / 4], [1 / 6]])
    assert recall_and_precision(matches, 0, "0.5")[0].size == 3
    assert not recall_and_precision(Matches(("a",), (0.5,), {"0.5": (0,)}, "yowo", np.array([[0]]), {}), 0, "0.5")[
        0
    ].size


def test_costs_are_scores_over_clips(results: Path) -> None:
    runs = figure_runs(["a", "b"], [results])
    costs = run_figures.costs(runs, place_of(runs, "V@0.5"))
    assert [(cost.score, cost.gradient_clips) for cost in costs] == [(pytest.approx(30), 8), (50, 8)]


# ------------------------------------------------------------------------------------------------- drawing


def test_pictures_name_what_they_show() -> None:
    panels = [Panel("loss", (Line("the run", [1, 2], [0.1, 0.2]),))] * 4
    assert all(word in texts(run_drawing.draw_panels(panels, "x", "step")) for word in ("loss", "the run", "step"))
    bars = Bars("V@0.5", ("jump", "run"), ("first", "second"), np.array([[1.0, 2.0], [np.nan, 3.0]]))
    assert all(word in texts(run_drawing.draw_bars(bars, "x")) for word in ("jump", "run", "first", "second", "V@0.5"))
    assert "first: 30.0, 0.5 h" in texts(run_drawing.draw_costs([Cost("first", 30.0, 8, 0.5)], "x", "V@0.5"))
    matrix = Confusion(("jump",), ("jump", "run"), np.array([[3, 0, 1]]))
    drawn = texts(run_drawing.draw_confusion(matrix, "x"))
    assert "jump (4)" in drawn and "missed" in drawn and "75" in drawn and "25" in drawn


def test_as_many_looks_as_runs_and_no_two_alike_in_grey() -> None:
    looks = {(str(look["ls"]), look["marker"]) for look in run_drawing.LOOKS}
    assert len(looks) == len(run_drawing.LOOKS) == len(set(run_drawing.HATCHES)) == run_figures.MOST_RUNS


@pytest.mark.parametrize("kind", ["curves", "classes", "cost"])
def test_figures_of_runs_are_written_and_printed(results: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"{kind}.svg"
    done = figure(kind, "a", "b", "--results", results, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert list(content["runs"].values()) == ["a" * 12, "b" * 12]
    first = out.read_bytes()
    assert b"fixmatch" in first  # text stays text
    assert b"seed 0" in first
    figure(kind, "a", "b", "--results", results, "--out", out)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("curvs", "a"), "did you mean 'curves'"),
        (("confusion", "a", "b"), "1 can be told apart"),
        (("3", "a"), "takes no runs"),
        (("curves", "a", "--out", "x.gif"), ".png, .pdf, .svg"),
        (("pr", "a"), "per_video.parquet"),
        (("confusion", "a"), "detections.parquet"),
    ],
)
def test_figures_that_cannot_be_drawn_say_why(results: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = figure(*arguments, "--results", results)
    assert refused.exit_code == 2 and message in refused.stderr, refused.output
