"""Video-mAP of simulated detections for the complete UCF24 test split, against the obvious loops.

    python benchmarks/performance/bench_video_map.py --data-root DATA [--videos N] [--loop-videos 8]

910 real annotated videos (158,941 frames), 8 boxes a frame, 24 classes, protocol `yowo`, thresholds 0.1, 0.2 and 0.5.
The suite reads the detections from a Parquet file, as `ssldet evaluate` does. The loops link once for all three
thresholds; they run on a few videos of all lengths, and their time is scaled by the number of frames.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from common import Timer, peak_memory_mb, record

from ssldet import plugins
from ssldet.contracts import Dataset, Truth, Video, VideoDetections
from ssldet.evaluation.detections import DetectionsWriter, read_detections
from ssldet.evaluation.scoring import score

BOXES_A_FRAME = 8
THRESHOLDS = (0.1, 0.2, 0.5)


def simulate(video: Video, truth: Truth, num_classes: int, rng: np.random.Generator) -> VideoDetections:
    """Eight boxes a frame: near the truth where there is one, anywhere else; class scores that lean to the truth."""
    frames_n = np.repeat(np.arange(video.num_frames), BOXES_A_FRAME)
    centre_n2, size_n2 = rng.uniform((0, 0), (320, 240), (len(frames_n), 2)), rng.uniform(30, 150, (len(frames_n), 2))
    boxes_n4 = np.concatenate([centre_n2 - size_n2 / 2, centre_n2 + size_n2 / 2], axis=1)
    scores_nk = rng.standard_normal((len(frames_n), num_classes))
    start_m = np.searchsorted(truth.frames_n, truth.frames_n)
    place_m = np.arange(len(truth.frames_n)) - start_m
    rows_m = (truth.frames_n * BOXES_A_FRAME + place_m)[place_m < BOXES_A_FRAME]
    near_m4 = truth.boxes_n4[place_m < BOXES_A_FRAME]
    boxes_n4[rows_m] = near_m4 + rng.normal(0, 10, near_m4.shape)
    scores_nk[rows_m] += 3 * truth.labels_nk[place_m < BOXES_A_FRAME]
    low_n2, high_n2 = np.minimum(boxes_n4[:, :2], boxes_n4[:, 2:]), np.maximum(boxes_n4[:, :2], boxes_n4[:, 2:])
    odds_nk = np.exp(scores_nk)
    return VideoDetections(
        frames_n,
        np.concatenate([low_n2, high_n2], axis=1).astype(np.float32),
        rng.uniform(0.05, 1, len(frames_n)).astype(np.float32),
        (odds_nk / odds_nk.sum(axis=1, keepdims=True)).astype(np.float32),
    )


# ------------------------------------------------------------------------------------------ the loops

Box = Sequence[float]
Track = dict[int, Box]


def box_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - shared)


def track_iou(a: Track, b: Track) -> float:
    shared = [frame for frame in a if frame in b]
    if len(shared) < 2:
        return 0.0
    mean = sum(box_iou(a[frame], b[frame]) for frame in shared) / len(shared)
    return mean * len(shared) / (len(a) + len(b) - len(shared))


def best_path(frames: list[list[tuple[Box, float]]]) -> list[int]:
    """Place of the chosen box in every frame."""
    totals = [0.0] * len(frames[0])
    choices: list[list[int]] = []
    for before, after in pairwise(frames):
        new, chosen = [], []
        for box_j, s_j in after:
            best, place = -1.0, 0
            for i, (box_i, s_i) in enumerate(before):
                total = totals[i] + box_iou(box_i, box_j) + s_i + s_j + 0.5 * s_i * s_j
                if total > best:
                    best, place = total, i
            new.append(best)
            chosen.append(place)
        totals, choices = new, [*choices, chosen]
    path = [totals.index(max(totals))]
    for chosen in reversed(choices):
        path.append(chosen[path[-1]])
    return path[::-1]


def tracks_of(found: VideoDetections, num_frames: int, label: int) -> list[tuple[float, Track]]:
    """At most three tubes of one class and video; every simulated frame has boxes, so that none are borrowed."""
    frames: list[list[tuple[Box, float]]] = [[] for _ in range(num_frames)]
    for frame, box, scores in zip(found.frames_n, found.boxes_n4.tolist(), found.scores_nk, strict=True):
        frames[frame].append((box, float(scores[label])))
    tracks: list[tuple[float, Track]] = []
    for _ in range(3):
        if not all(frames):
            break
        path = best_path(frames)
        taken = [boxes.pop(place) for boxes, place in zip(frames, path, strict=True)]
        tracks.append((sum(s for _, s in taken) / num_frames, {frame: box for frame, (box, _) in enumerate(taken)}))
    tracks.sort(key=lambda track: -track[0])
    kept: list[tuple[float, Track]] = []
    for score_, track in tracks:
        if all(track_iou(track, other) <= 0.3 for _, other in kept):
            kept.append((score_, track))
    return kept


def average_precision(hits: list[bool], truths: int) -> float:
    area, found, points = 0.0, 0, []
    for rank, hit in enumerate(hits, start=1):
        found += hit
        points.append(found / rank)
    for rank, hit in enumerate(hits):
        area += max(points[rank:]) / (truths + 1e-5) if hit else 0.0
    return area if truths else 0.0


def video_map_by_loops(
    videos: list[Video], truths: dict[str, Truth], found: dict[str, VideoDetections], classes: int
) -> dict[float, float]:
    """Mean AP at each threshold, one class, video, frame and pair of boxes after the other."""
    means = dict.fromkeys(THRESHOLDS, 0.0)
    for label in range(classes):
        own = {video.id: list(truth_tracks(truths[video.id], label)) for video in videos}
        ranked = [(s, video.id, t) for video in videos for s, t in tracks_of(found[video.id], video.num_frames, label)]
        ranked.sort(key=lambda row: -row[0])
        for threshold in THRESHOLDS:
            free, hits = {name: list(tracks) for name, tracks in own.items()}, []
            for _, name, track in ranked:
                overlaps = [track_iou(track, other) for other in free[name]]
                hits.append(bool(overlaps) and max(overlaps) >= threshold)
                if hits[-1]:
                    free[name].pop(overlaps.index(max(overlaps)))
            means[threshold] += average_precision(hits, sum(map(len, own.values()))) / classes
    return means


def truth_tracks(truth: Truth, label: int) -> Iterator[Track]:
    for tube in set(truth.tubes_n[truth.labels_nk[:, label]].tolist()):
        rows = np.flatnonzero(truth.tubes_n == tube)
        yield {int(truth.frames_n[row]): truth.boxes_n4[row].tolist() for row in rows}


# ------------------------------------------------------------------------------------------ the measurement


def write(path: Path, dataset: Dataset, videos: Sequence[Video]) -> None:
    rng = np.random.default_rng(0)
    with DetectionsWriter(path, dataset.facts) as writer:
        for video in videos:
            writer.add(video.id, simulate(video, dataset.truth(video.id), dataset.facts.num_classes, rng))


def score_file(path: Path, dataset: Dataset, videos: Sequence[Video]) -> dict[float, float | None]:
    detections = read_detections(path, dataset.facts, videos)
    result = score(dataset.facts, videos, dataset.truth, detections, {"video_map": ["yowo"]})["video_map"]["yowo"]
    return {threshold: result.thresholds[str(threshold)].mean for threshold in THRESHOLDS}


def in_own_process(path: Path, data_root: Path, videos: int) -> dict[str, float]:
    """Times and peak memory of scoring the first `videos` videos in a fresh process."""
    command = [sys.executable, __file__, "--data-root", str(data_root), "--videos", str(videos), "--score", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@click.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path), help="Folder of UCF24's annotation.")
@click.option("--videos", "count", type=int, help="Score the first so many test videos only.")
@click.option("--loop-videos", default=8, show_default=True, help="Videos that the loops run on.")
@click.option("--score", "path", type=click.Path(path_type=Path), help="Used by the script itself.")
def main(data_root: Path, count: int | None, loop_videos: int, path: Path | None) -> None:
    dataset = plugins.load("dataset", "ucf24")(data_root)
    videos = dataset.videos("test")[:count]
    if path is not None:
        with Timer() as timer:
            score_file(path, dataset, videos)
        figures = {"seconds": timer.seconds, "wall_seconds": timer.wall_seconds, "peak_memory_mb": peak_memory_mb()}
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(dataset, videos, loop_videos, Path(folder), data_root)


def measure(dataset: Dataset, videos: Sequence[Video], loop_videos: int, folder: Path, data_root: Path) -> None:
    by_length = sorted(videos, key=lambda video: video.num_frames)
    few = by_length[:: max(1, len(by_length) // loop_videos)][:loop_videos]
    write(folder / "few.parquet", dataset, few)
    found, truths = (
        read_detections(folder / "few.parquet", dataset.facts, few),
        {v.id: dataset.truth(v.id) for v in few},
    )
    by_suite = score_file(folder / "few.parquet", dataset, few)  # compiles what is not in numba's cache yet
    with Timer() as loops:
        by_loops = video_map_by_loops(few, truths, dict(found), dataset.facts.num_classes)
    for threshold in THRESHOLDS:
        value = by_suite[threshold]
        assert value is not None and abs(value - by_loops[threshold]) <= 1e-6, f"another mAP: {value}"
    runs = {}
    for part in (len(videos) // 4, len(videos) // 2, len(videos)):
        write(folder / f"{part}.parquet", dataset, videos[:part])
        runs[part] = in_own_process(folder / f"{part}.parquet", data_root, part)
    frames, few_frames = (sum(video.num_frames for video in part) for part in (videos, few))
    record(
        f"video-mAP, UCF24 test split, {len(videos)} videos",
        {
            **runs[len(videos)],
            "loops_seconds": loops.seconds * frames / few_frames,
            "loops_measured": f"{loops.seconds:.1f} s on {len(few)} videos of {few_frames} frames, scaled by frames",
            "aim": "100x, 60 s, 4 GB",
            "frames": frames,
            "boxes": frames * BOXES_A_FRAME,
            "by_number_of_videos": runs,
        },
    )


if __name__ == "__main__":
    main()
