"""Boxes that people annotate themselves: a CSV, COCO, CVAT, Label Studio or VIA, read into one form.

Frames count from 0 inside; in a CSV from 1, in CVAT and COCO's `frame_id` from 0, in names of images from
either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssldet.errors import DataError
from ssldet_datasets.own_coco import read_coco
from ssldet_datasets.own_csv import read_csv
from ssldet_datasets.own_cvat import read_cvat
from ssldet_datasets.own_records import Annotation, OwnVideo, VideoNames, merge_video
from ssldet_datasets.own_tools import read_label_studio, read_via

MAX_BYTES = 256 * 2**20
KINDS = (".csv", ".json", ".xml")


def read_boxes(path: Path, names: VideoNames | None = None, *, keyframes_only: bool = False) -> Annotation:
    """Read a file of boxes by its suffix, or all files of boxes in a folder, of whichever tools.

    Args:
        path: the file or folder.
        names: which video a name means; None takes names as they are.
        keyframes_only: leave out boxes that the tool interpolated, and with them what else is in their frames.

    Raises:
        DataError: it is absent, too large, of another form, or a name in it would leave the data folder.
    """
    names, annotation = names or VideoNames(), Annotation()
    for file in annotation_files(path):
        for video_id, video in _read_file(file, names).items():
            merge_video(annotation, video_id, video, file)
    return {video_id: _hand_drawn(video) for video_id, video in annotation.items()} if keyframes_only else annotation


def annotation_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS)


def _read_file(path: Path, names: VideoNames) -> Annotation:
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path}: expected boxes as .csv, .json (COCO, Label Studio, VIA 3) or .xml (CVAT)")
    text = read_text(path)
    if path.suffix.lower() == ".json":
        return _read_json(path, text, names)
    return (read_csv if path.suffix.lower() == ".csv" else read_cvat)(path, text, names)


def read_text(path: Path) -> str:
    """A whole file. Raises DataError: it is absent, too large, or not UTF-8."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; files of boxes have at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as UTF-8") from error


def _read_json(path: Path, text: str, names: VideoNames) -> Annotation:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not sound JSON ({error})") from error
    if isinstance(content, list):
        return read_label_studio(path, content, names)
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected COCO's lists images, annotations and categories")
    if "_via_img_metadata" in content or "_via_settings" in content:
        raise DataError(f"{path}: is VIA 2's form, of images; annotate videos with VIA 3, or export it as COCO")
    if {"metadata", "view", "file"} <= content.keys():
        return read_via(path, content, names)
    return read_coco(path, content, names)


def _hand_drawn(video: OwnVideo) -> OwnVideo:
    """Without interpolated boxes; frames that have one are unknown, since one of their actors has no box any more."""
    interpolated = {box.frame for box in video.boxes if not box.drawn}
    return OwnVideo(video.boxes, video.frames, video.unknown | interpolated, video.size)
