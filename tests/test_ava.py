"""AVA: rows to multi-label truth, excluded seconds, and what is known without data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssldet.data.video import read_frames
from ssldet.errors import DataError
from ssldet_datasets import facts
from ssldet_datasets.ava import AVA

ROWS = """\
film_a,0902,0.1,0.2,0.5,0.8,12,0
film_a,0902,0.1,0.2,0.5,0.8,79,0
film_a,0902,0.6,0.2,0.9,0.8,79,1
film_a,0903,0.1,0.2,0.5,0.8,12,0
film_a,1798,0.1,0.2,0.5,0.8,80,0
film_b,1000,,,,,,
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ava"
    root.mkdir()
    (root / "ava_val_v2.2.csv").write_text(ROWS)
    (root / "ava_val_excluded_timestamps_v2.2.csv").write_text("film_a,0903\nfilm_a,1000\n")
    return root


def test_rows_of_one_box_are_one_box_with_several_labels(root: Path) -> None:
    truth = AVA(root).truth("film_a")
    assert truth.frames_n.tolist() == [60, 60, 26940]
    assert [row.nonzero()[0].tolist() for row in truth.labels_nk] == [[11, 78], [78], [79]]
    assert truth.tubes_n.tolist() == [-1] * 3
    assert np.allclose(truth.boxes_n4[0], [0.1, 0.2, 0.5, 0.8])


def test_key_frames_are_seconds_that_are_not_excluded(root: Path) -> None:
    truth = AVA(root).truth("film_a")
    assert len(truth.key_frames_m) == 897 - 2
    assert {AVA.facts.numbering.to_file(int(frame)) for frame in truth.background_frames}.isdisjoint({902, 903, 1000})
    assert len(AVA(root).truth("film_b").background_frames) == 897


def test_classes_of_a_film_are_ordered_by_boxes(root: Path) -> None:
    (film_a, film_b) = AVA(root.parent).videos("test")
    assert (film_a.group, film_b.group) == (film_a.id, film_b.id)  # a film is one recording
    assert film_a.classes == (78, 11, 79)
    assert film_b.classes == ()


def test_boxes_are_pixels_where_frames_are(root: Path) -> None:
    (root / "frames/film_a").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(root / "frames/film_a/film_a_000001.jpg")
    dataset = AVA(root)
    assert np.allclose(dataset.truth("film_a").boxes_n4[0], [20, 20, 100, 80])
    assert (dataset.videos("test")[0].width, dataset.videos("test")[0].height) == (200, 100)
    found = "\n".join(map(str, dataset.verify()))
    assert "film_a has 1 frames; its last key frame is number 26941" in found
    assert "no frames of film_b" in found
    assert "no AVA annotation ava_train" in found


@pytest.mark.parametrize(
    "row",
    [
        "film,0902,0.1,0.2,0.5,0.8,81,0",
        "film,0902,0.5,0.2,0.1,0.8,12,0",
        "film,0902,0.1,0.2,0.5,nan,12,0",
        "film,0902,0.1,0.2,0.5,1.8,12,0",
        "film,0901,0.1,0.2,0.5,0.8,12,0",
        "film,0902,0.1,0.2,0.5",
        "film,x,0.1,0.2,0.5,0.8,12,0",
        "../film,0902,0.1,0.2,0.5,0.8,12,0",
        "film",
    ],
)
def test_rows_that_make_no_sense_are_named(root: Path, row: str) -> None:
    (root / "ava_val_v2.2.csv").write_text(ROWS + row + "\n")
    with pytest.raises(DataError, match=r"ava_val_v2\.2\.csv"):
        AVA(root).videos("test")


def test_what_is_absent_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-root"):
        AVA()
    with pytest.raises(DataError, match="nothing of the data set"):
        AVA(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="ava_train_v2"):
        AVA(root).videos("train")
    with pytest.raises(DataError, match="no annotation of a film"):
        AVA(root).truth("unknown")
    with pytest.raises(DataError, match="no frames of AVA film"):
        AVA(root).source("film_a")


def test_the_fingerprint_follows_the_annotation(root: Path) -> None:
    before = AVA(root).fingerprint()
    assert AVA(root.parent).fingerprint() == before
    (root / "ava_val_excluded_timestamps_v2.2.csv").write_text("")
    assert AVA(root).fingerprint() != before


def test_facts_without_data() -> None:
    assert [data.num_classes for data in (facts.UCF24, facts.JHMDB, facts.AVA)] == [24, 21, 80]
    assert all(len(data.anchors) == 5 for data in (facts.UCF24, facts.JHMDB, facts.AVA))
    assert list(facts.JHMDB.classes) == sorted(facts.JHMDB.classes)
    assert list(facts.UCF24.classes) == sorted(facts.UCF24.classes)
    assert len(facts.AVA.evaluated or ()) == 60


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ava")
    AVA.write_stand_in(folder)
    return folder


def test_stand_in_has_frame_folders_and_films(stand_in: Path) -> None:
    dataset = AVA(stand_in)
    assert dataset.verify() == []
    assert "frames/" in dataset.layout() and "videos/" in dataset.layout()
    (train, *_), (test, *_) = dataset.videos("train"), dataset.videos("test")
    assert (train.num_frames, test.num_frames) == (121, 121)
    assert dataset.truth(test.id).key_frames_m.tolist() == [60, 90, 120]
    assert len(dataset.source(train.id).images) == 150
    film = dataset.source(test.id)
    assert (film.rate, read_frames(film, 121).decoded) == (30, 121)


def test_frame_lists_say_where_frames_lie(stand_in: Path, tmp_path: Path) -> None:
    for path in stand_in.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    film = AVA(stand_in).videos("train")[0].id
    (tmp_path / "frames/elsewhere").mkdir(parents=True)
    rows = ["original_vido_id video_id frame_id path labels\n"]
    for number in range(121):
        Image.new("RGB", (8, 6), (number,) * 3).save(tmp_path / f"frames/elsewhere/{number}.png")
        rows.append(f'{film} 0 {number} elsewhere/{number}.png ""\n')
    (tmp_path / "frame_lists").mkdir()
    (tmp_path / "frame_lists/train.csv").write_text("".join(rows))
    frames = read_frames(AVA(tmp_path).source(film), 121).frames_thwc
    assert frames[:, 0, 0, 0].tolist() == list(range(121))


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd"])
def test_frame_lists_do_not_lead_out(root: Path, path: str) -> None:
    (root / "frame_lists").mkdir()
    (root / "frame_lists/val.csv").write_text(f'film_a 0 0 {path} ""\n')
    with pytest.raises(DataError, match="leave the data folder"):
        AVA(root).source("film_a")
    assert any(problem.video == "film_a" for problem in AVA(root).verify())


def test_version_2_1_is_read_where_2_2_is_not(root: Path) -> None:
    for path in root.glob("*.csv"):
        path.rename(path.with_name(path.name.replace("v2.2", "v2.1")))
    assert len(AVA(root).truth("film_a").key_frames_m) == 895
    assert "ava_val_v2.1.csv" in AVA(root).layout()


@pytest.mark.real
def test_the_real_rows(shared: Path) -> None:
    dataset = AVA(shared / "data")
    truths = [dataset.truth(video.id) for video in dataset.videos("test")]
    assert len(truths) == 8
    assert sum(int(truth.labels_nk.sum()) for truth in truths) == 27163


def test_class_ratios_are_the_published_ones(oracles: Path) -> None:
    ratios = json.loads((oracles / "ava_class_ratio.json").read_text())
    assert facts.AVA.class_ratios == tuple(ratios[str(number)] for number in range(1, 81))


@pytest.mark.real
def test_facts_agree_with_the_published_files(shared: Path) -> None:
    named = (shared / "data/ava/ava_action_list_v2.2.pbtxt").read_text()
    names = [line.split('"')[1] for line in named.splitlines() if "name" in line]
    assert list(facts.AVA.classes) == names
    scored = (shared / "data/ava/ava_action_list_v2.2_for_activitynet_2019.pbtxt").read_text()
    ids = tuple(int(line.split(":")[1]) - 1 for line in scored.splitlines() if line.strip().startswith("id:"))
    assert facts.AVA.evaluated == ids
    mapping = (shared / "data/ucf24/lists/ucf24-classInd.txt").read_text().split()
    assert list(facts.UCF24.classes) == mapping[1::2]
