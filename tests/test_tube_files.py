"""The forms in which boxes are passed around: all of them give the same truth, and none leaves the data folder."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_in_forms as forms
from PIL import Image
from scipy.io import savemat

from ssldet.contracts import Dataset
from ssldet.errors import DataError
from ssldet_datasets.jhmdb import JHMDB
from ssldet_datasets.mat_files import MAX_INFLATED, load_mat
from ssldet_datasets.tube_files import ActTubes, link_boxes, read_label_file, read_list
from ssldet_datasets.ucf24 import UCF24

LISTS = ("splitfiles/testlist01.txt", "testlist.txt", "testlist_video.txt", "lists/ucf101_24_anno_test_list.txt")


@pytest.fixture(scope="module")
def ucf24(tmp_path_factory: pytest.TempPathFactory) -> UCF24:
    folder = tmp_path_factory.mktemp("ucf24")
    UCF24.write_stand_in(folder)
    return UCF24(folder)


def same_truth(one: Dataset, other: Dataset) -> None:
    for subset in forms.SUBSETS:
        assert one.videos(subset) == other.videos(subset)
        for video_id in forms.ids(one, subset):
            a, b = one.truth(video_id), other.truth(video_id)
            assert a.boxes_n4.dtype == b.boxes_n4.dtype
            for name in ("frames_n", "boxes_n4", "labels_nk", "tubes_n", "key_frames_m"):
                assert np.array_equal(getattr(a, name), getattr(b, name)), (video_id, name)


def with_list(root: Path, dataset: Dataset, name: str = LISTS[0], row: str = "{}\n") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(row.format(video_id) for video_id in forms.ids(dataset, "test")))
    return root


def test_mat_and_act_give_what_pyannot_gives(ucf24: UCF24, tmp_path: Path) -> None:
    forms.write_mat(ucf24, with_list(tmp_path / "mat", ucf24) / "annots/finalAnnots.mat")
    forms.write_act(ucf24, tmp_path / "act/UCF101v2-GT.pkl", shift=1)
    for name, form in (("mat", "finalAnnots.mat"), ("act", "ACT-style")):
        other = UCF24(tmp_path / name)
        assert form in other.layout()
        same_truth(ucf24, other)
    assert "inside the annotation" in UCF24(tmp_path / "act").layout()


def test_labels_of_frames_give_the_same_boxes(ucf24: UCF24, tmp_path: Path) -> None:
    shutil.copytree(ucf24.root / "UCF-101", tmp_path / "UCF-101")
    forms.write_labels(ucf24, with_list(tmp_path, ucf24, "testlist.txt", "{}/00003.txt\n") / "labels")
    other = UCF24(tmp_path)
    assert "label folders" in other.layout()
    assert other.verify() == []
    for subset in forms.SUBSETS:
        assert ucf24.videos(subset) == other.videos(subset)
        for video_id in forms.ids(ucf24, subset):
            a, b = ucf24.truth(video_id), other.truth(video_id)
            assert np.array_equal(a.frames_n, b.frames_n)
            assert sorted(a.boxes_n4.tolist()) == sorted(b.boxes_n4.tolist())
            assert len(set(b.tubes_n)) >= len(set(a.tubes_n))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("row", ["{}\n", "{}.avi\r\n", "{}.avi 7\n", "{}/00070.txt\n", "labels/{}/00070.txt\n"])
def test_lists_of_any_form(ucf24: UCF24, tmp_path: Path, name: str, row: str) -> None:
    path = with_list(tmp_path, ucf24, name, row) / name
    assert read_list(path) == forms.ids(ucf24, "test")


def test_a_tube_of_one_frame_and_a_video_without_tubes_in_mat(tmp_path: Path) -> None:
    tube = {"ef": 2, "sf": 2, "class": 1, "boxes": np.array([[250, 10, 20, 30]], np.uint8)}
    for number, tubes in enumerate((tube, np.empty((0, 0)))):
        root = tmp_path / str(number)
        (root / "annots").mkdir(parents=True)
        annot = {"num_imgs": 3, "name": "Biking/v_Biking_g01_c01", "tubes": tubes}
        savemat(root / "annots/finalAnnots.mat", {"annot": annot})
        truth = UCF24(root).truth("Biking/v_Biking_g01_c01")
        assert truth.frames_n.tolist() == [1][: 1 - number]
        assert truth.boxes_n4.tolist() == [[250, 10, 270, 40]][: 1 - number]


def test_boxes_are_linked_to_the_tube_they_overlap_most() -> None:
    a, b = np.array([0, 0, 10, 10]), np.array([30, 30, 50, 50])
    frames = {3: np.stack([a, b]), 4: np.stack([b + 1, a + 1]), 6: np.stack([a])}
    tubes = [(start, boxes[:, 0].tolist()) for start, boxes in link_boxes(frames)]
    assert tubes == [(3, [0, 1]), (3, [30, 31]), (6, [0])]


@pytest.mark.parametrize("text", ["1 2 3 4\n", "1 a 2 3 4\n", "1 nan 2 3 4\n", "1 1e300 2 3 4\n", "1 2 3 4 5\n" * 1001])
def test_label_files_that_make_no_sense_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "00001.txt").write_text(text)
    with pytest.raises(DataError, match=r"00001\.txt"):
        read_label_file(tmp_path / "00001.txt")


def test_jhmdb_as_act_and_yowo_hold_it(tmp_path: Path) -> None:
    JHMDB.write_stand_in(tmp_path / "official")
    official = JHMDB(tmp_path / "official")
    frames = {name: tmp_path / name for name in ("act", "yowo")}
    forms.write_act(official, frames["act"] / "JHMDB-GT.pkl", shift=0)
    shutil.copytree(official.root / "ReCompress_Videos", frames["act"] / "videos")
    forms.write_labels(official, frames["yowo"] / "labels")
    for video_id in (video_id for subset in forms.SUBSETS for video_id in forms.ids(official, subset)):
        (frames["yowo"] / "rgb-images" / video_id).mkdir(parents=True)
        for number in range(1, 16):
            Image.new("RGB", (320, 240)).save(frames["yowo"] / "rgb-images" / video_id / f"{number:05d}.png")
    for subset, name in (("train", "trainlist.txt"), ("test", "testlist_video.txt")):
        lines = (f"labels/{video_id}/00001.txt\n" for video_id in forms.ids(official, subset))
        (frames["yowo"] / name).write_text("".join(lines))
    for name, form in (("act", "ACT-style"), ("yowo", "label folders")):
        other = JHMDB(frames[name])
        assert form in other.layout()
        same_truth(official, other)
        assert other.verify() == []
    with pytest.raises(DataError, match="split 1"):
        JHMDB(frames["yowo"]).videos("train", 2)


def test_damage_in_an_act_file_is_named(ucf24: UCF24, tmp_path: Path) -> None:
    content = forms.act_content(ucf24, 1)
    video_id = forms.ids(ucf24, "train")[0]
    tubes = content["gttubes"]
    assert isinstance(tubes, dict)
    for bad in ([np.zeros((2, 4))], [np.array([[1, 0, 0, 1, 1], [3, 0, 0, 1, 1]])], [np.full((1, 5), np.nan)], "x"):
        path = tmp_path / "UCF101v2-GT.pkl"
        path.write_bytes(pickle.dumps({**content, "gttubes": {**tubes, video_id: {0: bad}}}, 4))
        with pytest.raises(DataError, match=video_id):
            ActTubes(path).tubes(video_id)
        assert any(problem.video == video_id for problem in UCF24(tmp_path).verify())


def test_links_that_lead_out_are_refused(ucf24: UCF24, tmp_path: Path) -> None:
    """Of a single video or frame; a whole folder may be a link."""
    outside = tmp_path / "outside"
    shutil.copytree(ucf24.root, outside)
    video_id = forms.ids(ucf24, "train")[0]
    root = tmp_path / "root"
    (root / "annots").mkdir(parents=True)
    shutil.copy(outside / "annots/pyannot.pkl", root / "annots")
    shutil.copytree(outside / "splitfiles", root / "splitfiles")
    (root / "UCF-101").symlink_to(outside / "UCF-101")
    assert UCF24(root).verify() == []
    (root / "UCF-101").unlink()
    (root / "UCF-101" / video_id).parent.mkdir(parents=True)
    (root / "UCF-101" / f"{video_id}.avi").symlink_to(outside / "UCF-101" / f"{video_id}.avi")
    with pytest.raises(DataError, match="leads out"):
        UCF24(root).source(video_id)
    assert any("leads out" in problem.what for problem in UCF24(root).verify())
    (root / "rgb-images" / video_id).mkdir(parents=True)
    (root / "rgb-images" / video_id / "00001.jpg").symlink_to(outside / "annots/pyannot.pkl")
    (root / "UCF-101" / f"{video_id}.avi").unlink()
    with pytest.raises(DataError, match="leads out"):
        UCF24(root).source(video_id)


def test_mat_files_are_bounded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.mat"
    savemat(bomb, {"part_mask": np.zeros(MAX_INFLATED + 2**20, np.uint8)}, do_compression=True)
    with pytest.raises(DataError, match="hold more than"):
        load_mat(bomb, ["part_mask"])
    bomb.write_bytes(b"MATLAB 7.3 MAT-file" + b" " * 200)
    with pytest.raises(DataError, match="not a MATLAB 5 file"):
        load_mat(bomb, ["part_mask"])


@pytest.mark.real
def test_the_two_real_files_say_the_same(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "annots").mkdir()
    for name in ("finalAnnots.mat", "testlist01.txt"):
        (tmp_path / "annots" / name).symlink_to(shared / "data/ucf24/annots" / name)
    mat, pickled = UCF24(tmp_path), UCF24(shared / "data")
    same_truth(pickled, mat)
    assert sum(len(forms.ids(mat, subset)) for subset in forms.SUBSETS) == 3194
