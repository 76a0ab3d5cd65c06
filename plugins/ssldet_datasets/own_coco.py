"""COCO's JSON of boxes: as it is, with the videos of COCO-VID, or as CVAT exports a video (one file a video)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssldet.errors import DataError
from ssldet_datasets.own_records import (
    NUMBERED,
    Annotation,
    OwnBox,
    OwnVideo,
    TubeNumbers,
    VideoNames,
    box_edges,
    class_name,
    frame_number,
    frame_size,
)

Key = int | str
Place = tuple[str, int]
"""Video id and frame."""

TRACKS = ("track_id", "instance_id")
"""Names under which tools keep a tube's number, beside the box or in its `attributes`."""


def read_coco(path: Path, content: Mapping[str, Any], names: VideoNames) -> Annotation:
    """Images, annotations and categories; `track_id` links boxes. A frame with a crowd region is unknown.

    Raises:
        DataError: of another form; an id or a name is given twice; images do not say which video they show.
    """
    tables = {name: _table(content, name, path) for name in ("videos", "images", "annotations", "categories")}
    for name, rows in tables.items():
        _refuse_twice([_key(row, "id", path) for row in rows], f"two {name} have the id", path)
    videos = {row["id"]: row.get("file_name") or row.get("name") for row in tables["videos"]}
    labels = {row["id"]: class_name(row.get("name"), f"{path}, category {row['id']}") for row in tables["categories"]}
    _refuse_twice(list(labels.values()), "two categories are called", path)
    places = _places(tables["images"], videos, path, names)
    annotation: Annotation = {}
    for row in tables["images"]:
        video_id, frame = places[row["id"]]
        video = annotation.setdefault(video_id, OwnVideo())
        video.frames.add(frame)
        video.size = frame_size(row) or video.size
    _add_boxes(annotation, tables["annotations"], places, labels, path)
    return annotation


def _add_boxes(
    annotation: Annotation,
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[Key, Place],
    labels: Mapping[Key, str],
    path: Path,
) -> None:
    tubes = TubeNumbers()
    for row in rows:
        where = f"{path}, annotation {row.get('id')!r:.40}"
        image, category = _key(row, "image_id", path), _key(row, "category_id", path)
        if image not in places or category not in labels:
            raise DataError(f"{where}: its image or category is not in the file")
        video_id, frame = places[image]
        if row.get("iscrowd"):
            annotation[video_id].unknown.add(frame)
            continue
        x, y, w, h = box_edges(row.get("bbox"), where, ordered=False)
        attributes = row["attributes"] if isinstance(row.get("attributes"), dict) else {}
        tube = tubes.number(_track(row, attributes), where)
        drawn = attributes.get("keyframe", True) is not False
        edges = box_edges((x, y, x + w, y + h), where)
        annotation[video_id].add(OwnBox(frame, labels[category], tube, edges, drawn))


def _track(row: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    values = (place.get(name) for place in (row, attributes) for name in TRACKS)
    return next((value for value in values if value is not None), None)


def _table(content: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    rows = content.get(name, [] if name == "videos" else None)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected COCO's lists images, annotations and categories; {name} is none")
    return rows


def _key(row: Mapping[str, Any], name: str, path: Path) -> Key:
    value = row.get(name)
    if not isinstance(value, int | str):
        raise DataError(f"{path}: expected a number or string as {name}, got {value!r:.40}")
    return value


def _refuse_twice(values: Sequence[Key], what: str, path: Path) -> None:
    seen: set[Key] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: {what} {value!r}; each must be there once, or boxes cannot be told apart")
        seen.add(value)


# ------------------------------------------------------------------------------------------------------ places


def _places(
    images: Sequence[Mapping[str, Any]], videos: Mapping[Key, Any], path: Path, names: VideoNames
) -> dict[Key, Place]:
    """Which frame of which video each image shows."""
    first = _first_number(images)
    places = {row["id"]: _place(row, videos, path, names, first) for row in images}
    seen: dict[Place, Key] = {}
    for image, place in places.items():
        if place in seen:
            raise DataError(
                f"{path}: images {seen[place]!r} and {image!r} both show frame {place[1]} (from 0) of {place[0]}; "
                "where several videos were exported together, export each on its own, as VIDEO.json in annotations/"
            )
        seen[place] = image
    return places


def _first_number(images: Sequence[Mapping[str, Any]]) -> int:
    """Whether numbers in names count from 0, as CVAT's frame_000000 do and any list with a 0, or from 1."""
    numbered = [_named(row) for row in images]
    from_zero = any(match and (int(match[3]) == 0 or _cvat(match)) for match in numbered)
    return 0 if from_zero else 1


def _named(row: Mapping[str, Any]) -> re.Match[str] | None:
    """Folder, prefix and number of video/img_000012.jpg."""
    return re.fullmatch(rf"{NUMBERED}\.\w+", str(row.get("file_name")))


def _cvat(match: re.Match[str]) -> bool:
    return match[2] == "frame_" and len(match[3]) == 6


def _place(
    row: Mapping[str, Any], videos: Mapping[Key, Any], path: Path, names: VideoNames, first: int
) -> tuple[str, int]:
    """By video_id and frame_id, else by its name video/000012.jpg, else by the file's own name."""
    where, match = f"{path}, image {row.get('id')!r:.40}", _named(row)
    if "video_id" in row:
        key = _key(row, "video_id", path)
        if key not in videos:
            raise DataError(f"{where}: its video is not in the file")
        number = row.get("frame_id", row.get("frame_index"))
        if number is None and match:
            return names.id_of(videos[key], path), frame_number(match[3], where, first)
        return names.id_of(videos[key], path), frame_number(number, where, first=0)
    if match and match[1]:
        return names.id_of(match[1], path), frame_number(match[3], where, first)
    if match and names.knows(path.stem, path):
        return names.id_of(path.stem, path), frame_number(match[3], where, first)
    raise DataError(
        f"{where}: its name {row.get('file_name')!r:.60} does not say which video it shows; expected video_id and "
        "frame_id, a name such as video/000012.jpg, or one file a video, named after it: annotations/VIDEO.json"
    )
