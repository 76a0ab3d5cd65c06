"""A trained detector over files of any length, and the tubes of what it detects.

detect_in(detector, source, ...)   the detections of one file, window by window: some hundred frames are in memory
TubeLinker                         collects them, and links them to tubes with a class, a score, a beginning and an end

Letters: t frames, n boxes, k classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from ssldet.config import DetectOptions
from ssldet.contracts import DatasetFacts, Detector, Options, Video, VideoDetections, VideoSource
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.data.video import frame_size, stream_frames
from ssldet.evaluation.inference import detect_videos
from ssldet.ops.tubes import Tube, link_greedily

WINDOW = 256
"""Frames that are detected in at a time: at 224 pixels 40 MB."""


class TubeOptions(Options):
    """Which tubes are worth a look."""

    least_score: float = 0.2
    """Least mean score of a tube, confidence x class; boxes of less than half of it are not linked."""
    least_frames: int = 8
    """Shortest tube; in a shorter video one that lasts all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameWindow:
    """Consecutive frames of a video, the ones from `first` on, under the numbers that they have in it."""

    frames_thwc: np.ndarray
    first: int

    def __len__(self) -> int:
        """Frames of the video up to the last of these."""
        return self.first + len(self.frames_thwc)

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        window: np.ndarray = self.frames_thwc[np.asarray(frames) - self.first]
        return window


def windows(
    frames_hwc: Iterable[np.ndarray], clip: ClipOptions, length: int = WINDOW
) -> Iterator[tuple[FrameWindow, np.ndarray]]:
    """Windows over a stream of frames; each with the frames that are its key frames, and those that their clips need.

    Args:
        frames_hwc: of one video, from its first one on.
        clip: how far a clip reaches back from its key frame.
        length: key frames of a window.
    """
    stream, before, end = iter(frames_hwc), list[np.ndarray](), 0
    reach = -int(clip.offsets[0])
    while fresh := list(islice(stream, length)):
        held = np.stack([*before, *fresh])
        yield FrameWindow(held, end - len(before)), np.arange(end, end + len(fresh))
        end += len(fresh)
        before = [*before, *fresh][-reach:] if reach else []


def detect_in(
    detector: Detector,
    source: VideoSource,
    clip: ClipOptions,
    options: DetectOptions,
    *,
    device: torch.device,
    autocast: bool = False,
    window: int = WINDOW,
) -> Iterator[tuple[int, VideoDetections]]:
    """What is detected in every frame of a file: after each window the frames so far, and the window's detections.

    The same as `detect_videos` gives of the same frames, but for the rounding of other batches.

    Args:
        detector: of single clips, on the device.
        source: the file, or images.
        clip: the clips that it was trained on.
        options: filter, suppression and batch size.
        device: where the detector is.
        autocast: compute the forward pass in bfloat16.
        window: frames that are detected in at a time.

    Raises:
        DecodeError: the file is absent, holds no video, or is damaged.
    """
    video = Video("", 0, *frame_size(source), ())
    for frames, key_frames in windows(stream_frames(source, (clip.size, clip.size)), clip, window):
        reader = ClipReader({video.id: frames}.__getitem__, clip)
        of_window = {video.id: key_frames}.__getitem__
        for _, detected in detect_videos(
            detector, [video], of_window, reader, options, device=device, autocast=autocast
        ):
            yield len(frames), detected


@dataclass(slots=True)
class TubeLinker:
    """The tubes of one video, of detections that come window by window.

    A box stands for its best class, on multi-label data for every class of sufficient score; boxes are linked class by
    class as `link_greedily` does, so that tubes begin and end where the action does. Boxes that are too weak for that
    are not kept.
    """

    facts: DatasetFacts
    options: TubeOptions = field(default_factory=TubeOptions)
    _kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, detected: VideoDetections) -> None:
        """Take in the detections of later frames."""
        scores_nk = detected.scores_nk * detected.confidence_n[:, None]
        weak_nk = scores_nk < self.options.least_score / 2
        if not self.facts.multilabel:
            weak_nk |= np.arange(scores_nk.shape[1]) != scores_nk.argmax(axis=1)[:, None]
        scores_nk = np.where(weak_nk, np.nan, scores_nk)
        kept_n = ~weak_nk.all(axis=1)
        self._kept.append((detected.frames_n[kept_n], detected.boxes_n4[kept_n], scores_nk[kept_n]))

    def tubes(self, num_frames: int) -> list[Tube]:
        """All tubes of a video of so many frames, by falling score."""
        if not self._kept:
            return []
        frames_n, boxes_n4, scores_nk = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        linked = link_greedily(
            frames_n,
            boxes_n4,
            scores_nk,
            plus_one=False,
            least_frames=min(self.options.least_frames, num_frames),
            least_score=self.options.least_score,
        )
        return sorted(linked, key=lambda tube: (-tube.score, tube.label, int(tube.frames_t[0])))
