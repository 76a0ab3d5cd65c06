"""What the report shows of a run that kept its detections, beside its data: confusion, reliability, pictures, clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from made_site import Links, log_line, write_log
from PIL import Image
from test_run_store import write_run

from ssldet.config import resolve
from ssldet.contracts import Truth, VideoDetections
from ssldet.data.datasets import load_dataset
from ssldet.evaluation import scoring
from ssldet.evaluation.detections import DetectionsWriter
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.report.site import build as building
from ssldet.report.site import build_site, worst_frames
from ssldet.report.site.reliability import judge, parts
from ssldet.report.worst_videos import worst_videos
from ssldet.runs.store import find_run, find_runs

OPTIONS: dict[str, Any] = {"train_per_class": 1, "test_per_class": 1}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is perfect on all test videos but the first, in which it takes every class for the next."""
    root = tmp_path_factory.mktemp("detected")
    dataset = load_dataset("synthetic", **OPTIONS)
    wanted = {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.4, "dataset_options": OPTIONS}
    config = resolve(wanted, preset="smoke").model_dump(mode="json")
    videos = dataset.videos("test")
    detections = {
        video.id: perfect(dataset.truth(video.id), shift=int(place == 0)) for place, video in enumerate(videos)
    }
    protocols = {name: ["yowo", "standard"] for name in ("frame_map", "video_map")}
    scored = scoring.score_videos(dataset.facts, videos, dataset.truth, detections, protocols)
    fields = {"config": config, "data_fingerprint": dataset.fingerprint(), "metrics": scored.results}
    folder = write_run(root, "f" * 12, **fields)
    write_log(folder, [log_line(10)])
    with DetectionsWriter(folder / "detections.parquet", dataset.facts) as writer:
        for video_id, each in detections.items():
            writer.add(video_id, each)
    write_per_video(folder / "per_video.parquet", per_video(dataset.facts, 1, videos, scored.matches))
    return root


def perfect(truth: Truth, shift: int) -> VideoDetections:
    """The truth with a score of 0.9, its classes shifted."""
    offered_nk = np.roll(truth.labels_nk, shift, axis=1)
    scores_nk = np.where(offered_nk, np.float32(0.9), np.float32(0.01))
    return VideoDetections(truth.frames_n, truth.boxes_n4, np.ones(len(truth.frames_n), np.float32), scores_nk)


def worst_of(results: Path) -> str:
    """The id of the worst video of the run."""
    return worst_videos(find_run("f" * 12, find_runs([results]))).videos[0].id


def built(results: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """The page of the run in a report without tables."""
    monkeypatch.setattr(building.table_pages, "filled_tables", lambda collection, remarks: {})
    build_site([results], out, **options)
    return next((out / "runs").glob("*.html"))


def test_detections_and_data_show_the_worst_videos(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = built(results, tmp_path / "pages", monkeypatch, worst=1)
    text = Links(page).text
    for words in ("Which class is taken for which", "Reliability of scores", "The worst videos", "detected"):
        assert words in text
    assert "Not on this page" not in text
    stills = sorted(page.with_suffix("").glob("*.jpg"))
    assert len(stills) == worst_frames.STILLS
    assert f"{worst_of(results)}</a></h3>" in page.read_text()
    with Image.open(stills[0]) as picture:
        assert picture.width <= worst_frames.WIDTH and picture.width % 2 == 0
    (clip,) = [path for path in page.with_suffix("").iterdir() if path.suffix in (".mp4", ".webm")]
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape[:2] == (picture.height, picture.width) and 10 < len(frames) <= worst_frames.MOST_FRAMES


def test_boxes_lie_where_the_truth_is(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first and in the last frame of the clip, to a pixel or two."""
    drawn = []
    monkeypatch.setattr(worst_frames, "write_clip", lambda folder, name, size, pictures: drawn.extend(pictures) or "")
    built(results, tmp_path / "pages", monkeypatch, worst=1)
    dataset = load_dataset("synthetic", **OPTIONS)
    video = next(video for video in dataset.videos("test") if video.id == worst_of(results))
    truth = dataset.truth(video.id)
    first = int(truth.frames_n[0])
    for place in (0, min(len(drawn), int(truth.frames_n[-1]) - first + 1) - 1):
        blue = (np.asarray(drawn[place]) == worst_frames.TRUTH).all(axis=2)
        corner = truth.boxes_n4[truth.frames_n == first + place, :2].min(axis=0) * drawn[place].width / video.width
        assert abs(np.argmax(blue.any(axis=0)) - max(corner[0], 0)) <= 2
        assert abs(np.argmax(blue.any(axis=1)) - max(corner[1], 0)) <= 2


def test_without_a_codec_the_pictures_are_there(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst_frames, "CODECS", (("no_such_codec", ".mp4"),))
    page = built(results, tmp_path / "pages", monkeypatch, worst=1)
    text = Links(page).text
    assert "writes none of no_such_codec" in text and "The worst videos" in text


def test_data_that_are_others_are_not_used(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(load_dataset("synthetic")), "fingerprint", lambda dataset: "another")
    text = Links(built(results, tmp_path / "pages", monkeypatch)).text
    assert "and these are another; name the folder of its data with --data-root" in text
    assert "The worst videos" not in text and "Precision over recall" in text


def test_a_score_is_right_where_a_truth_of_its_class_lies() -> None:
    truth = Truth(
        np.array([1, 1]), np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32), np.eye(2, dtype=bool),
        np.array([0, 1]), np.array([1]),
    )  # fmt: skip
    detections = VideoDetections(
        np.array([1, 1, 1, 2]),
        np.array([[0, 0, 10, 9], [50, 50, 60, 60], [80, 80, 90, 90], [0, 0, 10, 10]], np.float32),
        np.array([1, 0.5, 1, 1], np.float32),
        np.array([[0.8, 0.1], [0.9, 0.2], [0.6, 0.1], [1, 0]], np.float32),
    )
    scores_n, right_n = judge(truth, detections)
    assert scores_n == pytest.approx([0.8, 0.45, 0.6])  # frame 2 is not annotated
    assert right_n.tolist() == [True, False, False]


def test_scores_are_parted_by_tenths() -> None:
    counts_b, means_b, shares_b = parts(np.array([0.0, 0.05, 0.95, 1.0]), np.array([False, True, True, True]))
    assert counts_b.tolist() == [2, *[0] * 8, 2]
    assert means_b[[0, 9]].tolist() == pytest.approx([0.025, 0.975]) and shares_b[[0, 9]].tolist() == [0.5, 1.0]
