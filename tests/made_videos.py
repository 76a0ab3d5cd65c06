"""Small videos, masks and data sets made on the spot."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from scipy.io import savemat

from ssldet.contracts import Dataset, DatasetFacts, Options, Problem, Subset, Truth, Video, VideoSource

CLASSES = ("brush_hair", "catch")


def write_video(path: Path, levels: list[int], size: tuple[int, int] = (64, 48), at: list[int] | None = None) -> Path:
    """An .avi of grey frames, one of each brightness, shown at the frame numbers `at` (else one after another)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for position, level in zip(at or range(len(levels)), levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), "rgb24")
            frame.pts = position
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_turned(path: Path, frame_hwc: np.ndarray, degrees: int, frames: int = 2) -> Path:
    """A file of one frame repeated, to be shown turned counter-clockwise, as phones store upright videos."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frame_hwc.shape[:2], "yuv420p"
        stream.codec_context.max_b_frames = 0
        if degrees:
            stream.set_display_rotation(degrees)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_hwc, "rgb24")))
        container.mux(stream.encode())
    return path


def write_mask(path: Path, boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (64, 48)) -> Path:
    """A puppet mask file whose frames are filled boxes, x1 y1 x2 y2 pixel edges."""
    mask_hwt = np.zeros((size[1], size[0], len(boxes)), np.uint8)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        mask_hwt[y1:y2, x1:x2, index] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"part_mask": mask_hwt}, do_compression=True)
    return path


class MadeVideos(Dataset):
    """A data set of grey .avi files, for what needs any data set."""

    facts = DatasetFacts("made", CLASSES, ((1.0, 1.0),))

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        assert root is not None
        self.root = root

    def videos(self, subset: Subset, split: int = 1) -> list[Video]:
        return [Video(path.stem, 6, 64, 48, (0,)) for path in sorted(self.root.glob("*.avi"))]

    def truth(self, video_id: str) -> Truth:
        raise AssertionError("decoding reads no annotation")

    def source(self, video_id: str) -> VideoSource:
        return VideoSource(file=self.root / f"{video_id}.avi")

    def verify(self, split: int = 1) -> list[Problem]:
        return []

    def fingerprint(self) -> str:
        return "made"
