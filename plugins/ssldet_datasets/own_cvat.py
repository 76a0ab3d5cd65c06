"""CVAT's XML: a task, a job or a project, in its form for video (tracks) or for images; frames count from 0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
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
    merge_video,
    whole_number,
)

Element = ElementTree.Element
OTHER_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")


def read_cvat(path: Path, text: str, names: VideoNames) -> Annotation:
    """A task, a job or a project. Frames that a task shows, range(start, stop + 1, step), are annotated; those between
    are unknown. Tasks of a project without any box are not annotated.

    Raises:
        DataError: not CVAT's XML, shapes that are no boxes, no video that it is of, or boxes of no task.
    """
    root = _root(path, text)
    shape = next((element for name in OTHER_SHAPES for element in root.iter(name)), None)
    if shape is not None:
        raise DataError(f"{path}: has a {shape.tag}, and boxes are wanted; draw rectangles, or convert it in CVAT")
    if root.find("meta/project") is None and len(root.findall("meta/tasks/task")) <= 1:
        return _read_task(root, path, names, path.stem)
    annotation: Annotation = {}
    for task in _tasks_apart(root, path):
        for video_id, video in _read_task(task, path, names).items():
            merge_video(annotation, video_id, video, path)
    return annotation


def _read_task(root: Element, path: Path, names: VideoNames, called: str | None = None) -> Annotation:
    """One task or job; `called` is what the file is called, where it has the task alone."""
    if root.find("image") is not None:
        return _images(root, path, names, called)
    size = _size(_text(root, "original_size/width"), _text(root, "original_size/height"))
    video = OwnVideo(frames=set(_frames(root, path)), size=size)
    for number, track in enumerate(root.iter("track")):
        _add_track(video, track, number, path)
    return {_video_id(root, path, names, called): video}


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


# ---------------------------------------------------------------------------------------------------- projects


def _tasks_apart(root: Element, path: Path) -> Iterator[Element]:
    """The tasks of a project that have boxes, each as if it had been exported alone, with its own numbers of frames.

    A project numbers on: in the order of its tasks, and anew in each subset, a task's frames come behind start_frame +
    step x size numbers for each task before.
    """
    tasks = root.findall("meta/project/tasks/task") or root.findall("meta/tasks/task")
    shapes = _shapes_by_task(root, [task.findtext("id", "") for task in tasks], path)
    before: dict[str, int] = {}
    for task in tasks:
        alone, subset = ElementTree.Element("annotations"), (task.findtext("subset") or "").strip()
        ElementTree.SubElement(alone, "meta").append(task)
        alone.extend(_renumbered(shapes[task.findtext("id", "")], before.get(subset, 0), path))
        size = whole_number(_text(alone, "size"), str(path), "size", least=0)
        start = frame_number(_text(alone, "start_frame") or 0, f"{path}, start_frame", first=0)
        before[subset] = before.get(subset, 0) + start + size * _step(alone, path)
        if alone.find(".//box") is not None:
            yield alone


def _shapes_by_task(root: Element, tasks: list[str], path: Path) -> dict[str, list[Element]]:
    """Tracks and images by the id of their task."""
    shapes: dict[str, list[Element]] = {task: [] for task in tasks}
    if len(shapes) != len(tasks) or not tasks:
        raise DataError(f"{path}: a project of which {'two tasks have one id' if tasks else 'no task is listed'}")
    for shape in (element for name in ("track", "image") for element in root.findall(name)):
        task = shape.get("task_id", tasks[0] if len(tasks) == 1 else "")
        if task not in shapes:
            where = f"{path}, {shape.tag} {shape.get('id')!r:.40}"
            what = f"is of task {task!r:.40}; the project has {', '.join(tasks):.80}"
            raise DataError(f"{where}: {what}; export it with a present version of CVAT, or each task on its own")
        shapes[task].append(shape)
    return shapes


def _renumbered(shapes: Iterable[Element], before: int, path: Path) -> Iterator[Element]:
    """The same with `before` taken from each number of a frame; names of a task's own images are let be."""
    for shape in shapes:
        where = f"{path}, {shape.tag} {shape.get('id')!r:.40}"
        for box in shape.iter("box") if shape.tag == "track" else ():
            box.set("frame", str(frame_number(box.get("frame"), where, first=0) - before))
        if match := re.fullmatch(r"frame_(\d{6,7})", shape.get("name") or ""):
            shape.set("name", f"frame_{frame_number(match[1], where, first=0) - before:06}")
        yield shape


# ------------------------------------------------------------------------------------------------------- meta


def _frames(root: Element, path: Path) -> range:
    """The frames that the task shows, and an annotator looked at."""
    step = _step(root, path)
    start, stop = _text(root, "start_frame"), _text(root, "stop_frame")
    size = whole_number(_text(root, "size") or 0, str(path), "size", least=0)
    if start is None or stop is None:
        return range(0, size * step, step)
    first = frame_number(start, f"{path}, start_frame", first=0)
    return range(first, frame_number(stop, f"{path}, stop_frame", first=0) + 1, step)


def _step(root: Element, path: Path) -> int:
    step = re.fullmatch(r"\s*step\s*=\s*(\d{1,6})\s*", _text(root, "frame_filter") or "step=1")
    if step is None or int(step[1]) < 1:
        raise DataError(f"{path}: frame_filter is {_text(root, 'frame_filter')!r:.40}; expected step=N, or nothing")
    return int(step[1])


def _size(width: str | None, height: str | None) -> tuple[int, int] | None:
    """(width, height) where both are whole numbers."""
    return (int(width), int(height)) if width and height and width.isdecimal() and height.isdecimal() else None


def _video_id(root: Element, path: Path, names: VideoNames, called: str | None) -> str:
    """By the task's source; a job has none, and is known by the name of its file, or of its task."""
    source = _text(root, "source")
    candidates = [name for name in (source, called, _text(root, "name")) if name]
    meant = next((name for name in candidates if names.knows(name, path)), None)
    if not candidates or (meant is None and source is None and names.any_known):
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


def _images(root: Element, path: Path, names: VideoNames, called: str | None) -> Annotation:
    """Frames as images: of a video's task by number, else by their names video/000012.jpg. Boxes are not linked."""
    annotation: Annotation = {}
    images = root.findall("image")
    numbers = [re.fullmatch(rf"{NUMBERED}(?:\.\w+)?", image.get("name") or "") for image in images]
    first = 0 if any(match and (int(match[3]) == 0 or match[2] == "frame_") for match in numbers) else 1
    for image, match in zip(images, numbers, strict=True):
        where = f"{path}, image {image.get('name')!r:.60}"
        if match is None:
            raise DataError(f"{where}: expected a name that ends in the frame's number, such as video/000012.jpg")
        video_id = names.id_of(match[1], path) if match[1] else _video_id(root, path, names, called)
        video = annotation.setdefault(video_id, OwnVideo(size=_size(image.get("width"), image.get("height"))))
        frame = frame_number(match[3], where, first)
        video.frames.add(frame)
        for box in image.iter("box"):
            video.add(OwnBox(frame, class_name(box.get("label"), where), -1, _edges(box, where)))
    return annotation
