"""Predicted tubes as files of boxes: what is written is what the data set `folder` reads, and trains on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_networks import FACTS, write_trained_run
from made_videos import write_video

from ssldet.cli import main
from ssldet.data.datasets import load_dataset
from ssldet.data.health import examine
from ssldet.ops.tubes import Tube
from ssldet.report.annotation_files import FORMS, labelled_boxes, write_annotations
from ssldet.report.prediction import PredictedVideo

FRAMES, SIZE = 12, (64, 48)


def predicted(video_id: str, file: Path, *tubes: Tube) -> PredictedVideo:
    return PredictedVideo(video_id, file, FRAMES, 30.0, SIZE, 100, tubes, None, 1.0)


def tube(label: int, first: int, last: int, seed: int) -> Tube:
    """A box that wanders, with edges that no short decimal has, and beyond the frame in places."""
    draws = np.random.default_rng(seed)
    corner_t2 = draws.uniform(-5, 30, (last - first + 1, 2))
    boxes_t4 = np.concatenate((corner_t2, corner_t2 + draws.uniform(10, 40, corner_t2.shape)), axis=1)
    return Tube(label, float(draws.uniform(0.3, 1)), np.arange(first, last + 1), boxes_t4.astype(np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos of one's own, at two depths, and no boxes yet."""
    for name in ("a", "kitchen/b", "kitchen/c"):
        write_video(tmp_path / "mine" / "videos" / f"{name}.mp4", [100] * FRAMES, SIZE)
    return tmp_path / "mine"


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_what_is_read(form: str, folder: Path) -> None:
    away = Tube(1, 0.4, np.arange(2, 5), np.float32([[1, 1, 9, 9], [-9, 1, -1, 9], [1, 2, 9, 9]]))  # out, and in again
    videos = [
        predicted("a", folder / "videos" / "a.mp4", tube(0, 0, 11, 1), tube(2, 3, 8, 2)),
        predicted("kitchen/b", folder / "videos" / "kitchen" / "b.mp4", tube(1, 5, 11, 3), away),
        predicted("kitchen/c", folder / "videos" / "kitchen" / "c.mp4"),
    ]
    write_annotations(form, videos, FACTS, folder)
    (folder / "test.txt").write_text("a.mp4\n")
    dataset = load_dataset("folder", folder)
    assert dataset.facts.classes == FACTS.classes
    assert {video.id: video.classes for video in dataset.videos("train")}["kitchen/c"] == ()
    for video in videos[:2]:
        truth = dataset.truth(video.id)
        assert truth.key_frames_m.tolist() == list(range(FRAMES))
        rows = sorted(labelled_boxes(video), key=lambda box: (box.frame, box.tube))
        assert truth.frames_n.tolist() == [row.frame for row in rows]
        assert truth.tubes_n.tolist() == [row.tube for row in rows]
        assert truth.labels_nk.argmax(axis=1).tolist() == [row.label for row in rows]
        assert np.array_equal(truth.boxes_n4, np.stack([row.edges_4 for row in rows]))  # to the last bit
    assert examine(dataset).errors == []


def test_boxes_are_cut_off_at_the_frame(folder: Path) -> None:
    boxes_t4 = np.float32([[-4, 3, 70, 20], [66, 3, 70, 20], [5, 5, 9, 60]])
    video = predicted("a", folder / "videos" / "a.mp4", Tube(0, 0.5, np.arange(3), boxes_t4))
    assert [(box.frame, box.edges_4.tolist()) for box in labelled_boxes(video)] == [
        (0, [0, 3, 64, 20]),
        (2, [5, 5, 9, 48]),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_predictions_become_labels(form: str, folder: Path, tmp_path: Path) -> None:
    run, out = write_trained_run(tmp_path / "runs"), tmp_path / "out"
    words = ("predict", folder / "videos", "--run", run, "--out", out, "--no-video", "--as", form, "--device", "cpu")
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    for path in out.glob("annotations*"):
        shutil.move(path, folder / path.name)
    (folder / "test.txt").write_text("a.mp4\n")
    checked = CliRunner().invoke(main, ["data", "verify", str(folder)])
    assert checked.exit_code == 0 and "videos: 2 train, 1 test" in checked.output, checked.output
    dataset = load_dataset("folder", folder)
    labels = Counter(dataset.facts.classes[row.argmax()] for row in dataset.truth("kitchen/b").labels_nk)
    assert labels.keys() == {"right"} and labels["right"] % FRAMES == 0
