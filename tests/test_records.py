"""Whole files, strict JSON, provenance of the right tree, and logs that survive an interruption."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssldet import __version__
from ssldet.contracts import MetricResult, MetricValue
from ssldet.errors import RequestError, UnknownName
from ssldet.evaluation.per_video import read_per_video
from ssldet.report.resampling import mean_scores
from ssldet.runs import layout
from ssldet.runs.log import RunLog, read_log
from ssldet.runs.provenance import hardware, provenance
from ssldet.runs.record import LaterSchema, Record, SplitSummary, TrainingSummary
from ssldet.util import files
from ssldet.util.files import file_hash

RECORD = Record(
    id="abc",
    status="done",
    config={"ratio": 0.2},
    split=SplitSummary(hash="s", labelled=2, unlabelled=8, evaluated=4),
    data_fingerprint="f",
    metrics={
        "video_map": {"yowo": MetricResult("yowo", {"0.5": MetricValue(0.25, {"run": None})})},
        "recall": {"standard": MetricResult("standard", scalars={"localization": 0.75, "classification": 0.5})},
        "errors": {"act": MetricResult("act", kinds={"localization": MetricValue(0.125, {"run": 0.125})})},
        "unknown": {p: MetricResult(p, {"0.5": MetricValue(None)}, {"s": 1.0}, notes={"n": 3}) for p in ("a", "b")},
    },
    training=TrainingSummary(steps=10, gradient_clips=80, seconds={"train": 1.5}),
    hardware={"cpu": "a"},
    provenance={"python": "3.11.7"},
    peak_memory_bytes=1,
)


# ------------------------------------------------------------------------------------------------- files


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "c.txt", "ü\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"\xc3\xbc\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path, done = tmp_path / "c", threading.Event()
    contents = {b"a" * 300_000, b"b" * 300_000}
    files.write_bytes(path, b"a" * 300_000)

    def write() -> None:
        for _ in range(20):
            for content in sorted(contents):
                files.write_bytes(path, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {path.read_bytes()}
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= contents


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    files.write_text(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_json_is_strict_whatever_comes(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Point:
        x: float

    value = {
        1: [math.nan, math.inf, np.float32(0.5), np.int64(3)],
        "a": np.array([[1, 2]]),
        "p": tmp_path,
        "d": Point(-math.inf),
    }
    files.write_json(tmp_path / "c.json", value)
    found = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)
    assert found == {"1": [None, None, 0.5, 3], "a": [[1, 2]], "p": str(tmp_path), "d": {"x": None}}


def test_what_has_no_form_in_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        files.write_json(tmp_path / "c.json", [object()])
    assert list(tmp_path.iterdir()) == []


def test_a_metric_result_becomes_json() -> None:
    result = MetricResult("yowo", {"0.5": MetricValue(0.5, {"run": None})})
    assert files.plain(result)["thresholds"] == {"0.5": {"mean": 0.5, "per_class": {"run": None}}}


def test_equal_content_hashes_equal() -> None:
    expected = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"  # sha256sum of {"a":1,"b":2}
    assert files.content_hash({"a": 1, "b": 2}) == files.content_hash({"b": 2, "a": 1}) == expected
    assert files.content_hash({"a": 1}) != files.content_hash({"a": "1"})


def test_a_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"abc")
    assert files.file_hash(tmp_path / "c") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ------------------------------------------------------------------------------------------------ record


def test_a_record_comes_back(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == RECORD.sealed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "schema_version is 0, expected one of 1, 2, 3"),
        ({"schema_version": True}, "schema_version is True, expected one of 1, 2, 3"),
        ({"schema_version": "2"}, "schema_version is '2', expected one of 1, 2, 3"),
        ({"metrics": {"m": {"p": {"thresholds": {"0.5": {}}}}}}, r"(?s)not a whole record.*metric 'm'.*mean"),
        ({"metrics": {"m": [1]}}, r"(?s)not a whole record.*metric 'm': expected its results by protocol"),
        ({"metrics": {"m": {"p": {"thresholds": {"k": {"mean": 1}}, "k": 1.0}}}}, "'k' of a metric's result is taken"),
        ({"status": "perhaps"}, "not a whole record"),
        ({"training": None}, "not a whole record"),
        ({"surprise": 1}, "not a whole record"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    files.write_json(tmp_path / "record.json", {**RECORD.model_dump(), **change})
    with pytest.raises(RequestError, match=message):
        Record.read(tmp_path / "record.json")


@pytest.mark.parametrize("content", ["", '{"schema_version": 1', "[]", "\0"])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(RequestError, match=r"record\.json"):
        Record.read(tmp_path / "record.json")


def test_an_absent_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no readable record at .*record\.json"):
        Record.read(tmp_path / "record.json")


def test_results_stand_where_readers_of_the_file_look(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "record.json")
    metrics = json.loads((tmp_path / "record.json").read_text())["metrics"]
    assert metrics["video_map"]["yowo"]["thresholds"]["0.5"] == {"mean": 0.25, "per_class": {"run": None}}
    assert metrics["recall"] == {"protocol": "standard", "localization": 0.75, "classification": 0.5}
    assert metrics["errors"]["act"]["kinds"]["localization"]["mean"] == 0.125
    assert metrics["unknown"]["b"] == {
        "protocol": "b",
        "thresholds": {"0.5": {"mean": None, "per_class": {}}},
        "s": 1.0,
        "notes": {"n": 3},
    }
    assert RECORD.model_dump(mode="json")["metrics"] == metrics


def test_results_that_are_no_numbers_become_none() -> None:
    result = MetricResult("p", scalars={"s": math.nan}, notes={"counts": np.arange(2)})
    record = RECORD.model_copy(update={"metrics": {"m": {"p": result}}})
    typed = Record.model_validate({**record.model_dump(), "metrics": {"m": {"p": result}}}).metrics["m"]["p"]
    assert (typed.scalars, typed.notes) == ({"s": None}, {"counts": [0, 1]})


@pytest.mark.parametrize(
    ("place", "number"),
    [
        (("video_map", "yowo", "0.5"), 0.25),
        (("video_map", "yowo", "V@0.5"), 0.25),
        (("recall", "standard", "localization"), 0.75),
        (("recall", "standard", "Cls"), 0.5),
        (("errors", "act", "E-loc"), 0.125),
        (("unknown", "b", "0.5"), None),  # of a metric that is not installed: by its key
        (("unknown", "a", "s"), 1.0),
    ],
)
def test_a_number_is_named_by_its_key_or_by_the_title_of_its_column(
    place: tuple[str, str, str], number: float | None
) -> None:
    assert RECORD.value(*place) == number


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            ("video_mapp", "yowo", "0.5"),
            r"'video_mapp'; did you mean 'video_map'\? \(known: errors, recall, unknown, vid",
        ),
        (("video_map", "yolo", "0.5"), r"of video_map 'yolo'; did you mean 'yowo'\? \(known: yowo\)"),
        (("video_map", "yowo", "V@0.55"), r"'V@0.55'; did you mean 'V@0.5'\? \(known: 0.5, V@0.5\)"),
        (("video_map", "yowo", "V@0.2"), "'V@0.2'"),  # a column of the metric, which the record has not
    ],
)
def test_an_unknown_number_is_refused_with_what_there_is(place: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        RECORD.value(*place)


def test_an_unscored_run_has_no_number() -> None:
    failed = RECORD.model_copy(update={"status": "failed", "metrics": {}})
    with pytest.raises(RequestError, match="run abc is failed and has no metrics"):
        failed.value("video_map", "yowo", "0.5")


# --------------------------------------------------------------------------------------------- schemas


def test_a_record_of_schema_1_is_read_with_the_names_of_today(tmp_path: Path) -> None:
    value = {"mean": 0.125, "per_class": {"run": 0.125}}
    content = RECORD.model_dump(mode="json") | {"schema_version": 1}
    content["metrics"]["errors"] = {"act": {"protocol": "act", "thresholds": {"localisation": value}}}
    other = {"protocol": "a", "thresholds": {"0.5:0.95": value, "localisation": value}}
    content["metrics"] |= {"other": {"a": other}, "flat": {**other, "s": 1.0}}
    files.write_json(tmp_path / "record.json", content)
    before = (tmp_path / "record.json").read_bytes()
    record = Record.read(tmp_path / "record.json")
    assert record.schema_version == 3
    assert {name: record.metrics[name] for name in RECORD.metrics} == RECORD.metrics
    typed = MetricValue(0.125, {"run": 0.125})
    assert record.metrics["other"]["a"] == MetricResult("a", {"0.5:0.95": typed}, kinds={"localisation": typed})
    flat = MetricResult("a", {"0.5:0.95": typed}, {"s": 1.0}, kinds={"localisation": typed})
    assert record.metrics["flat"]["a"] == flat
    assert (tmp_path / "record.json").read_bytes() == before


def test_a_real_record_of_schema_1_is_read() -> None:
    """Made by an early version on J-HMDB-21."""
    path = Path(__file__).parent / "records/schema1.json"
    raw, record = json.loads(path.read_text())["metrics"], Record.read(path)
    kind = raw["errors"]["yowo"]["thresholds"]["localisation"]
    assert record.metrics["errors"]["yowo"].kinds["localization"] == MetricValue(**kind)
    assert record.value("video_map", "yowo", "V@0.2") == raw["video_map"]["yowo"]["thresholds"]["0.2"]["mean"]
    assert record.value("recall", "standard", "Loc") == raw["recall"]["localization"]


def test_the_runs_of_the_campaigns_are_whole() -> None:
    """Records, logs and matches as they were written; what is too large to commit is named with its hash."""
    paths = sorted((Path(__file__).parents[1] / "results/campaigns").glob("*/*/record.json"))
    assert len(paths) >= 14
    for path in paths:
        record = Record.read(path)
        kept = {name: file_hash(path.parent / name) for name in (layout.LOG, layout.PER_VIDEO)}
        assert record.status == "done" and kept.items() <= record.files.items()
        assert read_log(path.parent / layout.LOG)[-1]["step"] == record.training.steps
        matches = read_per_video(path.parent / layout.PER_VIDEO)
        once = np.ones((1, len(matches.videos)), np.int64)
        (score,) = mean_scores(matches.matches["video_map"]["yowo"], "0.5", once)
        assert score == pytest.approx(record.value("video_map", "yowo", "V@0.5"), abs=max(matches.tolerance, 1e-6))


@pytest.mark.parametrize(
    ("provenance_of_it", "writer"),
    [({"distributions": {"ssldet": {"version": "7.1"}}}, "7.1"), ([], "of a later version")],
)
def test_a_record_of_a_later_schema_is_named(tmp_path: Path, provenance_of_it: Any, writer: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema_version": 4, "provenance": provenance_of_it}))
    with pytest.raises(LaterSchema, match=rf"record\.json has record schema 4, written by ssldet {writer}, and this"):
        Record.read(path)


# ------------------------------------------------------------------------------------------------ origin


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.check_output(["git", "-C", str(folder), *names, *arguments], text=True).strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A committed source tree of a distribution."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Begin")
    return folder


def install(place: Path, monkeypatch: pytest.MonkeyPatch, direct_url: dict[str, Any] | None) -> None:
    metadata = place / "some_plugin-3.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 3.0\n")
    (metadata / "entry_points.txt").write_text("[ssldet.metrics]\nsome = some_plugin:Some\n")
    if direct_url:
        (metadata / "direct_url.json").write_text(json.dumps(direct_url))
    monkeypatch.syspath_prepend(str(place))


def origin() -> dict[str, Any]:
    found: dict[str, Any] = provenance()["distributions"]["some-plugin"]
    return found


def test_provenance_names_what_can_move_a_number() -> None:
    found = provenance()
    assert found["distributions"]["ssldet"]["version"] == __version__
    assert {"torch", "torchvision", "av", "numpy", "numba", "pyarrow", "pytorchvideo", "timm"} <= set(
        found["distributions"]
    )
    assert json.loads(json.dumps(found)) == found


def test_an_editable_install_names_its_own_commit(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, {"url": tree.as_uri(), "dir_info": {"editable": True}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    git(elsewhere, "init", "-q")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(elsewhere))
    found = origin()
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    assert found == {"version": "3.0", "commit": git(tree, "rev-parse", "HEAD"), "dirty": False}
    (tree / "pyproject.toml").write_text("changed")
    assert origin()["dirty"] is True


def test_an_ordinary_install_has_no_commit(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tree / ".venv" / "site-packages", monkeypatch, None)
    monkeypatch.chdir(tree)
    assert origin() == {"version": "3.0"}


def test_a_tree_that_merely_lies_in_a_repository_has_no_commit(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tree / "downloads" / "plugin"
    inner.mkdir(parents=True)
    install(tmp_path / "site", monkeypatch, {"url": inner.as_uri(), "dir_info": {"editable": True}})
    assert origin() == {"version": "3.0", "commit": None, "dirty": None}


def test_an_install_from_a_repository_names_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = {"url": "https://host.example/p.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    install(tmp_path / "site", monkeypatch, url)
    assert origin() == {"version": "3.0", "commit": "c0ffee", "dirty": False}


def test_hardware_says_what_machine_it_was() -> None:
    found = hardware()
    assert found["device"] == "cpu" and found["device_name"] == found["cpu"] != ""
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_bytes"] > 2**28


def test_peak_memory_is_in_bytes_and_remembers() -> None:
    code = (
        "import json\nfrom ssldet.runs.provenance import peak_memory_bytes as peak\n"
        "before = peak(); block = b'x' * 300_000_000; during = peak(); del block\n"
        "print(json.dumps([before, during, peak()]))"
    )
    before, during, after = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert before < 200_000_000  # its own, not that of the process that started it
    assert before + 290_000_000 < during < before + 400_000_000
    assert after > before + 290_000_000


# --------------------------------------------------------------------------------------------------- log


def test_each_line_is_a_whole_strict_object(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl") as log:
        log.append(1, loss=0.5)
        log.append(2, loss=math.nan, boxes=np.int64(3))
        lines = (tmp_path / "log.jsonl").read_text().splitlines()  # flushed before the log is closed
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None, "boxes": 3},
    ]


def test_a_resumed_log_drops_what_came_after_the_step(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path) as log:
        for step in range(5):
            log.append(step)
    with RunLog(path, keep_until=2) as log:
        log.append(3, again=True)
    assert read_log(path) == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_line_cut_short_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_log(path) == [{"step": 1}]
    with RunLog(path) as log:
        log.append(2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
