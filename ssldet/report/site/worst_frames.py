"""Pictures and short clips of a run's worst videos, truth and detections drawn into them.

    show_videos(scored, ids, folder, ...)   writes the files, and says which they are

Truth is drawn in solid blue, detections in dashed orange with class and score: the best of a frame, and others that are
sure. A clip is in a form that browsers play; where none can be written, the pictures are there all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssldet.contracts import Truth, Video
from ssldet.data.video import read_frames
from ssldet.errors import DecodeError
from ssldet.report.qualitative import LARGEST_VIDEO, Box, ShownFrame, judge
from ssldet.report.site.remarks import Remarks
from ssldet.report.site.scored_run import ScoredRun

STILLS = 4
WIDTH = 320
"""Pixels of a picture or clip; a video that is narrower stays as it is."""

MOST_FRAMES = 300
"""Of a clip, from the first annotated frame on."""

FPS = 25
CODECS = (("libx264", ".mp4"), ("libvpx-vp9", ".webm"), ("libvpx", ".webm"))
"""In the order of preference: what browsers play, and the ends of such files."""

TRUTH, DETECTED = (74, 144, 255), (255, 150, 40)


@dataclass(frozen=True, slots=True)
class Still:
    """A picture by its file name, and what is on it in words."""

    file: str
    words: str


@dataclass(frozen=True, slots=True)
class VideoPictures:
    """The pictures of a video, and the file of its clip, "" where there is none; in pixels, `width` and `height`."""

    id: str
    stills: tuple[Still, ...]
    clip: str
    width: int
    height: int


def show_videos(scored: ScoredRun, ids: Sequence[str], folder: Path, remarks: Remarks) -> tuple[VideoPictures, ...]:
    """Write pictures and clips of some videos.

    Args:
        scored: the run.
        ids: of the videos, in the order in which they are shown.
        folder: where the files go, by names that no video chooses; it is made when there is something to write.
        remarks: hears what could not be decoded or written.
    """
    by_id = {video.id: video for video in scored.videos}
    shown = (
        remarks.attempt(f"Pictures of {video_id}", _show, scored, by_id[video_id], folder, f"{place}", remarks)
        for place, video_id in enumerate(ids, start=1)
        if video_id in by_id
    )
    return tuple(each for each in shown if each)


def _show(scored: ScoredRun, video: Video, folder: Path, name: str, remarks: Remarks) -> VideoPictures:
    """Raises DecodeError."""
    if 3 * video.num_frames * video.width * video.height > LARGEST_VIDEO:
        raise DecodeError("it is too long to be decoded for a few pictures; `ssldet figure 5` shows prepared frames")
    truth = scored.dataset.truth(video.id)
    frames_thwc = read_frames(scored.dataset.source(video.id), video.num_frames).frames_thwc
    folder.mkdir(parents=True, exist_ok=True)
    stills = []
    for place, frame in enumerate(_spread(truth, video), start=1):
        judged = _judged(scored, video, truth, frame)
        file = f"{name}-{place}.jpg"
        drawn(frames_thwc[frame], judged).save(folder / file, quality=80)
        stills.append(Still(file, _words(judged)))
    first = int(truth.frames_n.min()) if len(truth.frames_n) else 0
    pictures = (
        drawn(frames_thwc[frame], _judged(scored, video, truth, frame))
        for frame in range(first, min(first + MOST_FRAMES, video.num_frames))
    )
    size = _size(frames_thwc[0])
    clip = remarks.attempt(f"Clip of {video.id}", write_clip, folder, name, size, pictures) or ""
    return VideoPictures(video.id, tuple(stills), clip, *size)


def _spread(truth: Truth, video: Video) -> Iterable[int]:
    """Annotated frames, or any where none is, evenly from the first to the last."""
    frames_m = truth.annotated_frames if len(truth.frames_n) else np.arange(video.num_frames)
    places = np.unique(np.linspace(0, len(frames_m) - 1, min(STILLS, len(frames_m))).round().astype(int))
    return (int(frames_m[place]) for place in places)


def _judged(scored: ScoredRun, video: Video, truth: Truth, frame: int) -> ShownFrame:
    return judge(scored.dataset.facts, video, truth, frame, scored.detections[video.id])


def _words(shown: ShownFrame) -> str:
    """ "frame 12: truth run; detected walk 0.43"."""
    true = ", ".join(box.label for box in shown.truth) or "none"
    detected = ", ".join(f"{box.label} {box.score:.2f}" for box in shown.detections) or "nothing"
    return f"frame {shown.number}: truth {true}; detected {detected}"


# ------------------------------------------------------------------------------------------------- drawing


def _size(frame_hwc: np.ndarray) -> tuple[int, int]:
    """Width and height of its picture, even as codecs want them."""
    height, width = frame_hwc.shape[:2]
    scale = min(1.0, WIDTH / width)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def drawn(frame_hwc: np.ndarray, shown: ShownFrame) -> Image.Image:
    """A frame (h, w, 3) uint8, made smaller, with its boxes."""
    picture = Image.fromarray(frame_hwc).resize(_size(frame_hwc), Image.Resampling.BILINEAR)
    scale = np.array(picture.size * 2) / np.array([frame_hwc.shape[1], frame_hwc.shape[0]] * 2)
    canvas = ImageDraw.Draw(picture)
    for box in shown.truth:
        canvas.rectangle(_corners(box, scale, picture), outline=TRUTH, width=2)
    for box in shown.detections:
        _dashed(canvas, _corners(box, scale, picture))
    for box in (*shown.truth, *shown.detections):
        _label(canvas, box, _corners(box, scale, picture))
    return picture


def _corners(box: Box, scale: np.ndarray, picture: Image.Image) -> tuple[int, int, int, int]:
    """Whole pixels within the picture, the second corner not before the first."""
    width, height = picture.size
    x1, y1, x2, y2 = (int(value) for value in np.clip(np.nan_to_num(box.box_4 * scale), 0, [width - 1, height - 1] * 2))
    return x1, y1, max(x1, x2), max(y1, y2)


def _dashed(canvas: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], dash: int = 6) -> None:
    x1, y1, x2, y2 = corners
    for start in range(x1, x2, 2 * dash):
        canvas.line((start, y1, min(start + dash, x2), y1), fill=DETECTED, width=2)
        canvas.line((start, y2, min(start + dash, x2), y2), fill=DETECTED, width=2)
    for start in range(y1, y2, 2 * dash):
        canvas.line((x1, start, x1, min(start + dash, y2)), fill=DETECTED, width=2)
        canvas.line((x2, start, x2, min(start + dash, y2)), fill=DETECTED, width=2)


def _label(canvas: ImageDraw.ImageDraw, box: Box, corners: tuple[int, int, int, int]) -> None:
    """On a dark ground: truth above the lower edge, detections below the upper one."""
    words = box.label if box.score is None else f"{box.label} {box.score:.2f}"
    text = words.encode("latin-1", "replace").decode("latin-1")  # the built-in font has no others
    font = ImageFont.load_default()
    x, y = corners[0] + 2, corners[3] - 13 if box.score is None else corners[1] + 1
    canvas.rectangle(canvas.textbbox((x, y), text, font=font), fill=(0, 0, 0))
    canvas.text((x, y), text, font=font, fill=TRUTH if box.score is None else DETECTED)


# --------------------------------------------------------------------------------------------------- clips


def write_clip(folder: Path, name: str, size: tuple[int, int], pictures: Iterable[Image.Image]) -> str:
    """Write a clip of pictures of one size; gives its file name.

    Args:
        size: width and height of the pictures, even.

    Raises:
        DecodeError: no codec that browsers play is there.
    """
    codec, end = _codec()
    file = f"{name}{end}"
    with av.open(str(folder / file), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return file


def _codec() -> tuple[str, str]:
    """The first of `CODECS` that can be written here, and the end of its files."""
    for name, end in CODECS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # PyAV raises a kind of it for a codec that it lacks
            continue
        return name, end
    names = ", ".join(name for name, _ in CODECS)
    raise DecodeError(f"PyAV here writes none of {names}; the pictures are there, and `pip install av` brings a codec")
