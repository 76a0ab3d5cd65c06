"""Video exports of Label Studio and of VIA 3. Both need the video: they give percent of its frames, or seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ssldet.data.video import SUFFIXES
from ssldet.errors import DataError
from ssldet_datasets.own_records import (
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

MAX_BOXES = 2_000_000

Keyframe = tuple[int, bool, tuple[float, float, float, float, float]]
"""Frame from 0, whether the region goes on behind it, and x y width height (percent) and rotation (degrees)."""

# ------------------------------------------------------------------------------------------------ Label Studio


def read_label_studio(path: Path, tasks: Sequence[Any], names: VideoNames) -> Annotation:
    """Tasks with `videorectangle` regions; all frames of an annotated task are annotated, frames between key frames are
    interpolated as Label Studio shows them.

    Raises:
        DataError: no task's list; regions without labels; a task that was annotated twice; a video that is not there.
    """
    annotation: Annotation = {}
    for number, task in enumerate(tasks):
        if not isinstance(task, Mapping) or not isinstance(task.get("annotations"), list):
            raise DataError(f"{path}: expected Label Studio's tasks with annotations: export as JSON, not JSON-MIN")
        where = f"{path}, task {task.get('id', number)!r:.40}"
        done = [a for a in task["annotations"] if isinstance(a, Mapping) and not a.get("was_cancelled")]
        if len(done) > 1:
            raise DataError(f"{where}: {len(done)} annotations; keep one, by the project's review or by hand")
        if done:
            video_id = names.id_of(_task_video(task, names, where, path), path)
            if video_id in annotation:
                raise DataError(f"{where}: another task is of the video {video_id} too; keep one")
            annotation[video_id] = _task(done[0].get("result"), names.size(video_id), where)
    return annotation


def _task_video(task: Mapping[str, Any], names: VideoNames, where: str, path: Path) -> str:
    """The name of the task's video; uploads have eight letters and a dash before it."""
    data = task.get("data")
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, Mapping) else []
    urls = [_path_of(text) for text in texts]
    url = next((url for url in urls if url.lower().endswith(SUFFIXES)), None)
    if url is None:
        raise DataError(f"{where}: its data name no video; expected a name that ends in {', '.join(SUFFIXES[:4])} ...")
    last = url.rpartition("/")[2]
    bare = re.sub(r"^[0-9a-f]{8}-", "", last)
    return next((name for name in (url.lstrip("/"), last, bare) if names.knows(name, path)), bare)


def _path_of(url: str) -> str:
    """/data/local-files/?d=a/b.mp4 -> a/b.mp4; else the path of the address."""
    parts = urlsplit(url)
    return unquote((parse_qs(parts.query).get("d") or [parts.path])[0])


def _task(regions: Any, size: tuple[int, int], where: str) -> OwnVideo:
    video = OwnVideo()
    rectangles = [r for r in regions or () if isinstance(r, Mapping) and r.get("type") == "videorectangle"]
    for tube, region in enumerate(rectangles):
        value, place = region.get("value"), f"{where}, region {region.get('id', tube)!r:.40}"
        if not isinstance(value, Mapping) or not isinstance(value.get("sequence"), list):
            raise DataError(f"{place}: has no sequence of boxes")
        labels = value.get("labels")
        if not isinstance(labels, list) or len(labels) != 1:
            raise DataError(f"{place}: expected one label, got {labels!r:.60}; choose one for each region")
        count = whole_number(value.get("framesCount"), place, "framesCount", least=1)
        video.frames.update(range(count))
        if len(video.boxes) + count > MAX_BOXES:
            raise DataError(f"{place}: more than {MAX_BOXES} boxes in one video")
        for frame, drawn, box in _shown(_keyframes(value["sequence"], place), count):
            video.add(OwnBox(frame, class_name(labels[0], place), tube, _pixels(box, size, place), drawn))
    return video


def _keyframes(sequence: Sequence[Any], where: str) -> list[Keyframe]:
    keyframes = []
    for row in sequence:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a box of the sequence is no mapping")
        x, y, w, h = box_edges([row.get(name) for name in ("x", "y", "width", "height")], where, ordered=False)
        turn = finite_number(row.get("rotation") or 0, where, "rotation")
        frame = frame_number(row.get("frame"), where, first=1)
        keyframes.append((frame, bool(row.get("enabled", True)), (x, y, w, h, turn)))
    return sorted(keyframes)


def _shown(keyframes: Sequence[Keyframe], count: int) -> Iterator[tuple[int, bool, tuple[float, ...]]]:
    """(frame, drawn by hand, box): from an enabled key frame to the next one, that included, or to the end."""
    open_before = False
    for place, (frame, enabled, box) in enumerate(keyframes):
        if enabled or open_before:
            yield frame, True, box
        open_before = enabled
        if enabled:
            after = keyframes[place + 1] if place + 1 < len(keyframes) else None
            end, target = (min(after[0], count), after[2]) if after else (count, box)
            for between in range(frame + 1, end):
                share = (between - frame) / (end - frame)
                yield between, False, tuple(a + (b - a) * share for a, b in zip(box, target, strict=True))


def _pixels(box: Sequence[float], size: tuple[int, int], where: str) -> tuple[float, float, float, float]:
    """Edges of the upright box around one in percent, turned clockwise about its upper left corner."""
    x, y, w, h = (share * edge / 100 for share, edge in zip(box[:4], size * 2, strict=True))
    cosine, sine = math.cos(math.radians(box[4])), math.sin(math.radians(box[4]))
    xs = [x, x + w * cosine, x - h * sine, x + w * cosine - h * sine]
    ys = [y, y + w * sine, y + h * cosine, y + w * sine + h * cosine]
    return box_edges((min(xs), min(ys), max(xs), max(ys)), where)


# --------------------------------------------------------------------------------------------------------- VIA

RECTANGLE = 2
FRAME_REGION = "FILE1_Z1_XY1"
"""VIA's name for what is said of a region in a video's frame."""


def read_via(path: Path, project: Mapping[str, Any], names: VideoNames) -> Annotation:
    """A VIA 3 project: rectangles at seconds, of files. Only frames with rectangles are annotated; none is linked.

    Raises:
        DataError: it lacks a table, an attribute that names the action, or a video.
    """
    for name in ("attribute", "file", "metadata", "view"):
        if not isinstance(project.get(name), Mapping):
            raise DataError(f"{path}: expected a VIA 3 project with attribute, file, metadata and view; {name} is none")
    attribute, options = _action(project["attribute"], path)
    annotation: Annotation = {}
    for key, row in project["metadata"].items():
        where = f"{path}, metadata {key!r:.40}"
        if not isinstance(row, Mapping) or not row.get("xy"):
            continue  # a segment of time, without a region
        video_id = names.id_of(_file_of(row, project, where), path)
        shape, *numbers = row["xy"] if isinstance(row["xy"], list) else [None]
        times = row.get("z")
        if shape != RECTANGLE or not isinstance(times, list) or len(times) != 1:
            raise DataError(f"{where}: expected a rectangle at one time, got xy {row['xy']!r:.60} and z {times!r:.40}")
        x, y, w, h = box_edges(numbers, where, ordered=False)
        frame = _frame_at(times[0], names.rate(video_id), where)
        said = row["av"].get(attribute) if isinstance(row.get("av"), Mapping) else None
        label = class_name(options.get(said, said) if isinstance(said, str) else said, where)
        edges = box_edges((x, y, x + w, y + h), where)
        annotation.setdefault(video_id, OwnVideo()).add(OwnBox(frame, label, -1, edges))
    return annotation


def _action(attributes: Mapping[str, Any], path: Path) -> tuple[str, Mapping[str, Any]]:
    """The id of the attribute of regions that names the action, and its options."""
    regions = {
        key: row for key, row in attributes.items() if isinstance(row, Mapping) and row.get("anchor_id") == FRAME_REGION
    }
    called = {key for key, row in regions.items() if str(row.get("aname")).lower() in ("action", "class", "label")}
    chosen = list(called or regions)
    if len(chosen) != 1:
        known = ", ".join(str(row.get("aname")) for row in regions.values()) or "none"
        raise DataError(
            f"{path}: which attribute of regions in frames is the action? Call it action; there are: {known}"
        )
    options = regions[chosen[0]].get("options")
    return chosen[0], options if isinstance(options, Mapping) else {}


def _file_of(row: Mapping[str, Any], project: Mapping[str, Any], where: str) -> Any:
    view = project["view"].get(str(row.get("vid")))
    files = view.get("fid_list") if isinstance(view, Mapping) else None
    file = project["file"].get(str(files[0])) if isinstance(files, list) and len(files) == 1 else None
    if not isinstance(file, Mapping):
        raise DataError(f"{where}: its view has no file, or several")
    return file.get("fname")


def _frame_at(seconds: Any, rate: float, where: str) -> int:
    """The frame that shows at a time; VIA keeps milliseconds, and stops at the beginning of a frame."""
    return whole_number(math.floor(finite_number(seconds, where, "time") * rate + 0.05), where, "frame", least=0)
