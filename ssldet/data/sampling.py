"""Which clips a step takes: the key frames of some videos, and the order in which they are drawn.

Every random draw of a step is a function of (seed, stream, step) and of nothing else. So a resumed run continues
exactly, and every strategy sees the same labelled clips in the same views for a seed, whatever else it samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import DatasetFacts, Truth, Video
from ssldet.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrames:
    """The key frames of some videos: row i is frame `frame_n[i]` of video `videos[video_n[i]]`.

    `following_n` is the next key frame of the same video; for a video's last one, the one before it (the temporal
    term is symmetric), and the frame itself where a video has no other. `extent_v2` is the first and the last frame
    of each video that a clip may show; None means all.
    """

    videos: tuple[str, ...]
    video_n: np.ndarray
    frame_n: np.ndarray
    following_n: np.ndarray
    extent_v2: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame_n)

    def at(self, rows: np.ndarray) -> tuple[list[str], list[int]]:
        """The videos and frames of some rows."""
        return [self.videos[v] for v in self.video_n[rows]], self.frame_n[rows].tolist()

    def following(self, rows: np.ndarray) -> tuple[list[str], list[int]]:
        """The videos and frames of their partners."""
        return [self.videos[v] for v in self.video_n[rows]], self.following_n[rows].tolist()

    def extents(self, rows: np.ndarray) -> list[tuple[int, int]] | None:
        """The first and last frame that the clips of some rows, and their partners, may show; None means all."""
        if self.extent_v2 is None:
            return None
        return [(int(first), int(last)) for first, last in self.extent_v2[self.video_n[rows]]]


def key_frames(
    videos: Sequence[str], frames_of: Callable[[str], np.ndarray], *, clips_inside: bool = False
) -> KeyFrames:
    """The table of all key frames of some videos.

    Args:
        videos: their ids.
        frames_of: gives a video's key frames, sorted.
        clips_inside: whether clips show nothing before a video's first key frame and nothing after its last.

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
        extent_v2=np.array([(f[0], f[-1]) if len(f) else (0, 0) for f in frames]) if clips_inside else None,
    )


def _following(frames: np.ndarray) -> np.ndarray:
    if len(frames) < 2:
        return frames
    return np.append(frames[1:], frames[-2])


def sampled_frames(facts: DatasetFacts, video: Video) -> np.ndarray:
    """The key frames of a whole video, without its annotation: every frame, or AVA's one a second."""
    return np.arange(0, video.num_frames, facts.numbering.step)


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


class ShuffledIndex:
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many clips a step takes: `labelled` and `unlabelled` key frames, and the share of them with a partner."""

    labelled: int
    unlabelled: int
    pair_share: float


@dataclass(frozen=True, slots=True)
class ClipRefs:
    """Which key frames a batch of unlabelled clips shows: for diagnostics, never for a strategy."""

    videos: tuple[str, ...]
    frames: tuple[int, ...]
