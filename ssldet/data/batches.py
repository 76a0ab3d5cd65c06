"""From cached frames to the batches of a step.

ClipReader    T frames that end at a key frame, from the frame store
BatchSource   the batch of a step: clips in their views, and their targets
DrawnBatch    the same before it is on the device: bytes that any process can make
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, LabelledBatch, Needs, Options, Targets, TrainingInfo, UnlabelledBatch
from ssldet.data.sampling import ClipRefs, KeyFrames, Sampling, ShuffledIndex, stream_seed
from ssldet.data.stored_frames import StoredFrames
from ssldet.data.targets import TruthTable, concat_targets, in_strong_view, reorder_clips
from ssldet.data.views import (
    Photometry,
    ViewOptions,
    WindowGeometry,
    change_colours,
    draw_colours,
    draw_geometry,
    draw_photometry,
    identity,
    normalised,
)
from ssldet.util.sections import section


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
    return normalised(clips_bthwc.to(device, non_blocking=True))


@dataclass(slots=True)
class DrawnClips:
    """Clips on the CPU, uint8 (b, t, h, w, 3), and the view that the student sees of them."""

    geometry: WindowGeometry
    weak_bthwc: Tensor | None
    """As they are stored; None where neither the device nor a strategy needs them."""
    strong_bthwc: Tensor | None
    """In the view of `geometry`; None: the device makes it of the weak ones."""
    shows_weak: bool
    """Whether the weak view is part of the batch too."""

    def on_device(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The strong view and, where it is part of the batch, the weak one, of one upload: float32 (b, 3, t, h, w)."""
        with section("upload"):
            weak, strong = (
                None if clips is None else clips.to(device, non_blocking=True)
                for clips in (self.weak_bthwc, self.strong_bthwc)
            )
        with section("views"):
            if strong is not None:
                strong_bcthw = normalised(strong)
            else:
                assert weak is not None
                strong_bcthw = self.geometry.apply_in_batch(weak)
            return strong_bcthw, normalised(weak) if self.shows_weak and weak is not None else None


@dataclass(slots=True)
class DrawnLabelled:
    """Labelled clips of a step on the CPU; see `LabelledBatch`."""

    clips: DrawnClips
    targets: Targets
    following: DrawnClips | None
    colours_b3: Tensor | None
    """Factors of the clips' colours, which are changed on the device; None: they stay."""
    weak_targets: Targets | None = None
    """What the weak view shows, where a strategy needs it."""


@dataclass(slots=True)
class DrawnUnlabelled:
    """Unlabelled clips of a step on the CPU; see `UnlabelledBatch`."""

    clips: DrawnClips
    index_b: Tensor
    following: DrawnClips | None
    photometry: Photometry | None
    """The look of the strong views, which is changed on the device; None: it stays."""
    refs: ClipRefs


@dataclass(slots=True)
class DrawnBatch:
    """All of a part of a step that is read and drawn, before it is on the device."""

    step: int
    part: int
    labelled: tuple[DrawnLabelled, ...]
    """The step's labelled clips, and the extra ones where a strategy needs them."""
    unlabelled: DrawnUnlabelled | None

    def pin_memory(self) -> DrawnBatch:
        """The same in memory that a GPU reads while the CPU goes on."""
        pinned: DrawnBatch = _pinned(self)
        return pinned


class BatchSource:
    """The batches of a run, by step.

    Args:
        reader: clips from the frame store.
        labelled: the labelled key frames to draw from.
        unlabelled: the unlabelled ones; None for labelled-only training.
        table: the truth of labelled videos.
        device: where batches are put. Views are drawn on the CPU in any case. The CPU makes them clip by clip, of
            bytes, which is its cheapest way; another device makes them of the frames that it gets, all clips at once.
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
        self.views_on_device = device.type != "cpu"
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
        drawn = self.drawn(step, part, parts, unlabelled=unlabelled)
        return self.on_device(drawn.pin_memory() if self.device.type == "cuda" else drawn)

    def drawn(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> DrawnBatch:
        """What `batch` reads and draws, on the CPU, the same in every process: arguments as there."""
        here = _Part(step, part, parts)
        labelled = [self._draw_labelled(self._labelled_order, self.sampling.labelled, here)]
        if unlabelled and self.needs.extra_labelled:
            labelled.append(self._draw_labelled(self._extra_order, self.sampling.unlabelled, here))
        clips = self._draw_unlabelled(self.unlabelled, here) if unlabelled and self.unlabelled else None
        return DrawnBatch(step, part, tuple(labelled), clips)

    def on_device(self, drawn: DrawnBatch) -> tuple[Batch, ClipRefs | None]:
        """What `batch` gives, from what was drawn: bytes go to the device, and are coloured there."""
        labelled = self._labelled_batch(drawn.labelled[0])
        for more in drawn.labelled[1:]:
            labelled = concat_labelled(labelled, self._labelled_batch(more))
        generator = self._generator("strategy", drawn.step, drawn.part)
        if drawn.unlabelled is None:
            return Batch(labelled, None, generator), None
        return Batch(labelled, self._unlabelled_batch(drawn.unlabelled), generator), drawn.unlabelled.refs

    def videos(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> list[str]:
        """The videos that `batch` reads for these arguments, sorted."""
        here = _Part(step, part, parts)
        drawn = [(self.labelled, self._labelled_order, self.sampling.labelled)]
        if unlabelled and self.needs.extra_labelled:
            drawn.append((self.labelled, self._extra_order, self.sampling.unlabelled))
        if unlabelled and self.unlabelled and self._unlabelled_order:
            drawn.append((self.unlabelled, self._unlabelled_order, self.sampling.unlabelled))
        rows = ((table, order.at(step * count, count)[here.rows(count)]) for table, order, count in drawn)
        return sorted({video for table, some in rows for video in table.at(some)[0]})

    def for_workers(self) -> BatchSource:
        """The same source with the truth of labelled videos and no data set, so that processes can get it."""
        light = copy(self)
        light.table = self.table.part(self.labelled.videos)
        return light

    def _draw_labelled(self, order: ShuffledIndex, count: int, part: _Part) -> DrawnLabelled:
        strong = self.views.labelled == "strong"
        rows, geometry = self._draw(order, count, part, strong=strong)
        videos, frames = self.labelled.at(rows)
        weak = self.reader.read(videos, frames)
        colours = None
        if self.views.labelled_colour:
            generator = self._generator(order.stream, "colour", part.step)
            colours = draw_colours(count, self.views.labelled_colour, generator)[part.rows(count)]
        targets = self.table.targets(videos, frames)
        return DrawnLabelled(
            clips=self._drawn_clips(weak, geometry, shows_weak=self.needs.labelled_weak),
            targets=in_strong_view(targets, geometry, self.views.min_visible),
            following=self._following(self.labelled, rows, geometry, needed=self.needs.temporal),
            colours_b3=colours,
            weak_targets=targets if self.needs.labelled_weak else None,
        )

    def _labelled_batch(self, drawn: DrawnLabelled) -> LabelledBatch:
        clips, weak = drawn.clips.on_device(self.device)
        following, _ = self._on_device(drawn.following)
        if drawn.colours_b3 is not None:
            with section("views"):
                clips = change_colours(clips, drawn.colours_b3)
                following = None if following is None else change_colours(following, drawn.colours_b3[: len(following)])
        weak_targets = None if drawn.weak_targets is None else drawn.weak_targets.to(self.device)
        return LabelledBatch(clips, drawn.targets.to(self.device), following, weak, weak_targets)

    def _draw_unlabelled(self, table: KeyFrames, part: _Part) -> DrawnUnlabelled:
        assert self._unlabelled_order is not None
        count = self.sampling.unlabelled
        rows, geometry = self._draw(self._unlabelled_order, count, part, strong=True)
        videos, frames = table.at(rows)
        weak = self.reader.read(videos, frames, table.extents(rows))
        photometry = None
        if self.views.photometric:
            photometry = draw_photometry(count, self.views, self._generator("unlabelled", "photometry", part.step))
            photometry = photometry.part(part.rows(count))
        return DrawnUnlabelled(
            clips=self._drawn_clips(weak, geometry, shows_weak=True),
            index_b=torch.from_numpy(rows),
            following=self._following(
                table, rows, geometry, needed=self.needs.has_partners, shows_weak=self.needs.weak_following
            ),
            photometry=photometry,
            refs=ClipRefs(tuple(videos), tuple(frames)),
        )

    def _unlabelled_batch(self, drawn: DrawnUnlabelled) -> UnlabelledBatch:
        strong, weak = drawn.clips.on_device(self.device)
        following, weak_following = self._on_device(drawn.following)
        if drawn.photometry is not None:
            with section("views"):
                strong = drawn.photometry.apply(strong)
                if following is not None:
                    following = drawn.photometry.part(slice(len(following))).apply(following)
        assert weak is not None
        return UnlabelledBatch(
            weak_bcthw=weak,
            strong_bcthw=strong,
            geometry=drawn.clips.geometry.to(self.device),
            index_b=drawn.index_b.to(self.device, non_blocking=True),
            following=following,
            weak_following=weak_following,
        )

    def _drawn_clips(self, weak_bthwc: Tensor, geometry: WindowGeometry, *, shows_weak: bool) -> DrawnClips:
        """Clips and the view of them, which is made here for the CPU alone."""
        if self.views_on_device:
            return DrawnClips(geometry, weak_bthwc, None, shows_weak)
        with section("views"):
            strong_bthwc = geometry.apply(weak_bthwc)
        return DrawnClips(geometry, weak_bthwc if shows_weak else None, strong_bthwc, shows_weak)

    def _on_device(self, clips: DrawnClips | None) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if clips is None else clips.on_device(self.device)

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

    def _following(
        self, table: KeyFrames, rows: np.ndarray, geometry: WindowGeometry, *, needed: bool, shows_weak: bool = False
    ) -> DrawnClips | None:
        """Partners of the first `pair_share` of the rows, in the same draw of the view."""
        share = self.sampling.pair_share
        if not needed or share == 0:
            return None
        pairs = max(1, round(len(rows) * share))  # a small part of a step must not lose the temporal term
        rows = rows[:pairs]
        weak = self.reader.read(*table.following(rows), table.extents(rows))
        return self._drawn_clips(weak, geometry.part(slice(pairs)), shows_weak=shows_weak)

    def _generator(self, *stream: object) -> torch.Generator:
        """A generator whose draws follow from the seed and the names of the stream alone."""
        return torch.Generator().manual_seed(stream_seed(self.seed, *stream))


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
    weak_bcthw, weak_targets = _concat(first.weak_bcthw, more.weak_bcthw), None
    if first.weak_targets is not None and more.weak_targets is not None:
        weak_targets = reorder_clips(concat_targets(first.weak_targets, more.weak_targets), order_b)
    weak_bcthw = None if weak_bcthw is None else weak_bcthw[order_b]
    return LabelledBatch(clips_bcthw, targets, following, weak_bcthw, weak_targets)


def _partners_first(first: LabelledBatch, more: LabelledBatch) -> Tensor:
    """(b,) the rows of two batches, one after the other: those with partners, then the others."""
    rows = [torch.arange(len(batch.clips_bcthw)) for batch in (first, more)]
    rows[1] += len(rows[0])
    pairs = [0 if batch.following is None else len(batch.following) for batch in (first, more)]
    paired, alone = zip(*(own.split([n, len(own) - n]) for own, n in zip(rows, pairs, strict=True)), strict=True)
    return torch.cat((*paired, *alone)).to(first.clips_bcthw.device, non_blocking=True)


def _concat(first: Tensor | None, more: Tensor | None) -> Tensor | None:
    return None if first is None or more is None else torch.cat((first, more))


def _pinned(value: Any) -> Any:
    """Tensors in page-locked memory, however deep in tuples and dataclasses; all else as it is."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, tuple):
        return tuple(map(_pinned, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _pinned(getattr(value, field.name)) for field in fields(value)})
    return value
