"""The health of a data set: what is wrong, what is doubtful, and what it holds, in one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from ssldet.contracts import Dataset, Problem, Subset
from ssldet.data.datasets import concerning
from ssldet.data.deep_doubts import DEEP_CHECKS, duplicated_videos
from ssldet.data.doubts import CHECKS, AnnotatedVideo, annotated, count_groups, listed_videos
from ssldet.data.file_doubts import file_doubts

FILES, COPIES = "files", "duplicated videos"


@dataclass(frozen=True, slots=True)
class Health:
    """What was found.

    Attributes:
        checks: what was looked at -> errors and doubts; nothing is wrong with those that have none.
        classes: class -> {"train": {"videos": 1, "boxes": 20}, "test": ...}.
        annotated: subset -> how many of its videos the annotation speaks of; the others are unlabelled.
        groups: "train", "test" -> how many groups (`Video.group`) the videos are of; empty where no video has one.
        frames: how many frames the annotated videos have, how many of them are listed, have boxes, or are background.
    """

    checks: dict[str, list[Problem]]
    classes: dict[str, dict[str, dict[str, int]]]
    frames: dict[str, int]
    annotated: dict[str, int]
    groups: dict[str, int]

    @property
    def errors(self) -> list[Problem]:
        """What makes the data unfit for a run."""
        return self._of("error")

    @property
    def doubts(self) -> list[Problem]:
        """What is worth a look."""
        return self._of("doubt")

    def _of(self, severity: str) -> list[Problem]:
        return [problem for problems in self.checks.values() for problem in problems if problem.severity == severity]


def examine(dataset: Dataset, split: int = 1, *, only: Iterable[str] | None = None, deep: bool = False) -> Health:
    """Look at everything that can be judged without decoding.

    Args:
        dataset: an opened data set.
        split: its official split.
        only: ids of the videos to look at; None means all.
        deep: look at tubes, labels and copies of videos as well; reads all files.

    Raises:
        DataError: there is no such split.
    """
    wanted = None if only is None else set(only)
    listed = listed_videos(dataset, split, wanted)
    videos = annotated(dataset, listed)
    concerned = concerning(dataset.verify(split), wanted)
    checks = {FILES: concerned + file_doubts(dataset, (video for video, _ in listed))}
    for name, check in (CHECKS | DEEP_CHECKS if deep else CHECKS).items():
        checks[name] = list(check(dataset.facts, videos))
    if deep:
        checks[COPIES] = duplicated_videos(dataset, listed)
    spoken_of = {subset: sum(v.subset == subset for v in videos) for subset in get_args(Subset)}
    return Health(checks, _classes(dataset, videos), _frames(videos), spoken_of, count_groups(listed))


def _classes(dataset: Dataset, videos: Sequence[AnnotatedVideo]) -> dict[str, dict[str, dict[str, int]]]:
    counts = {subset: _of_subset(dataset, videos, subset) for subset in get_args(Subset)}
    return {
        name: {
            subset: {"videos": int(videos_k[label]), "boxes": int(boxes_k[label])}
            for subset, (videos_k, boxes_k) in counts.items()
        }
        for label, name in enumerate(dataset.facts.classes)
    }


def _of_subset(dataset: Dataset, videos: Sequence[AnnotatedVideo], subset: Subset) -> tuple[np.ndarray, np.ndarray]:
    boxes_vk = [v.truth.labels_nk.sum(0) for v in videos if v.subset == subset]
    table = np.array(boxes_vk or np.zeros((1, dataset.facts.num_classes), int))
    return (table > 0).sum(0), table.sum(0)


def _frames(videos: Sequence[AnnotatedVideo]) -> dict[str, int]:
    frames = sum(v.video.num_frames for v in videos)
    listed = sum(len(v.truth.key_frames_m) for v in videos)
    background = sum(len(v.truth.background_frames) for v in videos)
    return {"frames": frames, "listed": listed, "with_boxes": listed - background, "background": background}


def as_json(problem: Problem) -> dict[str, Any]:
    """Plain values; what is empty is left out, and so is that an error is one."""
    fields = {name: getattr(problem, name) for name in ("what", "where", "remedy", "video")}
    doubtful = {"severity": problem.severity} if problem.severity != "error" else {}
    return {name: value for name, value in fields.items() if value} | doubtful
