"""The whole grid at smoke scale on the embedded data: every cell of Tables 2-6. Run by scripts/acceptance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssldet.config import RunConfig
from ssldet.data.batches import ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.evaluation import scoring
from ssldet.evaluation.inference import detect_videos
from ssldet.runs.planning import Plan, build_student, plan
from ssldet.runs.record import Record

pytestmark = pytest.mark.acceptance

MAP = "ucf24=synthetic:ucf24,jhmdb=synthetic:jhmdb,ava=synthetic:ava"
GRID = ["grid", "--tables", "2,3,4,5,6", "--preset", "smoke", "--seeds", "0", "--dataset-map", MAP, "--jobs", "2"]


def ssldet(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from ssldet.cli import main; main()", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished grid; SSLDET_GRID names one that is there already, to look at it again."""
    given = os.environ.get("SSLDET_GRID")
    folder = Path(given) if given else tmp_path_factory.mktemp("grid")
    began = time.monotonic()
    done = ssldet(*GRID, "--results", str(folder))
    print(f"{time.monotonic() - began:.0f} s\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def records(results: Path) -> list[Record]:
    return [Record.read(path) for path in sorted(results.glob("*/record.json"))]


def test_every_cell_is_done(results: Path) -> None:
    tasks = json.loads(ssldet(*GRID, "--results", str(results), "--dry-run", "--json").stdout)
    assert tasks["cells"] == {"done": 54}


def untrained(planned: Plan) -> float:
    """Localization recall of the network that a run starts from."""
    experiment, facts = planned.config.experiment, planned.dataset.facts
    store = FrameStore(planned.dataset, experiment.clip.size)
    store.prepare(planned.evaluated)
    student, _ = build_student(planned)
    found = detect_videos(
        student,
        planned.evaluated,
        lambda video: planned.dataset.truth(video).key_frames_m,
        ClipReader(store.frames, experiment.clip),
        experiment.detect,
        device=planned.device,
        autocast=experiment.train.precision == "bfloat16",
    )
    detections = {video.id: rows for video, rows in found}
    scores = scoring.score(facts, planned.evaluated, planned.dataset.truth, detections, {"recall": ()})
    return next(iter(scores["recall"].values())).scalars["localization"]


def test_supervised_training_is_seen_in_the_localization_recall(results: Path) -> None:
    found = [r for r in records(results) if r.config["experiment"]["strategy"] == "supervised"]
    found = [r for r in found if r.config["experiment"]["dataset_options"]["flavour"] != "pretraining"]
    assert len(found) == 20
    for record in found:
        before = untrained(plan(RunConfig.model_validate(record.config)))
        after = record.value("recall", "standard", "localization")
        assert after is not None
        print(record.id, f"{before:.3f} -> {after:.3f}")
        assert after > before, record.config


def test_every_semi_supervised_run_accepted_a_pseudo_box(results: Path) -> None:
    found = [r for r in records(results) if r.config["experiment"]["strategy"] != "supervised"]
    assert len(found) == 34
    for record in found:
        assert record.notes["pseudo_labels"]["boxes"] > 0, record.config


def columns(tables: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Our numbers by column of each table."""
    found: dict[str, list[float]] = {}
    for entry in (entry for table in tables for entry in table["entries"]):
        if entry["mean"] is not None and entry["ratio"] != "all":
            found.setdefault(f"Table {entry['table']}, {entry['column']} at {entry['ratio']}", []).append(entry["mean"])
    return found


def test_no_column_of_a_table_is_constant(results: Path) -> None:
    shown = ssldet("table", "2", "3", "4", "5", "6", "--format", "json", "--results", str(results))
    assert shown.returncode == 0, shown.stderr
    found = columns(json.loads(shown.stdout)["tables"])
    assert len(found) == 6 + 6 + 2 + 6 + 4
    for name, numbers in found.items():
        assert len(set(numbers)) > 1, (name, numbers)
