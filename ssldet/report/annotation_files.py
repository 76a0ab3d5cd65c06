"""Tubes that were predicted, as files of boxes that people correct and the data set `folder` reads.

csv     annotations.csv: a row a box, and one for each frame without any
cvat    annotations/<video>.xml, "CVAT for video 1.1": one file a video, to be uploaded to its task
coco    annotations.json: videos, images and boxes with a track_id

All three say the same. Every frame of a video with tubes is spoken of: one that no tube shows is background. A video
without tubes is left out, so that it stays an unlabelled one. Edges are those of the tubes, to the last bit of a
float32, cut off at the frame.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from ssldet.contracts import DatasetFacts
from ssldet.report.prediction import PredictedVideo
from ssldet.util.files import write_text

ANNOTATIONS = "annotations"
"""Name of the file, or of the folder of files."""

CSV_COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "label", "tube", "score")


class LabelledBox(NamedTuple):
    """A box of a tube: the tube's number in its video, frame from 0, class, the tube's score, edges xyxy float32."""

    tube: int
    frame: int
    label: int
    score: float
    edges_4: np.ndarray


def write_annotations(form: str, videos: Sequence[PredictedVideo], facts: DatasetFacts, out: Path) -> list[Path]:
    """Write the tubes of videos as files of boxes below a folder; gives the files.

    Args:
        form: "csv", "cvat" or "coco".
        videos: those without tubes are left out.
        facts: names of the classes.
        out: the folder.
    """
    files = FORMS[form]([video for video in videos if video.tubes], facts)
    for name, text in files.items():
        write_text(out / name, text)
    return [out / name for name in files]


def labelled_boxes(video: PredictedVideo) -> list[LabelledBox]:
    """The boxes of a video's tubes, tube by tube; those that lie outside the frame are left out."""
    return [
        LabelledBox(number, int(frame), tube.label, round(tube.score, 4), edges_4)
        for number, tube in enumerate(video.tubes)
        for frame, edges_4 in zip(tube.frames_t, _within(tube.boxes_t4, video.size), strict=True)
        if (edges_4[:2] < edges_4[2:]).all()
    ]


def _within(boxes_t4: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    clipped: np.ndarray = np.clip(boxes_t4, 0, np.array([*size, *size], np.float32))
    return clipped.astype(np.float32)


def _name(video: PredictedVideo) -> str:
    """As the data set `folder` names videos: the path below the folder of videos."""
    return f"{video.id}{video.file.suffix}"


# ------------------------------------------------------------------------------------------------------------ csv


def as_csv(videos: Sequence[PredictedVideo], facts: DatasetFacts) -> dict[str, str]:
    """File name -> content: one table, frames from 1, by frame."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for video in videos:
        table.writerows(_csv_rows(video, facts))
    return {f"{ANNOTATIONS}.csv": text.getvalue()}


def _csv_rows(video: PredictedVideo, facts: DatasetFacts) -> Iterator[tuple[object, ...]]:
    boxes = sorted(labelled_boxes(video), key=lambda box: (box.frame, box.tube))
    shown = {box.frame for box in boxes}
    background = ((frame, None) for frame in range(video.frames) if frame not in shown)
    for frame, box in sorted([*((box.frame, box) for box in boxes), *background], key=lambda row: row[0]):
        if box is None:
            yield _name(video), frame + 1, *[""] * 7
        else:
            yield _name(video), frame + 1, *box.edges_4, facts.classes[box.label], box.tube, box.score


# ----------------------------------------------------------------------------------------------------------- cvat


def as_cvat(videos: Sequence[PredictedVideo], facts: DatasetFacts) -> dict[str, str]:
    """File name -> content: a file a video, which CVAT takes as the annotation of its task."""
    return {f"{ANNOTATIONS}/{video.id.replace('/', '__')}.xml": _cvat(video, facts) for video in videos}


def _cvat(video: PredictedVideo, facts: DatasetFacts) -> str:
    root = ElementTree.Element("annotations")
    _text(root, "version", "1.1")
    root.append(_cvat_task(video, facts))
    boxes = labelled_boxes(video)
    for number in dict.fromkeys(box.tube for box in boxes):
        root.append(_cvat_track(number, [box for box in boxes if box.tube == number], video, facts))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _cvat_task(video: PredictedVideo, facts: DatasetFacts) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    for name, value in {"name": video.id, "size": video.frames, "mode": "interpolation", "overlap": 0}.items():
        _text(task, name, value)
    for name, value in {"start_frame": 0, "stop_frame": video.frames - 1, "frame_filter": ""}.items():
        _text(task, name, value)
    labels = ElementTree.SubElement(task, "labels")
    for name in facts.classes:
        _text(ElementTree.SubElement(labels, "label"), "name", name)
    size = ElementTree.SubElement(task, "original_size")
    _text(size, "width", video.size[0])
    _text(size, "height", video.size[1])
    _text(task, "source", _name(video))
    return meta


def _cvat_track(
    number: int, boxes: Sequence[LabelledBox], video: PredictedVideo, facts: DatasetFacts
) -> ElementTree.Element:
    """Every box a key frame; where a tube ends or has a gap, a box that is outside."""
    label = facts.classes[boxes[0].label]
    track = ElementTree.Element("track", {"id": str(number), "label": label, "source": "auto"})
    shown = {box.frame for box in boxes}
    for box in boxes:
        track.append(_cvat_box(box, box.frame, outside=False))
        if box.frame + 1 not in shown and box.frame + 1 < video.frames:
            track.append(_cvat_box(box, box.frame + 1, outside=True))
    return track


def _cvat_box(box: LabelledBox, frame: int, *, outside: bool) -> ElementTree.Element:
    sides = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box.edges_4), strict=True))
    about = {"frame": str(frame), "keyframe": "1", "outside": str(int(outside)), "occluded": "0"}
    return ElementTree.Element("box", about | sides | {"z_order": "0"})


def _text(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


# ----------------------------------------------------------------------------------------------------------- coco


def as_coco(videos: Sequence[PredictedVideo], facts: DatasetFacts) -> dict[str, str]:
    """File name -> content: one file, with the videos of COCO-VID; frames from 0, numbers in names of images from 1."""
    images, annotations = list[dict[str, object]](), list[dict[str, object]]()
    for number, video in enumerate(videos, 1):
        first = len(images) + 1
        images += _coco_images(number, video, first)
        for box in labelled_boxes(video):
            annotations.append({"id": len(annotations) + 1, **_coco_box(box, first)})
    content = {
        "videos": [
            {"id": number, "name": video.id, "file_name": _name(video)} for number, video in enumerate(videos, 1)
        ],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(facts.classes)],
    }
    return {f"{ANNOTATIONS}.json": json.dumps(content, indent=1) + "\n"}


def _coco_images(number: int, video: PredictedVideo, first: int) -> Iterator[dict[str, object]]:
    width, height = video.size
    for frame in range(video.frames):
        name = f"{video.id}/{frame + 1:06d}.jpg"
        place = {"id": first + frame, "video_id": number, "frame_id": frame}
        yield {**place, "file_name": name, "width": width, "height": height}


def _coco_box(box: LabelledBox, first: int) -> dict[str, object]:
    x1, y1, x2, y2 = (float(edge) for edge in box.edges_4)
    return {
        "image_id": first + box.frame,
        "category_id": box.label + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "track_id": box.tube,
        "score": box.score,
    }


FORMS: Mapping[str, Callable[[Sequence[PredictedVideo], DatasetFacts], dict[str, str]]] = {
    "csv": as_csv,
    "cvat": as_cvat,
    "coco": as_coco,
}
"""Name of a form -> what writes it."""
