"""Results of several machines: merged, verified, exported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from made_claims import held, leave_claim
from made_records import write_run as write_whole_run
from test_run_store import interrupt, write_run

from ssldet.cli import main
from ssldet.contracts import MetricResult, MetricValue
from ssldet.errors import RequestError
from ssldet.runs import layout
from ssldet.runs.merging import merge
from ssldet.runs.record import Record, is_as_written
from ssldet.runs.store import find_runs
from ssldet.runs.verification import verify


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


def metrics(value: float) -> dict[str, Any]:
    return {"frame_map": {"standard": MetricResult("standard", {"0.5": MetricValue(value, {"wave": value})})}}


def statuses(results: Path) -> dict[str, str]:
    return {entry.folder.name.partition("seed0-")[2]: entry.status for entry in find_runs([results])}


# ------------------------------------------------------------------------------------------------- merge


def test_runs_of_two_machines_lie_in_one_folder_and_the_same_call_changes_nothing(tmp_path: Path) -> None:
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "into"
    write_run(one, "a" * 12, metrics=metrics(0.5))
    moved = write_run(two / "deep", "b" * 12, metrics=metrics(0.5))
    (moved / "weights.safetensors").write_text("weights")
    os.utime(moved / "record.json", (1000, 1000))
    (moved / ".record.json.0123.tmp").touch()
    merged = merge([one, two], into)
    assert [each.outcome for each in merged] == ["copied", "copied"]
    assert statuses(into) == {"a" * 12: "done", "b" * 12: "done"}
    copied = into / moved.name
    assert sorted(path.name for path in copied.iterdir()) == ["record.json", "weights.safetensors"]
    assert (copied / "record.json").stat().st_mtime == 1000, "tables take the newest of two runs"
    before = sorted((path, path.stat().st_mtime_ns) for path in into.rglob("*"))
    assert [each.outcome for each in merge([one, two], into)] == ["there already"] * 2
    assert before == sorted((path, path.stat().st_mtime_ns) for path in into.rglob("*"))
    assert moved.is_dir()


def test_the_same_run_with_other_numbers_is_kept_and_marked(tmp_path: Path) -> None:
    one, into = tmp_path / "one", tmp_path / "into"
    write_run(one, "a" * 12, metrics=metrics(0.5))
    write_run(into, "a" * 12, metrics=metrics(0.6))
    (merged,) = merge([one], into)
    assert merged.outcome == "both kept" and merged.folder and "-other-" in merged.folder.name
    values = [entry.record.value("frame_map", "standard", "0.5") for entry in find_runs([into]) if entry.record]
    assert sorted(values) == [0.5, 0.6]
    assert [each.outcome for each in merge([one], into)] == ["there already"]


def test_of_a_run_that_is_finished_in_one_place_that_one_stays(tmp_path: Path) -> None:
    one, into = tmp_path / "one", tmp_path / "into"
    for run_id, here, there in (("a", "failed", "done"), ("b", "done", "failed")):
        write_run(one, run_id * 12, there)
        write_run(into, run_id * 12, here)
    interrupt(write_run(one, "c" * 12))
    assert [each.outcome for each in merge([one], into)].count("replaced an unfinished one") == 1
    assert statuses(into) == {"a" * 12: "done", "b" * 12: "done", "c" * 12: "interrupted"}


def test_what_is_damaged_or_being_carried_out_is_left_out_and_said(tmp_path: Path) -> None:
    one, into = tmp_path / "one", tmp_path / "into"
    (write_run(one, "a" * 12) / "record.json").write_text("{")
    running = write_run(one, "b" * 12)
    interrupt(running)
    with held(running):
        done = ssldet("merge", one, "--results", into)
    assert done.exit_code == 1
    assert "no readable record" in done.stdout and "it is being carried out there" in done.stdout
    assert not find_runs([into])
    with pytest.raises(RequestError, match="absent: no such folder"):
        merge([tmp_path / "absent"], into)
    with pytest.raises(RequestError, match="name the other ones"):
        merge([one], one)


def test_finished_first_stages_come_along(tmp_path: Path) -> None:
    one, into = tmp_path / "one", tmp_path / "into"
    for key, files in {"done": ("stage.json", "checkpoint.safetensors"), "half": ("checkpoint.safetensors",)}.items():
        for name in files:
            (one / "first_stages" / key).mkdir(parents=True, exist_ok=True)
            (one / "first_stages" / key / name).write_text(key)
    merge([one], into)
    assert [path.name for path in (into / "first_stages").iterdir()] == ["done"]
    assert len(list((into / "first_stages" / "done").iterdir())) == 2
    merge([one], into)


# ------------------------------------------------------------------------------------------------- verify


def kinds(results: Path) -> list[tuple[str, str]]:
    """Kind and place, relative to the results, of every finding."""
    return [(finding.kind, str(finding.place.relative_to(results))) for finding in verify([results])]


def test_whole_results_have_no_findings(tmp_path: Path) -> None:
    write_whole_run(tmp_path)
    done = ssldet("verify", "--results", tmp_path)
    assert (done.exit_code, done.stdout) == (0, "1 runs: all whole\n"), done.output


def test_an_edited_record_is_noticed(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a" * 12, metrics=metrics(0.5)) / "record.json"
    content = json.loads(path.read_text())
    assert is_as_written(content) and Record.read(path).checksum == content["checksum"]
    assert kinds(tmp_path) == []
    path.write_text(json.dumps(content))  # other blanks are no edit
    assert kinds(tmp_path) == []
    path.write_text(path.read_text().replace("0.5", "0.9", 3))
    assert kinds(tmp_path) == [("edited", str(path.relative_to(tmp_path)))]
    done = ssldet("verify", "--results", tmp_path, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["counts"]["edited"] == 1
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "checksum"}))
    assert [kind for kind, _ in kinds(tmp_path)] == ["edited"]


def test_damaged_and_unfinished_runs_are_found(tmp_path: Path) -> None:
    whole = write_run(tmp_path, "a" * 12, files={"weights.safetensors": "0" * 64, "split.json": "0" * 64})
    (whole / "weights.safetensors").write_text("other")
    (write_run(tmp_path, "b" * 12) / "record.json").write_text("{")
    write_run(tmp_path, "c" * 12, "failed", notes={"error": "loss is nan"})
    interrupt(write_run(tmp_path, "d" * 12))
    running = write_run(tmp_path, "e" * 12)
    interrupt(running)
    with held(running):
        found = {(finding.kind, finding.place.name, finding.reason.split(";")[0]) for finding in verify([tmp_path])}
    by_kind = sorted(kind for kind, _, _ in found)
    assert by_kind == ["damaged", "damaged", "damaged", "unfinished", "unfinished"]
    assert ("damaged", "weights.safetensors", "it is changed") in found
    assert ("damaged", "split.json", "it is absent") in found
    assert any("loss is nan" in reason for _, _, reason in found)


def test_what_belongs_to_no_run_is_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a" * 12, notes={"first_stage": "used"})
    (folder / ".record.json.0123.tmp").touch()
    (folder / layout.CHECKPOINT_DAMAGED).touch()
    leave_claim(folder, silent=1e6)
    for key, file in (("used", layout.STAGE), ("unused", layout.STAGE), ("half", layout.CHECKPOINT)):
        (tmp_path / "first_stages" / key).mkdir(parents=True)
        (tmp_path / "first_stages" / key / file).touch()
    leave_claim(tmp_path / "first_stages" / "trained now")
    assert sorted(kinds(tmp_path)) == [
        ("orphaned", "first_stages/half"),
        ("orphaned", "first_stages/unused"),
        ("orphaned", f"{folder.name}/.claim"),
        ("orphaned", f"{folder.name}/.record.json.0123.tmp"),
        ("orphaned", f"{folder.name}/{layout.CHECKPOINT_DAMAGED}"),
    ]


def test_runs_of_other_versions_than_most_are_found(tmp_path: Path) -> None:
    for run_id, version in (("a", "2.9"), ("b", "2.9"), ("c", "2.8")):
        write_run(tmp_path, run_id * 12, provenance={"distributions": {"torch": {"version": version}}})
    (finding,) = verify([tmp_path])
    assert finding.kind == "mixed" and finding.place.name.endswith("c" * 12)
    assert finding.reason == "made by ssldet unknown, torch 2.8, and 2 runs here by ssldet unknown, torch 2.9"
    assert ssldet("verify", "--results", tmp_path).exit_code == 0


# ------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_numbers_of_all_runs_go_into_one_file(tmp_path: Path, end: str) -> None:
    write_run(tmp_path / "r", "a" * 12, metrics=metrics(0.5))
    write_run(tmp_path / "r", "b" * 12, "failed")
    file = tmp_path / f"numbers.{end}"
    done = ssldet("export", file, "--results", tmp_path / "r", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == {"file": str(file), "rows": 3}, done.output
    frame = pd.read_parquet(file) if end == "parquet" else pd.read_csv(file)
    assert list(frame["id"].str[0]) == ["a", "a", "b"] and list(frame["value"].dropna()) == [0.5, 0.5]
    assert list(frame["class"].dropna()) == ["wave"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    refused = ssldet("export", tmp_path / "numbers.xlsx", "--results", tmp_path)
    assert refused.exit_code == 2 and "ends with .parquet or .csv" in refused.stderr
