"""Counting data sets: by hand on a tiny one, and the published numbers on the real ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from helpers import TinyDataset
from made_videos import MadeVideos

from ssldet.contracts import Truth
from ssldet.data.datasets import load_dataset
from ssldet.data.statistics import count, table_1
from ssldet.errors import DataError


class Crowd(TinyDataset):
    """Frame 1 has three boxes of two classes; the other frames of each video have one or none."""

    def truth(self, video_id: str) -> Truth:
        labels = np.zeros((4, 3), bool)
        labels[[0, 1, 3], 0] = labels[2, 1] = labels[0, 2] = True
        boxes = np.tile(np.array([[1, 1, 5, 5]], np.float32), (4, 1))
        return Truth(np.array([1, 1, 1, 3]), boxes, labels, np.array([0, 1, 2, 0]), np.arange(6))


def test_counts_of_a_tiny_data_set() -> None:
    found = count(TinyDataset())
    train = found.subsets["train"]
    assert (train.videos, train.tubes, train.boxes, train.labels) == (8, 8, 40, 40)
    assert (train.frames, train.annotated_frames) == (48, 40)
    assert train.as_json()["background"] == pytest.approx(1 / 6)
    assert [found.classes["train"][name].videos for name in ("left", "right", "still")] == [3, 3, 2]
    assert found.subsets["all"].boxes == train.boxes + found.subsets["test"].boxes == 60


def test_several_boxes_labels_and_classes() -> None:
    found = count(Crowd())
    train = found.as_json()["train"]
    assert (train["boxes"], train["labels"], train["tubes"], train["annotated_frames"]) == (32, 40, 24, 16)
    assert (train["classes"]["left"]["boxes"], train["classes"]["still"]["boxes"]) == (24, 8)
    assert found.use.boxes.tolist() == [0, 12, 0, 12]
    assert found.use.actions.tolist() == [0, 12, 0, 12]
    printed = {"annotated actions per frame": "one or two", "densely annotated": "no", "background people": "no"}
    rows = {row["column"]: row for row in table_1(found, printed)}
    assert rows["annotated actions per frame"]["counted"] == "multiple"
    assert rows["annotated actions per frame"]["detail"].startswith("at most 3, 2.00 on average, 50.0%")
    assert [column for column, row in rows.items() if row["differs"]] == ["annotated actions per frame"]
    assert rows["background people"]["counted"] is None


class Half(TinyDataset):
    """Its training annotation is absent."""

    def videos(self, subset: str, split: int = 1) -> list:  # type: ignore[type-arg,override]
        if subset == "train":
            raise DataError("no train.csv\nhow to get it")
        return list(super().videos("test"))


def test_a_subset_that_is_absent_is_named() -> None:
    found = count(Half())
    assert found.absent == {"train": "no train.csv"}
    assert set(found.subsets) == {"test", "all"}


def test_no_subset_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(*_: object) -> None:
        raise DataError("nothing here")

    monkeypatch.setattr(MadeVideos, "videos", absent)
    with pytest.raises(DataError, match="nothing here"):
        count(MadeVideos(tmp_path))


@pytest.mark.real
def test_ucf24(shared: Path) -> None:
    start = time.process_time()
    found = count(load_dataset("ucf24", shared / "data"))
    assert time.process_time() - start < 6
    train, test, total = (found.subsets[key] for key in ("train", "test", "all"))
    assert (train.videos, test.videos, total.videos) == (2284, 910, 3194)
    assert (total.tubes, total.boxes, total.frames) == (4458, 573862, 555157)
    assert (test.annotated_frames, test.boxes) == (138527, 170580)
    assert total.as_json()["background"] == pytest.approx(0.137, abs=5e-4)
    assert found.classes["all"]["FloorGymnastics"].as_json()["background"] == 0
    assert len(found.use.boxes) - 1 == 6


@pytest.mark.real
def test_jhmdb_and_ava(shared: Path) -> None:
    found = count(load_dataset("jhmdb", shared / "data"))
    assert [found.subsets[key].videos for key in ("train", "test", "all")] == [660, 268, 928]
    assert [found.subsets[key].frames for key in ("train", "test", "all")] == [22712, 9126, 31838]
    ava = count(load_dataset("ava", shared / "data"))
    assert (ava.subsets["test"].videos, ava.subsets["test"].labels) == (8, 27163)
    assert "train" in ava.absent
