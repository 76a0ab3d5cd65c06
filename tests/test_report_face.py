"""`ssldet.table` and `ssldet.report.paper_figure`: what the verbs print, as one call each."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_records import write_run
from matplotlib.figure import Figure

import ssldet
from ssldet import cli, report
from ssldet.benchmark.cells import DatasetChoice, Settings
from ssldet.cli import figure as figure_verb
from ssldet.errors import ConfigError, RequestError, UnknownName
from ssldet.report import paper_figures, run_pictures

MAPPED = Settings("smoke", {"jhmdb": DatasetChoice("synthetic", {"flavour": "jhmdb"})})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with the nano preset, one of them of another row too; one run on stand-in data."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(root, "Supervised", 0.1 + seed / 10, seed=seed)
    write_run(root, "Dual Guidance", 0.4)
    write_run(root, "Supervised", 0.3, settings=MAPPED)
    return root


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json", "html"])
def test_a_table_is_the_text_that_the_verb_prints(runs: Path, form: str) -> None:
    arguments = ["table", "3", "2", "--results", str(runs), "--format", form, "--preset", "nano", "--seeds", "0"]
    printed = CliRunner().invoke(cli.main, arguments)
    assert printed.exit_code == 0 and len(printed.stdout) > 1000
    assert ssldet.table([3, "2"], results=runs, format=form, preset="nano", seeds=[0]) == printed.stdout


def test_numbers_settings_and_seeds_are_those_asked_for(runs: Path) -> None:
    def means(**asked: object) -> list[float]:
        (shown,) = json.loads(ssldet.table("3", results=[runs], format="json", **asked))["tables"]
        return [entry["mean"] for entry in shown["entries"] if entry["mean"] is not None and entry["column"] == "V@0.5"]

    assert means() == means(preset="nano") == [pytest.approx(15), pytest.approx(40)]  # most cells are filled by nano
    assert means(seeds=(1,)) == [pytest.approx(20)]
    assert means(preset="smoke", dataset_map={"jhmdb": "synthetic:jhmdb"}) == [pytest.approx(30)]
    assert means(preset="smoke", dataset_map="jhmdb=synthetic:jhmdb") == [pytest.approx(30)]
    assert means(assignments=["train.steps=3"]) == []


def test_without_numbers_there_are_all_tables_and_without_runs_the_papers_numbers(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ssldet.table(results=tmp_path, format="csv"))))
    assert list(dict.fromkeys(row["table"] for row in rows)) == ["1", "2", "3", "4", "5", "6"]
    assert {row["mean"] for row in rows} == {""}
    assert sum(row["paper"] != "" for row in rows) == 51 + 53 + 9 + 12 + 8


def test_what_cannot_be_shown_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown table '9'"):
        ssldet.table(9, results=runs)
    with pytest.raises(UnknownName, match="unknown format 'excel'"):
        ssldet.table(3, results=runs, format="excel")
    with pytest.raises(UnknownName, match="did you mean 'nano'"):
        ssldet.table(3, results=runs, preset="nana")
    with pytest.raises(ConfigError, match="jhmdb has no split 4"):
        ssldet.table(3, results=runs, splits=[4])
    with pytest.raises(RequestError, match="absent: no such folder"):
        ssldet.table(3, results=[runs, tmp_path / "absent"])


def test_the_verb_completes_the_figures_that_there_are() -> None:
    assert figure_verb.PAPERS == paper_figures.FIGURES
    assert list(figure_verb.FIGURES) == [*paper_figures.FIGURES, *run_pictures.KINDS]
    with pytest.raises(UnknownName, match="known: 3, 4, 5"):
        report.paper_figure(6)


def test_a_figure_comes_with_its_content_and_what_it_lacks(tmp_path: Path) -> None:
    write_run(tmp_path, "F_th 0.4", 0.1, table="figure4", ratio=0.1)
    drawn = report.paper_figure(4, results=tmp_path)
    assert isinstance(drawn.figure, Figure)
    assert [len(panel["points"]) for panel in drawn.content["panels"]] == [5, 5]
    assert drawn.remarks[0] == "no run with f_th = 0.2, 0.6, 0.8, 0.9"
