"""How a friend's file of detections may mean its columns, names and numbers, where it differs from ours.

    FileConventions             what a file counts and measures in, as a caller states it
    renamed(columns)            our columns among the names that people give them
    known_name(name, videos)    a video's id among file names and forms of Unicode
    read_labels(words)          labels by name or by number

What can be read in one way only is read so, and said in a remark. What could be meant in two ways is never guessed: it
is a fault, whose text names the option that says which is meant.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ssldet.contracts import DatasetFacts, Video
from ssldet.evaluation.detection_rows import NO_FRAME, Rows, corners_of

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "video": ("video_id", "video_name", "vid", "clip", "file", "file_name", "filename"),
    "frame": ("frame_id", "frame_number", "frame_index", "frame_no", "frame_num"),
    "x1": ("xmin", "x_min", "left", "xtl", "x"),
    "y1": ("ymin", "y_min", "top", "ytl", "y"),
    "x2": ("xmax", "x_max", "right", "xbr", "w", "width"),
    "y2": ("ymax", "y_max", "bottom", "ybr", "h", "height"),
    "label": ("class", "class_id", "class_name", "category", "category_id", "cls", "action", "label_id", "label_name"),
    "score": ("class_score", "probability", "prob", "conf", "confidence"),
}
"""Our column -> what others call it, the likeliest first."""

MOST_SHOWN = 24
"""Labels that a remark lists."""


@dataclass(frozen=True, slots=True)
class FileConventions:
    """What a file of detections counts from and measures in.

    Attributes:
        first_frame: the number of a video's first frame; None: the data set's (1; AVA: 900).
        first_label: the number of the first class.
        boxes: x1, y1, x2, y2 are two corners, or one corner with width and height.
        unit: boxes are in pixels of the video, or in fractions of its width and height.
        scores: probabilities from 0 to 1, or percent.
    """

    first_frame: int | None = None
    first_label: int = 0
    boxes: Literal["xyxy", "xywh"] = "xyxy"
    unit: Literal["pixels", "fractions"] = "pixels"
    scores: Literal["fractions", "percent"] = "fractions"

    def applied(self, rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video]) -> Rows:
        """The rows as ours would be: xyxy in pixels, probabilities, labels from 0, frames as the data set's."""
        if self == FileConventions():
            return rows
        shift = facts.numbering.first - (facts.numbering.first if self.first_frame is None else self.first_frame)
        share = 0.01 if self.scores == "percent" else 1.0
        offset = 0 if rows.named else self.first_label
        labels_n = rows.labels_n
        boxes_n4 = corners_of(rows.boxes_n4) if self.boxes == "xywh" else rows.boxes_n4
        return replace(
            rows,
            numbers_n=np.where(rows.numbers_n == NO_FRAME, NO_FRAME, rows.numbers_n + shift),
            boxes_n4=self._in_pixels(boxes_n4, rows, videos),
            confidence_n=rows.confidence_n * np.float32(share if rows.has_confidence else 1.0),
            scores=rows.scores * np.float32(share),
            labels_n=None if labels_n is None else np.where(labels_n == NO_FRAME, NO_FRAME, labels_n - offset),
            frame_shift=shift,
            label_shift=offset,
        )

    def _in_pixels(self, boxes_n4: np.ndarray, rows: Rows, videos: Mapping[str, Video]) -> np.ndarray:
        return boxes_n4 if self.unit == "pixels" else (boxes_n4 * rows.sizes_n4(videos)).astype(np.float32)


# ------------------------------------------------------------------------------------------------- columns


def renamed(columns: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    """Column of the file -> ours, for those needed ones that the file has under another name only."""
    free = [column for column in columns if column not in needed]
    bare = {column.strip().lower().replace(" ", "_"): column for column in reversed(free)}
    found = {}
    for ours in needed:
        for name in () if ours in columns else (ours, *OTHER_NAMES.get(ours, ())):
            if name in bare:
                found[bare.pop(name)] = ours
                break
    return found


def column_faults(columns: Mapping[str, str]) -> list[str]:
    """What is to be edited where columns have other names; `columns` are those of `renamed`."""
    faults = [f"column {ours!r} is missing: rename column {theirs!r} to {ours!r}" for theirs, ours in columns.items()]
    if any(theirs.strip().lower() in ("w", "h", "width", "height") for theirs in columns):
        faults.append("boxes look like x, y, width, height: say --boxes xywh")
    return faults


# --------------------------------------------------------------------------------------------------- names


def plain_name(name: str) -> str:
    """A name without the suffix of a video file, in one form of Unicode."""
    stem = next((name[: -len(suffix)] for suffix in VIDEO_SUFFIXES if name.lower().endswith(suffix)), name)
    return unicodedata.normalize("NFC", stem)


def known_name(name: str, videos: Mapping[str, Video]) -> str:
    """The id of the one video that a name means; the name itself where that is none or several."""
    if name in videos:
        return name
    wanted = plain_name(name)
    if wanted in videos:
        return wanted
    meant = [video_id for video_id in videos if plain_name(video_id) == wanted]
    return meant[0] if len(meant) == 1 else name


def known_names(names: Iterable[str], videos: Mapping[str, Video]) -> dict[str, str]:
    """Name -> id, of all names of a file."""
    return {name: known_name(name, videos) for name in names}


# -------------------------------------------------------------------------------------------------- labels


def read_labels(words: Sequence[str], facts: DatasetFacts) -> tuple[dict[str, int], bool]:
    """Word -> number of the class, from 0 for names; and whether the words are names rather than numbers.

    A word that is neither a class nor a number gets a number below 0: -1 for the first one of them, and so on.
    """
    numbers = {word: int(float(word)) for word in words if _is_whole(word)}
    if len(numbers) == len(words):
        return numbers, False
    by_name = {name: label for label, name in enumerate(facts.classes)}
    loosely = {_loose(name): label for name, label in by_name.items()} if _tells_apart(facts.classes) else {}
    labels = {word: by_name.get(word, loosely.get(_loose(word), -1)) for word in words}
    unknown = [word for word, label in labels.items() if label < 0]
    return labels | {word: -1 - place for place, word in enumerate(unknown)}, True


def _is_whole(word: str) -> bool:
    try:
        return float(word).is_integer()
    except ValueError:
        return False


def _loose(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold().replace(" ", "_").replace("-", "_")


def _tells_apart(classes: Sequence[str]) -> bool:
    return len({_loose(name) for name in classes}) == len(classes)


def label_remark(labels: Iterable[int], facts: DatasetFacts, shift: int, named: bool) -> str:
    """How labels of a file were read: "labels by number: 0 = run, 2 = wave"."""
    found = [label for label in sorted(labels) if 0 <= label < facts.num_classes]
    pairs = [
        f"{facts.classes[label]} = {label}" if named else f"{label + shift} = {facts.classes[label]}" for label in found
    ]
    shown = ", ".join(pairs[:MOST_SHOWN]) + (f" and {len(pairs) - MOST_SHOWN} more" if len(pairs) > MOST_SHOWN else "")
    return f"labels by {'name' if named else 'number'}: {shown}" if pairs else ""
