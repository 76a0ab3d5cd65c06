"""A friend's detections: what differs from our form is read, or refused with all that is to be mended, or doubted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_detections import BOX, FACTS, Made, detections, truth

import ssldet
from ssldet.contracts import Truth, Video, VideoDetections
from ssldet.errors import DetectionsError
from ssldet.evaluation.detection_conventions import FileConventions
from ssldet.evaluation.detections import read_detections

VIDEOS = [Video(name, 4, 320, 240, (0,)) for name in ("a", "b")]
ROWS = [
    {"video": name, "frame": frame, "x1": 10, "y1": 20, "x2": 50, "y2": 80, "label": label, "score": 0.5}
    for name, label in (("a", 0), ("b", 1))
    for frame in range(1, 5)
]


def written(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame) -> Path:
    """The rows as a file, changed."""
    frame = change(pd.DataFrame(ROWS))
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.fixture(params=["parquet", "csv"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"found.{request.param}"


def as_text(found: Mapping[str, VideoDetections]) -> str:
    return repr([[getattr(found[name], each).tolist() for each in VideoDetections.__slots__] for name in ("a", "b")])


RIGHT = {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
CHANGES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], FileConventions]] = {
    "frames from 0": (lambda frame: frame.assign(frame=frame.frame - 1), FileConventions(first_frame=0)),
    "labels from 1": (lambda frame: frame.assign(label=frame.label + 1), FileConventions(first_label=1)),
    "percent": (lambda frame: frame.assign(score=frame.score * 100), FileConventions(scores="percent")),
    "sizes": (
        lambda frame: frame.assign(x2=frame.x2 - frame.x1, y2=frame.y2 - frame.y1),
        FileConventions(boxes="xywh"),
    ),
    "fractions": (
        lambda frame: frame.assign(x1=frame.x1 / 320, x2=frame.x2 / 320, y1=frame.y1 / 240, y2=frame.y2 / 240),
        FileConventions(unit="fractions"),
    ),
    "names of classes": (lambda frame: frame.assign(label=frame.label.map({0: "run", 1: "Jump"})), FileConventions()),
    "numbers as text": (lambda frame: frame.assign(label=frame.label.astype(str)), FileConventions()),
    "names of files": (lambda frame: frame.assign(video=frame.video + ".MP4"), FileConventions()),
    "further columns": (lambda frame: frame.assign(track=7, comment="x"), FileConventions()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_stated_or_clear_is_read_as_ours(file: Path, tmp_path: Path, name: str) -> None:
    change, conventions = CHANGES[name]
    ours = read_detections(written(tmp_path / "ours.csv"), FACTS, VIDEOS)
    theirs = read_detections(written(file, change), FACTS, VIDEOS, conventions=conventions)
    for video_id in RIGHT:
        assert theirs[video_id].frames_n.tolist() == RIGHT[video_id]
        for field in VideoDetections.__slots__:
            np.testing.assert_allclose(getattr(theirs[video_id], field), getattr(ours[video_id], field), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("names of classes", "labels by name: run = 0, jump = 1"),
        ("labels from 1", "labels by number: 1 = run, 2 = jump"),
        ("names of files", "videos by file name: 'a.MP4' is 'a', and 1 more"),
        ("further columns", "columns that are not read: track, comment"),
    ],
)
def test_how_a_file_was_read_is_said(file: Path, name: str, remark: str) -> None:
    change, conventions = CHANGES[name]
    found = read_detections(written(file, change), FACTS, VIDEOS, conventions=conventions)
    assert remark in found.remarks


def test_names_in_another_form_of_unicode_are_one_name(file: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "küche") for form in ("NFC", "NFD"))
    found = read_detections(
        written(file, lambda frame: frame.assign(video=decomposed).drop_duplicates(["frame"])),
        FACTS,
        [Video(composed, 4, 320, 240, (0,))],
    )
    assert len(found[composed].frames_n) == 4


def test_all_faults_of_a_file_are_named_at_once_each_with_what_mends_it(file: Path) -> None:
    def wrong(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.assign(frame=frame.frame - 1, score=frame.score * 180)
        frame = frame.assign(x2=frame.x2 - frame.x1 - 35, label=frame.label.map({0: "run", 1: "jamp"}))
        return frame.rename(columns={"x1": "xmin", "video": "file_name"})

    with pytest.raises(DetectionsError) as error:
        read_detections(written(file, wrong), FACTS, VIDEOS)
    lines = str(error.value).splitlines()
    assert "6 faults" in lines[0] and len(lines) == 7
    wanted = (
        "'xmin' to 'x1'",
        "'file_name' to 'video'",
        "--first-frame 0",
        "--scores percent",
        "--boxes xywh",
        "'jump'",
    )
    assert all(sum(part in line for line in lines) == 1 for part in wanted)
    assert "(8 such rows)" in str(error.value) and "(2 such rows)" in str(error.value)


def test_labels_from_one_are_a_fault_with_its_remedy(file: Path) -> None:
    with pytest.raises(DetectionsError, match=r"'label' is 3, expected 0 to 2.*--first-label 1"):
        read_detections(written(file, lambda frame: frame.assign(label=[1, 2, 3, 1] * 2)), FACTS, VIDEOS)
    with pytest.raises(DetectionsError, match=r"'label' is 0, expected 1 to 3"):
        read_detections(written(file), FACTS, VIDEOS, conventions=FileConventions(first_label=1))


def test_several_missing_columns_are_named_together(file: Path) -> None:
    with pytest.raises(DetectionsError, match=r"columns 'frame', 'x2' are missing"):
        read_detections(written(file, lambda frame: frame.drop(columns=["frame", "x2"])), FACTS, VIDEOS)


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("video,frame,x1,y1,x2,y2,y2,label,score\na,1,10,10,50,50,50,0,0.9\n")
    with pytest.raises(DetectionsError, match="column 'y2' stands there 2 times: give one of them"):
        read_detections(path, FACTS, VIDEOS)


@pytest.mark.parametrize("decimal", [".", ","])
def test_semicolons_may_separate_columns(tmp_path: Path, decimal: str) -> None:
    path = tmp_path / "found.csv"
    pd.DataFrame(ROWS).assign(x1=10.5).to_csv(path, index=False, sep=";", decimal=decimal)
    assert read_detections(path, FACTS, VIDEOS)["a"].boxes_n4[0].tolist() == [10.5, 20, 50, 80]


# ------------------------------------------------------------------------------------------------ what looks wrong


class Moving(Made):
    """Like `made`, with a box of its own in each frame, and classes that differ between the videos."""

    def truth(self, video_id: str) -> Truth:
        rows = [(f, (10 + 9 * f, 20, 90 + 9 * f, 150 + 3 * f), "abc".index(video_id), 0) for f in range(4)]
        return truth(rows)


def offered(
    change: Callable[[np.ndarray], np.ndarray] = lambda boxes: boxes, roll: int = 0
) -> dict[str, VideoDetections]:
    """Perfect detections, their boxes changed and their classes rolled."""
    found = {}
    for name in "ab":
        own = Moving().truth(name)
        scores = np.where(np.roll(own.labels_nk, roll, axis=1), np.float32(1), np.float32(np.nan))
        boxes_n4 = change(own.boxes_n4).astype(np.float32)
        found[name] = VideoDetections(own.frames_n, boxes_n4, np.ones(4, np.float32), scores)
    return found


def warnings_of(found: dict[str, VideoDetections], metrics: str = "frame_map") -> tuple[str, ...]:
    return ssldet.evaluate(found, Moving(), metrics).warnings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda boxes: boxes / [320, 240, 320, 240], "within 0-1.*--unit fractions"),
        (lambda boxes: boxes * 0.35, "x by 2.86 and y by 2.86.*frame of 112 x 84 pixels"),
        (lambda boxes: boxes * [112 / 320, 112 / 240, 112 / 320, 112 / 240], "frame of 112 x 112 pixels"),
    ],
)
def test_boxes_in_another_unit_are_doubted(change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    (warning,) = warnings_of(offered(change))
    assert re.search(words, warning)


@pytest.mark.parametrize(
    ("box", "said", "words"),
    [
        ((100, 80, 220, 200), (100, 80, 120, 120), "x, y, width, height: --boxes xywh"),
        ((200, 60, 280, 120), (60, 200, 120, 280), "y1, x1, y2, x2"),
    ],
)
def test_boxes_in_another_form_are_doubted(box: tuple[int, ...], said: tuple[int, ...], words: str) -> None:
    class Still(Made):
        def truth(self, video_id: str) -> Truth:
            return truth([(f, box, "abc".index(video_id), 0) for f in range(4)])

    found = {name: replace(each, boxes_n4=np.array([said] * 4, np.float32)) for name, each in offered().items()}
    warnings = ssldet.evaluate(found, Still(), "frame_map").warnings
    assert len(warnings) == 1 and words in warnings[0]


def test_sound_detections_are_not_doubted() -> None:
    assert warnings_of(offered()) == () and warnings_of(offered(lambda boxes: boxes + 5)) == ()


def test_a_score_of_zero_comes_with_its_cause() -> None:
    assert "classes do not agree with it: all are off by +1: --first-label 1" in warnings_of(offered(roll=1))[0]
    assert "boxes are elsewhere" in warnings_of(offered(lambda boxes: boxes * 0 + [300, 200, 310, 205]))[0]
    only = {"a": detections([(2, BOX, 1, (1, 0, 0))])}
    sparse = replace(Moving().truth("a"), key_frames_m=np.arange(2))
    sparse = replace(
        sparse, **{name: getattr(sparse, name)[:2] for name in ("frames_n", "boxes_n4", "labels_nk", "tubes_n")}
    )

    class Sparse(Moving):
        def truth(self, video_id: str) -> Truth:
            return sparse

    assert "no detection lies on a frame with truth" in ssldet.evaluate(only, Sparse(), "frame_map").warnings[0]


def test_a_score_of_zero_of_tubes_alone_says_so() -> None:
    found = ssldet.evaluate(offered(), Moving(), {"frame_map": ["act"], "video_map": ["act"]})
    assert found.value("frame_map", "act", "F@0.5") and found.value("video_map", "act", "V@0.1") == 0
    assert "video_map of exactly 0" in found.warnings[0] and "shorter than 15 frames" in found.warnings[0]


def test_no_detections_need_no_cause() -> None:
    assert warnings_of({}) == ()
