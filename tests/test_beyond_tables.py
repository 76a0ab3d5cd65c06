"""Tables 7 and 8, which are ours: their cells, their words, and that nothing of the paper's is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from made_records import NANO, write_run

import ssldet
from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.spec import Row, TableSpec
from ssldet.cli import main
from ssldet.contracts import Strategy
from ssldet.errors import RequestError
from ssldet.report.cell_matching import CellMatcher
from ssldet.report.run_selection import collect_runs
from ssldet.report.table_data import PUBLISHED, TableRequest
from ssldet.report.tables import all_names, build_table, names
from ssldet.report.wording import headings
from ssldet.training.guidance import GuidanceOptions

SEMI_SUPERVISED = sorted(name for name in plugins.names("strategy") if name != "supervised")
WITH_CANDIDATES = [n for n in SEMI_SUPERVISED if issubclass(plugins.load("strategy", n).Config, GuidanceOptions)]


def rows(name: str, *, pretrained: bool) -> list[Row]:
    return [row for row in benchmark.spec(name).rows if row.strategy and row.pretrained is pretrained]


def test_the_papers_tables_stay_what_is_shown_and_run_without_names() -> None:
    assert names() == ["1", "2", "3", "4", "5", "6"] and all_names() == [*names(), "7", "8"]
    assert {spec.name for spec in benchmark.specs().values() if spec.beyond} == {"7", "8"}
    assert not any(spec.name in ("7", "8") for spec in benchmark.paper_specs())


@pytest.mark.parametrize("pretrained", [False, True])
def test_table_7_has_every_strategy_of_this_suite(pretrained: bool) -> None:
    """Each as it is; those from weights are run on request."""
    table = benchmark.spec("7")
    plain = [row.strategy for row in rows("7", pretrained=pretrained) if not row.options]
    assert sorted(filter(None, plain)) == sorted(["supervised", *SEMI_SUPERVISED])
    assert table.dataset == "jhmdb" and table.ratios == (0.2, 0.3)
    assert {row.planned for row in rows("7", pretrained=pretrained)} == {"pretrained" if pretrained else "always"}


@pytest.mark.parametrize("pretrained", [False, True])
def test_table_8_has_three_rows_for_each_strategy_with_candidates(pretrained: bool) -> None:
    options: dict[str, list[object]] = {}
    for row in rows("8", pretrained=pretrained):
        assert row.strategy is not None
        if row.strategy in WITH_CANDIDATES:
            options.setdefault(row.strategy, []).append(row.options)
            strategy: type[Strategy] = plugins.load("strategy", row.strategy)
            assert strategy(strategy.Config(**row.options)).needs.frame_head is bool(row.options)
    assert options == {name: [{}, {"frame_head": True}, {"guidance": True}] for name in options}
    assert sorted(options) == WITH_CANDIDATES


@pytest.mark.parametrize("name", ["7", "8"])
def test_rows_of_a_strategy_have_the_papers_names_and_contrasts_name_a_control(name: str) -> None:
    called = {row.strategy: row.approach for row in rows("3", pretrained=False) if not row.options}
    for row in rows(name, pretrained=False):
        assert row.options or row.approach == called.get(row.strategy or "", row.approach)
    compared = {pair[0] for pair in benchmark.spec(name).contrasts}
    trained = [row for row in rows(name, pretrained=False) if not row.control and row.strategy in WITH_CANDIDATES]
    assert all(row.approach in compared for row in trained if name == "7" or row.options)


def test_published_numbers_stand_in_columns_of_their_own() -> None:
    alien = {"approach": "a", "pretrained": True, "published": {"x": 1}}
    with pytest.raises(ValueError, match="columns that there are not: x"):
        TableSpec.model_validate({**benchmark.spec("7").model_dump(), "contrasts": [], "rows": [alien]})
    table = build_table("7", collect_runs([]), TableRequest())
    places = [i for i, column in enumerate(table.columns) if column.ratio == PUBLISHED]
    heads = [headings(table)[i] for i in places]
    assert heads == [("another metric", title) for title in ("f@0.5", "v@0.2", "v@0.5")]
    found = {
        line.row.approach: [entry.paper.value for entry in row if entry and entry.paper]
        for line, row in zip(table.lines, table.entries, strict=True)
        if line.kind == "published"
    }
    assert found == {
        "E2E-SSL (Pi-consistency)": [59.1, 93.2, 58.7],
        "Stable Mean Teacher, as published": [69.8, 98.8, 70.7],
    }
    for line, row in zip(table.lines, table.entries, strict=True):
        assert all((row[i] is not None) is (line.kind == "published") for i in places)


def test_a_table_of_ours_shows_our_runs_and_nothing_of_the_papers(tmp_path: Path) -> None:
    write_run(tmp_path, "Dual Guidance", 0.16)
    text = " ".join(ssldet.table(7, results=tmp_path, preset="nano").split())
    assert "Table 7" in text and "This table is ours" in text and "16.0" in text
    assert "Published" in text and "(98.8)" in text and "not comparable with ours" in text
    for papers in ("Object-Prior", "(6.3)", "the paper's."):
        assert papers not in text
    csv = ssldet.table([7, 8], results=tmp_path, preset="nano", format="csv")
    assert csv.count("Dual Guidance") > 1


def test_strategies_beyond_the_paper_are_further_strategies_in_its_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "FlexMatch", 0.2, table="7")
    collection = collect_runs([tmp_path])
    found = {name: list(CellMatcher(benchmark.spec(name), collection, NANO).of_plugins()) for name in ("3", "7")}
    assert [row.approach for row, *_ in found["3"]] == ["flexmatch"] and found["7"] == []
    assert "\nflexmatch " in ssldet.table(3, results=tmp_path, preset="nano")
    text = ssldet.table(7, results=tmp_path, preset="nano")
    assert "\nflexmatch " not in text and "\nFlexMatch " in text


def test_missing_package_data_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BEYOND_FILES", "ssldet.nowhere")
    benchmark.specs.cache_clear()
    with pytest.raises(RequestError, match=r"ssldet\.nowhere are missing; install ssldet again"):
        benchmark.specs()
    benchmark.specs.cache_clear()


def test_the_grid_lists_their_cells() -> None:
    asked = ["grid", "--tables", "7,8", "--preset", "smoke", "--dataset-map", "jhmdb=synthetic:jhmdb"]
    filters = ["--only", "approach=FlexMatch + guidance", "--only", "ratio=0.2"]
    result = CliRunner().invoke(main, [*asked, *filters, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "FlexMatch + guidance" in result.stdout and "first stage: boxes, frames" in result.stdout
