"""From cached frames to the batches of a step.

ClipReader    T frames that end at a key frame, from the frame store
BatchSource   the batch of a step: clips in their views, and their targets
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, LabelledBatch, Needs, Options, TrainingInfo, UnlabelledBatch
from ssldet.data.sampling import ClipRefs, KeyFrames, Sampling, ShuffledIndex, stream_seed
from ssldet.data.stored_frames import StoredFrames
from ssldet.data.targets import TruthTable, concat_targets, in_strong_view, reorder_clips
from ssldet.data.views import (
    ViewOptions,
    WindowGeometry,
    change_colours,
    draw_colours,
    draw_geometry,
    draw_photometry,
    identity,
)


class ClipOptions(Options):
    """The clip that the network sees."""

    frames: int = Field(16, ge=1)
    """Frames of a clip; the last is the key frame."""
    stride: int = Field(1, ge=1)
    """Frames from one frame of a clip to the next."""
    size: int = Field(224, ge=16, multiple_of=16)
    """Height and width, in pixels."""
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    """Frames are stored as JPEGs of this quality (libjpeg's scale), a seventh of the size at 95; null stores them raw.
    Where it is not given the data set chooses by size (`DatasetFacts.packed_from`).
    """

    @property
    def offsets(self) -> np.ndarray:
        """(t,) the frames of a clip, counted from its key frame."""
        return (np.arange(self.frames) - self.frames + 1) * self.stride

    def identity(self) -> dict[str, int]:
        """What moves a number, as plain data; clips of raw frames are named as before there were others."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class ClipReader:
    """Reads clips from frames at the training size: `frames_of(video_id)` -> (n, size, size, 3) uint8."""

    def __init__(self, frames_of: Callable[[str], StoredFrames], options: ClipOptions):
        self.frames_of, self.options = frames_of, options
        self._offsets = options.offsets

    def indices(self, frame: int | np.ndarray, num_frames: int, extent: tuple[int, int] | None = None) -> np.ndarray:
        """The frames of the clip that ends at `frame`, clamped to the video, or to `extent` inside it: (..., t)."""
        first, last = extent or (0, num_frames - 1)
        return np.clip(np.asarray(frame)[..., None] + self._offsets, first, min(last, num_frames - 1))

    def read(
        self, videos: Sequence[str], frames: Sequence[int], extents: Sequence[tuple[int, int]] | None = None
    ) -> Tensor:
        """Clips as uint8 (b, t, h, w, 3).

        Args:
            videos, frames: the key frame that each clip ends at.
            extents: first and last frame that each clip may show; None means the whole video.
        """
        clips = []
        bounds: Sequence[tuple[int, int] | None] = extents or [None] * len(frames)
        for video, frame, extent in zip(videos, frames, bounds, strict=True):
            stored = self.frames_of(video)
            clips.append(stored[self.indices(int(frame), len(stored), extent)])
        return torch.from_numpy(np.stack(clips))


def to_input(clips_bthwc: Tensor, device: torch.device) -> Tensor:
    """Clips as the network takes them: uint8 (b, t, h, w, 3) -> float32 in [0, 1], (b, 3, t, h, w), on the device."""
    clips_bcthw = clips_bthwc.to(device, non_blocking=True).permute(0, 4, 1, 2, 3)
    return clips_bcthw.contiguous().float().div_(255)  # a contiguous copy of bytes costs less than one of floats


class BatchSource:
    """The batches of a run, by step.

    Args:
        reader: clips from the frame store.
        labelled: the labelled key frames to draw from.
        unlabelled: the unlabelled ones; None for labelled-only training.
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
        self._labelled_order = ShuffledIndex(len(labelled), seed, "labelled")
        self._extra_order = ShuffledIndex(len(labelled), seed, "extra labelled")
        self._unlabelled_order = ShuffledIndex(len(unlabelled), seed, "unlabelled") if unlabelled else None

    def info(self, steps: int, burn_in: int) -> TrainingInfo:
        """What a strategy may know of these batches before it starts."""
        return TrainingInfo(
            class_counts=self.table.class_counts(self.labelled.videos),
            labelled_clips=len(self.labelled),
            unlabelled_clips=len(self.unlabelled) if self.unlabelled else 0,
            steps=steps,
            burn_in=burn_in,
        )

    def batch(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> tuple[Batch, ClipRefs | None]:
        """Part `part` of `parts` equal ones of step `step`'s clips, and where its unlabelled clips come from.

        `unlabelled` is whether the step belongs to the second stage.
        """
        here = _Part(step, part, parts)
        labelled = self._labelled_batch(self._labelled_order, self.sampling.labelled, here)
        if unlabelled and self.needs.extra_labelled:
            more = self._labelled_batch(self._extra_order, self.sampling.unlabelled, here)
            labelled = concat_labelled(labelled, more)
        generator = self._generator("strategy", step, part)
        if not unlabelled or self.unlabelled is None:
            return Batch(labelled, None, generator), None
        clips, refs = self._unlabelled_batch(self.unlabelled, here)
        return Batch(labelled, clips, generator), refs

    def _labelled_batch(self, order: ShuffledIndex, count: int, part: _Part) -> LabelledBatch:
        strong = self.views.labelled == "strong"
        rows, geometry = self._draw(order, count, part, strong=strong)
        videos, frames = self.labelled.at(rows)
        targets = in_strong_view(self.table.targets(videos, frames), geometry, self.views.min_visible)
        weak = self.reader.read(videos, frames)
        clips, following = self._input(geometry.apply(weak)), self._following(self.labelled, rows, geometry)
        if self.views.labelled_colour:
            generator = self._generator(order.stream, "colour", part.step)
            colours = draw_colours(count, self.views.labelled_colour, generator)[part.rows(count)]
            clips = change_colours(clips, colours)
            following = None if following is None else change_colours(following, colours[: len(following)])
        shown = self._input(weak) if self.needs.labelled_weak else None
        return LabelledBatch(clips, targets.to(self.device), following, shown)

    def _unlabelled_batch(self, table: KeyFrames, part: _Part) -> tuple[UnlabelledBatch, ClipRefs]:
        assert self._unlabelled_order is not None
        count = self.sampling.unlabelled
        rows, geometry = self._draw(self._unlabelled_order, count, part, strong=True)
        videos, frames = table.at(rows)
        weak = self.reader.read(videos, frames, table.extents(rows))
        strong, following = self._input(geometry.apply(weak)), self._following(table, rows, geometry)
        if self.views.photometric:
            photometry = draw_photometry(count, self.views, self._generator("unlabelled", "photometry", part.step))
            photometry = photometry.part(part.rows(count))
            strong = photometry.apply(strong)
            following = None if following is None else photometry.part(slice(len(following))).apply(following)
        batch = UnlabelledBatch(
            weak_bcthw=self._input(weak),
            strong_bcthw=strong,
            geometry=geometry.to(self.device),
            index_b=torch.from_numpy(rows).to(self.device),
            following=following,
            weak_following=self._following(table, rows) if self.needs.weak_following else None,
        )
        return batch, ClipRefs(tuple(videos), tuple(frames))

    def _draw(
        self, order: ShuffledIndex, count: int, part: _Part, *, strong: bool
    ) -> tuple[np.ndarray, WindowGeometry]:
        """The rows of a part of a step's key frames and the geometry of their strong views.

        The whole step is drawn and then cut, so that the number of parts changes no draw.
        """
        size = self.reader.options.size
        generator = self._generator(order.stream, "view", part.step)
        geometry = draw_geometry(count, size, self.views, generator) if strong else identity(count, size)
        rows = part.rows(count)
        return order.at(part.step * count, count)[rows], geometry.part(rows)

    def _following(self, table: KeyFrames, rows: np.ndarray, geometry: WindowGeometry | None = None) -> Tensor | None:
        """The partners of the first `pair_share` of the rows, in the same draw of the view, or in the weak view."""
        share = self.sampling.pair_share
        if not self.needs.temporal or share == 0:
            return None
        pairs = max(1, round(len(rows) * share))  # a small part of a step must not lose the temporal term
        rows = rows[:pairs]
        weak = self.reader.read(*table.following(rows), table.extents(rows))
        return self._input(weak if geometry is None else geometry.part(slice(pairs)).apply(weak))

    def _generator(self, *stream: object) -> torch.Generator:
        """A generator whose draws follow from the seed and the names of the stream alone."""
        return torch.Generator().manual_seed(stream_seed(self.seed, *stream))

    def _input(self, clips_bthwc: Tensor) -> Tensor:
        return to_input(clips_bthwc, self.device)


@dataclass(frozen=True, slots=True)
class _Part:
    """Part `index` of `count` equal ones of a step's clips."""

    step: int
    index: int
    count: int

    def rows(self, clips: int) -> slice:
        """Which of a step's `clips` it takes."""
        return slice(self.index * clips // self.count, (self.index + 1) * clips // self.count)


def concat_labelled(first: LabelledBatch, more: LabelledBatch) -> LabelledBatch:
    """One batch of the clips of two. Those with partners come first: partners stand for a batch's first clips."""
    order_b = _partners_first(first, more)
    targets = reorder_clips(concat_targets(first.targets, more.targets), order_b)
    clips_bcthw = torch.cat((first.clips_bcthw, more.clips_bcthw))[order_b]
    following = _concat(first.following, more.following)
    weak_bcthw = _concat(first.weak_bcthw, more.weak_bcthw)
    return LabelledBatch(clips_bcthw, targets, following, None if weak_bcthw is None else weak_bcthw[order_b])


def _partners_first(first: LabelledBatch, more: LabelledBatch) -> Tensor:
    """(b,) the rows of two batches, one after the other: those with partners, then the others."""
    rows = [torch.arange(len(batch.clips_bcthw)) for batch in (first, more)]
    rows[1] += len(rows[0])
    pairs = [0 if batch.following is None else len(batch.following) for batch in (first, more)]
    paired, alone = zip(*(own.split([n, len(own) - n]) for own, n in zip(rows, pairs, strict=True)), strict=True)
    return torch.cat((*paired, *alone)).to(first.clips_bcthw.device)


def _concat(first: Tensor | None, more: Tensor | None) -> Tensor | None:
    return None if first is None or more is None else torch.cat((first, more))
