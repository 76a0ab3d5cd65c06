"""From cached frames to the batches of a step.

Every random draw of a step is a function of (seed, stream, step) and of nothing else. So a resumed run continues
exactly, and every strategy sees the same labelled clips in the same views for a seed, whatever else it samples.

    KeyFrames     the key frames of some videos, as a flat table
    Order         an endless sequence of places in that table: one permutation after another
    ClipReader    T frames that end at a key frame, from the frame store
    BatchSource   the batch of a step
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Batch,
    DatasetFacts,
    LabelledBatch,
    Needs,
    Options,
    Targets,
    Truth,
    UnlabelledBatch,
    Video,
)
from ssldet.errors import DataError
from ssldet.views import Geometry, ViewOptions, change_colours, draw_colours, draw_geometry, identity, visible


class ClipOptions(Options):
    """The clip that the network sees: `frames` frames, `stride` apart, the key frame last, `size` pixels square."""

    frames: int = Field(16, ge=1)
    stride: int = Field(1, ge=1)
    size: int = Field(224, ge=16, multiple_of=16)


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrames:
    """The key frames of some videos: row i is frame `frame_n[i]` of video `videos[video_n[i]]`.

    `following_n` is the next key frame of the same video; for a video's last one, the one before it (the temporal
    term is symmetric), and the frame itself where a video has no other.
    """

    videos: tuple[str, ...]
    video_n: np.ndarray
    frame_n: np.ndarray
    following_n: np.ndarray

    def __len__(self) -> int:
        return len(self.frame_n)

    def at(self, rows: np.ndarray) -> tuple[list[str], list[int]]:
        """The videos and frames of some rows."""
        return [self.videos[v] for v in self.video_n[rows]], self.frame_n[rows].tolist()

    def following(self, rows: np.ndarray) -> tuple[list[str], list[int]]:
        """The videos and frames of their partners."""
        return [self.videos[v] for v in self.video_n[rows]], self.following_n[rows].tolist()


def key_frames(videos: Sequence[str], frames_of: Callable[[str], np.ndarray]) -> KeyFrames:
    """The table of all key frames of `videos`; `frames_of` gives a video's key frames, sorted.

    Raises:
        DataError: no video has a key frame.
    """
    frames = [np.asarray(frames_of(video), dtype=np.int64) for video in videos]
    if not any(map(len, frames)):
        raise DataError(f"none of the {len(videos)} videos has a key frame to train on")
    return KeyFrames(
        videos=tuple(videos),
        video_n=np.repeat(np.arange(len(videos)), [len(f) for f in frames]),
        frame_n=np.concatenate(frames),
        following_n=np.concatenate([_following(f) for f in frames]),
    )


def _following(frames: np.ndarray) -> np.ndarray:
    if len(frames) < 2:
        return frames
    return np.append(frames[1:], frames[-2])


def action_extent(truth: Truth) -> np.ndarray:
    """The key frames between the first and the last box: a temporal extent, no boxes and no classes."""
    if len(truth.frames_n) == 0:
        return truth.key_frames_m
    inside = (truth.key_frames_m >= truth.frames_n.min()) & (truth.key_frames_m <= truth.frames_n.max())
    return truth.key_frames_m[inside]


def stream_seed(*parts: object) -> int:
    """A 63-bit seed from the names of a stream, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Order:
    """An endless sequence of places 0..n-1: one seeded permutation after another, addressed by position."""

    def __init__(self, n: int, seed: int, stream: str):
        self.n, self.seed, self.stream = n, seed, stream
        self._passes: dict[int, np.ndarray] = {}

    def at(self, start: int, count: int) -> np.ndarray:
        """The `count` places from position `start` on."""
        return np.array([self._pass(p // self.n)[p % self.n] for p in range(start, start + count)], dtype=np.int64)

    def _pass(self, index: int) -> np.ndarray:
        if index not in self._passes:
            self._passes = {k: v for k, v in self._passes.items() if k == index - 1}
            generator = np.random.default_rng(stream_seed(self.seed, self.stream, "pass", index))
            self._passes[index] = generator.permutation(self.n)
        return self._passes[index]


class ClipReader:
    """Reads clips from frames at the training size: `frames_of(video_id)` -> (n, size, size, 3) uint8."""

    def __init__(self, frames_of: Callable[[str], np.ndarray], options: ClipOptions):
        self.frames_of, self.options = frames_of, options
        self._offsets = (np.arange(options.frames) - options.frames + 1) * options.stride

    def indices(self, frame: int | np.ndarray, num_frames: int) -> np.ndarray:
        """The frames of the clip that ends at `frame`, clamped to the video: (..., t)."""
        return np.clip(np.asarray(frame)[..., None] + self._offsets, 0, num_frames - 1)

    def read(self, videos: Sequence[str], frames: Sequence[int]) -> Tensor:
        """Clips as uint8 (b, t, h, w, 3)."""
        clips = []
        for video, frame in zip(videos, frames, strict=True):
            stored = self.frames_of(video)
            clips.append(stored[self.indices(int(frame), len(stored))])
        return torch.from_numpy(np.stack(clips))


def to_input(clips_bthwc: Tensor, device: torch.device) -> Tensor:
    """Clips as the network takes them: uint8 (b, t, h, w, 3) -> float32 in [0, 1], (b, 3, t, h, w), on the device."""
    clips_bcthw = clips_bthwc.to(device, non_blocking=True).permute(0, 4, 1, 2, 3)
    return clips_bcthw.contiguous().float().div_(255)  # a contiguous copy of bytes costs less than one of floats


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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many clips a step takes: `labelled` and `unlabelled` key frames, and the share of them with a partner."""

    labelled: int
    unlabelled: int
    pair_share: float


@dataclass(frozen=True, slots=True)
class Places:
    """Which key frames a batch of unlabelled clips shows: for diagnostics, never for a strategy."""

    videos: tuple[str, ...]
    frames: tuple[int, ...]


class BatchSource:
    """The batches of a run, by step.

    Args:
        reader: clips from the frame store.
        labelled, unlabelled: the key frames to draw from; no unlabelled ones for labelled-only training.
        table: the truth of labelled videos.
        device: where batches are put; views are drawn on the CPU and applied there.
    """

    def __init__(
        self,
        reader: ClipReader,
        labelled: KeyFrames,
        unlabelled: KeyFrames | None,
        table: TruthTable,
        *,
        sampling: Sampling,
        views: ViewOptions,
        needs: Needs,
        seed: int,
        device: torch.device,
    ):
        self.reader, self.table, self.sampling, self.views = reader, table, sampling, views
        self.needs, self.seed, self.device = needs, seed, device
        self.labelled, self.unlabelled = labelled, unlabelled
        self._labelled_order = Order(len(labelled), seed, "labelled")
        self._extra_order = Order(len(labelled), seed, "extra labelled")
        self._unlabelled_order = Order(len(unlabelled), seed, "unlabelled") if unlabelled else None

    def batch(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> tuple[Batch, Places | None]:
        """Part `part` of `parts` equal ones of step `step`'s clips, and where its unlabelled clips come from.

        `unlabelled` is whether the step belongs to the second stage.
        """
        labelled = self._labelled_batch(self._labelled_order, self.sampling.labelled, step, part, parts)
        if unlabelled and self.needs.extra_labelled:
            more = self._labelled_batch(self._extra_order, self.sampling.unlabelled, step, part, parts)
            labelled = joined(labelled, more)
        if not unlabelled or self.unlabelled is None:
            return Batch(labelled), None
        clips, places = self._unlabelled_batch(self.unlabelled, step, part, parts)
        return Batch(labelled, clips), places

    def _labelled_batch(self, order: Order, count: int, step: int, part: int, parts: int) -> LabelledBatch:
        strong = self.views.labelled == "strong"
        rows, geometry = self._draw(order, count, step, part, parts, strong=strong)
        videos, frames = self.labelled.at(rows)
        targets = in_strong_view(self.table.targets(videos, frames), geometry, self.views.min_visible)
        clips = self._input(geometry.apply(self.reader.read(videos, frames)))
        following = self._following(self.labelled, rows, geometry)
        if self.views.labelled_colour:
            colours = self._colours(order.stream, count, step, part, parts)
            clips = change_colours(clips, colours)
            following = None if following is None else change_colours(following, colours[: len(following)])
        return LabelledBatch(clips, targets_to(targets, self.device), following)

    def _colours(self, stream: str, count: int, step: int, part: int, parts: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, stream, "colour", step))
        return draw_colours(count, self.views.labelled_colour, generator)[_own(part, parts, count)]

    def _unlabelled_batch(self, table: KeyFrames, step: int, part: int, parts: int) -> tuple[UnlabelledBatch, Places]:
        assert self._unlabelled_order is not None
        rows, geometry = self._draw(self._unlabelled_order, self.sampling.unlabelled, step, part, parts, strong=True)
        videos, frames = table.at(rows)
        weak = self.reader.read(videos, frames)
        batch = UnlabelledBatch(
            weak_bcthw=self._input(weak),
            strong_bcthw=self._input(geometry.apply(weak)),
            geometry=geometry.to(self.device),
            following=self._following(table, rows, geometry),
        )
        return batch, Places(tuple(videos), tuple(frames))

    def _draw(
        self, order: Order, count: int, step: int, part: int, parts: int, *, strong: bool
    ) -> tuple[np.ndarray, Geometry]:
        """The rows of a part of a step's key frames and the geometry of their strong views.

        The whole step is drawn and then cut, so that the number of parts changes no draw.
        """
        size = self.reader.options.size
        generator = torch.Generator().manual_seed(stream_seed(self.seed, order.stream, "view", step))
        geometry = draw_geometry(count, size, self.views, generator) if strong else identity(count, size)
        own = _own(part, parts, count)
        return order.at(step * count, count)[own], geometry.part(own)

    def _following(self, table: KeyFrames, rows: np.ndarray, geometry: Geometry) -> Tensor | None:
        """The partners of the first `pair_share` of the rows, in the same draw of the view."""
        share = self.sampling.pair_share
        if not self.needs.temporal or share == 0:
            return None
        pairs = max(1, round(len(rows) * share))  # a small part of a step must not lose the temporal term
        return self._input(geometry.part(slice(pairs)).apply(self.reader.read(*table.following(rows[:pairs]))))

    def _input(self, clips_bthwc: Tensor) -> Tensor:
        return to_input(clips_bthwc, self.device)


def joined(first: LabelledBatch, more: LabelledBatch) -> LabelledBatch:
    """One batch of the clips of two. Partners stand for a batch's first clips, so those of `more` are left out."""
    b, one, two = len(first.clips_bcthw), first.targets, more.targets
    targets = Targets(
        clip_n=torch.cat((one.clip_n, two.clip_n + b)),
        **{name: torch.cat((getattr(one, name), getattr(two, name))) for name in Targets.__slots__ if name != "clip_n"},
    )
    return LabelledBatch(torch.cat((first.clips_bcthw, more.clips_bcthw)), targets, first.following)


def _own(part: int, parts: int, count: int) -> slice:
    """Which of a step's `count` clips a part takes."""
    return slice(part * count // parts, (part + 1) * count // parts)


def targets_to(targets: Targets, device: torch.device) -> Targets:
    return Targets(*(getattr(targets, name).to(device) for name in Targets.__slots__))
