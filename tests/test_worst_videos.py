"""Which video of a run is worst, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_run_store import write_run

from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import VideoDetections
from ssldet.data.datasets import load_dataset
from ssldet.evaluation import scoring
from ssldet.evaluation.detections import DetectionsWriter
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.report.worst_videos import worst_videos
from ssldet.runs.store import find_run

OPTIONS: dict[str, Any] = {"train_per_class": 1, "test_per_class": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that is perfect on the first test video, is of a wrong class on the second, else silent."""
    wanted = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.4, "dataset_options": OPTIONS}
    config = resolve(wanted, preset="smoke").model_dump(mode="json")
    folder = write_run(tmp_path_factory.mktemp("runs"), "f" * 12, config=config)
    dataset = load_dataset("synthetic", **OPTIONS)
    videos = list(dataset.videos("test"))
    found = {}
    for place, video in enumerate(videos[:2]):
        own = dataset.truth(video.id)
        offered_nk = np.roll(own.labels_nk, place, axis=1)
        scores_nk = np.where(offered_nk, np.float32(1), np.float32(0.01))
        found[video.id] = VideoDetections(own.frames_n, own.boxes_n4, np.ones(len(own.frames_n), np.float32), scores_nk)
    with DetectionsWriter(folder / "detections.parquet", dataset.facts) as writer:
        for video_id, each in found.items():
            writer.add(video_id, each)
    wanted_metrics = {name: ["yowo", "standard"] for name in ("frame_map", "video_map")}
    scored = scoring.score_videos(dataset.facts, videos, dataset.truth, found, wanted_metrics)
    write_per_video(folder / "per_video.parquet", per_video(dataset.facts, 1, videos, scored.matches))
    return folder


def show(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["runs", "show", *map(str, arguments), "--videos"])


def test_the_worst_video_comes_first_and_kinds_add_up(finished: Path) -> None:
    found = worst_videos(find_run(str(finished), []))
    ids = [video.id for video in load_dataset("synthetic", **OPTIONS).videos("test")]
    assert found.protocol == "yowo" and not found.remarks
    assert len(found.videos) == len(ids) and found.videos[-1].id == ids[0]
    scores = [video.scores["F@0.5"] for video in found.videos]
    assert scores == sorted(scores) and scores[-1] == pytest.approx(1.0) and scores[0] == 0.0
    assert all(sum(video.errors.values()) == pytest.approx(1.0) for video in found.videos)
    by_id = {video.id: video for video in found.videos}
    assert by_id[ids[0]].errors["correct"] == pytest.approx(1.0)
    assert by_id[ids[2]].errors["missed"] == 1.0 and by_id[ids[2]].scores["V@0.5"] == 0.0


def test_a_score_of_a_video_is_that_of_scoring_it_alone(finished: Path) -> None:
    """Over the classes that the video has."""
    dataset = load_dataset("synthetic", **OPTIONS)
    video = dataset.videos("test")[1]
    own = dataset.truth(video.id)
    scores_nk = np.where(np.roll(own.labels_nk, 1, axis=1), np.float32(1), np.float32(0.01))
    detected = VideoDetections(own.frames_n, own.boxes_n4, np.ones(len(own.frames_n), np.float32), scores_nk)
    wanted = {"frame_map": ["yowo"], "video_map": ["yowo"]}
    alone = scoring.score(dataset.facts, [video], dataset.truth, {video.id: detected}, wanted)
    (shown,) = (each for each in worst_videos(find_run(str(finished), [])).videos if each.id == video.id)
    names = shown.classes
    for title, metric in (("F@0.5", "frame_map"), ("V@0.5", "video_map")):
        per_class = alone[metric]["yowo"].thresholds["0.5"].per_class
        assert shown.scores[title] == pytest.approx(np.mean([per_class[name] for name in names]), abs=1e-4)


def test_the_command_prints_a_line_a_video(finished: Path) -> None:
    lines = show(finished).stdout.splitlines()
    assert "protocol yowo" in lines[0] and lines[1].split()[-6:] == [
        "correct", "localization", "classification", "timing", "background", "missed"
    ]  # fmt: skip
    assert len(lines) == 2 + 6
    content = json.loads(show(finished, "--json").stdout)
    assert content["run"] == "f" * 12 and len(content["videos"]) == 6


def test_without_data_the_scores_are_shown_and_the_reason_is_said(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / finished.name
    moved.mkdir()
    for name in ("record.json", "per_video.parquet"):
        (moved / name).write_bytes((finished / name).read_bytes())
    done = show(moved)
    assert (
        done.exit_code == 0 and "kinds of error of each video cannot be told" in done.stderr and "F@0.5" in done.stdout
    )
    (moved / "per_video.parquet").unlink()
    assert show(moved).exit_code == 2 and "per_video.parquet" in show(moved).stderr
