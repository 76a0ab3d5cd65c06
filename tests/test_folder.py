"""Own videos: three forms of boxes, partial annotation, and what is said of mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import QUICK
from made_videos import write_video
from PIL import Image

from ssldet.config import resolve
from ssldet.data.datasets import identify, load_dataset
from ssldet.data.splits import draw
from ssldet.errors import ConfigError, DataError
from ssldet.runs import runner
from ssldet_datasets.folder import Folder
from ssldet_datasets.own_boxes import read_boxes

CSV = """\
video,frame,x1,y1,x2,y2,label,tube
cats/one.avi,2,10,10,30,40,jump,0
cats/one.avi,3,11,10,31,40,jump,0
cats/one.avi,3,1,1,5,5,sleep,1
cats/one.avi,4,,,,,,
two,1,2,2,20,20,sleep,
"""

COCO = {
    "videos": [{"id": 7, "name": "cats/one.avi"}],
    "images": [
        *({"id": n, "video_id": 7, "frame_id": n} for n in (1, 2, 3)),
        {"id": "x", "file_name": "two/img_000001.jpg", "width": 64, "height": 48},
    ],
    "categories": [{"id": 1, "name": "jump"}, {"id": 2, "name": "sleep"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "track_id": 0},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [11, 10, 20, 30], "track_id": 0},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [1, 1, 4, 4], "track_id": 1},
        {"id": 4, "image_id": "x", "category_id": 2, "bbox": [2, 2, 18, 18]},
    ],
}

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><size>5</size><source>cats/one.avi</source></task></meta>
<track id="0" label="jump">
<box frame="1" outside="0" xtl="10" ytl="10" xbr="30" ybr="40"/><box frame="2" outside="0" xtl="11" ytl="10" xbr="31" ybr="40"/>
<box frame="3" outside="1" xtl="11" ytl="10" xbr="31" ybr="40"/></track>
<track id="1" label="sleep"><box frame="2" outside="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track></annotations>
"""  # noqa: E501


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for name in ("cats/one", "two", "three"):
        write_video(root / f"videos/{name}.avi", [20, 60, 100, 140, 180])
    (root / "annotations.csv").write_text(CSV)
    (root / "test.txt").write_text("two.avi\n")
    return root


def test_what_has_no_boxes_has_no_class(root: Path) -> None:
    dataset = Folder(root)
    assert dataset.facts.classes == ("jump", "sleep")
    videos = {video.id: video for video in dataset.videos("train")}
    assert {key: video.classes for key, video in videos.items()} == {"cats/one": (0, 1), "three": ()}
    assert (videos["three"].num_frames, videos["three"].width, videos["three"].height) == (5, 64, 48)
    assert [video.id for video in dataset.videos("test")] == ["two"]
    assert dataset.verify() == []
    assert "of 2 of 3 videos" in dataset.layout()
    empty = dataset.truth("three")
    assert (len(empty.frames_n), len(empty.key_frames_m), empty.labels_nk.shape) == (0, 0, (0, 2))


def test_frames_that_are_not_mentioned_are_unknown_or_background(root: Path) -> None:
    truth = Folder(root).truth("cats/one")
    assert truth.frames_n.tolist() == [1, 2, 2]
    assert truth.tubes_n.tolist() == [0, 0, 1]
    assert truth.key_frames_m.tolist() == [1, 2, 3]
    assert truth.background_frames.tolist() == [3]
    assert Folder(root, Folder.Config(rest="background")).truth("cats/one").background_frames.tolist() == [0, 3, 4]
    assert len(Folder(root, Folder.Config(rest="background")).truth("three").key_frames_m) == 0


def test_coco_and_cvat_say_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(COCO))
    (tmp_path / "boxes.xml").write_text(CVAT)
    from_csv, from_coco, from_cvat = (
        read_boxes(path) for path in (root / "annotations.csv", tmp_path / "boxes.json", tmp_path / "boxes.xml")
    )
    assert from_csv == from_coco
    assert from_cvat["cats/one"].boxes == sorted(from_csv["cats/one"].boxes, key=lambda box: box.tube)
    assert from_cvat["cats/one"].frames == set(range(5))
    (root / "boxes").mkdir()
    (root / "boxes/a.xml").write_text(CVAT)
    dataset = load_dataset("folder", root, annotations="boxes", classes=["sleep", "jump"])
    assert dataset.truth("cats/one").labels_nk.argmax(1).tolist() == [1, 1, 0]


def test_frames_as_images_and_a_list_of_classes(root: Path) -> None:
    for number in range(1, 4):
        (root / "frames/four").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 16)).save(root / f"frames/four/{number:05d}.jpg")
    (root / "classes.txt").write_text("run\nsleep\njump\n")
    dataset = Folder(root)
    assert dataset.facts.classes == ("run", "sleep", "jump")
    assert dataset.videos("train")[1].num_frames == 3
    before = dataset.fingerprint()
    (root / "annotations.csv").write_text(CSV.replace("11,10", "12,10"))
    assert Folder(root).fingerprint() != before


def test_anchors_follow_the_boxes(root: Path) -> None:
    rows = [f"three,{frame},0,0,{8 * frame},{4 * frame},jump,0\n" for frame in range(1, 6)]
    (root / "annotations.csv").write_text(CSV.splitlines()[0] + "\n" + "".join(rows))
    expected = [(7 * 8 * n / 64, round(7 * 4 * n / 48, 3)) for n in range(1, 6)]
    assert np.allclose(Folder(root).facts.anchors, expected)


BAD_ROWS = [
    "../secret,1,1,1,2,2,jump,0",
    "/etc/passwd,1,1,1,2,2,jump,0",
    "two,0,1,1,2,2,jump,0",
    "two,1,3,1,2,2,jump,0",
    "two,1,nan,1,2,2,jump,0",
    "two,1,1,1,2,2,,0",
    "two,x,1,1,2,2,jump,0",
    "two,1,1,1,2,2,jump,many",
    "two,1,1,1",
    'two,1,1,1,2,2,"jump,0',
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_rows_that_make_no_sense_are_named(root: Path, row: str) -> None:
    (root / "annotations.csv").write_text(CSV + row + "\n")
    with pytest.raises(DataError, match=r"annotations\.csv"):
        Folder(root)


@pytest.mark.parametrize(
    "change",
    [{"images": 3}, {"annotations": [{"id": 1, "image_id": 99, "category_id": 1}]}, {"categories": [{"id": 1}]}],
)
def test_coco_that_makes_no_sense_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps({**COCO, **change}))
    with pytest.raises(DataError, match=r"boxes\.json"):
        read_boxes(tmp_path / "boxes.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<a", "not sound XML"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><a>&a;</a>", "defines a document type or entities"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><a/>', "defines a document type or entities"),
        (CVAT.replace("task>", "project>"), "a project of which no task is listed"),
    ],
)
def test_xml_that_holds_no_task_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "boxes.xml").write_text(text)
    with pytest.raises(DataError, match=rf"boxes\.xml: .*{reason}"):
        read_boxes(tmp_path / "boxes.xml")


def test_what_does_not_fit_together_is_said(root: Path, tmp_path: Path) -> None:
    (root / "annotations.csv").write_text(CSV + "ghost,1,1,1,2,2,jump,0\ntwo,9,1,1,2,2,jump,0\n")
    (root / "videos/three.avi").write_bytes(b"no video")
    (root / "test.txt").write_text("two\nthree\n")
    found = " ".join(str(problem) for problem in Folder(root).verify())
    for words in (
        "boxes of ghost",
        "two has 5 frames and a box in frame 9",
        "three cannot be opened",
        "test video three",
    ):
        assert words in found
    assert Folder(root).truth("two").frames_n.tolist() == [0]
    with pytest.raises(DataError, match="known: \\('jump',\\)"):
        Folder(root, Folder.Config(classes=("jump",)))
    with pytest.raises(ConfigError, match=r"dataset.rest: input should be 'unknown' or 'background', not 'sky'"):
        load_dataset("folder", root, rest="sky")
    with pytest.raises(DataError, match="no folder videos/ or frames/"):
        Folder(tmp_path)
    (root / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no test\.txt"):
        Folder(root).videos("test")
    with pytest.raises(DataError, match="looked in"):
        Folder(root, Folder.Config(annotations="none.csv"))


def test_boxes_outside_the_folder_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text(CSV)
    with pytest.raises(DataError, match="leads out"):
        Folder(root, Folder.Config(annotations="../secret.csv"))


def test_a_folder_of_own_videos_is_recognised(tmp_path: Path) -> None:
    Folder.write_stand_in(tmp_path / "mine")
    assert list(identify(tmp_path / "mine")) == ["folder"]


@pytest.mark.slow
def test_a_run_on_own_videos(tmp_path: Path) -> None:
    Folder.write_stand_in(tmp_path / "mine")
    wanted = {"strategy": "dual_guidance", "dataset": "folder", "ratio": 1.0, "data_root": tmp_path / "mine"}
    quick = (*QUICK, "train.steps=4", "clip.size=32", "clip.frames=4")
    config = resolve({**wanted, "results": tmp_path / "runs", "workers": 1}, preset="smoke", assignments=quick)
    record = runner.run(config)
    assert (record.split.labelled, record.split.unlabelled, record.split.evaluated) == (6, 6, 4)


# --------------------------------------------------------------------------------------------------------- groups

GROUPS = "video,group,room\nclip_1.avi,monday,kitchen\nclip_2.avi,monday,kitchen\nclip_3,tuesday,kitchen\n"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Six clips, of which 1 and 2 are of one recording; 5 and 6 are scored."""
    root = tmp_path / "clips"
    first = write_video(root / "videos/clip_1.avi", [20, 60, 100])
    for number in range(2, 7):
        shutil.copy(first, root / f"videos/clip_{number}.avi")
    rows = [f"clip_{number},{frame},2,2,20,20,jump,0\n" for number in range(1, 7) for frame in (1, 2, 3)]
    (root / "annotations.csv").write_text(CSV.splitlines()[0] + "\n" + "".join(rows))
    (root / "test.txt").write_text("clip_5\nclip_6\n")
    (root / "groups.csv").write_text(GROUPS)
    return root


def test_clips_of_one_recording_are_a_group(clips: Path) -> None:
    groups = {video.id: video.group for video in Folder(clips).videos("train")}
    assert groups == {"clip_1": "monday", "clip_2": "monday", "clip_3": "tuesday", "clip_4": ""}
    (clips / "groups.csv").unlink()
    assert {video.group for video in Folder(clips).videos("train")} == {""}


def test_validation_takes_whole_recordings(clips: Path) -> None:
    """A quarter of four clips, or both of monday."""
    videos = Folder(clips).videos("train")
    splits = [draw("folder", videos, ("jump",), split=1, ratio=1, seed=seed, val_fraction=0.25) for seed in range(8)]
    assert {tuple(sorted(split.validation)) for split in splits} == {
        ("clip_1", "clip_2"),
        ("clip_3",),
        ("clip_4",),
    }


def test_other_groups_are_other_data(clips: Path) -> None:
    grouped = Folder(clips).fingerprint()
    (clips / "groups.csv").write_text(GROUPS.replace("tuesday", "monday"))
    other = Folder(clips).fingerprint()
    (clips / "groups.csv").write_text(GROUPS.replace(",", ";"))
    assert Folder(clips).fingerprint() == grouped != other


UNSOUND_GROUPS = {
    "no column": ("video,session\nclip_1,a\n", "line 1: no column group; expected video,group$"),
    "no name": ("video,group\nclip_1,\n", "line 2, column group: expected a name"),
    "two groups": ("video,group\nclip_1,a\nclip_1.avi,b\n", "clip_1"),
    "a row cut off": ("video,group\nclip_1\n", "line 2: 1 cells, and the heading has 2; group is missing"),
}


@pytest.mark.parametrize("case", UNSOUND_GROUPS)
def test_groups_that_make_no_sense_are_named(clips: Path, case: str) -> None:
    text, words = UNSOUND_GROUPS[case]
    (clips / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=rf"groups\.csv.*{words}"):
        Folder(clips)


def test_a_group_of_a_video_that_is_absent_is_named(clips: Path) -> None:
    (clips / "groups.csv").write_text(GROUPS + "clip_9,monday,kitchen\n")
    (problem,) = Folder(clips).verify()
    assert (problem.severity, problem.what) == ("error", "a group of clip_9, of which there is no video")
