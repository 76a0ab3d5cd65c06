"""Runs found in folders of results: every state that a folder can be in, lookup, and removal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_claims import held

from ssldet import config
from ssldet.errors import RequestError
from ssldet.runs import layout
from ssldet.runs.record import Record, SplitSummary, TrainingSummary
from ssldet.runs.store import find_run, find_runs, is_held, remove

CONFIG = {
    "experiment": {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2, "split": 1, "seed": 0},
    "machine": {"preset": "smoke"},
}


def write_run(results: Path, run_id: str, status: Any = "done", **fields: Any) -> Path:
    folder = results / f"synthetic-supervised-0.2-split1-seed0-{run_id}"
    fields = {"data_fingerprint": "data", "provenance": {}, **fields}
    record = Record(
        id=run_id,
        status=status,
        split=SplitSummary(hash="0" * 64, labelled=1, unlabelled=2, evaluated=3),
        training=TrainingSummary(steps=4, gradient_clips=8),
        hardware={},
        peak_memory_bytes=1,
        **{"config": CONFIG, **fields},
    )
    record.write(folder / "record.json")
    return folder


def interrupt(folder: Path, content: str = "experiment: {strategy: fixmatch}\n") -> None:
    (folder / "record.json").unlink()
    (folder / "config.yaml").write_text(content)


def test_runs_are_looked_for_where_they_are_written() -> None:
    assert config.Machine().results == layout.RESULTS


def test_runs_of_every_kind_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "a" * 12)
    write_run(tmp_path, "b" * 12, "failed", notes={"error": "loss is nan"})
    interrupt(write_run(tmp_path, "c" * 12))
    damaged = write_run(tmp_path, "d" * 12) / "record.json"
    damaged.write_text(damaged.read_text()[:50])
    foreign = write_run(tmp_path, "e" * 12) / "record.json"
    foreign.write_text(json.dumps({**json.loads(foreign.read_text()), "schema_version": 99}))
    found = {entry.id[0]: entry for entry in find_runs([tmp_path])}
    statuses = {key: entry.status for key, entry in found.items()}
    assert statuses == {"a": "done", "b": "failed", "c": "interrupted", "d": "damaged", "e": "incompatible"}
    assert all(entry.id == 12 * key for key, entry in found.items())
    assert [key for key, entry in sorted(found.items()) if entry.record is not None] == ["a", "b"]
    assert found["a"].problem == "" and found["b"].problem == "loss is nan"
    assert "99" in found["e"].problem and "no readable record" in found["d"].problem
    assert found["a"].experiment["ratio"] == 0.2 and found["a"].machine["preset"] == "smoke"
    assert found["c"].experiment["strategy"] == "fixmatch"


@pytest.mark.parametrize("content", ["[1]", "", "experiment: 3", "a: [", "\x00"])
def test_a_strange_configuration_is_no_fault_of_the_listing(tmp_path: Path, content: str) -> None:
    interrupt(write_run(tmp_path, "a" * 12), content)
    (entry,) = find_runs([tmp_path])
    assert (entry.status, dict(entry.experiment), dict(entry.machine)) == ("interrupted", {}, {})


def test_folders_are_searched_through_each_run_once_newest_last(tmp_path: Path) -> None:
    new, old = write_run(tmp_path / "deep" / "er", "a" * 12), write_run(tmp_path, "b" * 12)
    os.utime(old / "record.json", (1000, 1000))
    write_run(tmp_path / "first_stages", "c" * 12)
    write_run(new, "d" * 12)  # nothing inside a run is one
    assert [entry.id[0] for entry in find_runs([tmp_path, tmp_path / "deep", tmp_path / "absent"])] == ["b", "a"]


def test_a_record_counts_under_any_folder_name_other_files_do_not(tmp_path: Path) -> None:
    write_run(tmp_path, "a" * 12).rename(tmp_path / "kept")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text('{"id": "my vinyl", "schema_version": 1, "config": {}}')
    (tmp_path / "other" / "config.yaml").write_text("experiment: {}")
    assert [entry.folder.name for entry in find_runs([tmp_path])] == ["kept"]


def test_a_run_is_found_by_the_start_of_its_id_or_its_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "abc" + "0" * 9)
    write_run(tmp_path, "abd" + "0" * 9)
    found = find_runs([tmp_path])
    assert find_run("abc", found).folder == find_run(str(folder), []).folder == folder
    assert find_run(folder.name, found).folder == folder
    with pytest.raises(RequestError, match=r"(?s)2 runs begin with 'ab'.*abc0.*abd0"):
        find_run("ab", found)
    with pytest.raises(RequestError, match=r"no run begins with 'x' .*abd000000000, abc000000000"):
        find_run("x", found)
    with pytest.raises(RequestError, match="no folder of a run"):
        find_run(str(tmp_path), found)


def test_a_run_that_is_carried_out_is_held_and_not_removed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a" * 12)
    (entry,) = find_runs([tmp_path])
    assert not is_held(entry)
    with held(folder):
        assert is_held(entry)
        with pytest.raises(RequestError, match="is being carried out"):
            remove(entry)
    assert (folder / "record.json").exists() and not is_held(entry)


def test_removing_takes_the_files_of_a_run_and_leaves_those_of_others(tmp_path: Path) -> None:
    plain, with_note = write_run(tmp_path, "a" * 12), write_run(tmp_path, "b" * 12)
    (plain / "weights.safetensors").touch()
    (plain / ".record.json.0123.tmp").touch()
    (with_note / "note.txt").write_text("mine")
    entries = {entry.id[0]: entry for entry in find_runs([tmp_path])}
    assert remove(entries["a"]) == [] and not plain.exists()
    assert remove(entries["b"]) == ["note.txt"] and [path.name for path in with_note.iterdir()] == ["note.txt"]
    assert find_runs([tmp_path]) == []
    with pytest.raises(RequestError, match="nothing was removed"):
        remove(entries["b"])
