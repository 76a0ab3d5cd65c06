"""Tables and grids of any data set, without a table of the paper: rows, numbers, what is left out, and the commands."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import QUICK
from made_records import record_of, write_record

import ssldet
from ssldet.benchmark.cells import Settings, run_config
from ssldet.benchmark.dataset_spec import dataset_spec, row_of
from ssldet.benchmark.spec import cell
from ssldet.cli import main
from ssldet.errors import ConfigError, RequestError, UnknownName
from ssldet.runs import layout

DATA = "synthetic:jhmdb"


def write(
    root: Path,
    strategy: str,
    value: Any = 0.1,
    *,
    dataset: str = DATA,
    ratio: float = 0.5,
    seed: int = 0,
    preset: str = "smoke",
    options: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """The record of a run on a data set; gives its id. `more` are settings, or options of `record_of`."""
    of_record = {name: more.pop(name) for name in ("status", "data", "notes") if name in more}
    row = row_of(strategy).model_copy(update={"options": options or {}})
    table = dataset_spec(dataset, [row], [ratio])
    config = run_config(cell(table, row, ratio, split=1, seed=seed), Settings(preset, **more))
    record = record_of(config, value, **of_record)
    write_record(root, record, name=f"{strategy}-{record.id}-{preset}-{seed}")
    return record.id


def numbers(root: Path, **asked: Any) -> list[dict[str, str]]:
    text = ssldet.table(dataset=asked.pop("dataset", DATA), results=root, format="csv", **asked)
    return list(csv.DictReader(StringIO(text)))


def test_strategies_stand_against_supervised(tmp_path: Path) -> None:
    for seed, value in enumerate((0.10, 0.12, 0.17)):
        write(tmp_path, "supervised", value, seed=seed)
        write(tmp_path, "dual_guidance", value + 0.01 * (seed + 1), seed=seed)
    (table,) = json.loads(ssldet.table(dataset=DATA, results=tmp_path, format="json", cost=True))["tables"]
    supervised, guided = (
        next(e for e in table["entries"] if e["approach"] == name and e["column"] == "V@0.5")
        for name in ("Supervised", "Dual Guidance")
    )
    assert (supervised["mean"], supervised["n"], supervised["std"]) == pytest.approx((13, 3, 3.6056), abs=1e-3)
    assert (guided["mean"], guided["difference"]) == pytest.approx((15, 2))
    half = 4.3027 / 3**0.5  # t of two degrees of freedom; the deviation of +1, +2, +3 is 1
    assert (guided["difference_low"], guided["difference_high"]) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert supervised["difference"] is None and guided["protocol"] == "yowo"
    assert {e["column"] for e in table["entries"]} == {"F@0.5", "V@0.2", "V@0.5"}
    assert [rank["approach"] for rank in table["ranks"]] == ["Supervised", "Dual Guidance"]
    assert [rank["rank"] for rank in table["ranks"]] == [2, 1]
    assert table["costs"][0]["gradient_clips"] == 80


def test_supervised_has_a_row_though_it_was_not_run(tmp_path: Path) -> None:
    write(tmp_path, "dual_guidance", 0.2)
    rows = {row["approach"]: row for row in numbers(tmp_path) if row["column"] == "V@0.5"}
    assert list(rows) == ["Supervised", "Dual Guidance"]
    assert (rows["Supervised"]["marks"], rows["Dual Guidance"]["mean"]) == ("not run", "20.0")
    assert rows["Dual Guidance"]["difference"] == ""


def test_options_beside_the_presets_are_rows_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "supervised", 0.1)
    write(tmp_path, "dual_guidance", 0.2)
    write(tmp_path, "dual_guidance", 0.3, options={"o_th": 0.45})
    write(tmp_path, "supervised", 0.15, options={"equal_clips": True})
    found = {row["approach"]: float(row["mean"]) for row in numbers(tmp_path) if row["column"] == "V@0.5"}
    expected = {"Dual Guidance": 20, "Dual Guidance o_th=0.45": 30, "Supervised": 10, "Supervised equal_clips=True": 15}
    assert found == pytest.approx(expected)


def test_runs_left_out_are_listed_with_the_true_reason(tmp_path: Path) -> None:
    write(tmp_path, "supervised", 0.1)
    write(tmp_path, "supervised", 0.1, seed=2)
    steps = write(tmp_path, "fixmatch", 0.3, assignments=("train.steps=3",))
    options = write(tmp_path, "supervised", 0.3, assignments=("dataset.train_per_class=3",))
    write(tmp_path, "mean_teacher", None, status="failed", notes={"error": "no space"})
    elsewhere = write(tmp_path, "supervised", 0.2, data="other data", seed=1)
    second = write(tmp_path, "supervised", 0.9, dataset="synthetic:ucf24")
    text = ssldet.table(dataset=DATA, results=tmp_path, format="terminal")
    text = " ".join(text.split())
    for what in (
        f"{steps} (train.steps 3 instead of",
        "(no space)",
        f"{options} (dataset.train_per_class 3 instead of",
    ):
        assert what in text
    assert f"{elsewhere} (data other data instead of data)" in text
    assert second not in text
    assert "no run on these data has the settings shown" not in text
    other = ssldet.table(dataset=DATA, results=tmp_path, assignments=["train.steps=9"], ratios=[0.5])
    assert "no run on these data has the settings shown: give --preset and --set" in " ".join(other.split())
    named = {row["approach"]: row["marks"] for row in numbers(tmp_path) if row["column"] == "V@0.5"}
    assert (named["FixMatch"], named["Mean-Teacher"]) == ("not run", "failed")


def test_it_speaks_of_the_data_alone(tmp_path: Path) -> None:
    """Not even of data that the paper has a table of."""
    write(tmp_path, "supervised", 0.1, dataset="jhmdb", ratio=0.2)
    write(tmp_path, "mean_teacher", 0.2, dataset="jhmdb", ratio=0.2)
    text = ssldet.table(dataset="jhmdb", results=tmp_path)
    assert text.startswith("Strategies on jhmdb") and "10.0" in text and "20.0" in text
    for papers in ("paper", "Object-Prior", "†", "‡", "frame head", "negative sampling"):
        assert papers not in text, papers


def test_the_ratios_and_the_preset_are_those_of_the_runs(tmp_path: Path) -> None:
    write(tmp_path, "supervised", 0.1, ratio=0.5)
    write(tmp_path, "fixmatch", 0.1, ratio=0.5)
    write(tmp_path, "supervised", 0.2, ratio=0.3, preset="nano")
    assert {row["ratio"] for row in numbers(tmp_path)} >= {"0.3", "0.5"}
    assert {row["ratio"] for row in numbers(tmp_path, ratios=[0.5])} - {""} == {"0.5"}
    assert "--preset nano (1 cell)" in ssldet.table(dataset=DATA, results=tmp_path)
    nano = [row for row in numbers(tmp_path, preset="nano") if row["mean"]]
    assert {(row["approach"], row["ratio"], row["mean"]) for row in nano} == {("Supervised", "0.3", "20.0")}


def test_columns_are_those_that_the_runs_have(tmp_path: Path) -> None:
    """Data with key frames alone have no video-mAP."""
    write(tmp_path, "supervised", {"0.5": 0.1})  # nothing at 0.2
    assert {row["column"] for row in numbers(tmp_path)} - {""} == {"F@0.5", "V@0.5"}


def test_a_table_without_runs_says_how_to_make_some(tmp_path: Path) -> None:
    text = ssldet.table(dataset="folder", results=tmp_path)
    assert "ssldet grid --dataset folder --strategy" in text and "not run" in text and "100 %" in text


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"dataset": "foldr"}, UnknownName, "did you mean 'folder'"),
        ({"dataset": "synthetic:jmdb"}, ConfigError, "flavour"),
        ({"dataset": "folder", "ratios": [1.5]}, ConfigError, "ratio 1.5"),
        ({"dataset": "folder", "numbers": 3}, RequestError, "leave them out with dataset"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ssldet.table(results=tmp_path, **asked)


# ----------------------------------------------------------------------------------------------- the commands

FEW = ("dataset.train_per_class=6", "dataset.test_per_class=1")
SETS = (*QUICK, *FEW, "train.steps=4", "train.checkpoint_every=2", "clip.size=32", "clip.frames=4")


def invoke(*arguments: str, sets: tuple[str, ...] = SETS) -> Result:
    return CliRunner().invoke(main, [*arguments, *(part for one in sets for part in ("--set", one))])


def test_a_grid_of_a_data_set_plans_every_strategy_beside_supervised(tmp_path: Path) -> None:
    asked = ("grid", "--dataset", DATA, "--preset", "smoke", "--results", str(tmp_path), "--dry-run", "--json")
    more = (
        "--strategy",
        "dual_guidance,fixmatch",
        "--strategy",
        "supervised",
        "--ratio",
        "0.5,0.7",
        "--seeds",
        "0,1,2",
    )
    result = invoke(*asked, *more)
    assert result.exit_code == 0, result.output
    tasks = [task for task in json.loads(result.stdout)["tasks"] if task["kind"] == "run"]
    names = ("supervised", "dual_guidance", "fixmatch")
    expected = {(name, ratio, seed) for name in names for ratio in (0.5, 0.7) for seed in (0, 1, 2)}
    assert Counter((t["strategy"], t["ratio"], t["seed"]) for t in tasks) == Counter(expected)
    assert {(t["dataset"], t["state"], t["pretrained"]) for t in tasks} == {(DATA, "to run", False)}
    shown = invoke(*asked[:-1], "--ratio", "0.5")
    assert "1 cells: 1 to run" in shown.stdout and DATA in shown.stdout


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("grid", ("--dataset", "folder", "--tables", "3"), "--dataset asks for cells on folder, and --tables"),
        ("grid", ("--dataset", "folder", "--dataset-map", "ucf24=synthetic"), "--dataset-map"),
        ("grid", ("--dataset", "foldr"), "did you mean 'folder'"),
        ("grid", ("--dataset", "folder", "--ratio", "20"), "expected shares in (0, 1]"),
        ("grid", ("--tables", "3", "--ratio", "0.2"), "--ratio goes with --dataset"),
        ("table", ("3", "--dataset", "folder"), "--dataset asks for a table of folder, and table 3"),
        ("table", ("3", "--ratio", "0.2"), "--ratio goes with --dataset"),
    ],
)
def test_the_papers_tables_and_a_data_sets_own_exclude_each_other(
    verb: str, arguments: tuple[str, ...], said: str
) -> None:
    result = invoke(verb, *arguments, sets=())
    assert result.exit_code == 2 and said in result.stderr, result.output


def test_a_table_shows_what_a_grid_ran(tmp_path: Path) -> None:
    asked = ("--dataset", DATA, "--ratio", "0.5", "--preset", "smoke", "--results", str(tmp_path))
    done = invoke("grid", *asked, "--strategy", "mean_teacher", "--threads", "1")
    assert done.exit_code == 0, done.output
    named = next(line for line in done.stderr.splitlines() if line.startswith("next: ssldet table "))
    assert {"--dataset", DATA, "--results", str(tmp_path), *SETS} <= set(shlex.split(named))
    result = invoke("table", *asked, "--format", "json", "--columns", "cost")
    (table,) = json.loads(result.stdout)["tables"]
    means = {(entry["approach"], entry["column"]): entry["mean"] for entry in table["entries"]}
    assert len(means) == 6 and None not in means.values(), result.output
    assert not table["left_out"] and len(table["costs"]) == 2
    # a clean-up later, the same commands say what is gone, and what makes it again
    plain, teacher = sorted(tmp_path.glob("synthetic-*"), key=lambda folder: "mean_teacher" in folder.name)
    (plain / layout.WEIGHTS).unlink()
    (plain / layout.DETECTIONS).unlink()
    (teacher / layout.PER_VIDEO).unlink()
    again = invoke("grid", *asked, "--strategy", "mean_teacher", "--threads", "1")
    assert again.exit_code == 0 and "2 cells: 2 done" in again.stdout
    assert "done: its numbers are there, and detections.parquet, weights.safetensors are gone;" in again.stdout
    assert "`ssldet runs rescore RUN` makes per_video.parquet again" in again.stdout
    alone = invoke("run", "--strategy", "supervised", *asked)
    run = f"{plain.name[-12:]} --results {tmp_path}"
    assert f"are gone; `ssldet runs rm {run}` and the same command make the run" in alone.stderr
    assert "rescore" not in alone.stderr and alone.exit_code == 0
