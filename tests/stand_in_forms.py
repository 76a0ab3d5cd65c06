"""Stand-in data of UCF24 written again in the other forms in which its annotation is passed around."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from scipy.io import savemat

from ssldet.contracts import Dataset, Subset

SUBSETS: tuple[Subset, ...] = ("train", "test")


def ids(dataset: Dataset, subset: Subset) -> list[str]:
    return [video.id for video in dataset.videos(subset)]


def tubes_of(dataset: Dataset, video_id: str) -> list[tuple[int, np.ndarray]]:
    truth = dataset.truth(video_id)
    rows = [truth.tubes_n == tube for tube in np.unique(truth.tubes_n)]
    return [(int(truth.frames_n[row].min()), truth.boxes_n4[row].astype(int)) for row in rows]


def write_mat(dataset: Dataset, path: Path) -> None:
    """finalAnnots.mat: `ef` inclusive and `sf` from 1; small integers as MATLAB keeps them."""
    kind = [("ef", object), ("sf", object), ("class", object), ("boxes", object)]
    entries = []
    for video in (video for subset in SUBSETS for video in dataset.videos(subset)):
        tubes = np.empty((1, len(tubes_of(dataset, video.id))), kind)
        for place, (start, boxes_n4) in enumerate(tubes_of(dataset, video.id)):
            xywh = np.concatenate([boxes_n4[:, :2], boxes_n4[:, 2:] - boxes_n4[:, :2]], 1).astype(np.uint16)
            tubes[0, place] = (np.uint8(start + len(boxes_n4)), np.uint8(start + 1), np.uint8(1), xywh)
        entries.append((np.uint16(video.num_frames), video.id, tubes))
    annot = np.empty((1, len(entries)), [("num_imgs", object), ("name", object), ("tubes", object)])
    for place, entry in enumerate(entries):
        annot[0, place] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annot": annot}, do_compression=True)


def act_content(dataset: Dataset, shift: int) -> dict[str, object]:
    videos = [video for subset in SUBSETS for video in dataset.videos(subset)]
    tubes = {}
    for video in videos:
        rows = [
            np.column_stack([np.arange(start + 1, start + 1 + len(boxes)), boxes - shift]).astype(np.float32)
            for start, boxes in tubes_of(dataset, video.id)
        ]
        tubes[video.id] = {video.classes[0]: rows}
    return {
        "labels": list(dataset.facts.classes),
        "gttubes": tubes,
        "nframes": {video.id: video.num_frames for video in videos},
        "resolution": {video.id: (video.height, video.width) for video in videos},
        "train_videos": [ids(dataset, "train")],
        "test_videos": [ids(dataset, "test")],
    }


def write_act(dataset: Dataset, path: Path, shift: int) -> None:
    """ACT's pickle: frames from 1, edges less `shift`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(act_content(dataset, shift), 4))


def write_labels(dataset: Dataset, folder: Path) -> None:
    """labels/<Class>/<video>/00001.txt of every frame with boxes."""
    for video in (video for subset in SUBSETS for video in dataset.videos(subset)):
        truth = dataset.truth(video.id)
        (folder / video.id).mkdir(parents=True)
        for frame in truth.annotated_frames:
            rows = truth.boxes_n4[truth.frames_n == frame].astype(int)
            lines = (f"{video.classes[0] + 1} {' '.join(map(str, row))}\n" for row in rows.tolist())
            (folder / video.id / f"{frame + 1:05d}.txt").write_text("".join(lines))
