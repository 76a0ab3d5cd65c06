from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from made_detections import FACTS, Made, perfect

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.cli import main
from ssldet.data.datasets import default_protocol
from ssldet.evaluation.detections import DetectionsWriter
from ssldet.evaluation.evaluator import evaluate


@pytest.fixture
def run(monkeypatch):
    """`ssldet evaluate` with the data set `made`."""
    load = plugins.load

    def load_with_made(kind, name):
        return Made if (kind, name) == ("dataset", "made") else load(kind, name)

    monkeypatch.setattr(plugins, "load", load_with_made)

    def run(*arguments):
        return CliRunner().invoke(main, ["evaluate", "--dataset", "made", *map(str, arguments)])

    return run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "found.parquet"
    with DetectionsWriter(path, FACTS) as writer:
        writer.add("a", perfect(Made().truth("a")))
    return path


def test_json(run, file):
    result = run("--detections", file, "--metric", "video_map", "--protocol", "yowo", "--json")
    content = json.loads(result.stdout)
    assert list(content) == ["video_map"] and content["video_map"]["protocol"] == "yowo"
    value = content["video_map"]["thresholds"]["0.5"]
    assert value["per_class"] == pytest.approx({"run": 0.99999, "jump": 0.0, "wave": 0.0})
    assert value["mean"] == pytest.approx(0.33333)


def test_several_metrics_and_the_default_protocol(run, file):
    content = json.loads(run("--detections", file, "--metric", "frame_map", "--metric", "recall", "--json").stdout)
    assert content["frame_map"]["protocol"] == "standard"
    assert content["frame_map"]["thresholds"]["0.5"]["mean"] == 0.5
    assert content["recall"]["localization"] == 0.5


def test_the_default_protocol_is_that_of_the_data_set_where_the_metric_knows_it(file, monkeypatch):
    facts = dataclasses.replace(FACTS, protocol="yowo")
    monkeypatch.setattr(Made, "facts", facts)
    scored = evaluate(file, Made(), ["frame_map", "recall"])
    assert {name: list(of) for name, of in scored.items()} == {"frame_map": ["yowo"], "recall": ["standard"]}


def test_several_protocols_in_one_call(run, file):
    arguments = ["--detections", file, "--metric", "frame_map", "--protocol", "yowo", "--protocol", "act"]
    assert list(json.loads(run(*arguments, "--json").stdout)["frame_map"]) == ["yowo", "act"]
    heads = [line for line in run(*arguments).stdout.splitlines() if line.startswith("frame_map")]
    assert [head.split(",")[1] for head in heads] == [" protocol yowo", " protocol act"]


def test_a_protocol_that_a_metric_does_not_know_is_refused_with_its_name(run, file):
    result = run("--detections", file, "--metric", "frame_map", "--metric", "recall", "--protocol", "yowo")
    assert result.exit_code == 2 and "protocol of metric recall 'yowo'" in result.stderr


@pytest.mark.parametrize("table", ["2", "3", "4", "5", "6"])
def test_tables_show_the_protocol_of_their_data_set(table):
    spec = benchmark.spec(table)
    assert {column.protocol for column in spec.columns} == {default_protocol(spec.dataset)}


def test_table(run, file):
    result = run("--detections", file, "--metric", "frame_map")
    assert result.exit_code == 0 and "F@0.5" in result.stdout and "100.00" in result.stdout
    assert "classes without truth: wave" in result.stdout


def test_detections_on_frames_that_nobody_annotated_are_mentioned(run, file, monkeypatch):
    """Two of the four frames of each video are annotated; the file has a box on all four of one."""
    whole = Made().truth("a")
    kept = {name: getattr(whole, name)[:2] for name in ("frames_n", "boxes_n4", "labels_nk", "tubes_n", "key_frames_m")}
    monkeypatch.setattr(Made, "truth", lambda self, video_id: dataclasses.replace(whole, **kept))
    for metric in ("frame_map", "video_map"):
        lines = run("--detections", file, "--metric", metric).stdout.splitlines()
        assert "detections on frames not annotated: 2" in lines


@pytest.mark.parametrize("as_file", [False, True])
def test_listed_videos_restrict_the_truth(run, file, tmp_path, as_file):
    listed = tmp_path / "list.txt"
    listed.write_text("a\n\n")
    result = run("--detections", file, "--metric", "frame_map", "--videos", listed if as_file else "a,", "--json")
    assert json.loads(result.stdout)["frame_map"]["thresholds"]["0.5"]["mean"] == 1.0


def test_training_videos_may_be_listed(run, file):
    result = run("--detections", file, "--metric", "frame_map", "--videos", "a,c", "--json")
    assert json.loads(result.stdout)["frame_map"]["thresholds"]["0.5"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "frame_mapp"], "did you mean 'frame_map'"),
        (["--metric", "frame_map", "--protocol", "yolo"], "did you mean 'yowo'"),
        (["--metric", "frame_map", "--videos", "a,x"], "has no video 'x'"),
        (["--metric", "frame_map", "--videos", ","], "expected a file"),
        ([], "--metric"),
    ],
)
def test_requests_that_cannot_be_carried_out(run, file, arguments, message):
    result = run("--detections", file, *arguments)
    assert result.exit_code == 2 and message in result.stderr and not result.stdout


def test_unsound_rows_are_refused_or_dropped_and_counted(run, tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("video,frame,x1,y1,x2,y2,label,score\na,1,10,10,50,50,0,1\na,9,10,10,50,50,0,1\n")
    result = run("--detections", path, "--metric", "recall", "--json")
    assert result.exit_code == 2 and "line 3: column 'frame' is 9, expected 1 to 4" in result.stderr
    result = run("--detections", path, "--metric", "recall", "--json", "--lenient")
    assert "dropped 1 rows: 1 for frame out of range" in result.stderr
    assert json.loads(result.stdout)["recall"]["localization"] == 1 / 8


@pytest.mark.real
def test_ava_validation_truth_scores_one(shared, tmp_path):
    """AVA's own truth rows with a score in place of the person."""
    rows = (shared / "data/ava/ava_val_v2.1_head27163.csv").read_text().splitlines()
    found = {",".join([*row.split(",")[:7], "1.0"]) for row in rows}  # two people in one place are one row
    path = tmp_path / "found.csv"
    path.write_text("\n".join(sorted(found)) + "\n")
    arguments = ["--detections", path, "--dataset", "ava", "--data-root", shared / "data/ava", "--metric", "frame_map"]
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--json"])
    value = json.loads(result.stdout)["frame_map"]["thresholds"]["0.5"]
    assert len(value["per_class"]) == 60
    numbers = [number for number in value["per_class"].values() if number is not None]
    assert value["mean"] == pytest.approx(np.mean(numbers)) and value["mean"] > 0.999
