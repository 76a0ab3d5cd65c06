"""J-HMDB: layouts, boxes from masks, what verify finds, and the real numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_videos import write_mask, write_video
from PIL import Image

from ssldet.data.splits import draw
from ssldet.data.video import read_frames
from ssldet.errors import DataError
from ssldet_datasets.jhmdb import JHMDB, load_index, mask_extents, read_mask, save_index, source_of

ODD = "Odd & (name)!_#1'@+_catch_u_cm_np1"
BOXES = [(3, 4, 20, 30), (5, 6, 22, 32), (0, 0, 64, 48)]


def write_lists(root: Path) -> None:
    """Split files of all classes for three splits; brush_hair has one training video, catch one of each."""
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for split in (1, 2, 3):
        for name in JHMDB.facts.classes:
            (root / f"splits/{name}_test_split{split}.txt").write_text("")
        (root / f"splits/brush_hair_test_split{split}.txt").write_text("comb.avi 1\n")
        (root / f"splits/catch_test_split{split}.txt").write_text(f"{ODD}.avi 1\nball.avi 2\n\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of the shared folder."""
    root = tmp_path / "jhmdb"
    write_lists(root)
    for name in JHMDB.facts.classes:
        (root / "videos" / name).mkdir(parents=True)
        (root / "puppet_mask" / name).mkdir(parents=True)
    for video_id in ("brush_hair/comb", f"catch/{ODD}", "catch/ball"):
        write_video(root / f"videos/{video_id}.avi", [20, 100, 180])
        write_mask(root / f"puppet_mask/{video_id}.mat", BOXES)
    return root


@pytest.fixture
def official(root: Path, tmp_path: Path) -> Path:
    """The same data as the official site packs it."""
    other = tmp_path / "official"
    shutil.copytree(root / "splits", other / "splits")
    shutil.copytree(root / "videos", other / "ReCompress_Videos")
    shutil.copytree(root / "puppet_mask", other / "puppet_mask", ignore=shutil.ignore_patterns("*.mat"))
    for mask in (root / "puppet_mask").rglob("*.mat"):
        folder = other / "puppet_mask" / mask.parent.name / mask.stem
        folder.mkdir(parents=True)
        shutil.copy2(mask, folder / "puppet_mask.mat")
    return other


def whats(dataset: JHMDB) -> str:
    return "\n".join(map(str, dataset.verify()))


def test_videos_and_truth(root: Path) -> None:
    dataset = JHMDB(root)
    assert [video.id for video in dataset.videos("train")] == ["brush_hair/comb", f"catch/{ODD}"]
    (video,) = dataset.videos("test")
    assert (video.id, video.num_frames, video.width, video.height, video.classes) == ("catch/ball", 3, 64, 48, (1,))
    truth = dataset.truth("catch/ball")
    assert truth.boxes_n4.dtype == np.float32
    assert truth.boxes_n4.tolist() == [list(box) for box in BOXES]
    assert truth.frames_n.tolist() == truth.key_frames_m.tolist() == [0, 1, 2]
    assert truth.tubes_n.tolist() == [0, 0, 0]
    assert truth.labels_nk.nonzero()[1].tolist() == [1, 1, 1]


def test_both_folders_and_both_layouts_are_the_same_data(root: Path, official: Path) -> None:
    datasets = [JHMDB(root), JHMDB(root.parent), JHMDB(official)]
    assert len({dataset.fingerprint() for dataset in datasets}) == 1
    assert all(dataset.verify() == [] for dataset in datasets)
    assert read_frames(datasets[2].source("catch/ball"), 3).decoded == 3


def test_frames_as_images(root: Path) -> None:
    shutil.rmtree(root / "videos")
    folder = root / "Rename_Images" / "catch" / ODD
    folder.mkdir(parents=True)
    for number, level in ((1, 30), (2, 60), (3, 90)):
        Image.new("RGB", (64, 48), (level,) * 3).save(folder / f"{number:05}.png")
    video = read_frames(JHMDB(root).source(f"catch/{ODD}"), 3)
    assert video.frames_thwc[:, 0, 0, 0].tolist() == [30, 60, 90]


def test_one_truth_does_not_read_all_masks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "puppet_mask/catch/ball.mat").write_bytes(b"damaged")
    assert len(JHMDB(root).truth("brush_hair/comb").frames_n) == 3


def test_the_index_is_kept_and_mended(root: Path) -> None:
    dataset = JHMDB(root)
    before = [video.num_frames for video in dataset.videos("train")]
    (path,) = Path(os.environ["SSLDET_CACHE"]).glob(f"index/jhmdb-*{dataset.fingerprint()[:32]}.npz")
    index = load_index(path)
    assert index is not None
    assert np.array_equal(index["catch/ball"].boxes_t4, BOXES)
    path.write_bytes(path.read_bytes()[:-30])
    assert load_index(path) is None
    assert [video.num_frames for video in JHMDB(root).videos("train")] == before
    assert load_index(path) is not None


def test_an_index_without_videos(tmp_path: Path) -> None:
    save_index(tmp_path / "index.npz", {})
    assert load_index(tmp_path / "index.npz") == {}


def test_extents_are_pixel_edges() -> None:
    mask_hwt = np.zeros((5, 7, 3), np.uint8)
    mask_hwt[2, 3, 0] = 1
    mask_hwt[:, :, 1] = 1
    boxes_t4 = mask_extents(mask_hwt)
    assert boxes_t4[:2].tolist() == [[3, 2, 4, 3], [0, 0, 7, 5]]
    assert np.isnan(boxes_t4[2]).all()


def test_a_frame_without_mask_is_background(root: Path) -> None:
    write_mask(root / "puppet_mask/catch/ball.mat", [BOXES[0], (0, 0, 0, 0), BOXES[1]])
    truth = JHMDB(root).truth("catch/ball")
    assert truth.frames_n.tolist() == [0, 2]
    assert truth.background_frames.tolist() == [1]


def test_a_mask_of_one_frame_keeps_its_axis(tmp_path: Path) -> None:
    mask = read_mask(write_mask(tmp_path / "m.mat", [(1, 2, 3, 4)]))
    assert (mask.width, mask.height, mask.boxes_t4.tolist()) == (64, 48, [[1, 2, 3, 4]])


def test_verify_names_what_is_missing(root: Path) -> None:
    (root / "videos/brush_hair/comb.avi").unlink()
    (root / f"puppet_mask/catch/{ODD}.mat").unlink()
    (root / "splits/wave_test_split1.txt").unlink()
    shutil.rmtree(root / "videos/golf")
    shutil.rmtree(root / "puppet_mask/jump")
    found = whats(JHMDB(root))
    assert "no frames of brush_hair/comb" in found
    assert f"no mask of catch/{ODD}" in found
    assert "split 1 of class wave" in found
    assert "no videos of class golf" in found
    assert "no masks of class jump" in found
    assert len(found.splitlines()) == 5
    assert [video.id for video in JHMDB(root).videos("test", 2)] == ["catch/ball"]


def test_verify_names_what_is_damaged(root: Path) -> None:
    (root / "puppet_mask/brush_hair/comb.mat").write_bytes(b"damaged")
    (root / "videos/catch/ball.avi").write_bytes(b"damaged")
    write_mask(root / f"puppet_mask/catch/{ODD}.mat", BOXES[:2])
    found = whats(JHMDB(root))
    assert "the mask of brush_hair/comb is damaged" in found
    assert "catch/ball cannot be opened" in found
    assert f"catch/{ODD} has 3 frames and its mask 2" in found
    assert len(found.splitlines()) == 3
    assert [video.id for video in JHMDB(root).videos("train")] == [f"catch/{ODD}"]


def test_without_videos_only_truth_is_there(root: Path) -> None:
    shutil.rmtree(root / "videos")
    dataset = JHMDB(root)
    assert len(dataset.videos("train")) == 2
    assert [problem.what for problem in dataset.verify()] == ["no folder with videos or frames"]
    with pytest.raises(DataError, match=r"(?s)no frames of J-HMDB video catch/ball.*ReCompress_Videos"):
        dataset.source("catch/ball")


@pytest.mark.parametrize("line", ["ball.avi 3", "ball.avi", "../../../etc/passwd 1", "/etc/passwd 2"])
def test_split_lines_that_make_no_sense(root: Path, line: str) -> None:
    (root / "splits/catch_test_split1.txt").write_text(line + "\n")
    with pytest.raises(DataError, match="catch_test_split1"):
        JHMDB(root).videos("train")
    assert "catch_test_split1" in whats(JHMDB(root))


def test_other_splits_and_ids_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="splits 1, 2 and 3"):
        JHMDB(root).videos("train", 4)
    with pytest.raises(DataError, match="no mask at"):
        JHMDB(root).truth("catch/absent")
    with pytest.raises(DataError, match="leave the data folder"):
        JHMDB(root).source("../secret")


def test_without_data_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no data root.*jhmdb\.is\.tue\.mpg\.de.*--data-root"):
        JHMDB()
    with pytest.raises(DataError, match=r"(?s)nothing of the data set.*puppet_mask.*--data-root"):
        JHMDB(tmp_path)


# ------------------------------------------------------------------------------------------------- the real data


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> JHMDB:
    return JHMDB(shared / "data")


@pytest.mark.real
def test_real_counts(real: JHMDB) -> None:
    counts = [tuple(len(real.videos(subset, split)) for subset in ("train", "test")) for split in (1, 2, 3)]
    assert counts == [(660, 268), (658, 270), (663, 265)]
    assert [sum(video.num_frames for video in real.videos(subset)) for subset in ("train", "test")] == [22712, 9126]
    assert {(video.width, video.height) for video in real.videos("train")} == {(320, 240)}


@pytest.mark.real
def test_real_data_is_complete(real: JHMDB) -> None:
    assert real.verify() == []


@pytest.mark.real
def test_real_truth_from_the_index_is_that_of_the_mask(real: JHMDB, shared: Path) -> None:
    video = real.videos("test")[100]
    truth = real.truth(video.id)
    assert np.array_equal(truth.boxes_n4, JHMDB(shared / "data").truth(video.id).boxes_n4)
    assert len(truth.frames_n) == video.num_frames
    assert read_frames(real.source(video.id), video.num_frames, (32, 24)).decoded == video.num_frames


@pytest.mark.real
def test_the_real_split_is_frozen_for_ever(real: JHMDB) -> None:
    split = draw("jhmdb", real.videos("train"), real.facts.classes, split=1, ratio=0.2, seed=0)
    assert (len(split.labelled), len(split.unlabelled)) == (132, 528)
    assert split.hash == "579071f4cfe997e5f68480d36b1ec54abe3481a43e9d7411c082311043704201"
    larger = draw("jhmdb", real.videos("train"), real.facts.classes, split=1, ratio=0.3, seed=0)
    assert set(split.labelled) < set(larger.labelled)


@pytest.mark.parametrize(
    ("video_id", "source"),
    [
        (
            "catch/Seldin_Lipovic_-_Willi_Weber__Torwarttraining__catch_f_cm_np1_le_bad_4",
            "Seldin_Lipovic_-_Willi_Weber__Torwarttraining_",
        ),
        ("stand/A_Beautiful_Mind_6_stand_u_cm_np1_fr_med_3", "A_Beautiful_Mind_6"),
        ("shoot_bow/ArcheryFastShooting_shoot_bow_u_nm_np1_fr_med_20", "ArcheryFastShooting"),
        ("catch/somebody_else_0", ""),
    ],
)
def test_the_group_of_a_clip_is_its_source(video_id: str, source: str) -> None:
    assert source_of(video_id) == source


@pytest.mark.real
def test_no_class_has_a_source_in_both_parts_of_a_split(real: JHMDB) -> None:
    groups = {video.group for video in (*real.videos("train"), *real.videos("test"))}
    assert len(groups) == 336 and "" not in groups
    for split in real.splits:
        train = {(video.classes[0], video.group) for video in real.videos("train", split)}
        test = {(video.classes[0], video.group) for video in real.videos("test", split)}
        assert not train & test
