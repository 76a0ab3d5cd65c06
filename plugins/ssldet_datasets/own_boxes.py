"""Boxes that people annotate themselves: a CSV, a COCO-style JSON, or CVAT's XML of videos, read into one form.

Frames count from 0 inside; in a CSV and in names of images from 1, in CVAT and COCO's `frame_id` from 0.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import defusedxml.ElementTree as defused
from defusedxml.common import DefusedXmlException

from ssldet.errors import DataError
from ssldet_datasets.layouts import checked_id

MAX_BYTES = 256 * 2**20
MAX_FRAME = 1_000_000
MAX_EDGE = 1e6
SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")

COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "label")


@dataclass(frozen=True, slots=True)
class OwnBox:
    """One box: frame from 0, label by name, tube (-1: not linked), edges x1 y1 x2 y2 in pixels."""

    frame: int
    label: str
    tube: int
    edges: tuple[float, float, float, float]


@dataclass(slots=True)
class OwnVideo:
    """The annotation of one video; `frames` are those it speaks of, with or without boxes."""

    boxes: list[OwnBox] = field(default_factory=list)
    frames: set[int] = field(default_factory=set)

    def add(self, box: OwnBox) -> None:
        self.boxes.append(box)
        self.frames.add(box.frame)


Annotation = dict[str, OwnVideo]
"""Video id -> what is said of it."""


def read_boxes(path: Path) -> Annotation:
    """Read a file of boxes by its suffix, or all CVAT files of a folder.

    Raises:
        DataError: it is absent, too large, of another form, or a name in it would leave the data folder.
    """
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        return {video_id: video for file in files for video_id, video in read_boxes(file).items()}
    readers: Mapping[str, Callable[[Path, str], Annotation]] = {".csv": _csv, ".json": _coco, ".xml": _cvat}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: expected boxes as .csv, .json (COCO) or .xml (CVAT)")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; files of boxes have at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return readers[path.suffix.lower()](path, text)


def video_id_of(name: object, where: Path) -> str:
    """A video's id from its file's name: without the suffix, with / between folders. Raises DataError."""
    if not isinstance(name, str):
        raise DataError(f"{where}: a name of a video is a {type(name).__name__}")
    suffix = PurePosixPath(name).suffix.lower()
    return checked_id(name[: -len(suffix)] if suffix in SUFFIXES else name, where)


# ------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path, text: str) -> Annotation:
    """Rows video,frame,x1,y1,x2,y2,label[,tube] under a heading; a row without box and label is background."""
    videos: Annotation = {}
    try:
        rows = csv.DictReader(text.splitlines(), strict=True)
        missing = set(COLUMNS) - set(rows.fieldnames or ())
        if missing:
            raise DataError(f"{path}: no column {', '.join(sorted(missing))}; expected {','.join(COLUMNS)}[,tube]")
        for number, row in enumerate(rows, 2):
            _add_row(videos, row, f"{path}, line {number}", path)
    except csv.Error as error:
        raise DataError(f"{path}: not a sound CSV ({error})") from error
    return videos


def _add_row(videos: Annotation, row: Mapping[str | None, Any], where: str, path: Path) -> None:
    video = videos.setdefault(video_id_of(row["video"], path), OwnVideo())
    frame = _frame(row["frame"], where, first=1)
    values = [row[name] for name in COLUMNS[2:]]
    if not any(values):
        video.frames.add(frame)
        return
    tube = _whole(row.get("tube") or -1, where, "tube", least=-1)
    video.add(OwnBox(frame, _label(row["label"], where), tube, _edges(values[:4], where)))


# ------------------------------------------------------------------------------------------------------ COCO


def _coco(path: Path, text: str) -> Annotation:
    """COCO's images, annotations and categories, as they are or with the videos of COCO-VID (track_id links boxes)."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not sound JSON ({error})") from error
    tables = {name: _table(content, name, path) for name in ("videos", "images", "annotations", "categories")}
    videos = {_key(row, "id", path): row.get("file_name") or row.get("name") for row in tables["videos"]}
    labels = {_key(row, "id", path): _label(row.get("name"), str(path)) for row in tables["categories"]}
    places = {_key(row, "id", path): _place(row, videos, path) for row in tables["images"]}
    annotation: Annotation = {}
    for video_id, frame in places.values():
        annotation.setdefault(video_id, OwnVideo()).frames.add(frame)
    for row in tables["annotations"]:
        where = f"{path}, annotation {row.get('id')!r:.40}"
        image, category = _key(row, "image_id", path), _key(row, "category_id", path)
        if image not in places or category not in labels:
            raise DataError(f"{where}: its image or category is not in the file")
        video_id, frame = places[image]
        x, y, w, h = _edges(row.get("bbox"), where, ordered=False)
        tube = _whole(row.get("track_id", row.get("instance_id", -1)), where, "track_id", least=-1)
        annotation[video_id].add(OwnBox(frame, labels[category], tube, _edges((x, y, x + w, y + h), where)))
    return annotation


def _table(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    rows = content.get(name, [] if name == "videos" else None) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected COCO's lists images, annotations and categories; {name} is none")
    return rows


def _key(row: Mapping[str, Any], name: str, path: Path) -> int | str:
    value = row.get(name)
    if not isinstance(value, int | str):
        raise DataError(f"{path}: expected a number or string as {name}, got {value!r:.40}")
    return value


def _place(row: Mapping[str, Any], videos: Mapping[int | str, Any], path: Path) -> tuple[str, int]:
    """Video and frame that an image shows: by video_id and frame_id, else by its name video/000012.jpg."""
    where = f"{path}, image {row.get('id')!r:.40}"
    if "video_id" in row:
        key = _key(row, "video_id", path)
        if key not in videos:
            raise DataError(f"{where}: its video is not in the file")
        return video_id_of(videos[key], path), _frame(row.get("frame_id", row.get("frame_index")), where, first=0)
    match = re.fullmatch(r"(.+)/\D*(\d{1,7})\.\w+", str(row.get("file_name")))
    if not match:
        raise DataError(f"{where}: expected video_id and frame_id, or a file_name such as video/000012.jpg")
    return video_id_of(match[1], path), _frame(match[2], where, first=1)


# ------------------------------------------------------------------------------------------------------ CVAT


def _cvat(path: Path, text: str) -> Annotation:
    """CVAT for video 1.1: one task, whose name of the source names the video; all its frames are annotated."""
    try:
        root = defused.fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(f"{path}: defines a document type or entities, which CVAT does not write; refused") from error
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not sound XML ({error})") from error
    if root.find("meta/project") is not None:
        raise DataError(f"{path}: holds several tasks; export each task on its own, as CVAT for video 1.1")
    video = OwnVideo()
    size = _whole(_text(root, "size") or 0, str(path), "size", least=0)
    video.frames.update(range(size))
    for number, track in enumerate(root.iter("track")):
        label = _label(track.get("label"), str(path))
        for box in track.iter("box"):
            where = f"{path}, track {number}"
            if box.get("outside") != "1":
                edges = _edges([box.get(name) for name in ("xtl", "ytl", "xbr", "ybr")], where)
                video.add(OwnBox(_frame(box.get("frame"), where, first=0), label, number, edges))
    return {video_id_of(_text(root, "source") or path.stem, path): video}


def _text(root: ElementTree.Element, name: str) -> str | None:
    element = next(iter([*root.iterfind(f"meta/task/{name}"), *root.iterfind(f"meta/job/{name}")]), None)
    element = root.find(f"meta/{name}") if element is None else element
    return element.text.strip() if element is not None and element.text else None


# --------------------------------------------------------------------------------------------------- values


def _frame(value: Any, where: str, first: int) -> int:
    return _whole(value, where, "frame", least=first) - first


def _whole(value: Any, where: str, what: str, least: int) -> int:
    try:
        number = int(str(value)[:20]) if not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not least <= number <= MAX_FRAME:
        raise DataError(f"{where}: {what} is {value!r:.40}; expected a whole number from {least}")
    return number


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        raise DataError(f"{where}: expected the name of a class, got {value!r:.40}")
    return value.strip()


def _edges(values: Any, where: str, ordered: bool = True) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: expected four numbers as a box, got {values!r:.80}") from error
    if not all(math.isfinite(edge) and abs(edge) < MAX_EDGE for edge in (x1, y1, x2, y2)):
        raise DataError(f"{where}: edges of a box outside any frame")
    if ordered and not (x1 < x2 and y1 < y2):
        raise DataError(f"{where}: a box without area ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
    return x1, y1, x2, y2


def labels_in(annotation: Annotation) -> Iterator[str]:
    """All labels of an annotation, with repetitions."""
    return (box.label for video in annotation.values() for box in video.boxes)
