"""Sheets of frames with the boxes that the annotation has on them, for a look before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssldet.contracts import Dataset
from ssldet.data.box_drawing import INK, Colour, class_colour, draw_box, text_font
from ssldet.data.doubts import AnnotatedVideo
from ssldet.data.video import read_some
from ssldet.errors import DataError
from ssldet.util.files import replacing

FRAMES, COLUMNS = 12, 4
WIDTH = 320
"""Pixels of one frame on a sheet; its height follows."""

GAP, HEAD, LETTERS = 6, 16, 11
"""Pixels between frames, of the line above a frame, and of letters."""

PAPER = (255, 255, 255)


def draw_sheets(dataset: Dataset, videos: Sequence[AnnotatedVideo], folder: Path) -> Iterator[tuple[str, Path | str]]:
    """Write one picture for each video; gives (id, its path, or why there is none), one by one.

    A sheet shows up to 12 frames, spread over those that the annotation speaks of. The head of each has its number in
    files, and "background" where no box is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for v in videos:
        path = folder / f"{v.video.id.replace('/', '__')}.png"
        try:
            picture = sheet(dataset, v)
        except DataError as error:
            yield v.video.id, str(error)
            continue
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
        yield v.video.id, path


def sheet(dataset: Dataset, v: AnnotatedVideo) -> Image.Image:
    """The sheet of one video. Raises DataError where its frames cannot be read."""
    frames = _spread(v.truth.key_frames_m)
    size = WIDTH, max(round(WIDTH * v.video.height / v.video.width), 1)
    pictures_nhwc = read_some(dataset.source(v.video.id), frames, size)
    tile = size[0] + GAP, size[1] + HEAD + GAP
    columns = min(COLUMNS, len(frames))
    page = Image.new("RGB", (columns * tile[0] + GAP, -(-len(frames) // columns) * tile[1] + GAP), PAPER)
    for place, (frame, pixels_hwc) in enumerate(zip(frames, pictures_nhwc, strict=True)):
        corner = GAP + place % columns * tile[0], GAP + place // columns * tile[1]
        page.paste(_tile(dataset, v, frame, pixels_hwc), corner)
    return page


def _spread(key_frames_m: np.ndarray) -> list[int]:
    """At most 12 of the frames, evenly spread, the first and the last among them."""
    places = np.unique(np.linspace(0, len(key_frames_m) - 1, FRAMES).round().astype(int))
    return [int(frame) for frame in key_frames_m[places]]


def _tile(dataset: Dataset, v: AnnotatedVideo, frame: int, pixels_hwc: np.ndarray) -> Image.Image:
    """A frame with its boxes below a line that says which it is."""
    height, width = pixels_hwc.shape[:2]
    scale_4 = np.array([width / v.video.width, height / v.video.height] * 2)
    rows: list[int] = np.flatnonzero(v.truth.frames_n == frame).tolist()
    tile = Image.new("RGB", (width, height + HEAD), PAPER)
    tile.paste(Image.fromarray(pixels_hwc), (0, HEAD))
    pen, font = ImageDraw.Draw(tile), text_font(LETTERS)
    number = dataset.facts.numbering.to_file(frame)
    pen.text((1, 1), f"{v.video.id}  {number}" + ("" if len(rows) else "  background"), INK, font)
    for row in rows:
        edges_4, colour = v.truth.boxes_n4[row] * scale_4, _colour(dataset, v, row)
        draw_box(pen, edges_4, _name(dataset, v, row), colour, font, top=HEAD)
    return tile


def _name(dataset: Dataset, v: AnnotatedVideo, row: int) -> str:
    labels = ", ".join(dataset.facts.classes[label] for label in np.flatnonzero(v.truth.labels_nk[row]))
    tube = int(v.truth.tubes_n[row])
    return f"{labels} {tube}" if tube >= 0 else labels


def _colour(dataset: Dataset, v: AnnotatedVideo, row: int) -> Colour:
    return class_colour(int(v.truth.labels_nk[row].argmax()), dataset.facts.num_classes)
