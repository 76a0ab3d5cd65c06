"""UCF24: the real annotation, small integer types, and what is no annotation."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_videos import write_video

from ssldet.contracts import Subset
from ssldet.errors import DataError
from ssldet.util.safe_pickle import load
from ssldet_datasets.ucf24 import UCF24, recording_group

LONG = "Diving/v_Diving_g01_c01"


def tube(start: int, boxes: list[list[int]], dtype: str = "u1") -> dict[str, Any]:
    return {"label": 5, "sf": np.uint8(start), "ef": start + len(boxes), "boxes": np.array(boxes, dtype)}


def write_root(root: Path, content: object) -> Path:
    (root / "annots").mkdir(parents=True)
    (root / "annots/pyannot.pkl").write_bytes(pickle.dumps(content, 4))
    (root / "annots/testlist01.txt").write_text("Biking/v_Biking_g01_c01\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    biking = {"numf": np.uint8(3), "label": 2, "annotations": []}
    tubes = [tube(250, [[200, 100, 100, 60], [201, 100, 100, 60]]), tube(251, [[10, 20, 5, 6]])]
    diving = {"numf": np.uint16(253), "label": 5, "annotations": tubes}
    return write_root(tmp_path / "ucf24", {LONG: diving, "Biking/v_Biking_g01_c01": biking})


def test_small_integers_do_not_overflow(root: Path) -> None:
    truth = UCF24(root).truth(LONG)
    assert truth.frames_n.tolist() == [250, 251, 251]
    assert truth.tubes_n.tolist() == [0, 0, 1]
    assert truth.boxes_n4.tolist() == [[200, 100, 300, 160], [201, 100, 301, 160], [10, 20, 15, 26]]
    assert truth.boxes_n4.dtype == np.float32
    assert len(truth.background_frames) == 251
    assert truth.labels_nk[:, 5].all()


def test_annotation_alone_gives_videos_and_truth(root: Path) -> None:
    dataset = UCF24(root.parent)
    assert [video.id for video in dataset.videos("train")] == [LONG]
    (test,) = dataset.videos("test")
    assert (test.num_frames, test.classes) == (3, (2,))
    assert len(dataset.truth(test.id).frames_n) == 0
    with pytest.raises(DataError, match=r"(?s)no frames of UCF24 video.*crcv\.ucf\.edu"):
        dataset.source(test.id)
    assert ["no folder with videos" in problem.what for problem in dataset.verify()] == [True]


def test_videos_are_found_and_missing_ones_named(root: Path) -> None:
    write_video(root / "UCF-101/Biking/v_Biking_g01_c01.avi", [1, 2, 3])
    before, dataset = UCF24(root).fingerprint(), UCF24(root)
    assert dataset.source("Biking/v_Biking_g01_c01").file is not None
    assert [problem.what for problem in dataset.verify()] == [f"no frames of {LONG}"]
    write_video(root / f"UCF-101/{LONG}.avi", [1, 2])
    assert UCF24(root).fingerprint() != before


BAD_TUBES = [
    tube(2, [[1, 1, 2, 2]] * 2),
    {**tube(0, [[1, 1, 2, 2]]), "ef": 3},
    {**tube(0, [[1, 1, 2, 2]]), "sf": -1},
    {**tube(0, [[1, 1, 2, 2]]), "boxes": "none"},
    {**tube(0, [[1, 1, 2, 2]]), "ef": "x"},
    {"sf": 0},
    "no tube",
]


@pytest.mark.parametrize("bad", BAD_TUBES)
def test_tubes_that_do_not_fit_are_named(tmp_path: Path, bad: object) -> None:
    root = write_root(tmp_path, {LONG: {"numf": 3, "label": 5, "annotations": [bad]}})
    with pytest.raises(DataError, match=LONG):
        UCF24(root).truth(LONG)
    assert any(LONG in problem.what for problem in UCF24(root).verify())


@pytest.mark.parametrize(
    "content", [[], {}, {1: {}}, {LONG: 3}, {LONG: {"numf": 2}}, {"../x": {"numf": 2, "annotations": []}}]
)
def test_other_annotation_is_refused(tmp_path: Path, content: object) -> None:
    dataset = UCF24(write_root(tmp_path, content))
    with pytest.raises(DataError, match=r"pyannot\.pkl"):
        dataset.videos("train")
    assert dataset.verify()


def test_what_is_absent_is_said(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DataError, match="--data-root"):
        UCF24()
    with pytest.raises(DataError, match="nothing of the data set"):
        UCF24(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="split 1 only"):
        UCF24(root).videos("train", 2)
    (root / "annots/testlist01.txt").unlink()
    assert "no test list" in UCF24(root).verify()[0].what


@pytest.mark.real
def test_the_real_annotation(shared: Path) -> None:
    start = time.process_time()
    dataset = UCF24(shared / "data")
    counts: dict[Subset, list[int]] = {"train": [0] * 4, "test": [0] * 4}
    for subset, count in counts.items():
        for video in dataset.videos(subset):
            truth = dataset.truth(video.id)
            assert truth.boxes_n4.max(initial=0) <= 320
            figures = (1, len(set(truth.tubes_n)), len(truth.annotated_frames), len(truth.frames_n))
            counts[subset] = [before + one for before, one in zip(counts[subset], figures, strict=True)]
        assert count is not counts[subset]
    assert counts == {"train": [2284, 3143, 340336, 403282], "test": [910, 1315, 138527, 170580]}
    assert time.process_time() - start < 3


@pytest.mark.real
def test_the_real_videos(shared: Path) -> None:
    dataset = UCF24(shared / "data")
    missing = [problem.what for problem in dataset.verify()]
    assert len(missing) == 3194 - 31
    assert all(what.startswith("no frames of") for what in missing)
    assert dataset.source("Basketball/v_Basketball_g16_c03").file is not None


@pytest.mark.real
def test_small_integers_of_the_real_file_would_overflow(shared: Path) -> None:
    dataset, overflowing = UCF24(shared / "data"), 0
    for video_id, video in load(shared / "data/ucf24/annots/pyannot.pkl").items():
        boxes = [tube["boxes"] for tube in video["annotations"]]
        sums = [boxes_n4[:, :2].astype(int) + boxes_n4[:, 2:] for boxes_n4 in boxes]
        pairs = zip(boxes, sums, strict=True)
        overflowing += sum(boxes_n4.dtype == np.uint8 and corner.max() > 255 for boxes_n4, corner in pairs)
        assert (dataset.truth(video_id).boxes_n4[:, 2:] > 0).all()
        assert dataset.truth(video_id).boxes_n4[:, 2:].sum() == sum(int(corner.sum()) for corner in sums)
    assert overflowing == 1445


@pytest.mark.real
def test_the_published_labelled_list_ends_inclusively_and_fits_the_annotation(shared: Path) -> None:
    """Its tubes are (sf from 0, ef inclusive, label, boxes x y w h): the third convention."""
    dataset = UCF24(shared / "data")
    rows = load(shared / "data/ucf24/lists/train_annots_10_labeled.pkl")
    agreeing = 0
    for video_id, tubes in rows:
        truth = dataset.truth(str(video_id))
        for start, end, _, boxes_n4, *_ in tubes:
            assert len(boxes_n4) == int(end) - int(start) + 1
            corners = np.concatenate([boxes_n4[:, :2], boxes_n4[:, :2] + boxes_n4[:, 2:]], 1)
            inside = [truth.tubes_n[(truth.frames_n == start) & (truth.boxes_n4 == corners[0]).all(1)]]
            agreeing += any(np.array_equal(truth.boxes_n4[truth.tubes_n == t], corners) for t in inside[0])
    assert agreeing == sum(len(tubes) for _, tubes in rows)


def test_the_group_of_a_video_is_its_recording() -> None:
    assert recording_group(LONG) == "v_Diving_g01"
    assert recording_group("Diving/another") == ""
