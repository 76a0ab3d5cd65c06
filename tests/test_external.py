"""Others' detections: scored, kept under a name, and shown beside our runs as what they are."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_records import record_of, write_record

import ssldet as package
from ssldet.benchmark.cells import Settings, run_config
from ssldet.benchmark.dataset_spec import dataset_spec, row_of
from ssldet.benchmark.spec import cell
from ssldet.cli import main
from ssldet.contracts import Dataset, VideoDetections
from ssldet.errors import RequestError
from ssldet.evaluation.detections import DetectionsWriter
from ssldet.evaluation.per_video import per_video, read_per_video, write_per_video
from ssldet.report.cell_matching import requested_settings
from ssldet.report.run_selection import collect_runs
from ssldet.report.table_data import TableRequest
from ssldet.report.tables import build_table
from ssldet.runs.external import find_externals
from ssldet.runs.external_scoring import check_name, detections_hash, record_external
from ssldet.runs.store import find_runs
from ssldet.util.files import file_hash

DATA = "synthetic:jhmdb"
SMALL = {"train_per_class": 2, "test_per_class": 1}
SETS = tuple(f"dataset.{name}={value}" for name, value in SMALL.items())
METRICS = {"frame_map": ("yowo",), "video_map": ("yowo",)}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return package.load_dataset(DATA, **SMALL)


def write_file(path: Path, data: Dataset, missed: Sequence[int] = ()) -> Path:
    """Detections of the truth itself, but for the videos that were missed."""
    with DetectionsWriter(path, data.facts) as writer:
        for place, video in enumerate(data.videos("test", 1)):
            truth = data.truth(video.id)
            scores_nk = 0.8 * truth.labels_nk.astype(np.float32)
            found = VideoDetections(
                truth.frames_n, truth.boxes_n4, np.full(len(truth.frames_n), 0.9, np.float32), scores_nk
            )
            if place not in missed:
                writer.add(video.id, found)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Path:
    return write_file(tmp_path_factory.mktemp("theirs") / "theirs.parquet", data, missed=(0, 1))


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def evaluate(file: Path, results: Path, *more: object) -> Result:
    sets = [part for text in SETS for part in ("--set", text)]
    metrics = ("--metric", "frame_map", "--metric", "video_map")
    return ssldet("evaluate", "--detections", file, "--dataset", DATA, *sets, *metrics, "--results", results, *more)


def write_run(
    root: Path,
    data: Dataset,
    strategy: str = "supervised",
    value: float = 0.1,
    *,
    seed: int = 0,
    videos: int | None = None,
) -> str:
    """The record of a run of ours on the data, with per-video matches of nothing found; gives its id."""
    row = row_of(strategy)
    settings = Settings("smoke", assignments=SETS)
    config = run_config(cell(dataset_spec(DATA, [row], [0.5]), row, 0.5, split=1, seed=seed), settings)
    record = record_of(config, value, data=data.fingerprint())
    folder = write_record(root, record)
    scored = [video.id for video in data.videos("test", 1)][:videos]
    nothing = package.evaluate({}, data, METRICS, videos=scored)
    write_per_video(folder / "per_video.parquet", per_video(data.facts, 1, nothing.videos, nothing.matches))
    return record.id


def rows(results: Path, **asked: Any) -> list[dict[str, str]]:
    text = package.table(dataset=DATA, results=results, format="csv", preset="smoke", assignments=SETS, **asked)
    return list(csv.DictReader(StringIO(text)))


def text_of(results: Path, **asked: Any) -> str:
    return " ".join(package.table(dataset=DATA, results=results, preset="smoke", assignments=SETS, **asked).split())


# ----------------------------------------------------------------------------------------------- the record


def test_the_record_has_the_numbers_of_evaluate_and_the_hash_of_the_file(
    file: Path, data: Dataset, tmp_path: Path
) -> None:
    result = evaluate(file, tmp_path, "--record", "moc", "--ratio", 0.5, "--seed", 3, "--json")
    assert result.exit_code == 0, result.output
    assert f"kept in {tmp_path / 'external' / 'moc'}, as external" in result.stderr
    (kept,) = find_externals([tmp_path])
    record = kept.record
    assert record is not None
    printed = json.loads(result.stdout)
    alone = package.evaluate(file, data, METRICS)
    for metric, title in (("frame_map", "F@0.5"), ("video_map", "V@0.5")):
        mean = printed[metric]["thresholds"]["0.5"]["mean"]
        assert record.value(metric, "yowo", title) == mean == alone.value(metric, "yowo", title)
        assert 0 < mean < 1
    assert (record.detections, record.source) == (file_hash(file), "theirs.parquet")
    assert (record.name, record.ratio, record.seed, record.split) == ("moc", 0.5, 3, 1)
    assert (record.dataset_name, record.data_fingerprint) == (DATA, data.fingerprint())
    assert (record.videos, record.evaluated) == (None, len(data.videos("test", 1)))
    matches = read_per_video(kept.folder / "per_video.parquet")
    assert {video.id for video in matches.videos} == {video.id for video in data.videos("test", 1)}


def test_it_is_no_run_of_ours(file: Path, data: Dataset, tmp_path: Path) -> None:
    record_external("moc", file, data, METRICS, results=tmp_path)
    assert find_runs([tmp_path]) == []
    content = json.loads((tmp_path / "external" / "moc" / "external.json").read_text())
    assert content["kind"] == "external" and not {"id", "config", "status"} & content.keys()
    for verb in (("runs", "rescore", "moc"), ("figure", "5", "--run", "moc", "--out", tmp_path / "x.png")):
        result = ssldet(*verb, "--results", tmp_path)
        assert result.exit_code == 2 and "moc is external: others' detections" in result.stderr


def test_the_same_command_again_changes_nothing(file: Path, tmp_path: Path) -> None:
    evaluate(file, tmp_path, "--record", "moc")
    path = tmp_path / "external" / "moc" / "external.json"
    before, changed = path.read_bytes(), path.stat().st_mtime_ns
    result = evaluate(file, tmp_path, "--record", "moc")
    assert result.exit_code == 0 and (path.read_bytes(), path.stat().st_mtime_ns) == (before, changed)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--ratio", 0.2), "ratio None instead of 0.2"),
        (("--protocol", "standard"), "other metrics"),
        (("--lenient",), "'lenient': False"),
    ],
)
def test_a_name_is_not_taken_twice(
    file: Path, data: Dataset, tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    evaluate(file, tmp_path, "--record", "moc")
    others = write_file(tmp_path / "others.parquet", data)
    refused = evaluate(others, tmp_path, "--record", "moc")
    assert refused.exit_code == 2 and not refused.stdout
    assert f"holds detections {file_hash(file)[:12]}, and these are {file_hash(others)[:12]}" in refused.stderr
    assert "give --replace to have these instead, or another name than moc" in refused.stderr
    refused = evaluate(file, tmp_path, "--record", "moc", *more)
    assert refused.exit_code == 2 and said in refused.stderr and "--replace" in refused.stderr
    assert evaluate(others, tmp_path, "--record", "moc", "--replace", *more).exit_code == 0
    (kept,) = find_externals([tmp_path])
    assert kept.record is not None and kept.record.detections == file_hash(others)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".moc", "moc.", "a b", "naïve", "con", "NUL.txt", "x" * 65, "a,b"])
def test_names_that_are_no_good_as_file_names_are_refused(name: str, file: Path, tmp_path: Path) -> None:
    result = evaluate(file, tmp_path, "--record", name)
    assert result.exit_code == 2 and "expected a name of up to 64 letters" in result.stderr
    assert not (tmp_path / "external").exists()


@pytest.mark.parametrize("name", ["beef", "3f2a", "jhmdb-mine-0.2-split1-seed0-0123456789ab"])
def test_names_that_read_like_a_runs_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="reads like the id or folder of a run"):
        check_name(name)
    check_name("MOC_2020-v1.2")


def test_what_goes_with_a_record_needs_one(file: Path, tmp_path: Path) -> None:
    for option in (("--ratio", 0.5), ("--seed", 1), ("--replace",)):
        result = ssldet("evaluate", "--detections", file, "--dataset", DATA, "--metric", "frame_map", *option)
        assert result.exit_code == 2 and f"{option[0]} belongs to --record NAME" in result.stderr


def test_a_folder_of_detections_has_the_hash_of_its_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.txt").write_text("1")
    assert detections_hash(tmp_path / "a") == detections_hash(tmp_path / "b")
    (tmp_path / "b" / "one.txt").rename(tmp_path / "b" / "two.txt")
    assert detections_hash(tmp_path / "a") != detections_hash(tmp_path / "b")


# ----------------------------------------------------------------------------------------------- in tables


def test_a_table_has_it_in_a_row_of_its_own(file: Path, data: Dataset, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, data, value=0.1, seed=seed)
        write_run(tmp_path, data, "fixmatch", value=0.2, seed=seed)
    before = [row for row in rows(tmp_path) if row["kind"] != "left out"]
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5, seed=0)
    value = package.evaluate(file, data, METRICS).value("video_map", "yowo", "V@0.5")
    found = [row for row in rows(tmp_path) if row["kind"] != "left out"]
    assert value is not None
    (theirs,) = (row for row in found if row["row"] == "external" and row["column"] == "V@0.5")
    assert (theirs["approach"], theirs["ratio"], theirs["n"]) == ("moc (external)", "0.5", "1")
    assert float(theirs["mean"]) == pytest.approx(100 * value)
    assert (theirs["runs"], theirs["seeds"], theirs["difference"]) == ("", "", "")
    # nothing of ours moves: neither means nor differences, contrasts and ranks
    assert [row for row in found if row["row"] != "external"] == before
    text = text_of(tmp_path)
    assert f"moc (external): detections {file_hash(file)[:12]} (SHA-256), theirs.parquet" in text
    assert "its author states ratio 0.5 and seed 0" in text
    (table,) = json.loads(package.table(dataset=DATA, results=tmp_path, format="json", assignments=SETS))["tables"]
    assert table["external"] == [{"name": "moc", "detections": file_hash(file), "ratio": 0.5, "seed": 0}]
    for form in ("markdown", "latex", "html"):
        assert "moc (external)" in package.table(dataset=DATA, results=tmp_path, format=form, assignments=SETS)


def test_without_a_ratio_it_has_a_column_of_its_own(file: Path, data: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path, data)
    record_external("moc", file, data, METRICS, results=tmp_path)
    theirs = [row for row in rows(tmp_path) if row["row"] == "external"]
    assert {row["ratio"] for row in theirs} == {"unstated"} and len(theirs) == 3
    assert "-: of an external row whose author states no label ratio" in text_of(tmp_path)
    assert {row["ratio"] for row in rows(tmp_path) if row["row"] == "ours"} == {"0.5"}


def test_its_ratio_is_a_column_where_none_is_asked_for(file: Path, data: Dataset, tmp_path: Path) -> None:
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.05)
    assert {row["ratio"] for row in rows(tmp_path) if row["row"] == "external"} == {"0.05"}
    assert "moc (ratio 0.05 is none of 0.5)" in text_of(tmp_path, ratios=[0.5])


def test_the_papers_tables_have_it_too(file: Path, data: Dataset, tmp_path: Path) -> None:
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.2)
    record_external("full", file, data, METRICS, results=tmp_path, ratio=1.0)
    settings = requested_settings("smoke", f"jhmdb={DATA}", SETS)
    found = build_table("3", collect_runs([tmp_path]), TableRequest(settings))
    by_title = {line.row.approach: i for i, line in enumerate(found.lines) if line.kind == "external"}
    assert set(by_title) == {"moc (external)", "full (external)"}
    value = package.evaluate(file, data, METRICS).value("video_map", "yowo", "V@0.2")
    for title, ratio in (("moc (external)", 0.2), ("full (external)", "all")):
        places = [
            (column.ratio, entry)
            for column, entry in zip(found.columns, found.entries[by_title[title]], strict=True)
            if column.metric.title == "V@0.2" and entry
        ]
        ((at, entry),) = places
        assert value is not None and (at, entry.mean) == (ratio, pytest.approx(100 * value))
        assert entry.marks == ("other data",) and entry.difference is None and entry.paper is None
    plain = build_table("3", collect_runs([tmp_path]), TableRequest(requested_settings("smoke", None)))
    assert all(line.kind != "external" for line in plain.lines)


def test_what_does_not_fit_is_left_out_with_the_true_reason(file: Path, data: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path, data)
    ids = [video.id for video in data.videos("test", 1)]
    record_external("few", file, data, METRICS, results=tmp_path, ratio=0.5, videos=ids[1:])
    record_external("act", file, data, {"frame_map": ["act"]}, results=tmp_path, ratio=0.5)
    record_external("recall", file, data, {"recall": ["standard"]}, results=tmp_path, ratio=0.5)
    other = package.load_dataset(DATA, **{**SMALL, "train_per_class": 3})
    record_external("more", file, other, METRICS, results=tmp_path, ratio=0.5)
    text = text_of(tmp_path)
    n = len(ids)
    assert f"external, other test videos: few ({n - 1} test videos, without {min(ids)!r}, instead of {n})" in text
    assert "external, other protocol: act (it was scored by frame_map, protocol act, and the table shows" in text
    assert "external, not scored: recall (it was scored by recall, protocol standard, and" in text
    assert "external, other data: more (dataset.train_per_class 3 instead of 2)" in text
    assert "(external)" not in text
    changed = tmp_path / "external" / "more" / "external.json"
    content = json.loads(changed.read_text())
    content["dataset_options"], content["data_fingerprint"] = {**content["dataset_options"], **SMALL}, "f" * 64
    changed.write_text(json.dumps(content))
    assert f"more (data ffffffffffff instead of {data.fingerprint()[:12]})" in text_of(tmp_path)
    changed.write_text("{")
    assert "unreadable: more (" in text_of(tmp_path)


def test_the_split_of_a_table_is_that_of_its_rows(file: Path, data: Dataset, tmp_path: Path) -> None:
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5)
    path = tmp_path / "external" / "moc" / "external.json"
    path.write_text(path.read_text().replace('"split": 1', '"split": 2'))
    assert "external, other split: moc (split 2 instead of 1)" in text_of(tmp_path)


def test_on_listed_videos_it_stands_beside_runs_on_the_same_test_videos(
    file: Path, data: Dataset, tmp_path: Path
) -> None:
    """The list of runs has training videos, too: what counts is what was tested on."""
    ids = sorted(video.id for video in data.videos("test", 1))[1:]
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5, videos=ids)
    (theirs,) = (r for r in rows(tmp_path, videos=ids) if r["row"] == "external" and r["column"] == "F@0.5")
    found = package.evaluate(file, data, METRICS, videos=ids)["frame_map"]["yowo"].thresholds["0.5"].per_class
    classes = {
        data.facts.classes[label] for video in data.videos("test", 1) if video.id in ids for label in video.classes
    }
    assert float(theirs["mean"]) == pytest.approx(100 * np.mean([found[name] for name in classes]))
    assert "moc (" + f"{len(ids)} listed videos instead of all test videos)" in text_of(tmp_path)


# -------------------------------------------------------------------------------------- the verbs about runs


def test_runs_list_and_show_say_that_it_is_external(file: Path, data: Dataset, tmp_path: Path) -> None:
    run = write_run(tmp_path, data)
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5)
    listed = json.loads(ssldet("runs", "list", "--results", tmp_path, "--json").stdout)
    assert [(each.get("id"), each["status"]) for each in listed] == [(run, "done"), (None, "external")]
    value = package.evaluate(file, data, METRICS).value("frame_map", "yowo", "F@0.5")
    assert listed[1]["name"] == "moc" and listed[1]["metrics"]["F@0.5"] == value
    text = ssldet("runs", "list", "--results", tmp_path).stdout
    assert "external" in text and file_hash(file)[:12] in text
    for filters, there in (
        (("--ratio", 0.5), True),
        (("--ratio", 0.1), False),
        (("--strategy", "supervised"), False),
        (("--backbone", "yowo_nano"), False),
        (("--eval-on", "test"), True),
        (("--eval-on", "val"), False),
    ):
        assert ("moc" in ssldet("runs", "list", "--results", tmp_path, *filters).stdout) is there
    shown = ssldet("runs", "show", "moc", "--results", tmp_path, "--verify")
    assert shown.exit_code == 0 and "moc: others' detections, no run of ours" in shown.stdout
    assert f"SHA-256 {file_hash(file)}" in shown.stdout and "whole" in shown.stdout
    content = json.loads(ssldet("runs", "show", "moc", "--results", tmp_path, "--json").stdout)
    assert content["record"]["detections"] == file_hash(file)
    (tmp_path / "external" / "moc" / "per_video.parquet").write_bytes(b"x")
    assert ssldet("runs", "show", "moc", "--results", tmp_path, "--verify").exit_code == 1
    assert "keeps no detections" in ssldet("runs", "show", "moc", "--results", tmp_path, "--videos").stderr


def test_it_is_removed_by_name_alone(file: Path, data: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path, data)
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5)
    assert ssldet("runs", "rm", "--ratio", 0.5, "--results", tmp_path, "--yes").exit_code == 0
    assert not find_runs([tmp_path]) and len(find_externals([tmp_path])) == 1
    removed = ssldet("runs", "rm", "moc", "--results", tmp_path, "--yes")
    assert removed.exit_code == 0 and "removed moc" in removed.stdout
    assert not (tmp_path / "external" / "moc").exists()


def test_compare_holds_it_against_a_run_without_pairing_seeds(file: Path, data: Dataset, tmp_path: Path) -> None:
    run = write_run(tmp_path, data, value=0.0)
    record_external("moc", file, data, METRICS, results=tmp_path, ratio=0.5, seed=0)
    found = package.compare("moc", run, results=tmp_path, draws=50)
    value = package.evaluate(file, data, METRICS).value("frame_map", "yowo", "F@0.5")
    (column,) = (each for each in found.columns if each.title == "F@0.5")
    assert (column.first, column.second, column.difference) == (pytest.approx(value), 0, pytest.approx(value))
    assert column.over_videos is not None and column.over_seeds is None and found.pairs == ()
    assert found.first.title == f"moc (external), detections {file_hash(file)[:12]}"
    assert found.settings == ("settings that are not known: others' detections have none",)
    assert any("external and pairs with no seed" in remark for remark in found.remarks)
    by_folder = package.compare(tmp_path / "external" / "moc", run, results=tmp_path, draws=50)
    assert by_folder.columns[0].difference == found.columns[0].difference
    shown = ssldet("compare", run, "moc", "--results", tmp_path, "--draws", 20)
    assert shown.exit_code == 0 and "moc (external)" in shown.stdout


def test_compare_refuses_what_was_tested_on_other_videos(file: Path, data: Dataset, tmp_path: Path) -> None:
    run = write_run(tmp_path, data, videos=2)
    record_external("moc", file, data, METRICS, results=tmp_path)
    with pytest.raises(RequestError, match="the set of test videos differs"):
        package.compare("moc", run, results=tmp_path)
    (tmp_path / "external" / "moc" / "per_video.parquet").unlink()
    with pytest.raises(RequestError, match="--record moc --replace makes it"):
        package.compare("moc", run, results=tmp_path)
