"""Writing the data set: encoded videos, their truth, and an index, in a folder that appears whole or not at all.

<folder>/index.json             generator, options, and per video: id, subset, label, frames, size of the file
<folder>/truth.npz              one row per box: video (place in the index), frame, tube, label, x1 y1 x2 y2;
                                on multi-label data `label` is one bool per class
<folder>/videos/<kind>/<id>.mp4
"""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from filelock import FileLock

from ssldet.errors import DataError
from ssldet_datasets.synthetic import drawing
from ssldet_datasets.synthetic.facts import FPS, HEIGHT, VERSION, WIDTH
from ssldet_datasets.synthetic.flavours import FLAVOURS, Flavour
from ssldet_datasets.synthetic.scene import SHORT_EVERY, Scene

log = logging.getLogger(__name__)

ENCODER = {"qmin": "6", "qmax": "6", "flags": "+bitexact"}
"""A constant quantiser (2 is best, 31 worst), so that compression shows but does not hide."""
KEY_FRAME_EVERY = 12
SUBSETS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the data depend on, the generator's version aside."""

    seed: int = 0
    train_per_class: int = 24
    test_per_class: int = 8
    flavour: str = "ucf24"

    @property
    def made_as(self) -> Flavour:
        return FLAVOURS[self.flavour]

    def clips(self) -> list[tuple[str, int, int]]:
        """(subset, kind, number) of every video."""
        counts = {"train": self.train_per_class, "test": self.test_per_class}
        return [(s, kind, i) for s in SUBSETS for kind in range(len(self.made_as.kinds)) for i in range(counts[s])]

    def describe(self) -> dict[str, Any]:
        return {"generator": "synthetic", "version": VERSION, **asdict(self)}


def ensure(folder: Path, recipe: Recipe) -> None:
    """Generate the data into `folder` unless it is there. Concurrent callers wait for the first. Raises OSError."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return
        partial = folder.with_name(folder.name + ".partial")  # of a run that was killed, if it exists: we hold the lock
        shutil.rmtree(partial, ignore_errors=True)
        log.info("generating the synthetic data set in %s", folder)
        try:
            write(partial, recipe)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write(folder: Path, recipe: Recipe) -> None:
    """Generate all videos of a recipe into a new folder."""
    entries, tables = [], []
    for place, (subset, kind, number) in enumerate(recipe.clips()):
        name = recipe.made_as.kind_names[kind]
        file = folder / "videos" / name / f"{name}-{subset}-{number:03d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        scene, rng = make_scene(recipe, subset, kind, number)
        encode(drawing.render(scene, rng), file)
        rows = recipe.made_as.annotate(scene)
        tables.append({"video": np.full(len(rows["frame"]), place, np.int64), **rows})
        size = file.stat().st_size
        entries.append({"id": file.stem, "subset": subset, "label": kind, "frames": scene.num_frames, "size": size})
    columns = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    np.savez_compressed(folder / "truth.npz", allow_pickle=False, **columns)
    index = {**recipe.describe(), "width": WIDTH, "height": HEIGHT, "videos": entries}
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def make_scene(recipe: Recipe, subset: str, kind: int, number: int) -> tuple[Scene, np.random.Generator]:
    """Make up one video, and give the generator to draw it with. Both depend on seed, flavour and arguments only."""
    flavour = recipe.made_as
    rng = np.random.default_rng([recipe.seed, SUBSETS.index(subset), kind, number, *flavour.stream])
    return flavour.direct(rng, flavour.kinds, kind, (number + kind) % SHORT_EVERY == 0), rng


def encode(frames: np.ndarray, file: Path) -> None:
    """Write uint8 frames (t, h, w, 3) as MPEG-4 Part 2, which every build of FFmpeg encodes and decodes."""
    with av.open(str(file), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.gop_size = KEY_FRAME_EVERY
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Index and truth of a written data set. Raises DataError where they are absent or damaged."""
    try:
        with (folder / "truth.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            truth = dict(archive)
        return json.loads((folder / "index.json").read_text()), truth
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read index.json and truth.npz of the synthetic data ({error}); "
            f"delete {folder}: it is generated again"
        ) from error
