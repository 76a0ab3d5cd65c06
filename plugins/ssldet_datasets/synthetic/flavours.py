"""The flavours of the synthetic data: which scenes they show, and what their annotation says about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import DatasetFacts
from ssldet_datasets.synthetic import drawing, scene
from ssldet_datasets.synthetic.facts import (
    CLASSES,
    CROWD,
    CROWD_IOU,
    FACTS,
    LOOKS,
    PEOPLE_FACTS,
    POSES,
    PRETRAINING_CLASSES,
    PRETRAINING_FACTS,
    Kinds,
)
from ssldet_datasets.synthetic.scene import Scene

Rows = dict[str, np.ndarray]
"""Columns frame, tube, label and box (n, 4) of one video's boxes, ordered by (frame, tube)."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """One way to make the data.

    Attributes:
        facts: classes and conventions.
        kinds: what its videos are about, as many of each; on single-label data these are the classes.
        direct: (generator, kinds, kind, short) -> scene.
        stream: added to the seed of every video, so that no two flavours share one.
        first_key_frame: the annotation speaks of this frame and every `facts.numbering.step`-th after it.
    """

    facts: DatasetFacts
    kinds: Kinds
    direct: Callable[[np.random.Generator, Kinds, int, bool], Scene]
    stream: tuple[int, ...]
    first_key_frame: int = 0

    @property
    def kind_names(self) -> tuple[str, ...]:
        return tuple(map("_".join, self.kinds))

    def key_frames(self, num_frames: int) -> np.ndarray:
        """The frames of a video about which the annotation speaks, int64."""
        return np.arange(self.first_key_frame, num_frames, self.facts.numbering.step, dtype=np.int64)

    def annotate(self, video: Scene) -> Rows:
        """The boxes of a video."""
        return people(video, self.key_frames(video.num_frames)) if self.facts.multilabel else actions(video, self.kinds)


FLAVOURS = {
    "ucf24": Flavour(FACTS, CLASSES, scene.untrimmed, ()),
    "jhmdb": Flavour(FACTS, CLASSES, scene.trimmed, (1,)),
    "ava": Flavour(PEOPLE_FACTS, CLASSES, scene.gathering, (2,), first_key_frame=15),
    "pretraining": Flavour(PRETRAINING_FACTS, PRETRAINING_CLASSES, scene.untrimmed, (3,)),
}
"""The first key frame of "ava" is the first with a whole clip of the nano preset before it."""


def actions(video: Scene, kinds: Kinds) -> Rows:
    """One label a box: actors, while they act; a tube is an actor."""
    actors = [figure for figure in video.figures if figure.motion is not None]
    tubes, frames = np.nonzero(np.stack([figure.acts_t for figure in actors]))
    boxes = np.stack([drawing.boxes(figure, video.camera_t2) for figure in actors])[tubes, frames]
    labels = np.array([kinds.index((figure.look, figure.motion or "")) for figure in actors])[tubes]
    order = np.lexsort((tubes, frames))
    columns = {"frame": frames, "tube": tubes, "label": labels}
    return {key: column[order].astype(np.int64) for key, column in columns.items()} | {"box": boxes[order]}


def people(video: Scene, key_frames_m: np.ndarray) -> Rows:
    """Several labels a box (n, k), boxes not linked: everybody in sight, on key frames."""
    visible_fm = np.stack([figure.visible_t for figure in video.figures])[:, key_frames_m]
    boxes_fm4 = np.stack([drawing.boxes(figure, video.camera_t2) for figure in video.figures])[:, key_frames_m]
    labels_fmk = np.zeros((*visible_fm.shape, PEOPLE_FACTS.num_classes), bool)
    for number, figure in enumerate(video.figures):
        pose_m = np.where(figure.acts_t[key_frames_m], POSES.index(figure.motion or "stand"), 0)
        labels_fmk[number, np.arange(len(key_frames_m)), pose_m] = True
        labels_fmk[number, :, len(POSES) + LOOKS.index(figure.look)] = True
    labels_fmk[..., PEOPLE_FACTS.classes.index(CROWD)] = _crowding(boxes_fm4, visible_fm)
    at, who = np.nonzero(visible_fm.T)
    unlinked = np.full(len(at), -1, np.int64)
    return {"frame": key_frames_m[at], "tube": unlinked, "label": labels_fmk[who, at], "box": boxes_fm4[who, at]}


def _crowding(boxes_fm4: np.ndarray, visible_fm: np.ndarray) -> np.ndarray:
    """(f, m) bool: whether a figure's box has an IoU above `CROWD_IOU` with that of another who is in sight."""
    one, other = boxes_fm4[:, None], boxes_fm4[None]
    sides = np.minimum(one, other)[..., 2:] - np.maximum(one, other)[..., :2]
    shared_ffm = sides.clip(min=0).prod(-1)
    area_fm = (boxes_fm4[..., 2:] - boxes_fm4[..., :2]).prod(-1)
    close_ffm = shared_ffm > CROWD_IOU * (area_fm[:, None] + area_fm[None] - shared_ffm)
    others_ff = ~np.eye(len(boxes_fm4), dtype=bool)
    return (close_ffm & visible_fm[:, None] & visible_fm[None] & others_ff[..., None]).any(1)
