"""The paper's tables as data: which runs they ask for, and every number that the paper reports."""

from __future__ import annotations

from collections import Counter

import pytest

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.spec import Cell, Reported, Row, TableSpec
from ssldet.contracts import Needs, Strategy
from ssldet.errors import UnknownName

TABLES = ("2", "3", "4", "5", "6")

SUMS = {"2": 1834.3, "3": 1035.1, "4": 106.72, "5": 185.6, "6": 75.14}
"""Added up from the paper, apart from results/paper.yaml."""


def trained(*, control: bool) -> list[Cell]:
    """The cells that all tables ask for with one seed, each as often as it is asked for, optional rows left out."""
    return [
        benchmark.cell(table, row, ratio, split=1, seed=0)
        for table in map(benchmark.spec, TABLES)
        for row in table.rows
        if row.strategy and row.planned == "always" and row.control is control
        for ratio in table.ratios_of(row)
    ]


def test_the_tables_ask_for_44_runs_a_seed_and_32_controls() -> None:
    cells, controls = trained(control=False), trained(control=True)
    assert (len(cells), len(set(cells))) == (48, 44)  # Dual Guidance of Tables 5 and 6 is that of Table 2
    assert (len(controls), len(set(controls))) == (36, 32)  # and so is its control


def needs(row: Row) -> Needs:
    assert row.strategy
    strategy: type[Strategy] = plugins.load("strategy", row.strategy)
    return strategy(strategy.Config(**row.options)).needs


@pytest.mark.parametrize("name", TABLES)
def test_every_semi_supervised_row_has_a_control_with_its_heads_and_as_many_gradient_clips(name: str) -> None:
    def matched(row: Row) -> tuple[bool, bool, bool, bool]:
        """What decides the number of clips with gradients, and which heads are trained."""
        need = needs(row)
        return row.pretrained, need.frame_head, need.temporal, need.unlabelled or need.extra_labelled

    rows = [row for row in benchmark.spec(name).rows if row.strategy and row.planned == "always"]
    controls = {matched(row) for row in rows if row.control}
    assert all(matched(row) in controls for row in rows if needs(row).unlabelled)
    assert not any(needs(row).unlabelled for row in rows if row.control)


def test_tables_of_strategies_have_the_frame_head_without_unlabelled_data() -> None:
    for table in map(benchmark.spec, ("2", "3", "4")):
        starts = {row.pretrained for row in table.rows if row.strategy == "supervised" and not row.options}
        assert {row.pretrained for row in table.rows if row.options == {"frame_head": True}} == starts


def test_each_table_has_a_baseline_and_contrasts_with_dual_guidance() -> None:
    baselines = {name: benchmark.spec(name).baseline for name in TABLES}
    assert baselines == dict.fromkeys("234", "supervised") | dict.fromkeys("56", "dual_guidance")
    for name in TABLES:
        contrasts = benchmark.spec(name).contrasts
        assert ("Dual Guidance", "Supervised + frame head, equal clips") in contrasts
        assert {("Dual Guidance", "Mean-Teacher"), ("Dual Guidance", "FixMatch")} <= set(contrasts) or name in "56"


def test_contrasts_name_rows() -> None:
    with pytest.raises(ValueError, match="no rows: Nobody"):
        TableSpec.model_validate({**benchmark.spec("3").model_dump(), "contrasts": [["Nobody", "Dual Guidance"]]})


def test_the_second_reading_of_the_baselines_is_planned_on_request() -> None:
    for name in ("2", "3", "4"):
        rows = [row for row in benchmark.spec(name).rows if row.planned == "readings"]
        assert {row.strategy for row in rows} == {"mean_teacher", "fixmatch"}
        assert all(row.options == {"confidence": "objectness_class"} for row in rows)


def test_our_own_run_with_all_labels_is_planned_on_request() -> None:
    for name in ("2", "3", "4"):
        table = benchmark.spec(name)
        (row,) = [row for row in table.rows if row.planned == "fully_supervised"]
        assert (row.strategy, table.ratios_of(row), row.pretrained) == ("supervised", (1.0,), True)
    assert "fully_supervised" not in {row.planned for name in ("5", "6") for row in benchmark.spec(name).rows}


def test_columns_are_metrics_of_this_suite() -> None:
    for table in map(benchmark.spec, TABLES):
        for column in table.columns:
            metric = plugins.load("metric", column.metric)
            assert column.protocol in metric.protocols
            assert metric.columns[column.key] == column.title


def test_unknown_table() -> None:
    with pytest.raises(UnknownName, match=r"unknown table '9'.*known: .*2, 3"):
        benchmark.spec("9")


@pytest.mark.parametrize("name", TABLES)
def test_reported_rows_are_the_rows_that_are_not_ours(name: str) -> None:
    ours = [(row.approach, row.pretrained) for row in benchmark.spec(name).rows if not is_ours(row)]
    assert ours == [(row.approach, row.pretrained) for row in benchmark.paper().tables[name]]


def is_ours(row: Row) -> bool:
    return row.control or row.planned != "always"


@pytest.mark.parametrize("name", TABLES)
def test_reported_numbers_stand_in_columns_of_the_table(name: str) -> None:
    table = benchmark.spec(name)
    titles, ratios = {column.title for column in table.columns}, set(map(benchmark.ratio_key, table.ratios))
    for row in table.rows:
        for found in (r for r in benchmark.paper().tables[name] if (r.approach, r.pretrained) == key(row)):
            assert set(found.values) <= titles
            assert all(set(by_ratio) == (ratios if row.strategy else {"all"}) for by_ratio in found.values.values())


def key(row: Row) -> tuple[str, bool]:
    return row.approach, row.pretrained


def numbers(name: str) -> list[float]:
    rows = benchmark.paper().tables[name]
    return [found.value for row in rows for by_ratio in row.values.values() for found in by_ratio.values()]


def test_counts_and_sums_of_reported_numbers() -> None:
    assert {name: len(numbers(name)) for name in TABLES} == {"2": 51, "3": 53, "4": 9, "5": 12, "6": 8}
    sums = {name: round(sum(numbers(name)), 2) for name in TABLES}
    assert sums == SUMS


def reported(table: str, approach: str, column: str, ratio: float | str, *, pretrained: bool = False) -> Reported:
    spec: TableSpec = benchmark.spec(table)
    (row,) = [row for row in spec.rows if (row.approach, row.pretrained) == (approach, pretrained)]
    found = benchmark.paper().number(table, row, column, ratio)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_numbers_at_places() -> None:
    assert reported("2", "FixMatch", "V@0.1", 0.1, pretrained=True).value == 74.6
    assert reported("2", "Supervised", "V@0.5", 0.05).value == 2.1
    assert reported("3", "Dual Guidance", "V@0.5", 0.2).value == 6.3
    assert reported("3", "Object-Prior", "V@0.5", "all", pretrained=True).value == 17.6
    assert reported("4", "Dual Guidance", "F@0.5", 0.3, pretrained=True).value == 12.38
    assert reported("5", "w/o negative sampling", "V@0.5", 0.1).value == 6.1
    assert reported("6", "w/o temporal", "F@0.5", 0.1).value == 15.76


def test_both_numbers_are_kept_where_the_paper_contradicts_itself() -> None:
    assert reported("2", "Dual Guidance", "V@0.1", 0.1).elsewhere == ((35.2, "Table 5"),)
    assert reported("5", "Dual Guidance", "V@0.1", 0.1) == Reported(value=35.2, elsewhere=((34.9, "Table 2"),))
    assert reported("5", "Dual Guidance", "V@0.5", 0.1).elsewhere == ((9.8, "Sec. 4.5.1"),)
    assert Counter(word for text in benchmark.paper().contradictions for word in text.split())["Table"] >= 6


def test_table_1_is_what_the_data_sets_say_was_printed() -> None:
    assert list(benchmark.paper().datasets) == ["jhmdb", "ucf24", "ava"]
    for name, found in benchmark.paper().datasets.items():
        assert plugins.load("dataset", name).reported == found.columns
