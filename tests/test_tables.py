"""Which numbers stand in a table: held against values worked out by hand, on records made by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_records import NANO, config_of, record_of, write_interrupted, write_record, write_run
from made_tables import entry, table

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import DatasetChoice, Settings
from ssldet.benchmark.spec import Cell, specs
from ssldet.config import RunConfig
from ssldet.errors import ConfigError, PluginError, UnknownName
from ssldet.report import cell_matching
from ssldet.report.contrasts import Difference
from ssldet.report.data_table import data_table
from ssldet.report.documents import of_table
from ssldet.report.run_selection import RunCollection, collect_runs
from ssldet.report.table_data import Table, TableRequest
from ssldet.report.tables import build_table, names, summarise
from ssldet.util.files import write_text

SMOKE = Settings("smoke")


def left_out(found: Table) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for item in found.left_out:
        kinds.setdefault(item.kind, []).append(item.reason)
    return kinds


# -------------------------------------------------------------------------------------------------- numbers


def test_mean_and_deviation_over_seeds() -> None:
    mean, std, by_seed = summarise({1: {0: 10.0, 1: 12.0, 2: 17.0}})
    assert (mean, by_seed) == (13.0, {0: 10.0, 1: 12.0, 2: 17.0})
    assert std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert summarise({1: {4: 3.0}}) == (3.0, None, {4: 3.0})
    assert summarise({1: {}}) == (None, None, {})


def test_mean_of_splits() -> None:
    mean, std, by_seed = summarise({1: {0: 10.0, 1: 20.0}, 2: {0: 30.0, 1: 50.0}, 3: {0: 50.0, 1: 50.0}})
    assert mean == pytest.approx((15 + 40 + 50) / 3)
    assert by_seed == {0: 30.0, 1: 40.0}
    assert std == pytest.approx(math.sqrt(50))
    assert summarise({1: {0: 10.0}, 2: {}})[0] is None


def test_ours_stands_beside_the_paper_with_its_difference(tmp_path: Path) -> None:
    for seed, (ours, base) in enumerate([(0.16, 0.10), (0.19, 0.12), (0.19, 0.14)]):
        write_run(tmp_path, "Supervised", base, seed=seed)
        write_run(tmp_path, "Dual Guidance", ours, seed=seed)
    found = table(tmp_path)
    base, ours = entry(found), entry(found, "Dual Guidance")
    assert (base.mean, base.std) == (pytest.approx(12), pytest.approx(2))
    assert (base.difference, base.paper and base.paper.value) == (None, 1.1)
    assert (ours.mean, ours.std, ours.n) == (pytest.approx(18), pytest.approx(math.sqrt(3)), 3)
    assert ours.difference and ours.difference.mean == pytest.approx(6)
    assert ours.difference.low == pytest.approx(6 - 4.302652729911275 / math.sqrt(3))
    assert len(ours.runs) == len(set(ours.runs)) == 3 and ours.seeds == found.seeds == (0, 1, 2)
    assert found.left_out == ()


def test_optional_rows_are_shown_on_request_or_when_they_were_run(tmp_path: Path) -> None:
    reading = "FixMatch, objectness x class"

    def approaches(**request: Any) -> set[str]:
        return {line.row.approach for line in table(tmp_path, **request).lines}

    assert reading not in approaches() and "Supervised, all labels" not in approaches()
    assert reading in approaches(extra=("readings",))
    write_run(tmp_path, reading)
    assert reading in approaches() and "Mean-Teacher, objectness x class" not in approaches()


def test_each_column_reads_its_own_number(tmp_path: Path) -> None:
    write_run(tmp_path, value={"0.1": 0.3, "0.2": 0.2, "0.5": 0.1})
    found = table(tmp_path)
    assert [entry(found, column=f"V@{key}").mean for key in ("0.1", "0.2", "0.5")] == [30, 20, 10]
    assert entry(found, ratio=0.3).marks == ("not run",)


def write_on_subset(root: Path, approach: str, by_class: list[float], absent: list[int], **options: Any) -> None:
    """A run on listed videos, scored by a protocol that counts classes without truth as 0."""
    record = record_of(config_of(approach, videos=("a", "b"), **options), None)
    classes = dict(zip("stuvwxyz", by_class, strict=False))
    mean = sum(by_class) / len(by_class)
    result = {
        "thresholds": {key: {"mean": mean, "per_class": classes} for key in ("0.1", "0.2", "0.5")},
        "notes": {"classes_without_truth": ["stuvwxyz"[place] for place in absent]},
    }
    metrics = {name: {"yowo": result} for name in ("video_map", "frame_map")}
    write_record(root, record.model_validate({**record.model_dump(mode="json"), "metrics": metrics}))


def test_tables_on_listed_videos_average_over_the_classes_that_have_truth_there(tmp_path: Path) -> None:
    write_run(tmp_path, value=0.3)
    for seed in (0, 1):
        write_on_subset(tmp_path, "Supervised", [0.2, 0.4, 0.0, 0.0], [2, 3], seed=seed)
        write_on_subset(tmp_path, "Dual Guidance", [0.4, 0.6, 0.0, 0.0], [2, 3], seed=seed)
    listed = replace(NANO, videos=("a", "b"))
    shown = table(tmp_path, settings=listed)
    assert entry(shown).mean == pytest.approx(30)  # not 15, the record's own
    assert entry(shown, "Dual Guidance").mean == pytest.approx(50)
    difference = entry(shown, "Dual Guidance").difference
    assert difference and difference.mean == pytest.approx(20)
    assert entry(table(tmp_path)).mean == 30 and entry(table(tmp_path)).n == 1  # of the run on all videos
    assert "videos (2 listed) instead of (all)" in left_out(table(tmp_path))["other settings"]
    (note,) = [text for text in of_table(shown).notes if "listed videos" in text]
    assert "On 2 listed videos: means over classes are over those that have truth" in note
    assert not [text for text in of_table(table(tmp_path)).notes if "listed videos" in text]
    chosen = table(tmp_path, settings=None, videos=("a", "b"))
    assert chosen.best and chosen.settings.videos == ("a", "b") and entry(chosen).n == 2


def test_a_subset_on_which_no_class_has_truth_has_no_number(tmp_path: Path) -> None:
    write_on_subset(tmp_path, "Supervised", [0.0, 0.0], [0, 1])
    assert entry(table(tmp_path, settings=replace(NANO, videos=("a", "b")))).marks == ("not scored",)


def test_ablations_are_compared_with_the_baseline_of_table_2(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "Dual Guidance", 0.1, table="2", ratio=0.1, seed=seed)
        write_run(tmp_path, "w/o temporal", 0.15, table="6", ratio=0.1, seed=seed)
    found = entry(table(tmp_path, "6"), "w/o temporal", ratio=0.1).difference
    assert found and (found.mean, found.n) == (pytest.approx(5), 2)
    assert left_out(table(tmp_path, "2")) == {}  # a cell of another table is no run with wrong settings


def test_mean_of_three_splits_stands_beside_split_1(tmp_path: Path) -> None:
    for split, values in ((1, (0.1, 0.2)), (2, (0.3, 0.5)), (3, (0.5, 0.5))):
        for seed, value in enumerate(values):
            write_run(tmp_path, value=value, seed=seed, split=split)
    found = table(tmp_path, splits=(1, 2, 3))
    assert entry(found).mean == pytest.approx(15)
    mean = entry(found, splits=(1, 2, 3))
    assert (mean.mean, mean.std, mean.n) == (pytest.approx(35), pytest.approx(math.sqrt(50)), 2)
    assert (mean.paper, len(mean.runs)) == (None, 6)
    assert entry(table(tmp_path), "Dual Guidance").marks == ("not run",)


def test_a_missing_split_gives_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = entry(table(tmp_path, splits=(1, 2)), splits=(1, 2))
    assert (found.mean, found.marks) == (None, ("split missing",))
    with pytest.raises(ConfigError, match=r"jhmdb has no split 7 \(known: 1, 2, 3\)"):
        table(tmp_path, splits=(7,))
    other = build_table("2", collect_runs([tmp_path]), TableRequest(splits=(1, 2)))  # UCF101-24 has one
    assert ({column.splits for column in other.columns}, other.no_splits) == ({(1,)}, (2,))


# ---------------------------------------------------------------------------------------------------- marks


def test_without_records_the_paper_stands_alone(tmp_path: Path) -> None:
    assert names() == ["1", "2", "3", "4", "5", "6"]
    for name in names()[1:]:
        found = build_table(name, collect_runs([tmp_path]), TableRequest())
        every = [value for row in found.entries for value in row if value]
        assert (found.settings.preset, found.settings.dataset_map) == ("paper", {})
        assert all(value.marks == ("not run",) for value in every if not value.paper)
        assert {value.mean for value in every} == {None}
        reported = [value for value in every if value.paper]
        assert len(reported) == {"2": 51, "3": 53, "4": 9, "5": 12, "6": 8}[name]


def test_numbers_for_all_labels_stand_in_no_ratio(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert entry(found, "Object-Prior", ratio="all", pretrained=True).paper is not None
    row = [line.row.approach for line in found.lines].index("Fully-Supervised")
    assert [c.ratio for c, value in zip(found.columns, found.entries[row], strict=True) if value] == ["all", "all"]
    write_run(tmp_path, "Supervised, all labels", 0.4, ratio=1.0, pretrained=True)
    ours = entry(table(tmp_path), "Supervised, all labels", ratio="all", pretrained=True)
    assert (ours.mean, ours.difference) == (40, None)


def test_partial_and_failed_cells(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, seed=seed)
    write_run(tmp_path, "Dual Guidance", seed=0)
    write_run(tmp_path, "Dual Guidance", None, seed=1, status="failed", notes={"error": "out of memory"})
    write_run(tmp_path, "Supervised", None, ratio=0.3, status="failed", notes={"error": "NaN"})
    found = table(tmp_path)
    assert entry(found).marks == ("other preset",)
    half = entry(found, "Dual Guidance")
    assert (half.n, half.expected, half.marks) == (1, 2, ("partial", "failed", "other preset"))
    assert entry(found, ratio=0.3).marks == ("failed",)
    assert sorted(left_out(found)["failed"]) == ["NaN", "out of memory"]
    assert entry(table(tmp_path, seeds=(0, 1, 2))).marks[0] == "partial"
    assert entry(table(tmp_path, seeds=(1,))).seeds == (1,)


def test_a_run_that_was_not_scored_so_has_no_number(tmp_path: Path) -> None:
    write_run(tmp_path, value={"0.1": 0.1, "0.2": 0.1})
    found = table(tmp_path)
    assert (entry(found).mean, entry(found).marks) == (None, ("not scored",))
    assert entry(found, column="V@0.1").mean == 10
    assert left_out(found) == {"not scored": ["it has no video_map at 0.5, protocol yowo"]}


def test_a_mean_of_runs_with_different_numbers_of_threads_is_marked(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, seed=seed)
    assert entry(table(tmp_path)).marks == ("other preset",)
    write_run(tmp_path, seed=2, threads=2)
    assert entry(table(tmp_path)).marks == ("other preset", "mixed threads")


def test_other_data_and_mixed_versions_are_marked(tmp_path: Path) -> None:
    stand_in = Settings("paper", {"jhmdb": DatasetChoice("synthetic", {"flavour": "jhmdb"})})
    write_run(tmp_path, settings=stand_in, version="1.0")
    write_run(tmp_path, settings=stand_in, version="1.1", seed=1)
    assert entry(table(tmp_path, settings=stand_in)).marks == ("other data", "mixed versions")
    write_run(tmp_path, settings=Settings())
    assert entry(table(tmp_path, settings=Settings())).marks == ()


def test_a_mean_of_runs_by_other_code_of_a_plugin_is_marked(tmp_path: Path) -> None:
    """A record from before there were fingerprints says nothing of its plugins' code."""
    for seed, code in enumerate(("", "a" * 64, "a" * 64)):
        write_run(tmp_path, seed=seed, code=code)
    assert entry(table(tmp_path)).marks == ("other preset",)
    write_run(tmp_path, seed=3, code="b" * 64)
    assert entry(table(tmp_path)).marks == ("other preset", "mixed versions")


# ------------------------------------------------------------------------------------------------- left out


def test_unreadable_runs_are_listed_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path)
    damaged = write_record(tmp_path, record_of(config_of(seed=1)))
    (damaged / "record.json").write_text('{"id": "abc", "sta')
    newer = write_record(tmp_path, record_of(config_of(seed=2)))
    content = json.loads((newer / "record.json").read_text())
    (newer / "record.json").write_text(json.dumps({**content, "schema_version": 99}))
    strange = record_of(config_of(seed=3))
    strange.config["experiment"]["future"] = 1
    write_record(tmp_path, strange)
    write_interrupted(tmp_path, config_of(seed=4))
    found = table(tmp_path)
    assert entry(found).seeds == (0,)
    reasons = left_out(found)
    assert reasons.keys() == {"damaged", "incompatible", "unreadable", "interrupted"}
    assert "schema 99" in reasons["incompatible"][0] and "future" in reasons["unreadable"][0]


def test_a_damaged_record_is_damaged_under_any_settings(tmp_path: Path) -> None:
    for settings in (NANO, SMOKE):
        config = config_of(settings=settings)
        folder = write_record(tmp_path, record_of(config))
        write_text(folder / "config.yaml", config.to_yaml())
        write_text(folder / "record.json", "{")
    found = table(tmp_path)
    assert (entry(found).marks, left_out(found).keys()) == (("not run",), {"damaged"})
    assert len(found.left_out) == 2


def test_other_settings_are_listed_with_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, "Dual Guidance", seed=1, settings=Settings("nano", assignments=("train.steps=100",)))
    options = config_of().experiment.strategy_options | {"beta": 0.5}
    write_record(tmp_path, record_of(config_of(strategy_options=options)))
    write_run(tmp_path, "FixMatch", settings=SMOKE)
    found = table(tmp_path)
    steps, beta, preset = sorted(left_out(found)["other settings"], key=len)
    assert (steps, beta) == ("train.steps 100 instead of 700", "strategy.beta 0.5 instead of 1.0")
    assert re.match(r"preset smoke: .*train\.steps \d+ instead of 700", preset)
    assert (found.seeds, entry(found).n) == ((0,), 1)


def test_runs_on_other_data_or_from_other_weights_are_not_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, value=0.2, seed=seed, data="first", age=100)
    write_run(tmp_path, value=0.9, seed=2, data="second")
    found = table(tmp_path)
    assert (entry(found).mean, entry(found).seeds) == (pytest.approx(20), (0, 1))
    assert left_out(found) == {"other data": ["data second instead of first"]}


def test_of_equally_large_groups_the_newest_counts(tmp_path: Path) -> None:
    weights = [{"initial_weights": {"3d": {"source": f"/some/{i}/kinetics.pth", "loaded": i}}} for i in (1, 2)]
    write_run(tmp_path, value=0.2, notes=weights[0], age=100)
    write_run(tmp_path, value=0.4, notes=weights[1], seed=1)
    found = table(tmp_path)
    assert (entry(found).mean, left_out(found).keys()) == (pytest.approx(40), {"other initial weights"})


def test_the_folder_of_weights_does_not_matter(tmp_path: Path) -> None:
    for seed in (0, 1):
        notes = {"initial_weights": {"3d": {"source": f"/some/{seed}/kinetics.pth"}}}
        write_run(tmp_path, seed=seed, notes=notes)
    assert entry(table(tmp_path)).n == 2


def test_of_two_runs_of_a_seed_the_newest_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", value=0.2, age=100)
    write_run(tmp_path / "b", value=0.4)
    found = table(tmp_path)
    assert (entry(found).mean, entry(found).n) == (pytest.approx(40), 1)
    assert "of the same seed is newer" in left_out(found)["repeated"][0]


def test_the_baseline_on_other_data_is_no_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, data="first")
    write_run(tmp_path, "Dual Guidance", data="second")
    found = entry(table(tmp_path), "Dual Guidance").difference
    assert found == Difference(why="the two were run on other data")


# ------------------------------------------------------------------------------------------------- settings


def test_the_settings_that_fill_most_cells_are_chosen(tmp_path: Path) -> None:
    write_run(tmp_path)
    for approach in ("Supervised", "Dual Guidance"):
        write_run(tmp_path, approach, settings=SMOKE)
    found = build_table("3", collect_runs([tmp_path]), TableRequest())
    assert (found.settings.preset, found.best and found.best.filled) == ("smoke", 2)
    assert [(option.settings.preset, option.filled) for option in found.others] == [("nano", 1)]
    write_run(tmp_path, "Dual Guidance", settings=Settings())
    write_run(tmp_path, settings=Settings())
    assert build_table("3", collect_runs([tmp_path]), TableRequest()).settings.preset == "paper"  # of equals


def test_runs_from_scratch_and_from_weights_may_have_presets_of_their_own(tmp_path: Path) -> None:
    pair = Settings("nano,smoke")
    write_run(tmp_path, value=0.2)
    write_run(tmp_path, value=0.3, settings=SMOKE)
    write_run(tmp_path, value=0.4, settings=SMOKE, pretrained=True)
    found = table(tmp_path, settings=pair)
    assert (entry(found).mean, entry(found, pretrained=True).mean) == (pytest.approx(20), pytest.approx(40))
    assert any("preset smoke" in reason for reason in left_out(found)["other settings"])
    assert "Preset nano from scratch and smoke pretrained" in " ".join(of_table(found).caption)


def test_two_presets_are_chosen_where_they_fill_more_than_one(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, settings=SMOKE, pretrained=True)
    found = build_table("3", collect_runs([tmp_path]), TableRequest())
    assert (found.settings.preset, found.best and found.best.filled) == ("nano,smoke", 2)
    assert {option.settings.preset for option in found.others} == {"nano", "smoke"}
    write_run(tmp_path, settings=SMOKE)
    assert build_table("3", collect_runs([tmp_path]), TableRequest()).settings.preset == "smoke"  # of equals one


def test_settings_under_which_all_failed_are_better_than_none(tmp_path: Path) -> None:
    write_run(tmp_path, value=None, status="failed")
    found = build_table("3", collect_runs([tmp_path]), TableRequest())
    assert (found.settings.preset, entry(found).marks) == ("nano", ("failed",))


def test_runs_made_with_other_assignments_are_shown_with_them(tmp_path: Path) -> None:
    short = Settings("nano", assignments=("train.steps=100",))
    write_run(tmp_path, value=0.3, settings=short)
    found = build_table("3", collect_runs([tmp_path]), TableRequest(assignments=short.assignments))
    assert (found.settings, entry(found).mean) == (short, 30)
    assert entry(build_table("3", collect_runs([tmp_path]), TableRequest())).marks == ("not run",)


def test_options_of_the_data_can_be_assigned(tmp_path: Path) -> None:
    stand_in = {"jhmdb": DatasetChoice("synthetic", {"flavour": "jhmdb"})}
    few = Settings("nano", stand_in, ("dataset.train_per_class=10",))
    write_run(tmp_path, value=0.1, settings=few)
    assert entry(table(tmp_path, settings=few)).mean == pytest.approx(10)
    assert entry(table(tmp_path, settings=Settings("nano", stand_in))).mean is None


def test_stand_in_data_are_found_but_never_another_data_set_of_the_paper(tmp_path: Path) -> None:
    stand_in = Settings("smoke", {"ucf24": DatasetChoice("synthetic", {"flavour": "ucf24"})})
    write_run(tmp_path, table="2", ratio=0.1, settings=stand_in)
    (chosen,) = build_table("2", collect_runs([tmp_path]), TableRequest()).settings.dataset_map.items()
    assert (chosen[0], str(chosen[1])) == ("ucf24", "synthetic:ucf24")
    assert build_table("3", collect_runs([tmp_path]), TableRequest()).settings == Settings()
    other = tmp_path / "other"
    write_run(other, ratio=0.2)
    moved = config_of().experiment.model_copy(update={"ratio": 0.1})  # J-HMDB-21 at a ratio of Table 2
    write_record(other, record_of(config_of().model_copy(update={"experiment": moved})))
    assert build_table("2", collect_runs([other]), TableRequest()).settings == Settings()


def test_settings_that_nothing_can_run_under_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown preset 'nana'; did you mean 'nano'"):
        build_table("3", RunCollection(), TableRequest(Settings("nana")))
    with pytest.raises(UnknownName, match="unknown dataset 'synthetics'"):
        build_table("3", RunCollection(), TableRequest(Settings("nano", {"jhmdb": DatasetChoice("synthetics")})))
    with pytest.raises(UnknownName, match="data set of the paper 'jhmbd'"):
        build_table("3", RunCollection(), TableRequest(Settings("nano", {"jhmbd": DatasetChoice("synthetic")})))
    with pytest.raises(ConfigError, match=r"train\.stepz"):
        build_table("3", RunCollection(), TableRequest(assignments=("train.stepz=3",)))
    with pytest.raises(UnknownName, match="unknown table '9'"):
        build_table("9", RunCollection(), TableRequest())


# -------------------------------------------------------------------------------------------------- plugins


def of_plugin(root: Path, value: float, **changes: Any) -> None:
    config = config_of(strategy="my_teacher", **{"strategy_options": {"decay": 0.9}, **changes})
    write_record(root, record_of(config, value))


def test_a_plugin_that_no_table_names_gets_rows_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, value=0.1, seed=seed)
        of_plugin(tmp_path, 0.2, seed=seed)
    of_plugin(tmp_path, 0.3, strategy_options={"decay": 0.5})
    found = table(tmp_path)
    assert [line.row.approach for line in found.lines if line.kind == "plugin"] == [
        "my_teacher decay=0.5",
        "my_teacher decay=0.9",
    ]
    ours = entry(found, "my_teacher decay=0.9")
    assert (ours.mean, ours.n, ours.paper) == (pytest.approx(20), 2, None)
    assert ours.difference and ours.difference.mean == pytest.approx(10)
    assert entry(found, "my_teacher decay=0.9", ratio=0.3).marks == ("not run",)
    assert entry(found, "my_teacher decay=0.5").marks == ("partial", "other preset")


def test_a_plugins_run_under_other_settings_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path)
    of_plugin(tmp_path, 0.2, detect=config_of().experiment.detect.model_copy(update={"score_threshold": 0.5}))
    found = table(tmp_path)
    assert {line.kind for line in found.lines} == {"both", "reported", "ours"}
    assert left_out(found) == {"other settings": ["detect.score_threshold 0.5 instead of 0.005"]}
    assert "my_teacher" not in {row.strategy for spec in specs().values() for row in spec.rows}


def test_a_run_of_another_revision_is_left_out(tmp_path: Path) -> None:
    """As its record has it: without the field, and without the options that came since."""
    write_run(tmp_path, value=0.3)
    record = record_of(config_of("Dual Guidance"), 0.2)
    del record.config["experiment"]["revision"], record.config["experiment"]["strategy_options"]["evaluate"]
    write_record(tmp_path, record)
    found = table(tmp_path)
    assert (entry(found).mean, entry(found, "Dual Guidance").mean) == (pytest.approx(30), None)
    assert left_out(found) == {"other settings": ["revision 1 instead of 2"]}


def test_the_title_of_a_plugin_has_the_options_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "FixMatch")
    options = config_of("FixMatch").experiment.strategy_options | {"o_th": 0.75}
    write_record(tmp_path, record_of(config_of("FixMatch", strategy_options=options)))
    spec = specs()["3"]
    rows = tuple(row for row in spec.rows if row.strategy != "fixmatch")
    monkeypatch.setattr(benchmark, "specs", lambda: {"3": spec.model_copy(update={"rows": rows})})
    found = [line.row.approach for line in table(tmp_path).lines if line.kind == "plugin"]
    assert found == ["fixmatch", "fixmatch o_th=0.75"]


def test_a_strategy_that_is_not_installed_costs_its_own_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for approach in ("Supervised", "FixMatch"):
        write_run(tmp_path, approach)
    real = cell_matching.run_config

    def broken(cell: Cell, settings: Settings) -> RunConfig:
        if cell.strategy == "fixmatch":
            raise PluginError("fixmatch does not import")
        return real(cell, settings)

    monkeypatch.setattr(cell_matching, "run_config", broken)
    found = table(tmp_path)
    assert (entry(found).n, entry(found, "FixMatch").marks) == (1, ("not run",))
    assert left_out(found) == {"other settings": [cell_matching.UNRESOLVED]}


# -------------------------------------------------------------------------------------------------- Table 1


def test_table_1_without_data_has_the_papers_words(tmp_path: Path) -> None:
    rows = data_table(tmp_path)
    assert [row.title for row in rows] == ["J-HMDB-21", "UCF101-24", "AVA"]
    assert all(row.absent and len(row.columns) == 4 for row in rows)
    assert all("counted" not in column for row in rows for column in row.columns)
