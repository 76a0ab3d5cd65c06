"""CVAT's XML: a task or a job, in its form for video (tracks) or for images; frames count from 0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import defusedxml.ElementTree as defused
from defusedxml.common import DefusedXmlException

from ssldet.errors import DataError
from ssldet_datasets.own_records import (
    NUMBERED,
    Annotation,
    OwnBox,
    OwnVideo,
    VideoNames,
    box_edges,
    class_name,
    finite_number,
    frame_number,
    whole_number,
)

Element = ElementTree.Element
OTHER_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")


def read_cvat(path: Path, text: str, names: VideoNames) -> Annotation:
    """One task or job. Its frames, range(start, stop + 1, step), are annotated; those between are unknown.

    Raises:
        DataError: not CVAT's XML, several tasks, shapes that are no boxes, or no video that it is of.
    """
    root = _root(path, text)
    if root.find("meta/project") is not None or len(root.findall("meta/tasks/task")) > 1:
        raise DataError(f"{path}: holds several tasks; export each task on its own, as CVAT for video 1.1")
    shape = next((element for name in OTHER_SHAPES for element in root.iter(name)), None)
    if shape is not None:
        raise DataError(f"{path}: has a {shape.tag}, and boxes are wanted; draw rectangles, or convert it in CVAT")
    if root.find("image") is not None:
        return _images(root, path, names)
    size = _size(_text(root, "original_size/width"), _text(root, "original_size/height"))
    video = OwnVideo(frames=set(_frames(root, path)), size=size)
    for number, track in enumerate(root.iter("track")):
        _add_track(video, track, number, path)
    return {_video_id(root, path, names): video}


def _root(path: Path, text: str) -> Element:
    try:
        root: Element = defused.fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(f"{path}: defines a document type or entities, which CVAT does not write; refused") from error
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not sound XML ({error})") from error
    return root


def _add_track(video: OwnVideo, track: Element, number: int, path: Path) -> None:
    label, listed = class_name(track.get("label"), str(path)), frozenset(video.frames)
    for box in track.iter("box"):
        where = f"{path}, track {track.get('id', number)}"
        frame = frame_number(box.get("frame"), where, first=0)
        if listed and frame not in listed:
            raise DataError(
                f"{where}: a box in frame {frame}, and the task shows frames {_spread(listed)} (start_frame, "
                "stop_frame, frame_filter): export it again with a present version of CVAT"
            )
        video.frames.add(frame)
        if box.get("outside") != "1":
            drawn = box.get("keyframe", "1") == "1"
            video.add(OwnBox(frame, label, number, _edges(box, where), drawn))


def _spread(frames: Iterable[int]) -> str:
    ordered = sorted(frames)
    return ", ".join(map(str, ordered[:3])) + (f" ... {ordered[-1]}" if len(ordered) > 3 else "")


def _edges(box: Element, where: str) -> tuple[float, float, float, float]:
    """Of a turned rectangle the upright box around it."""
    x1, y1, x2, y2 = box_edges([box.get(name) for name in ("xtl", "ytl", "xbr", "ybr")], where)
    rotation = box.get("rotation") or ""
    turned = re.fullmatch(r"-?\d+(\.\d+)?", rotation) is not None
    angle = math.radians(finite_number(rotation, where, "rotation")) if turned else 0.0
    if not angle:
        return x1, y1, x2, y2
    wide, high = (x2 - x1) / 2, (y2 - y1) / 2
    half_w = abs(wide * math.cos(angle)) + abs(high * math.sin(angle))
    half_h = abs(wide * math.sin(angle)) + abs(high * math.cos(angle))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return box_edges((x - half_w, y - half_h, x + half_w, y + half_h), where)


# ------------------------------------------------------------------------------------------------------- meta


def _frames(root: Element, path: Path) -> range:
    """The frames that the task shows, and an annotator looked at."""
    step = re.fullmatch(r"\s*step\s*=\s*(\d{1,6})\s*", _text(root, "frame_filter") or "step=1")
    if step is None or int(step[1]) < 1:
        raise DataError(f"{path}: frame_filter is {_text(root, 'frame_filter')!r:.40}; expected step=N, or nothing")
    start, stop = _text(root, "start_frame"), _text(root, "stop_frame")
    size = whole_number(_text(root, "size") or 0, str(path), "size", least=0)
    if start is None or stop is None:
        return range(0, size * int(step[1]), int(step[1]))
    first = frame_number(start, f"{path}, start_frame", first=0)
    return range(first, frame_number(stop, f"{path}, stop_frame", first=0) + 1, int(step[1]))


def _size(width: str | None, height: str | None) -> tuple[int, int] | None:
    """(width, height) where both are whole numbers."""
    return (int(width), int(height)) if width and height and width.isdecimal() and height.isdecimal() else None


def _video_id(root: Element, path: Path, names: VideoNames) -> str:
    """By the task's source; a job has none, and is known by the name of its file, or of its task."""
    source = _text(root, "source")
    candidates = [name for name in (source, path.stem, _text(root, "name")) if name]
    meant = next((name for name in candidates if names.knows(name, path)), None)
    if meant is None and source is None and names.any_known:
        raise DataError(
            f"{path}: no <source> says which video it is of (CVAT's jobs have none), and no video is called "
            f"{path.stem!r}; rename the file after its video: annotations/VIDEO.xml"
        )
    return names.id_of(meant or candidates[0], path)


def _text(root: Element, name: str) -> str | None:
    places = (f"meta/task/{name}", f"meta/job/{name}", f"meta/tasks/task/{name}", f"meta/{name}")
    element = next((e for place in places if (e := root.find(place)) is not None), None)
    return element.text.strip() if element is not None and element.text and element.text.strip() else None


# ----------------------------------------------------------------------------------------------------- images


def _images(root: Element, path: Path, names: VideoNames) -> Annotation:
    """Frames as images: of a video's task by number, else by their names video/000012.jpg. Boxes are not linked."""
    annotation: Annotation = {}
    images = root.findall("image")
    numbers = [re.fullmatch(rf"{NUMBERED}(?:\.\w+)?", image.get("name") or "") for image in images]
    first = 0 if any(match and (int(match[3]) == 0 or match[2] == "frame_") for match in numbers) else 1
    for image, match in zip(images, numbers, strict=True):
        where = f"{path}, image {image.get('name')!r:.60}"
        if match is None:
            raise DataError(f"{where}: expected a name that ends in the frame's number, such as video/000012.jpg")
        video_id = names.id_of(match[1], path) if match[1] else _video_id(root, path, names)
        video = annotation.setdefault(video_id, OwnVideo(size=_size(image.get("width"), image.get("height"))))
        frame = frame_number(match[3], where, first)
        video.frames.add(frame)
        for box in image.iter("box"):
            video.add(OwnBox(frame, class_name(box.get("label"), where), -1, _edges(box, where)))
    return annotation
