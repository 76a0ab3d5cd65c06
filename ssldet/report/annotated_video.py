"""Videos with tubes drawn on them: class and score beside each box, one colour a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssldet.contracts import DatasetFacts, VideoSource
from ssldet.data.box_drawing import class_colour, draw_box, text_font
from ssldet.data.encoding import writing_video
from ssldet.data.video import frame_rate, frame_size, stream_frames
from ssldet.ops.tubes import Tube

USUAL_RATE = Fraction(25)
"""Frames a second of images, and of files that do not say theirs."""


def annotate_video(
    source: VideoSource,
    tubes: Sequence[Tube],
    facts: DatasetFacts,
    path: Path,
    on_frame: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a video with the tubes drawn, in its own size, one frame of it after another.

    Args:
        source: the video.
        tubes: each over frames without a gap, boxes in pixels of the video.
        facts: names of the classes.
        path: of the .mp4, written whole or not at all.
        on_frame: hears how many frames are done.

    Raises:
        DecodeError: the video does not decode. RequestError: there is no encoder, or it refuses such frames.
    """
    size = frame_size(source)
    painter = TubePainter(tubes, facts, size)
    with writing_video(path, size, frame_rate(source) or USUAL_RATE) as write:
        for frame, pixels_hwc in enumerate(stream_frames(source)):
            write(painter.paint(pixels_hwc, frame))
            on_frame(frame + 1)


class TubePainter:
    """Draws tubes on frames of one size, the surest one on top.

    Args:
        tubes: as of `annotate_video`.
        facts: names of the classes.
        size: (width, height) of the frames, which sets how large letters and lines are.
    """

    def __init__(self, tubes: Sequence[Tube], facts: DatasetFacts, size: tuple[int, int]) -> None:
        self.tubes, self.facts = sorted(tubes, key=lambda tube: tube.score), facts
        shorter = min(size)
        self.font, self.line = text_font(max(10, shorter // 24)), max(2, shorter // 200)

    def paint(self, frame_hwc: np.ndarray, frame: int) -> np.ndarray:
        """The frame with the tubes that it shows; itself where there is none."""
        shown = [tube for tube in self.tubes if tube.frames_t[0] <= frame <= tube.frames_t[-1]]
        if not shown:
            return frame_hwc
        picture = Image.fromarray(frame_hwc)
        pen = ImageDraw.Draw(picture)
        for tube in shown:
            colour = class_colour(tube.label, self.facts.num_classes)
            name = f"{self.facts.classes[tube.label]} {tube.score:.2f}"
            edges_4 = tube.boxes_t4[frame - tube.frames_t[0]]
            draw_box(pen, edges_4, name, colour, self.font, width=self.line)
        return np.asarray(picture)
