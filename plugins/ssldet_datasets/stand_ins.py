"""Stand-in data: a few small made-up videos in the layout and annotation formats of a real data set.

They show a bright block that moves over a dim, textured ground. They let every loader and every run be tried where
the real data are not at hand; numbers made on them mean nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image
from scipy.io import savemat

from ssldet.errors import ConfigError
from ssldet.util.files import replacing, write_bytes, write_text
from ssldet_datasets import facts

FPS = 30
ENCODER = {"qmin": "4", "qmax": "4", "flags": "+bitexact"}

UCF24_CLASSES = ("Basketball", "Biking", "Diving", "SalsaSpin")
UCF24_TRAIN, UCF24_TEST = 10, 2
"""Videos per class: 10 % of 40 label one of each class."""
JHMDB_TRAIN, JHMDB_TEST = 5, 1
"""Videos per class: 20 % of 105 label one of each class."""
AVA_TRAIN, AVA_TEST = 10, 2
AVA_SECONDS = range(902, 905)
AVA_STAND, AVA_WALK, AVA_TALK = 12, 14, 79
"""Action ids, from 1. Everybody stands, so that a film's most frequent action is the same everywhere."""


def new_folder(folder: Path) -> Path:
    """The folder, made; it must be empty. Raises ConfigError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder for stand-in data")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --------------------------------------------------------------------------------------------- the pictures


def walk(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes (t, 4) int xyxy of a block that moves in a straight line inside (width, height)."""
    limit = np.array(size)
    side = (limit * rng.uniform(0.2, 0.4, 2)).astype(int)
    start, end = (rng.uniform(0.02, 0.98, 2) * (limit - side) for _ in range(2))
    corner = np.linspace(start, end, frames).astype(int)
    return np.concatenate([corner, corner + side], 1)


def film(rng: np.random.Generator, boxes: Sequence[np.ndarray], frames: int, size: tuple[int, int]) -> np.ndarray:
    """Frames (t, h, w, 3) uint8; `boxes` are (t, 4), with -1 where a block is not there."""
    width, height = size
    coarse = rng.integers(40, 110, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    ground = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    pictures = np.repeat(ground[None], frames, 0)
    for boxes_t4 in boxes:
        colour = rng.integers(150, 255, 3, dtype=np.uint8)
        for picture, (x1, y1, x2, y2) in zip(pictures, boxes_t4, strict=True):
            picture[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = colour
    return pictures


def write_video(path: Path, frames_thwc: np.ndarray) -> None:
    """Encode frames as MPEG-4, in the container that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options=ENCODER)
        stream.height, stream.width = frames_thwc.shape[1:3]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        stream.codec_context.max_b_frames = 0
        for frame in frames_thwc:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


# ---------------------------------------------------------------------------------------------------- UCF24


def write_ucf24(folder: Path, seed: int = 0) -> None:
    """UCF-101/<Class>/<video>.avi, annots/pyannot.pkl and lists: untrimmed, some videos with two tubes."""
    folder = new_folder(folder)
    size, annotation = (320, 240), {}
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name, group in _each(UCF24_CLASSES, UCF24_TRAIN + UCF24_TEST):
        video_id = f"{name}/v_{name}_g{group + 1:02d}_c01"
        rng = np.random.default_rng([seed, label, group])
        frames = int(rng.integers(16, 24))
        tubes = [_ucf24_tube(rng, frames, size) for _ in range(1 + (group % 3 == 2))]
        blocks = [_placed(start, boxes_n4, frames) for start, boxes_n4 in tubes]
        write_video(folder / "UCF-101" / f"{video_id}.avi", film(rng, blocks, frames, size))
        number = facts.UCF24.classes.index(name)
        entries = [_ucf24_entry(number, start, boxes_n4) for start, boxes_n4 in tubes]
        annotation[video_id] = {"numf": np.uint8(frames), "label": number, "annotations": entries}
        lists["test" if group < UCF24_TEST else "train"].append(video_id)
    write_bytes(folder / "annots" / "pyannot.pkl", pickle.dumps(annotation, 4))
    for subset, ids in lists.items():
        write_text(folder / "splitfiles" / f"{subset}list01.txt", "".join(f"{video_id}\n" for video_id in ids))


def _ucf24_tube(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    start = int(rng.integers(0, 5))
    return start, walk(rng, frames - int(rng.integers(0, 5)) - start, size)


def _placed(start: int, boxes_n4: np.ndarray, frames: int) -> np.ndarray:
    boxes_t4 = np.full((frames, 4), -1)
    boxes_t4[start : start + len(boxes_n4)] = boxes_n4
    return boxes_t4


def _ucf24_entry(label: int, start: int, boxes_n4: np.ndarray) -> dict[str, object]:
    """As the real file has it: the smallest integer type that holds x, y, width and height."""
    xywh_n4 = np.concatenate([boxes_n4[:, :2], boxes_n4[:, 2:] - boxes_n4[:, :2]], 1)
    kind = np.uint8 if xywh_n4.max() < 256 else np.uint16
    return {"label": label, "sf": start, "ef": np.uint8(start + len(boxes_n4)), "boxes": xywh_n4.astype(kind)}


def _each(names: Sequence[str], count: int) -> Iterable[tuple[int, str, int]]:
    return ((label, name, number) for label, name in enumerate(names) for number in range(count))


# ---------------------------------------------------------------------------------------------------- J-HMDB


def write_jhmdb(folder: Path, seed: int = 0) -> None:
    """ReCompress_Videos/<class>/<name>.avi, puppet_mask/<class>/<name>/puppet_mask.mat and three splits."""
    folder = new_folder(folder)
    size, frames, count = (320, 240), 15, JHMDB_TRAIN + JHMDB_TEST
    for label, name, number in _each(facts.JHMDB.classes, count):
        rng = np.random.default_rng([seed, label, number])
        boxes_t4 = walk(rng, frames, size)
        video = f"{name}/stand_in_{number}_{name}_u_nm_np1"
        write_video(folder / "ReCompress_Videos" / f"{video}.avi", film(rng, [boxes_t4], frames, size))
        mask = folder / "puppet_mask" / video / "puppet_mask.mat"
        with replacing(mask) as temporary:
            savemat(temporary, {"part_mask": _masks(boxes_t4, size)}, do_compression=True, appendmat=False)
    for label, name in enumerate(facts.JHMDB.classes):
        for split in (1, 2, 3):
            marks = [2 if (number + label) % count == split - 1 else 1 for number in range(count)]
            rows = (f"stand_in_{i}_{name}_u_nm_np1.avi {mark}\n" for i, mark in enumerate(marks))
            write_text(folder / "splits" / f"{name}_test_split{split}.txt", "".join(rows))


def _masks(boxes_t4: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    mask_hwt = np.zeros((size[1], size[0], len(boxes_t4)), np.uint8)
    for frame, (x1, y1, x2, y2) in enumerate(boxes_t4):
        mask_hwt[y1:y2, x1:x2, frame] = 1
    return mask_hwt


# ------------------------------------------------------------------------------------------------------- AVA


def write_ava(folder: Path, seed: int = 0) -> None:
    """Training films as frame folders, validation films as .mp4, both from second 900; csv files and a label map.

    Seconds after the third key frame are excluded, so that films are short.
    """
    folder = new_folder(folder)
    for part, count in (("train", AVA_TRAIN), ("val", AVA_TEST)):
        rows: list[str] = []
        excluded: list[str] = []
        for number in range(count):
            name = f"standin{part}{number:02d}"
            rows += _ava_film(folder, part, name, np.random.default_rng([seed, part == "val", number]))
            excluded += [f"{name},{second:04d}\n" for second in range(AVA_SECONDS.stop, 1799)]
        write_text(folder / f"ava_{part}_v2.2.csv", "".join(rows))
        write_text(folder / f"ava_{part}_excluded_timestamps_v2.2.csv", "".join(excluded))
    scored = (f'item {{\n  name: "{facts.AVA.classes[i]}"\n  id: {i + 1}\n}}\n' for i in facts.AVA.evaluated or ())
    write_text(folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt", "".join(scored))


def _ava_film(folder: Path, part: str, name: str, rng: np.random.Generator) -> list[str]:
    """Write a film and give its rows."""
    size, frames = (160, 120), (AVA_SECONDS.stop - 900) * FPS
    people = [walk(rng, frames, size) for _ in range(2)]
    pictures = film(rng, people, frames, size)
    if part == "val":
        write_video(folder / "videos" / f"{name}.mp4", pictures)
    else:
        images = folder / "frames" / name
        images.mkdir(parents=True)
        for number, picture in enumerate(pictures, 1):
            Image.fromarray(picture).save(images / f"{name}_{number:06d}.jpg", quality=85)
    rows = []
    for second in AVA_SECONDS:
        for person, boxes_t4 in enumerate(people):
            box = boxes_t4[(second - 900) * FPS] / np.array([*size, *size])
            text = ",".join(f"{edge:.3f}" for edge in box)
            actions = (AVA_STAND, AVA_TALK) if person == 0 else (AVA_STAND, AVA_WALK)[second % 2 :]
            rows += [f"{name},{second:04d},{text},{action},{person}\n" for action in actions]
    return rows


# ------------------------------------------------------------------------------------------------ own videos


def write_folder(folder: Path, seed: int = 0) -> None:
    """videos/*.mp4, annotations.csv of half of the training videos and of the test videos, test.txt."""
    folder = new_folder(folder)
    size, frames = (160, 120), 20
    rows, test = ["video,frame,x1,y1,x2,y2,label,tube\n"], []
    for label, name, number in _each(("left", "right"), 8):
        rng = np.random.default_rng([seed, label, number])
        boxes_t4 = walk(rng, frames, size)
        video = f"{name}_{number}"
        write_video(folder / "videos" / f"{video}.mp4", film(rng, [boxes_t4], frames, size))
        if number < 2:
            test.append(f"{video}.mp4\n")
        if number < 5:
            boxes = enumerate(boxes_t4[:-2].tolist(), 1)
            rows += [f"{video}.mp4,{frame},{','.join(map(str, box))},{name},0\n" for frame, box in boxes]
            rows += [f"{video}.mp4,{frame},,,,,,\n" for frame in (frames - 1, frames)]
    write_text(folder / "annotations.csv", "".join(rows))
    write_text(folder / "test.txt", "".join(test))
