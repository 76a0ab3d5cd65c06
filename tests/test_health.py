"""`data verify`: what is an error, what is a doubt, and that sound data have neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_videos import write_turned, write_video
from PIL import Image

from ssldet import cli
from ssldet.contracts import Problem
from ssldet.data.doubts import annotated, listed_videos
from ssldet.data.health import examine
from ssldet.data.sheets import HEAD, sheet
from ssldet_datasets.folder import Folder

Row = list[str]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen videos of 160 x 120 and 20 frames, ten of them with a box in each frame but the last two."""
    root = tmp_path_factory.mktemp("sound") / "mine"
    Folder.write_stand_in(root)
    return root


@pytest.fixture
def changed(sound: Path, tmp_path: Path) -> Callable[[Callable[[list[Row]], list[Row]]], Path]:
    """The same videos with other rows."""

    def change(edit: Callable[[list[Row]], list[Row]]) -> Path:
        root = tmp_path / "changed"
        shutil.copytree(sound, root)
        head, *lines = (root / "annotations.csv").read_text().splitlines()
        rows = edit([line.split(",") for line in lines])
        (root / "annotations.csv").write_text("\n".join([head, *map(",".join, rows)]))
        return root

    return change


def found(root: Path, *, deep: bool = False) -> list[Problem]:
    health = examine(Folder(root), deep=deep)
    return [*health.errors, *health.doubts]


def scaled(x: float, y: float | None = None) -> Callable[[list[Row]], list[Row]]:
    factors = [x, y or x] * 2
    return lambda rows: [
        [*r[:2], *(str(float(e) * f) if e else "" for e, f in zip(r[2:6], factors, strict=True)), *r[6:]] for r in rows
    ]


def labelled(rows: list[Row], video: str, label: str) -> list[Row]:
    return [[*r[:6], label, *r[7:]] if r[0] == video and r[6] else r for r in rows]


def first_boxes(rows: list[Row], tubes: str) -> list[Row]:
    """A box every fifth frame, and no other row."""
    return [[*r[:7], tubes] for r in rows if r[6] and int(r[1]) % 5 == 1]


def test_sound_data_have_no_doubts(sound: Path) -> None:
    health = examine(Folder(sound), deep=True)
    assert health.errors == health.doubts == []
    assert health.classes["left"] == {"train": {"videos": 3, "boxes": 54}, "test": {"videos": 2, "boxes": 36}}
    assert health.frames == {"frames": 200, "listed": 200, "with_boxes": 180, "background": 20}


DOUBTS: list[tuple[str, Callable[[list[Row]], list[Row]], str]] = [
    ("normalised", scaled(1 / 160, 1 / 120), "all boxes of 10 videos (such as left_2) lie between 0 and 1"),
    ("too large", scaled(2), "the boxes look drawn on larger frames"),
    ("too small", scaled(0.4), "the boxes look drawn on smaller frames, or given in percent"),
    ("twice", lambda rows: [*rows, rows[0]], "1 box given twice in one frame with the same label, in 1 video (left_0)"),
    ("spelling", lambda rows: labelled(rows, "left_3.mp4", "Left"), "classes 'Left' and 'left' look like one"),
    ("plural", lambda rows: labelled(rows, "left_3.mp4", "lefts"), "classes 'left' and 'lefts' look like one"),
    ("one class", lambda rows: labelled(rows, "left_3.mp4", "up"), "no test video has boxes of 1 class (up)"),
    ("sparse", lambda rows: first_boxes(rows, "0"), "10 tubes with boxes on only 25% of the frames from first to last"),
    ("no tubes", lambda rows: first_boxes(rows, ""), "40 of 40 boxes belong to no tube, in 10 videos"),
    ("empty", lambda rows: [*rows, ["left_7", "1", *[""] * 6]], "1 video (left_7) without a box, though frames"),
]


@pytest.mark.parametrize(("edit", "words"), [pytest.param(*row[1:], id=row[0]) for row in DOUBTS])
def test_each_doubt_says_what_and_where(
    changed: Callable[..., Path], edit: Callable[[list[Row]], list[Row]], words: str
) -> None:
    problems = [problem for problem in found(changed(edit)) if words in problem.what]
    assert [problem.severity for problem in problems] == ["doubt"]


def test_mostly_background_is_doubted(changed: Callable[..., Path]) -> None:
    """20 background frames and 5 boxes in all: four fifths of what is listed."""
    kept = changed(lambda rows: [r for r in rows if not r[6]] + [r for r in rows if r[1] == "1"][::2])
    (problem,) = (p for p in found(kept) if "have no box" in p.what)
    assert problem.what == "20 of 25 frames that the annotation speaks of have no box (80%)"


def test_boxes_outside_the_frame_are_errors_and_those_that_stick_out_are_counted(changed: Callable[..., Path]) -> None:
    def edit(rows: list[Row]) -> list[Row]:
        rows[0][2:6] = ["600", "300", "800", "500"]
        rows[1][2:6] = ["-20", "7", "62", "37"]
        rows[2][2:6] = ["-0.8", "7", "62", "37"]  # annotation tools write these
        return rows

    error, partly = found(changed(edit))
    assert (error.severity, error.video, partly.severity) == ("error", "left_0", "doubt")
    assert error.what == (
        "left_0: 1 box wholly outside its frame of 160 x 120, the first in frame 1: (600, 300, 800, 500)"
    )
    assert partly.what == "1 of 180 boxes stick out of the frame by more than a pixel, in 1 video (left_0)"


def test_a_closer_look_at_tubes_and_labels(changed: Callable[..., Path]) -> None:
    def edit(rows: list[Row]) -> list[Row]:
        by = {(r[0].removesuffix(".mp4"), r[1]): r for r in rows}
        by["left_0", "9"][6] = ""  # forgotten: removed below
        by["left_1", "9"][2:6] = ["1", "1", "9", "9"]  # far from its neighbours
        by["left_2", "9"][6] = "right"  # the tube changes its label
        conflict = [*by["left_3", "4"][:6], "right", "7"]
        return [r for r in rows if r[2] == "" or r[6]] + [conflict]

    root = changed(edit)
    shutil.copy(root / "videos/left_0.mp4", root / "videos/left_5.mp4")  # a test video for training
    words = [problem.what for problem in found(root, deep=True)]
    for expected in (
        "1 tube with gaps: longer steps between some boxes than between others, in 1 video (left_0)",
        "tubes that jump: boxes of neighbouring frames do not overlap, in 1 video (left_1), first in frame 9 of left_1",
        "tubes whose label changes, in 1 video (left_2)",
        "1 pair of boxes in one place of a frame with different labels, in 1 video (left_3)",
        "2 videos hold the same frames (left_5, left_0), in training and in test: what is scored was trained on",
    ):
        assert expected in words
    assert not [what for what in (p.what for p in found(root)) if "jump" in what or "same frames" in what]


def test_a_rare_class_is_named(changed: Callable[..., Path]) -> None:
    root = changed(lambda rows: [[*r[:6], "up", *r[7:]] if (r[0], r[1]) == ("left_3.mp4", "1") else r for r in rows])
    assert "1 class (up) with less than 5% of the training boxes of 'right'" in [p.what for p in found(root, deep=True)]


def test_a_variable_frame_rate_is_said_and_how_frames_count(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "mine")
    (tmp_path / "mine/videos/left_7.mp4").unlink()
    write_video(tmp_path / "mine/videos/left_7.mkv", [20, 80, 140, 200], at=[0, 1, 4, 5])
    (problem,) = found(tmp_path / "mine")
    assert problem.severity == "doubt"
    assert problem.what == "1 video (left_7) of variable frame rate, or with frames left out"
    assert problem.remedy == "frames count in the order in which they are shown, each once, whatever its time"


def test_turned_videos_are_said(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "mine")
    write_turned(tmp_path / "mine/videos/left_7.mp4", np.zeros((64, 96, 3), np.uint8), 90)
    (problem,) = found(tmp_path / "mine")
    assert problem.what == "1 video (left_7) stored turned, as phones do, and decoded upright"
    assert "upright" in problem.remedy


def test_groups_are_counted_and_those_on_both_sides_are_doubted(changed: Callable[..., Path]) -> None:
    """Of 12 training videos three are of one recording; left_0, which is scored, is of another with left_4."""
    root = changed(lambda rows: rows)
    members = {"left_5": "a", "left_6": "a", "left_7": "a", "left_4": "b", "left_0": "b"}
    (root / "groups.csv").write_text("\n".join(["video,group", *map(",".join, members.items())]))
    health = examine(Folder(root))
    assert health.groups == {"train": 10, "test": 4}
    (doubt,) = health.doubts
    assert (health.errors, doubt.what) == ([], "group 'b' is in training (left_4) and in test (left_0)")
    text = "groups: 10 train, 4 test; validation and intervals take whole ones"
    for verb in ("verify", "stats"):
        assert text in ssldet("data", verb, root).stdout.splitlines()
        assert json.loads(ssldet("data", verb, root, "--json").stdout)["groups"] == health.groups


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def test_verify_prints_errors_doubts_and_classes(changed: Callable[..., Path]) -> None:
    root = changed(lambda rows: labelled([*rows, rows[0]], "left_3.mp4", "Left"))
    result = ssldet("data", "verify", root)
    assert result.exit_code == 0, result.output  # doubts stop nothing
    lines = result.stdout.splitlines()
    assert lines[-1] == "complete, with 3 doubts"
    assert [line.split(":")[0].strip() for line in lines[-4:-1]] == ["doubt 1", "doubt 2", "doubt 3"]
    assert ["Left", "1", "18", "0", "0"] in [line.split() for line in lines]
    report = json.loads(ssldet("data", "verify", root, "--json", "--deep").stdout)
    assert (report["problems"], len(report["doubts"])) == ([], 3)
    assert report["checks"]["duplicated boxes"][0]["severity"] == "doubt"
    table = [line.split("  ") for line in ssldet("data", "verify", root, "--deep").stdout.splitlines()]
    assert ["duplicated boxes", "0", "1"] in [[cell.strip() for cell in row if cell] for row in table]


def test_doubts_stop_no_run_and_errors_do(changed: Callable[..., Path]) -> None:
    root = changed(lambda rows: [["left_0.mp4", "1", "600", "300", "800", "500", "left", "0"], *rows])
    result = ssldet("data", "verify", root)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "incomplete: 1 problem")


def test_sheets_have_the_boxes_where_they_are(sound: Path, tmp_path: Path) -> None:
    dataset = Folder(sound)
    (video,) = annotated(dataset, listed_videos(dataset, only={"left_0"}))
    page = np.asarray(sheet(dataset, video))
    x1, y1, x2, _ = 2 * video.truth.boxes_n4[0]  # a sheet shows frames 320 wide
    outline = page[6 + HEAD + round(y1), 6 + round((x1 + x2) / 2)]
    assert outline[0] > 200 and outline[1] < 100, "the first class is drawn in red"
    assert ssldet("data", "verify", sound, "--draw", tmp_path / "look").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "look").iterdir())[0] == "left_0.png"
    with Image.open(tmp_path / "look/left_0.png") as picture:
        assert picture.size == (4 * 326 + 6, 3 * (240 + HEAD + 6) + 6)


def test_sheets_write_names_with_accents(sound: Path, tmp_path: Path) -> None:
    """They stood there as empty squares, all alike."""
    (tmp_path / "videos").mkdir()
    for name in "üéß":
        shutil.copy(sound / "videos/left_0.mp4", tmp_path / f"videos/{name}.mp4")
    rows = "".join(f"{name}.mp4,1,20,20,60,60,wave,0\n" for name in "üéß")
    (tmp_path / "annotations.csv").write_text(f"video,frame,x1,y1,x2,y2,label,tube\n{rows}", encoding="utf-8")
    (tmp_path / "test.txt").write_text("ß", encoding="utf-8")
    dataset = Folder(tmp_path)
    sheets = [np.asarray(sheet(dataset, v)) for v in annotated(dataset, listed_videos(dataset))]
    heads = {page[6 : 6 + HEAD - 2, :16].tobytes() for page in sheets}
    assert len(heads) == 3


def test_what_lacks_a_list_of_test_videos_is_told_so(changed: Callable[..., Path]) -> None:
    """It was said that no data set was recognised. The boxes can be looked at, and no run begins."""
    root = changed(lambda rows: rows)
    (root / "test.txt").unlink()
    result = ssldet("data", "verify", root)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "incomplete: 1 problem")
    assert "videos: 16 train (10 annotated, 6 unlabelled), 0 test" in result.stdout.splitlines()
    assert "that are to be scored; annotated are left_0, left_1" in result.stdout
    asked = ("run", "--strategy", "supervised", "--dataset", "folder", "--preset", "smoke", "--data-root", root)
    result = ssldet(*asked, "--dry-run")
    assert (result.exit_code, "no test.txt" in result.stderr) == (2, True)


def test_verify_counts_unlabelled_videos_and_names_the_next_command(sound: Path) -> None:
    result = ssldet("data", "verify", sound, "--draw", sound.parent / "look")
    assert "videos: 12 train (6 annotated, 6 unlabelled), 4 test" in result.stdout.splitlines()
    assert f"--dataset folder --data-root {sound} " in result.stderr
    assert json.loads(ssldet("data", "verify", sound, "--json").stdout)["annotated"] == {"train": 6, "test": 4}


def test_files_of_boxes_that_are_passed_over_are_named(changed: Callable[..., Path]) -> None:
    root = changed(lambda rows: rows)
    (root / "annotations").mkdir()
    (problem,) = found(root)
    assert problem.what == "annotations beside annotations.csv not read"
    assert problem.remedy == "put all files of boxes into the folder annotations/"
