"""The truth of some videos as targets of clips, in pixels of a view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ssldet.contracts import (
    DatasetFacts,
    Targets,
    Truth,
    Video,
)
from ssldet.data.views import Geometry, visible


def frame_truth(truth: Truth, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes_n4 in pixels of the video and labels_nk of one frame."""
    rows = truth.frames_n == frame
    return truth.boxes_n4[rows], truth.labels_nk[rows]


class TruthTable:
    """The truth of some videos in pixels of the weak view, as targets of key frames."""

    def __init__(self, facts: DatasetFacts, videos: Mapping[str, Video], truth_of: Callable[[str], Truth], size: int):
        self.facts, self.videos, self.size = facts, videos, size
        self._truth_of = truth_of
        self._read: dict[str, Truth] = {}

    def truth(self, video: str) -> Truth:
        if video not in self._read:
            self._read[video] = self._truth_of(video)
        return self._read[video]

    def annotated(self, videos: Sequence[str], frames: Sequence[int]) -> Tensor:
        """(b,) bool: whether the annotation speaks about these frames, with boxes or as background."""
        spoken = [bool((self.truth(v).key_frames_m == f).any()) for v, f in zip(videos, frames, strict=True)]
        return torch.tensor(spoken, dtype=torch.bool)

    def targets(self, videos: Sequence[str], frames: Sequence[int]) -> Targets:
        """Targets of the weak views of these key frames: every clip's losses count."""
        clip_n, boxes, labels = [], [], []
        for clip, (video, frame) in enumerate(zip(videos, frames, strict=True)):
            own_boxes, own_labels = frame_truth(self.truth(video), frame)
            info = self.videos[video]
            scale = self.size / np.array([info.width, info.height] * 2, dtype=np.float32)
            clip_n += [clip] * len(own_boxes)
            boxes.append(own_boxes * scale)
            labels.append(own_labels)
        b, k = len(frames), self.facts.num_classes
        targets = Targets(
            clip_n=torch.tensor(clip_n, dtype=torch.int64),
            boxes_n4=torch.from_numpy(np.concatenate(boxes).astype(np.float32)).reshape(-1, 4),
            labels_nk=torch.from_numpy(np.concatenate(labels).astype(np.float32)).reshape(-1, k),
            box_mask_b=torch.ones(b, dtype=torch.bool),
            frame_labels_b=torch.empty(0),
            frame_mask_b=torch.ones(b, dtype=torch.bool),
        )
        targets.frame_labels_b = frame_labels(targets, self.facts.multilabel)
        return targets


def frame_labels(targets: Targets, multilabel: bool) -> Tensor:
    """F's target of each clip: the action of its boxes, background (k) where nobody acts; all actions if multi-label.

    Where boxes of several classes share a frame of single-label data, the first box's class counts.
    """
    b, k = len(targets.box_mask_b), targets.labels_nk.shape[1]
    if multilabel:
        present = torch.zeros(b, k)
        return present.index_add_(0, targets.clip_n, targets.labels_nk).clamp_(max=1)
    labels = torch.full((b,), k, dtype=torch.int64)
    backwards = torch.arange(len(targets.clip_n)).flip(0)  # so that the first box of a clip is written last
    for row in backwards.tolist():
        labels[targets.clip_n[row]] = targets.labels_nk[row].argmax()
    return labels


def in_strong_view(targets: Targets, geometry: Geometry, min_visible: float) -> Targets:
    """Labelled targets carried to the strong view. The frame label stays: the actor is in the clip's frame."""
    boxes, keep = visible(geometry.to_strong(targets.boxes_n4, targets.clip_n), geometry.size, min_visible)
    return Targets(
        clip_n=targets.clip_n[keep],
        boxes_n4=boxes[keep],
        labels_nk=targets.labels_nk[keep],
        box_mask_b=targets.box_mask_b,
        frame_labels_b=targets.frame_labels_b,
        frame_mask_b=targets.frame_mask_b,
    )


def targets_to(targets: Targets, device: torch.device) -> Targets:
    return Targets(*(getattr(targets, name).to(device) for name in Targets.__slots__))
