"""The truth of some videos as targets of clips, in pixels of a view; and what is done with targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssldet.contracts import DatasetFacts, Geometry, Targets, Truth, Video
from ssldet.data.views import clip_and_filter


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

    def part(self, videos: Sequence[str]) -> TruthTable:
        """The truth of some videos, read here, in a table that needs no data set."""
        truths = {video: self.truth(video) for video in videos}
        return TruthTable(self.facts, {video: self.videos[video] for video in truths}, truths.__getitem__, self.size)

    def class_counts(self, videos: Sequence[str]) -> tuple[int, ...]:
        """The boxes of each class in some videos."""
        counts = np.zeros(self.facts.num_classes, np.int64)
        for video in videos:
            counts += self.truth(video).labels_nk.sum(axis=0)
        return tuple(counts.tolist())

    def annotated(self, videos: Sequence[str], frames: Sequence[int]) -> Tensor:
        """(b,) bool: whether the annotation speaks about these frames, with boxes or as background."""
        spoken = [bool((self.truth(v).key_frames_m == f).any()) for v, f in zip(videos, frames, strict=True)]
        return torch.tensor(spoken, dtype=torch.bool)

    def targets(self, videos: Sequence[str], frames: Sequence[int]) -> Targets:
        """Targets of the weak views of these key frames: every clip's losses count."""
        clip_n, boxes, labels = [], [], []
        for clip, (video, frame) in enumerate(zip(videos, frames, strict=True)):
            frame_boxes, frame_labels_nk = frame_truth(self.truth(video), frame)
            info = self.videos[video]
            scale = self.size / np.array([info.width, info.height] * 2, dtype=np.float32)
            clip_n += [clip] * len(frame_boxes)
            boxes.append(frame_boxes * scale)
            labels.append(frame_labels_nk)
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
    """Targets of the weak view carried to the strong one, labelled or pseudo-labelled.

    Boxes that the crop pushed out are dropped, with their weights and masks. The masks of clips stay, and the
    frame labels: the actor is in the clip's frame. Weights of cells belong to one view's cells and cannot be carried:
    give them in the strong one.

    Args:
        targets: boxes in pixels of the weak view.
        geometry: of the strong view.
        min_visible: a box is dropped when less than this share of it stays in the strong view.

    Raises:
        ValueError: the targets have `background_weights_bn`.
    """
    if targets.background_weights_bn is not None:
        raise ValueError("background_weights_bn are of the weak view's cells; set them after carrying the boxes")
    boxes, kept_n = clip_and_filter(geometry.to_strong(targets.boxes_n4, targets.clip_n), geometry.size, min_visible)
    keep = kept_n.nonzero()[:, 0]  # each use of a mask waits for the device, to count its rows
    carried = replace(
        targets,
        clip_n=targets.clip_n[keep],
        boxes_n4=boxes[keep],
        labels_nk=targets.labels_nk[keep],
        weights_n3=None if targets.weights_n3 is None else targets.weights_n3[keep],
        label_mask_nk=None if targets.label_mask_nk is None else targets.label_mask_nk[keep],
    )
    if targets.ignored_boxes_m4 is not None and targets.ignored_clip_m is not None:
        strong = geometry.to_strong(targets.ignored_boxes_m4, targets.ignored_clip_m)
        ignored, keep = clip_and_filter(strong, geometry.size, 0.0)  # whatever is left of one says nothing still
        carried.ignored_clip_m, carried.ignored_boxes_m4 = targets.ignored_clip_m[keep], ignored[keep]
    return carried


def reorder_clips(targets: Targets, order_b: Tensor) -> Targets:
    """The targets of the same clips in another order: clip i is what clip `order_b[i]` was. They have no weights."""
    return replace(
        targets,
        clip_n=order_b.argsort()[targets.clip_n],
        box_mask_b=targets.box_mask_b[order_b],
        frame_labels_b=targets.frame_labels_b[order_b],
        frame_mask_b=targets.frame_mask_b[order_b],
        frame_label_mask_bk=None if targets.frame_label_mask_bk is None else targets.frame_label_mask_bk[order_b],
    )


def concat_targets(first: Targets, second: Targets) -> Targets:
    """The targets of the clips of two batches, those of `second` after those of `first`. Neither has weights."""
    b = len(first.box_mask_b)
    return Targets(
        clip_n=torch.cat((first.clip_n, second.clip_n + b)),
        boxes_n4=torch.cat((first.boxes_n4, second.boxes_n4)),
        labels_nk=torch.cat((first.labels_nk, second.labels_nk)),
        box_mask_b=torch.cat((first.box_mask_b, second.box_mask_b)),
        frame_labels_b=torch.cat((first.frame_labels_b, second.frame_labels_b)),
        frame_mask_b=torch.cat((first.frame_mask_b, second.frame_mask_b)),
        label_mask_nk=_concat_masks((first.label_mask_nk, first.labels_nk), (second.label_mask_nk, second.labels_nk)),
        frame_label_mask_bk=_concat_masks(
            (first.frame_label_mask_bk, first.frame_labels_b), (second.frame_label_mask_bk, second.frame_labels_b)
        ),
    )


def _concat_masks(*parts: tuple[Tensor | None, Tensor]) -> Tensor | None:
    """The masks of labels one after another, from (mask, labels); None, which means that all count, if all are None."""
    if all(mask is None for mask, _ in parts):
        return None
    return torch.cat([torch.ones_like(labels, dtype=torch.bool) if mask is None else mask for mask, labels in parts])
