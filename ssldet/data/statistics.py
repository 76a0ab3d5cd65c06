"""What a data set holds, counted: videos, tubes, boxes, frames and background, per subset and class.

The same counts answer what the paper's Table 1 says of each data set, as far as annotation can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from ssldet.contracts import Dataset, Subset, Truth, Video
from ssldet.data.doubts import count_groups
from ssldet.errors import DataError


@dataclass(slots=True)
class Counts:
    """Sums over some videos.

    Attributes:
        videos, tubes, boxes: how many; boxes that are not linked belong to no tube.
        labels: (box, action) pairs; as many as boxes unless boxes carry several.
        frames: frames of the videos.
        key_frames: frames that the annotation speaks about.
        annotated_frames: key frames with at least one box; the others are background.
    """

    videos: int = 0
    tubes: int = 0
    boxes: int = 0
    labels: int = 0
    frames: int = 0
    key_frames: int = 0
    annotated_frames: int = 0

    def add(self, video: Video, truth: Truth, rows: np.ndarray) -> None:
        """Take in the boxes `rows` (bool) of one video."""
        self.videos += 1
        self.tubes += len(np.unique(truth.tubes_n[rows & (truth.tubes_n >= 0)]))
        self.boxes += int(rows.sum())
        self.frames += video.num_frames
        self.key_frames += len(truth.key_frames_m)
        self.annotated_frames += len(np.unique(truth.frames_n[rows]))

    def as_json(self) -> dict[str, Any]:
        """The sums, and the share of key frames without a box."""
        background = 1 - self.annotated_frames / self.key_frames if self.key_frames else None
        return {**{name: getattr(self, name) for name in Counts.__slots__}, "background": background}


@dataclass(slots=True)
class FrameUse:
    """How many boxes and actions a frame has: `boxes[n]` and `actions[n]` annotated frames have n."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    actions: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def add(self, truth: Truth) -> None:
        """Take in one video."""
        if not len(truth.frames_n):
            return
        frames, place, count = np.unique(truth.frames_n, return_inverse=True, return_counts=True)
        seen = np.zeros((len(frames), truth.labels_nk.shape[1]), bool)
        np.logical_or.at(seen, place, truth.labels_nk)
        self.boxes, self.actions = _summed(self.boxes, count), _summed(self.actions, seen.sum(1))


@dataclass(slots=True)
class Statistics:
    """Counts of one official split.

    Attributes:
        subsets: "train", "test" and "all" -> counts; `classes`: the same per class name.
        absent: subset -> why it cannot be counted.
        groups: subset -> how many groups (`Video.group`) its videos are of, a video that stands alone being one; empty
            where no video has a group.
    """

    subsets: dict[str, Counts]
    classes: dict[str, dict[str, Counts]]
    use: FrameUse
    absent: dict[str, str]
    groups: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain values; a class without videos is left out."""
        return {
            subset: {
                **counts.as_json(),
                "classes": {name: c.as_json() for name, c in self.classes[subset].items() if c.videos},
            }
            for subset, counts in self.subsets.items()
        }


def count(dataset: Dataset, split: int = 1) -> Statistics:
    """Count both subsets of a split; one whose annotation is absent is named in `absent`.

    Raises:
        DataError: neither subset is there.
    """
    names: Iterable[Subset] = get_args(Subset)
    found, absent, use = {}, {}, FrameUse()
    for subset in names:
        try:
            found[subset] = dataset.videos(subset, split)
        except DataError as error:
            absent[str(subset)] = str(error).splitlines()[0]
    if not found:
        raise DataError("; ".join(absent.values()))
    keys = [*found, "all"]
    result = Statistics(
        subsets={key: Counts() for key in keys},
        classes={key: {name: Counts() for name in dataset.facts.classes} for key in keys},
        use=use,
        absent=absent,
        groups=count_groups((video, subset) for subset, videos in found.items() for video in videos),
    )
    for subset, videos in found.items():
        for video in videos:
            truth = dataset.truth(video.id)
            use.add(truth)
            for key in (subset, "all"):
                _add(result, key, video, truth, dataset)
    return result


def _add(result: Statistics, key: str, video: Video, truth: Truth, dataset: Dataset) -> None:
    total = result.subsets[key]
    total.add(video, truth, np.ones(len(truth.frames_n), bool))
    total.labels += int(truth.labels_nk.sum())
    for label in sorted({*video.classes, *np.flatnonzero(truth.labels_nk.any(0)).tolist()}):
        counts = result.classes[key][dataset.facts.classes[label]]
        counts.add(video, truth, truth.labels_nk[:, label])
        counts.labels += int(truth.labels_nk[:, label].sum())


def _summed(histogram: np.ndarray, values: np.ndarray) -> np.ndarray:
    more = np.bincount(values)
    size = max(len(histogram), len(more))
    return np.pad(histogram, (0, size - len(histogram))) + np.pad(more, (0, size - len(more)))


def table_1(statistics: Statistics, reported: Mapping[str, str]) -> list[dict[str, Any]]:
    """Table 1's columns as counted, in the paper's words and in numbers, beside what it prints.

    Rows have column, counted (None where annotation cannot tell), detail, printed and differs.
    """
    total = statistics.subsets["all"]
    share = total.annotated_frames / total.frames if total.frames else 0.0
    dense = "yes" if total.annotated_frames == total.frames else "no"
    counted: dict[str, tuple[str | None, str]] = {
        "annotated actions per frame": (_words(statistics.use.boxes), _spread(statistics.use.boxes)),
        "actions per frame": (_words(statistics.use.actions), _spread(statistics.use.actions)),
        "background people": (None, "not in the annotation"),
        "densely annotated": (dense, f"{share:.1%} of the frames have boxes"),
    }
    return [
        {
            "column": column,
            "counted": words,
            "detail": detail,
            "printed": reported.get(column),
            "differs": words is not None and column in reported and words != reported[column],
        }
        for column, (words, detail) in counted.items()
    ]


def _words(histogram: np.ndarray) -> str:
    return {0: "none", 1: "one", 2: "one or two"}.get(len(histogram) - 1, "multiple")


def _spread(histogram: np.ndarray) -> str:
    frames = int(histogram.sum())
    if not frames:
        return "no annotated frame"
    mean = float(histogram @ np.arange(len(histogram))) / frames
    single = histogram[1] / frames if len(histogram) > 1 else 0.0
    return f"at most {len(histogram) - 1}, {mean:.2f} on average, {single:.1%} of annotated frames have one"
