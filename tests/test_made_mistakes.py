"""Small inputs of other tools' users that went wrong, and what is right: read, or refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_videos import write_video

from ssldet.cli.options import open_data
from ssldet.data.health import examine
from ssldet.errors import DataError
from ssldet_datasets.folder import Folder
from ssldet_datasets.own_boxes import read_boxes


@pytest.fixture
def cases(shared: Path) -> Path:
    """The inputs, which do not travel with the repository."""
    if not (shared / "cases").is_dir():
        pytest.skip("../shared/cases is not here")
    return shared / "cases"


def test_a_phone_video_is_upright(cases: Path) -> None:
    """160 x 120 as stored, with a display matrix of 90 degrees; its boxes reach down to 150."""
    videos = {video.id: video for video in Folder(cases / "rot").videos("test")}
    assert (videos["a"].width, videos["a"].height) == (120, 160)


@pytest.fixture
def changed(cases: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The sound data set with the annotation of a case in the place of its own."""

    def change(case: str) -> Path:
        root = tmp_path / case
        shutil.copytree(cases / "base", root)
        (root / "annotations.csv").unlink()
        shutil.copytree(cases / case, root, dirs_exist_ok=True)
        return root

    return change


REFUSED = {
    "coco": "two images have the id 1",
    "ragged": "line 4: 10 cells, and the heading has 8",
    "deccomma": "line 2: 10 cells, and the heading has 8",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_its_place(changed: Callable[[str], Path], case: str) -> None:
    with pytest.raises(DataError, match=REFUSED[case]):
        open_data(str(changed(case)), None)


@pytest.mark.parametrize("case", ["semi", "fl"])
def test_other_spellings_of_one_table_are_read(changed: Callable[[str], Path], cases: Path, case: str) -> None:
    assert read_boxes(changed(case) / "annotations.csv") == read_boxes(cases / "base/annotations.csv")


def test_a_stepped_cvat_task_is_annotated_every_fifth_frame(changed: Callable[[str], Path]) -> None:
    truth = Folder(changed("cvat")).truth("left_0")
    assert truth.key_frames_m.tolist() == [0, 5, 10, 15]
    assert truth.frames_n.tolist() == [0, 5, 10]


def test_a_box_outside_the_frame_is_an_error(changed: Callable[[str], Path]) -> None:
    (error,) = examine(Folder(changed("outside"))).errors
    assert error.what.startswith("left_0: 1 box wholly outside its frame of 160 x 120, the first in frame 1")


EXPORTS = ["cvat", "coco_vid", "two_attr", "two_instance_id", "two_track_id"]


@pytest.fixture
def exported(cases: Path, tmp_path: Path) -> Callable[[str], Path]:
    """An export with twelve small videos of its names."""

    def export(name: str) -> Path:
        root = tmp_path / name
        shutil.copytree(cases / "exports" / name, root)
        first = write_video(tmp_path / "made.avi", [20] * 40, (320, 240))
        (root / "videos").mkdir()
        for video in (root / "videos.txt").read_text(encoding="utf-8").splitlines():
            shutil.copy(first, root / "videos" / video)
        return root

    return export


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_tools_are_read_with_their_tracks(exported: Callable[[str], Path], name: str) -> None:
    dataset = Folder(exported(name))
    assert sum(bool(video.classes) for video in dataset.videos("train")) == 3
    truth = dataset.truth("golf_2")
    assert len(set(truth.tubes_n.tolist()) - {-1}) == (2 if name.startswith("two") else 1)
    assert truth.annotated_frames.tolist() == list(range(36) if name == "cvat" else range(0, 36, 5))


def test_an_export_of_several_videos_without_their_names_is_refused(exported: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match=r"'frame_000000.PNG' does not say which video it shows"):
        Folder(exported("coco_cvat"))
