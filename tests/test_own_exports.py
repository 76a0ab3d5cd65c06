"""Files that annotation tools write, and spreadsheets save: read right, or refused with what they lack."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_videos import write_video

from ssldet.cli.options import open_data
from ssldet.errors import DataError
from ssldet_datasets.folder import Folder
from ssldet_datasets.own_boxes import read_boxes
from ssldet_datasets.own_records import Annotation, VideoNames

HEAD = "video,frame,x1,y1,x2,y2,label,tube\n"
BOX = '<box frame="{0}" keyframe="{1}" outside="{2}" occluded="0" xtl="{3}" ytl="5" xbr="40" ybr="40"/>'


def cvat(boxes: list[tuple[int, int, int, int]], *, kind: str = "task", meta: str = "") -> str:
    """An export of one task or job; boxes are (frame, keyframe, outside, xtl)."""
    rows = "".join(BOX.format(*box) for box in boxes)
    track = f'<track id="0" label="left">{rows}</track>'
    return f"<annotations><version>1.1</version><meta><{kind}>{meta}</{kind}></meta>{track}</annotations>"


def coco(**changes: Any) -> dict[str, Any]:
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 10, 20]} for n in (1, 2)]
    return {
        "images": [{"id": n, "file_name": f"one/{n:06}.jpg"} for n in (1, 2)],
        "categories": [{"id": 1, "name": "left"}],
        "annotations": boxes,
        **changes,
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Annotation]:
    """Reads text, or JSON, as a file of boxes of the videos that are named."""

    def read(name: str, content: object, known: list[str] | None = None, **options: bool) -> Annotation:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_boxes(path, VideoNames(known) if known else None, **options)

    return read


# -------------------------------------------------------------------------------------------------------- CVAT

STEP = "<size>4</size><start_frame>0</start_frame><stop_frame>15</stop_frame><frame_filter>step=5</frame_filter>"


@pytest.mark.parametrize("kind", ["task", "job"])
def test_frames_between_the_steps_of_a_task_are_unknown(read: Callable[..., Annotation], kind: str) -> None:
    text = cvat([(0, 1, 0, 5), (5, 1, 0, 6), (10, 1, 0, 7), (15, 1, 1, 7)], kind=kind, meta=STEP)
    video = read("left_0.xml", text)["left_0"]
    assert video.frames == {0, 5, 10, 15}
    assert [box.frame for box in video.boxes] == [0, 5, 10]


def test_a_task_that_begins_later_says_nothing_of_the_frames_before(read: Callable[..., Annotation]) -> None:
    meta = "<size>3</size><start_frame>10</start_frame><stop_frame>14</stop_frame><frame_filter>step=2</frame_filter>"
    assert read("a.xml", cvat([(12, 1, 0, 5)], meta=meta))["a"].frames == {10, 12, 14}
    with pytest.raises(DataError, match="a box in frame 1, and the task shows frames 10, 12, 14"):
        read("a.xml", cvat([(1, 1, 0, 5)], meta=meta))


def test_interpolated_boxes_can_be_left_out(read: Callable[..., Annotation], tmp_path: Path) -> None:
    """A frame with one is unknown, not background."""
    text = cvat([(0, 1, 0, 5), (1, 0, 0, 6), (2, 1, 0, 7), (3, 1, 1, 7)], meta="<size>5</size>")
    assert read("one.xml", text)["one"].unknown == set()
    assert read("one.xml", text, keyframes_only=True)["one"].unknown == {1}
    write_video(tmp_path / "videos/one.avi", [20] * 5)
    shutil.move(tmp_path / "one.xml", tmp_path / "annotations.xml")
    (tmp_path / "annotations.xml").write_text(text.replace("<size>", "<source>one.avi</source><size>"))
    truth = Folder(tmp_path, Folder.Config(keyframes_only=True)).truth("one")
    assert (truth.frames_n.tolist(), truth.key_frames_m.tolist()) == ([0, 2], [0, 2, 3, 4])
    assert Folder(tmp_path, Folder.Config(keyframes_only=True)).fingerprint() != Folder(tmp_path).fingerprint()


def test_a_source_may_have_a_folder_more_or_less(read: Callable[..., Annotation]) -> None:
    text = cvat([(0, 1, 0, 5)], meta="<size>2</size><source>share/kitchen/monday.MP4</source>")
    assert list(read("a.xml", text, ["kitchen/monday", "tuesday"])) == ["kitchen/monday"]
    assert list(read("a.xml", text.replace("share/kitchen/", ""), ["kitchen/monday"])) == ["kitchen/monday"]
    with pytest.raises(DataError, match="may be 'a/monday' or 'b/monday'"):
        read("a.xml", text.replace("share/kitchen/", ""), ["a/monday", "b/monday"])


def test_a_job_without_source_is_known_by_its_file(read: Callable[..., Annotation]) -> None:
    text = cvat([(0, 1, 0, 5)], kind="job", meta="<size>2</size>")
    assert list(read("monday.xml", text, ["monday"])) == ["monday"]
    with pytest.raises(DataError, match=r"no <source> .* rename the file after its video: annotations/VIDEO.xml"):
        read("annotations.xml", text, ["monday"])


def test_jobs_of_one_task_are_put_together(read: Callable[..., Annotation], tmp_path: Path) -> None:
    """They may share frames; their tracks are numbered anew. The last file used to win."""
    names = "<source>one.avi</source>"
    early = "<start_frame>0</start_frame><stop_frame>2</stop_frame>"
    late = early.replace("0<", "2<", 1).replace(">2</stop", ">4</stop")
    read("jobs/1.xml", cvat([(n, 1, 0, 5) for n in (0, 1, 2)], kind="job", meta=names + early))
    read("jobs/2.xml", cvat([(n, 1, 0, 6) for n in (2, 3, 4)], kind="job", meta=names + late))
    video = read_boxes(tmp_path / "jobs")["one"]
    assert [(box.frame, box.tube) for box in video.boxes] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    shutil.copy(tmp_path / "jobs/1.xml", tmp_path / "jobs/3.xml")
    with pytest.raises(DataError, match=r"3\.xml: another file has boxes of the same frames of one"):
        read_boxes(tmp_path / "jobs")


TASK = (
    "<task><id>{id}</id><size>{size}</size><subset>{subset}</subset><start_frame>{start}</start_frame>"
    "<stop_frame>{stop}</stop_frame><frame_filter>step={step}</frame_filter><source>{source}</source></task>"
)


def project(tracks: str) -> str:
    """Two tasks in one subset, the second of which starts at 3; one in another subset; one that has no boxes."""
    tasks = (
        TASK.format(id=11, size=3, subset="", start=0, stop=10, step=5, source="a b.mp4"),
        TASK.format(id=12, size=4, subset="", start=3, stop=9, step=2, source="kitchen/c.MOV"),
        TASK.format(id=13, size=2, subset="", start=0, stop=1, step=1, source="nobody.mp4"),
        TASK.format(id=14, size=2, subset="Test", start=4, stop=5, step=1, source="d.mp4"),
    )
    meta = f"<meta><project><id>2</id><tasks>{''.join(tasks)}</tasks></project></meta>"
    return f"<annotations><version>1.1</version>{meta}{tracks}</annotations>"


def in_task(task: object, *frames: int) -> str:
    boxes = "".join(BOX.format(frame, 1, 0, frame) for frame in frames)
    return f'<track id="{frames[0]}" label="left" source="manual" task_id="{task}" subset="default">{boxes}</track>'


def test_a_project_numbers_frames_on_from_task_to_task(read: Callable[..., Annotation]) -> None:
    """Behind 3 x 5 numbers of the first task, 3 + 2 x relative; anew in another subset. It used to be refused."""
    text = project(in_task(11, 0, 10) + in_task(12, 18, 22, 24) + in_task(12, 20) + in_task(14, 5))
    videos = read("annotations.xml", text, ["a b", "kitchen/c", "d", "nobody"])
    assert {name: [(box.frame, box.tube) for box in video.boxes] for name, video in videos.items()} == {
        "a b": [(0, 0), (10, 0)],
        "kitchen/c": [(3, 0), (7, 0), (9, 0), (5, 1)],
        "d": [(5, 0)],
    }
    assert [video.frames for video in videos.values()] == [{0, 5, 10}, {3, 5, 7, 9}, {4, 5}]


def test_a_project_in_the_form_for_images(read: Callable[..., Annotation]) -> None:
    box = '<box label="left" occluded="0" xtl="1" ytl="2" xbr="11" ybr="22"/>'
    image = '<image id="{0}" name="frame_{1:06}" subset="default" task_id="{2}" width="64" height="48">{3}</image>'
    rows = image.format(0, 5, 11, box) + image.format(1, 20, 12, box) + image.format(2, 22, 12, "")
    videos = read("annotations.xml", project(rows))
    assert {name: video.frames for name, video in videos.items()} == {"a b": {5}, "kitchen/c": {5, 7}}
    assert {name: [b.frame for b in video.boxes] for name, video in videos.items()} == {"a b": [5], "kitchen/c": [5]}


@pytest.mark.parametrize(
    ("task", "frame", "words"),
    [
        (99, 0, r"track '0': is of task '99'; the project has 11, 12, 13, 14; export"),
        (11, 3, "track 3: a box in frame 3, and the task shows frames 0, 5, 10"),
        (12, 2, "track '2': frame .*-13|track 2: frame is '-13'; expected a whole number from 0"),
    ],
)
def test_what_fits_no_task_of_a_project_is_refused(
    read: Callable[..., Annotation], task: int, frame: int, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read("annotations.xml", project(in_task(task, frame)))


def test_a_project_without_tasks_is_refused(read: Callable[..., Annotation]) -> None:
    with pytest.raises(DataError, match="a project of which no task is listed"):
        read("a.xml", "<annotations><meta><project><id>1</id></project></meta></annotations>")


def test_the_form_for_images(read: Callable[..., Annotation]) -> None:
    box = '<box label="left" occluded="0" xtl="1" ytl="2" xbr="11" ybr="22"/>'
    video = '<image id="0" name="frame_000005" width="64" height="48">{0}</image><image id="1" name="frame_000010"/>'
    text = f"<annotations><meta><task><source>one.avi</source></task></meta>{video.format(box)}</annotations>"
    found = read("a.xml", text)["one"]
    assert (found.frames, [(b.frame, b.tube, b.edges) for b in found.boxes]) == ({5, 10}, [(5, -1, (1, 2, 11, 22))])
    named = text.replace("frame_000005", "two/000005.jpg").replace("frame_000010", "two/000010.jpg")
    assert read("a.xml", named)["two"].frames == {4, 9}  # numbers of images count from 1


def test_turned_rectangles_and_other_shapes(read: Callable[..., Annotation]) -> None:
    text = cvat([(0, 1, 0, 20)], meta="<size>1</size>").replace('ytl="5"', 'rotation="90" ytl="5"')
    (box,) = read("a.xml", text)["a"].boxes
    assert box.edges == pytest.approx((12.5, 12.5, 47.5, 32.5))  # 20 x 35 around (30, 22.5), lying
    with pytest.raises(DataError, match="has a polygon, and boxes are wanted"):
        read("a.xml", text.replace("<box", "<polygon"))
    with pytest.raises(DataError, match=r"track 0: rotation is '999.*; expected a number below"):
        read("a.xml", text.replace("90", "9" * 400))


# -------------------------------------------------------------------------------------------------------- COCO


def test_names_of_images_count_from_0_where_one_is_0(read: Callable[..., Annotation]) -> None:
    images = [{"id": n, "file_name": f"one/{n - 1:06}.jpg"} for n in (1, 2)]
    assert read("a.json", coco(images=images))["one"].frames == {0, 1}
    assert read("a.json", coco())["one"].frames == {0, 1}


def test_cvats_coco_is_read_one_file_a_video(read: Callable[..., Annotation]) -> None:
    images = [{"id": n, "file_name": f"frame_{5 * n:06}.PNG"} for n in (1, 2)]
    rows = [{**row, "attributes": {"track_id": 3, "keyframe": n == 0}} for n, row in enumerate(coco()["annotations"])]
    content = coco(images=images, annotations=rows)
    video = read("one.json", content, ["one"])["one"]
    assert [(box.frame, box.tube, box.drawn) for box in video.boxes] == [(5, 3, True), (10, 3, False)]
    with pytest.raises(DataError, match=r"'frame_000005.PNG' does not say which video .* annotations/VIDEO.json"):
        read("annotations.json", content, ["one"])
    with pytest.raises(DataError, match=r"images 1 and 2 both show frame 5 \(from 0\) of one"):
        read("one.json", coco(images=[{**row, "file_name": images[0]["file_name"]} for row in images]), ["one"])


@pytest.mark.parametrize("where", ["track_id", "instance_id", "attributes"])
def test_tracks_are_found_wherever_tools_keep_them(read: Callable[..., Annotation], where: str) -> None:
    rows = coco()["annotations"]
    for row, track in zip(rows, ("a7", "b2"), strict=True):
        row |= {"attributes": {"track_id": track}} if where == "attributes" else {where: track}
    assert [box.tube for box in read("a.json", coco(annotations=rows))["one"].boxes] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [{"id": 1, "file_name": f"one/{n}.jpg"} for n in (1, 2)]}, "two images have the id 1"),
        ({"categories": [{"id": n, "name": "left"} for n in (1, 2)]}, "two categories are called 'left'"),
        ({"annotations": [coco()["annotations"][0]] * 2}, "two annotations have the id 1"),
    ],
)
def test_what_is_there_twice_is_refused(read: Callable[..., Annotation], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("a.json", coco(**changes))


def test_frames_with_crowds_are_unknown(read: Callable[..., Annotation], tmp_path: Path) -> None:
    """Neither truth nor background; verify says so."""
    first, second = coco()["annotations"]
    read("annotations.json", coco(annotations=[first, {**second, "iscrowd": 1}]))
    write_video(tmp_path / "videos/one.avi", [20] * 5)
    (tmp_path / "test.txt").write_text("one")
    dataset = Folder(tmp_path)
    truth = dataset.truth("one")
    assert (truth.frames_n.tolist(), truth.key_frames_m.tolist()) == ([0], [0])
    whole = Folder(tmp_path, Folder.Config(rest="background")).truth("one")
    assert whole.key_frames_m.tolist() == [0, 2, 3, 4]
    (doubt,) = dataset.verify()
    assert (doubt.severity, doubt.what) == (
        "doubt",
        "one: frames with crowds, or with boxes that are left out, are unknown: 1",
    )


def test_frames_of_another_size_are_doubted(read: Callable[..., Annotation], tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"one/{n:06}.jpg", "width": 128, "height": 96} for n in (1, 2)]
    read("annotations.json", coco(images=images))
    write_video(tmp_path / "videos/one.avi", [20] * 5)  # 64 x 48
    (tmp_path / "test.txt").write_text("one.avi")
    (doubt,) = Folder(tmp_path).verify()
    assert doubt.what == "one: frames of 128 x 96 were annotated, and the video's are 64 x 48"
    assert "off by 2.00 x 2.00" in doubt.remedy


# ------------------------------------------------------------------------------------------------------- names


def test_names_that_differ_in_unicode_form_or_suffix_are_one(tmp_path: Path) -> None:
    """macOS stores an accent as a letter of its own; cameras write .MP4."""
    decomposed = unicodedata.normalize("NFD", "Küche Gläser")
    write_video(tmp_path / "made.avi", [20] * 5)
    (tmp_path / "videos").mkdir()
    shutil.copy(tmp_path / "made.avi", tmp_path / f"videos/{decomposed}.AVI")
    rows = "Küche Gläser.mov,1,1,2,11,22,left,0\n" + f"{decomposed},2,1,2,11,22,{decomposed},0\n"
    (tmp_path / "annotations.csv").write_text(HEAD + rows, encoding="utf-8")
    (tmp_path / "test.txt").write_text("Küche Gläser.mp4", encoding="utf-8")
    dataset = Folder(tmp_path)
    (video,) = dataset.videos("test")
    assert (video.id, dataset.facts.classes) == ("Küche Gläser", ("Küche Gläser", "left"))
    assert dataset.truth(video.id).frames_n.tolist() == [0, 1]
    assert dataset.verify() == []
    shutil.copy(tmp_path / "made.avi", tmp_path / "videos/Küche Gläser.mkv")
    (doubt,) = Folder(tmp_path).verify()
    assert (doubt.severity, doubt.video) == ("doubt", "Küche Gläser")


@pytest.mark.parametrize("written", ["Mia_winkt_1", "Mia winkt 1", "friends/Mia_winkt_1"])
def test_a_name_that_an_upload_changed_is_known(read: Callable[..., Annotation], written: str) -> None:
    """Blanks become underscores, and signs are lost; what may be two videos is refused."""
    text = HEAD + f"{written}.mp4,1,1,2,11,22,left,0\n"
    assert list(read("a.csv", text, ["friends/Mia winkt (1)", "Tom"])) == ["friends/Mia winkt (1)"]
    assert list(read("a.csv", text, [written, "friends/Mia winkt (1)"])) == [written]
    with pytest.raises(DataError, match=r"may be '.*Mia winkt \(1\)' or '.*Mia winkt \[1\]'; rename one"):
        read("a.csv", text, ["friends/Mia winkt (1)", "friends/Mia winkt [1]"])


def test_exports_of_several_tools_lie_in_one_folder(videos: Path) -> None:
    """CVAT's, Label Studio's and a CSV; the CSV used to be passed over."""
    for name in ("Jürgen Klimmzüge", "three"):
        write_video(videos / f"videos/{name}.avi", [20] * 10)
    (videos / "annotations").mkdir()
    (videos / "annotations/cvat.xml").write_text(cvat([(0, 1, 0, 5)], meta="<size>1</size><source>one.avi</source>"))
    upload = json.dumps(label_studio([key(1, 0)])).replace("-one", "-J%C3%BCrgen_Klimmz%C3%BCge")
    (videos / "annotations/project-3-at-2026-11-08.json").write_text(upload)
    (videos / "annotations/by hand.csv").write_text(HEAD + "three.avi,2,1,2,11,22,left,0\n")
    dataset = Folder(videos)
    frames = {name: len(dataset.truth(name).frames_n) for name in ("one", "Jürgen Klimmzüge", "three")}
    assert frames == {"one": 1, "Jürgen Klimmzüge": 10, "three": 1}
    assert dataset.verify() == []


# --------------------------------------------------------------------------------------------------------- CSV

ROW = "one.avi,1,1,2,11,22,left,0\n"


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        (HEAD.replace(",", ";") + ROW.replace(",", ";"), (1, 2, 11, 22)),
        (HEAD.replace(",", "\t") + ROW.replace(",", "\t"), (1, 2, 11, 22)),
        (HEAD.replace(",", ";") + "one.avi;1;1,5;2;11,25;22;left;0\n", (1.5, 2, 11.25, 22)),
        (HEAD + "one.avi,1.0,1,2,11,22,left,0.0\n", (1, 2, 11, 22)),
        ("Video, Frame ,x1,y1,x2,y2,Label,tube,note\n" + "one.avi,1,1,2,11,22,left,0,seen twice\n\n", (1, 2, 11, 22)),
    ],
    ids=["semicolons", "tabs", "decimal commas", "1.0", "other columns"],
)
def test_what_spreadsheets_write_is_read(read: Callable[..., Annotation], text: str, edges: tuple[float, ...]) -> None:
    (box,) = read("a.csv", text)["one"].boxes
    assert (box.frame, box.tube, box.edges) == (0, 0, edges)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("one.avi,2,1,2,11,22,left,0,EXTRA,99", r"line 3: 10 cells, and the heading has 8; too many from 'EXTRA'"),
        ("one.avi,2,1,5,2,11,22,left,0", r"line 3: 9 cells, .* write decimals with a point, or separate by ;"),
        ("one.avi,2,1,2,11,22,left", "line 3: 7 cells, and the heading has 8; tube is missing"),
        ('one.avi,2,"1,5",2,11,22,left,0', "line 3, column x1: expected a number, got '1,5'; write decimals with"),
        ("one.avi,1.5,1,2,11,22,left,0", "line 3, column frame: frame is '1.5'; expected a whole number from 1"),
        ("one.avi,2,1,2,11,22,left,many", "line 3, column tube: tube is 'many'"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    read: Callable[..., Annotation], tmp_path: Path, row: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read("annotations.csv", HEAD + ROW + row + "\n")
    write_video(tmp_path / "videos/one.avi", [20] * 5)
    with pytest.raises(DataError, match=words):  # and not that no data set was recognised
        open_data(str(tmp_path), None)


def test_a_column_that_is_missing_or_there_twice(read: Callable[..., Annotation]) -> None:
    with pytest.raises(DataError, match="line 1: no column label; expected video;frame"):
        read("a.csv", HEAD.replace("label", "class").replace(",", ";"))
    with pytest.raises(DataError, match="line 1: column x1 is there twice"):
        read("a.csv", HEAD.replace("tube", "X1"))


# ------------------------------------------------------------------------------------- Label Studio and VIA


def label_studio(sequence: list[dict[str, object]], **changes: Any) -> list[dict[str, Any]]:
    value = {"framesCount": 10, "labels": ["left"], "sequence": sequence, **changes}
    region = {"id": "a", "type": "videorectangle", "value": value}
    return [{"id": 1, "data": {"video": "/data/upload/1/0a1b2c3d-one.mp4"}, "annotations": [{"result": [region]}]}]


def key(frame: int, x: float, *, enabled: bool = True) -> dict[str, object]:
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 50, "width": 25, "height": 50}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with one video of 64 x 48 at 30 frames a second."""
    write_video(tmp_path / "mine/videos/one.avi", [20] * 10)
    (tmp_path / "mine/test.txt").write_text("one")
    return tmp_path / "mine"


def test_label_studio_is_interpolated_as_it_shows(videos: Path) -> None:
    """From an enabled key frame to the next, that included; percent of the frame; frames from 1."""
    content = label_studio([key(2, 0), key(6, 50, enabled=False), key(9, 25)])
    (videos / "annotations.json").write_text(json.dumps(content))
    truth = Folder(videos).truth("one")
    assert truth.frames_n.tolist() == [1, 2, 3, 4, 5, 8, 9]
    assert truth.boxes_n4[[0, 2, 4, 6]].tolist() == [
        [0, 24, 16, 48],
        [16, 24, 32, 48],
        [32, 24, 48, 48],
        [16, 24, 32, 48],
    ]
    assert truth.key_frames_m.tolist() == list(range(10))
    drawn = Folder(videos, Folder.Config(keyframes_only=True)).truth("one")
    assert drawn.frames_n.tolist() == [1, 5, 8]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (label_studio([key(1, 0)], labels=[]), "expected one label, got"),
        (label_studio([{**key(1, 0), "rotation": "much"}]), "region 'a': rotation is 'much'; expected a number"),
        ([{"video": "one.mp4", "box": []}], "export as JSON, not JSON-MIN"),
        ([{**label_studio([])[0], "annotations": [{"result": []}] * 2}], "2 annotations; keep one"),
        ([{**label_studio([])[0], "data": {"video": "two.mp4"}}], "boxes of two, of which there is no video"),
        ([{**label_studio([])[0], "data": {"video": "onne.mp4"}}], "rename one of them, if it is the video 'one'"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "is VIA 2's form"),
    ],
)
def test_what_a_tool_lacks_is_said(videos: Path, content: object, words: str) -> None:
    (videos / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        Folder(videos)


def via(**changes: Any) -> dict[str, Any]:
    action = {"aname": "Action", "anchor_id": "FILE1_Z1_XY1", "type": 3, "options": {"0": "left", "1": "right"}}
    return {
        "project": {},
        "config": {},
        "attribute": {"1": {"aname": "Part", "anchor_id": "FILE1_Z2_XY0"}, "2": action},
        "file": {"1": {"fid": 1, "fname": "one.mp4"}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "1_a": {"vid": "1", "flg": 0, "z": [0.1, 0.3], "xy": [], "av": {"1": "x"}},
            "1_b": {"vid": "1", "flg": 0, "z": [0.133], "xy": [2, 10, 20, 30, 15], "av": {"2": "1"}},
        },
        **changes,
    }


def test_via_gives_frames_by_their_seconds(videos: Path) -> None:
    """0.133 seconds at 30 frames a second are frame 4 (from 0); nothing is said of the other frames."""
    (videos / "annotations.json").write_text(json.dumps(via()))
    truth = Folder(videos).truth("one")
    assert (truth.frames_n.tolist(), truth.key_frames_m.tolist(), truth.tubes_n.tolist()) == ([4], [4], [-1])
    assert truth.boxes_n4.tolist() == [[10, 20, 40, 35]]
    assert Folder(videos).facts.classes == ("right",)
    (videos / "annotations.json").write_text(json.dumps(via(attribute={})))
    with pytest.raises(DataError, match="Call it action; there are: none"):
        Folder(videos)
    csv = "# Exported using VGG Image Annotator\n# CSV_HEADER = metadata_id,file_list\n"
    (videos / "annotations.csv").write_text(csv)
    with pytest.raises(DataError, match="VIA's CSV has no frames"):
        Folder(videos)
