"""A trained detector over whole videos: every key frame -> decoded boxes, filtered and suppressed -> detections.

Batches go on over the ends of videos. Clips that overlap share what they can: a frame is read and sent to the device
once a batch, and networks are told of clips one frame apart (`ssldet.nn.overlap`). Batch normalisation is folded into
convolutions, where one clip shows that the boxes stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ssldet.config import DetectOptions
from ssldet.contracts import Decoded, Detector, Video, VideoDetections
from ssldet.data.batches import ClipReader, to_input
from ssldet.detector.modes import evaluation_mode
from ssldet.detector.postprocess import detections
from ssldet.evaluation.detection_rows import empty
from ssldet.nn.folding import FoldedBatchNorm, fold_batch_norm
from ssldet.nn.overlap import consecutive_clips

TOLERANCE = 1e-3
"""Of boxes, confidences and scores after folding, as a share of the largest: far above rounding."""

COARSE = 1e-2
"""The same on a GPU, which multiplies float32 with 10 bits of mantissa."""


def detect_videos(
    detector: Detector,
    videos: Sequence[Video],
    key_frames_of: Callable[[str], np.ndarray],
    reader: ClipReader,
    options: DetectOptions,
    *,
    device: torch.device,
    autocast: bool = False,
    share: bool = True,
) -> Iterator[tuple[Video, VideoDetections]]:
    """The detections of each video, one video after another, in pixels of the video.

    Args:
        detector: put into evaluation mode for the duration; it may go on training afterwards.
        videos: what to detect in.
        key_frames_of: the frames of a video that get detections.
        reader: clips from the frame store.
        options: filter, suppression and batch size.
        device: where the detector is.
        autocast: compute the forward pass in bfloat16.
        share: fold batch normalisation and share work between clips; False computes every clip by itself, with the
            same result but for rounding.
    """
    with evaluation_mode(detector):
        inference = _Inference(detector, reader, options, device, autocast=autocast, share=share)
        yield from inference.over(videos, key_frames_of)


@dataclass(frozen=True, slots=True)
class _KeyFrames:
    """The key frames of one batch: a row each has its video, by place in the list of videos, and its frame."""

    videos: Sequence[Video]
    rows_n2: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_n2)

    def and_those_of(self, video: int, frames: np.ndarray) -> _KeyFrames:
        """These, and behind them those of another video."""
        rows_n2 = np.stack((np.full_like(frames, video), frames), axis=1)
        return _KeyFrames(self.videos, np.concatenate((self.rows_n2, rows_n2)))

    def cut(self, count: int) -> tuple[_KeyFrames, _KeyFrames]:
        """The first so many, and the rest."""
        return _KeyFrames(self.videos, self.rows_n2[:count]), _KeyFrames(self.videos, self.rows_n2[count:])

    def first_video(self, otherwise: int) -> int:
        """The video of the first row; `otherwise` where there is none."""
        return int(self.rows_n2[0, 0]) if len(self) else otherwise

    def runs(self, stride: int) -> list[int]:
        """Lengths of the runs of clips that start one frame after the one before; clips of other strides are alone."""
        if stride != 1:
            return [1] * len(self)
        follows = (np.diff(self.rows_n2, axis=0) == (0, 1)).all(axis=1)
        edges = np.flatnonzero(np.concatenate(([True], ~follows, [True])))
        return [int(length) for length in np.diff(edges)]

    def clips(self, reader: ClipReader) -> tuple[Tensor, Tensor]:
        """The distinct frames of all clips, uint8 (n, h, w, 3), and which of them each clip shows, (b, t)."""
        frames, shown_by_clips, count = [], [], 0
        for video, key_frames in self.by_video():
            stored = reader.frames_of(self.videos[video].id)
            shown_bt = reader.indices(key_frames, len(stored))
            distinct, places = np.unique(shown_bt, return_inverse=True)
            frames.append(stored[distinct])
            shown_by_clips.append(places.reshape(shown_bt.shape) + count)
            count += len(distinct)
        return torch.from_numpy(np.concatenate(frames)), torch.from_numpy(np.concatenate(shown_by_clips))

    def by_video(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each video and its key frames; those of one video stand together."""
        for video in dict.fromkeys(self.rows_n2[:, 0].tolist()):
            yield video, self.rows_n2[self.rows_n2[:, 0] == video, 1]


class _Inference:
    """A detector in evaluation mode, and how it is applied."""

    def __init__(
        self,
        detector: Detector,
        reader: ClipReader,
        options: DetectOptions,
        device: torch.device,
        *,
        autocast: bool,
        share: bool,
    ) -> None:
        self.detector, self.reader, self.options, self.device = detector, reader, options, device
        self.autocast, self.share = autocast, share
        self._folded: FoldedBatchNorm | None = None
        self._tried_folding = not share

    def over(
        self, videos: Sequence[Video], key_frames_of: Callable[[str], np.ndarray]
    ) -> Iterator[tuple[Video, VideoDetections]]:
        """Each video in order, as soon as its last clip is done."""
        waiting = _KeyFrames(videos, np.empty((0, 2), np.int64))
        parts: dict[int, list[VideoDetections]] = {}
        yielded = 0
        for index, video in enumerate(videos):
            waiting = waiting.and_those_of(index, np.asarray(key_frames_of(video.id), np.int64))
            parts[index] = []
            last = index == len(videos) - 1
            while True:
                for done in range(yielded, waiting.first_video(otherwise=index + 1)):
                    yielded += 1
                    yield videos[done], VideoDetections.concat([empty(self.detector.facts), *parts.pop(done)])
                if len(waiting) < (1 if last else self.options.batch):
                    break
                batch, waiting = waiting.cut(self.options.batch)
                self._detect(batch, parts)

    @torch.no_grad()  # inference mode would spoil tensors that a network keeps for its next step of training
    def _detect(self, batch: _KeyFrames, parts: dict[int, list[VideoDetections]]) -> None:
        """Add the detections of a batch to those of its videos."""
        rows, start = self._rows(self._decoded(batch)), 0
        for video, key_frames in batch.by_video():
            stop = start + len(key_frames)
            low, high = np.searchsorted(rows.clip_n, (start, stop))
            to_video = np.array([batch.videos[video].width, batch.videos[video].height] * 2, np.float32)
            boxes_n4 = rows.boxes_n4[low:high] * (to_video / self.reader.options.size)
            frames_n = key_frames[rows.clip_n[low:high] - start]
            parts[video].append(
                VideoDetections(frames_n, boxes_n4, rows.confidence_n[low:high], rows.scores_nk[low:high])
            )
            start = stop

    def _decoded(self, batch: _KeyFrames) -> Decoded:
        frames_nhwc, shown_bt = batch.clips(self.reader)
        frames_nhwc, shown_bt = (part.to(self.device, non_blocking=True) for part in (frames_nhwc, shown_bt))
        clips_bcthw = to_input(frames_nhwc[shown_bt], self.device)
        if not self._tried_folding:
            self._folded, self._tried_folding = self._fold(clips_bcthw[:1]), True
        with ExitStack() as stack:
            if self.share:
                stack.enter_context(consecutive_clips(batch.runs(self.reader.options.stride)))
            if self._folded is not None:
                stack.enter_context(self._folded.in_place())
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                predictions = self.detector(clips_bcthw)
        return self.detector.decode(predictions)

    def _rows(self, decoded: Decoded) -> _Rows:
        """What filter and suppression leave of a batch: one call for all its clips, on the device."""
        multilabel = self.detector.facts.multilabel
        boxes = detections(
            decoded,
            score_threshold=self.options.score_threshold,
            nms_iou=self.options.nms_iou or (0.5 if multilabel else 0.4),
            filter_by="confidence" if multilabel else "score",
        )
        values = (boxes.boxes_n4.float(), boxes.confidence_n.float(), boxes.scores_nk.float())
        return _Rows(boxes.clip_n.cpu().numpy(), *(value.cpu().numpy() for value in values))

    def _fold(self, clip_1cthw: Tensor) -> FoldedBatchNorm | None:
        """The detector's normalisation, folded, where a clip's boxes stay what they are; None where they do not."""
        before: list[Decoded] = []
        folded = fold_batch_norm(self.detector, lambda: before.append(self._decode_clip(clip_1cthw)))
        with folded.in_place():
            after = self._decode_clip(clip_1cthw)
        return folded if folded.pairs and _agree(before[0], after) else None

    def _decode_clip(self, clip_1cthw: Tensor) -> Decoded:
        return self.detector.decode(self.detector(clip_1cthw))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Detections of a batch on the CPU, ordered by clip, in pixels of the view."""

    clip_n: np.ndarray
    boxes_n4: np.ndarray
    confidence_n: np.ndarray
    scores_nk: np.ndarray


def _agree(one: Decoded, other: Decoded) -> bool:
    """Whether all boxes, confidences and scores are the same but for rounding, and finite."""
    for field in fields(Decoded):
        first, second = getattr(one, field.name), getattr(other, field.name)
        tolerance = COARSE if first.device.type == "cuda" else TOLERANCE
        if not bool((first - second).abs().max() <= tolerance * first.abs().max()):
            return False
    return True
