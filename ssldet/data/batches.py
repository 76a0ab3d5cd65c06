"""From cached frames to the batches of a step.

ClipReader    T frames that end at a key frame, from the frame store
BatchSource   the batch of a step: clips in their views, and their targets
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Batch,
    LabelledBatch,
    Needs,
    Options,
    Targets,
    UnlabelledBatch,
)
from ssldet.data.sampling import KeyFrames, Order, Places, Sampling, stream_seed
from ssldet.data.targets import TruthTable, in_strong_view, targets_to
from ssldet.data.views import Geometry, ViewOptions, change_colours, draw_colours, draw_geometry, identity


class ClipOptions(Options):
    """The clip that the network sees: `frames` frames, `stride` apart, the key frame last, `size` pixels square."""

    frames: int = Field(16, ge=1)
    stride: int = Field(1, ge=1)
    size: int = Field(224, ge=16, multiple_of=16)


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
