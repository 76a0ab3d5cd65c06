"""Figure 5: test frames of a run with the truth and the detections in them, chosen by rule and not by hand.

    choose_frames(run, dataset)     what is shown, as plain data
    frames_of(run, dataset, ids)    frames of the videos that are named, a row a video
    picture(dataset, shown)         the pixels of one of the frames
    detections_of(run, ...)         what a run detected

One annotated frame is drawn of each video. It is right when its best box, the detection of the highest score, overlaps
a truth of its class by an IoU of 0.5; else it is a failure. Of either kind as many videos are drawn as there are
places, and failures fill the last row. All draws follow from one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Truth, Video, VideoDetections, VideoSource
from ssldet.data.batches import ClipOptions
from ssldet.data.frame_store import FrameStore
from ssldet.data.video import read_frames
from ssldet.errors import RequestError, UnknownName
from ssldet.evaluation.detections import Detections, read_detections
from ssldet.ops.iou import paired_iou
from ssldet.report.run_selection import Run
from ssldet.runs import layout
from ssldet.runs.rescoring import scored_videos

MIN_IOU = 0.5
SHOWN_SCORE, MOST_SHOWN = 0.25, 3
"""The best detection is shown, and the next ones of at least this score; so many at most."""

LARGEST_VIDEO = 1 << 30
"""Bytes of decoded frames beyond which a picture comes from the frames that the run has prepared."""


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A box xyxy in pixels of the video, and what is written beside it; `score` is None for truth."""

    box_4: np.ndarray
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ShownFrame:
    """A frame of the figure. `iou` is that of the best box with the truth that it meets best."""

    video: Video
    frame: int
    number: int
    truth: tuple[Box, ...]
    detections: tuple[Box, ...]
    iou: float
    right: bool


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Figure 5 as data: rows of right frames, then one row of failures; a row is empty where there are none.

    Of named videos each has a row. `labels` names the rows; `judged` and `right` count the frames that were drawn.
    """

    run: Run
    rows: tuple[tuple[ShownFrame, ...], ...]
    judged: int
    right: int
    seed: int
    labels: tuple[str, ...]


def choose_frames(run: Run, dataset: Dataset, *, right_rows: int = 2, columns: int = 4, seed: int = 0) -> Frames:
    """Draw the frames to show.

    Raises:
        RequestError: the run kept no detections, or no frame of its videos is annotated.
        DetectionsError, DataError: the detections do not fit the data, or data are absent.
    """
    videos = scored_videos(run.entry.folder, run.record, run.experiment, dataset)
    detections = detections_of(run, dataset, videos)
    draws = np.random.default_rng(seed)
    judged = [
        judge(dataset.facts, video, truth, int(draws.choice(truth.annotated_frames)), detections[video.id])
        for video in videos
        if len((truth := dataset.truth(video.id)).annotated_frames)
    ]
    if not judged:
        raise RequestError(f"no frame of the {len(videos)} videos that run {run.entry.id} was scored on is annotated")
    order = [judged[place] for place in draws.permutation(len(judged))]
    right, wrong = ([frame for frame in order if frame.right is kind] for kind in (True, False))
    rows = [right[start : start + columns] for start in range(0, right_rows * columns, columns)]
    labels = (*["right"] * right_rows, "failures")
    return Frames(run, (*map(tuple, rows), tuple(wrong[:columns])), len(judged), len(right), seed, labels)


def frames_of(run: Run, dataset: Dataset, ids: Sequence[str], *, columns: int = 4) -> Frames:
    """Frames of the named videos: of each a row, spread evenly over its annotated frames with truth.

    Raises:
        RequestError: the run kept no detections, was not scored on such a video, or nothing is annotated in it.
        DetectionsError, DataError: the detections do not fit the data, or data are absent.
    """
    scored = scored_videos(run.entry.folder, run.record, run.experiment, dataset)
    known = {video.id: video for video in scored}
    for video_id in ids:
        if video_id not in known:
            raise UnknownName(f"video that run {run.entry.id} was scored on", video_id, known)
    detections = detections_of(run, dataset, scored)
    rows = []
    for video_id in ids:
        truth = dataset.truth(video_id)
        frames_m = truth.annotated_frames
        if not len(frames_m):
            raise RequestError(f"no frame of video {video_id} has a truth box")
        places = np.unique(np.linspace(0, len(frames_m) - 1, min(columns, len(frames_m))).round().astype(int))
        video, found = known[video_id], detections[video_id]
        rows.append(tuple(judge(dataset.facts, video, truth, int(frames_m[place]), found) for place in places))
    judged = [frame for row in rows for frame in row]
    return Frames(run, tuple(rows), len(judged), sum(frame.right for frame in judged), 0, tuple(ids))


def detections_of(run: Run, dataset: Dataset, videos: Sequence[Video]) -> Detections:
    """The detections of a run. Raises RequestError where it kept none."""
    path = run.entry.folder / layout.DETECTIONS
    if not path.is_file():
        raise RequestError(
            f"run {run.entry.id} keeps no {layout.DETECTIONS} in {run.entry.folder}; copy its config.yaml, remove "
            f"the run (`ssldet runs rm {run.entry.id}`), and make it again: ssldet run --config COPY"
        )
    return read_detections(path, dataset.facts, videos)


def judge(facts: DatasetFacts, video: Video, truth: Truth, frame: int, detections: VideoDetections) -> ShownFrame:
    """One frame with its boxes, and whether the best of them is right."""
    true, detected = np.flatnonzero(truth.frames_n == frame), np.flatnonzero(detections.frames_n == frame)
    scores_nk = np.nan_to_num(detections.scores_nk[detected])
    scores_n = detections.confidence_n[detected] * (1 if facts.multilabel else scores_nk.max(axis=1, initial=0))
    order = np.argsort(-scores_n, kind="stable")
    iou, right = _judge_best(detections.boxes_n4[detected[order[:1]]], scores_nk[order[:1]], truth, true)
    shown = [n for rank, n in enumerate(order[:MOST_SHOWN]) if rank == 0 or scores_n[n] >= SHOWN_SCORE]
    return ShownFrame(
        video=video,
        frame=frame,
        number=facts.numbering.to_file(frame),
        truth=tuple(Box(truth.boxes_n4[n], _names(facts, truth.labels_nk[n])) for n in true),
        detections=tuple(
            Box(detections.boxes_n4[detected[n]], _names(facts, _predicted(facts, scores_nk[n])), float(scores_n[n]))
            for n in shown
        ),
        iou=iou,
        right=right,
    )


def _judge_best(boxes_14: np.ndarray, scores_1k: np.ndarray, truth: Truth, true: np.ndarray) -> tuple[float, bool]:
    """IoU of the best box with the truth that it meets best, and whether it is right; (0, False) without a box."""
    if not len(boxes_14):
        return 0.0, False
    truth_n4 = truth.boxes_n4[true]
    ious_n = paired_iou(np.broadcast_to(boxes_14, truth_n4.shape), truth_n4)
    same_class_n = truth.labels_nk[true, int(scores_1k[0].argmax())]
    return float(ious_n.max()), bool((same_class_n & (ious_n >= MIN_IOU)).any())


def _predicted(facts: DatasetFacts, scores_k: np.ndarray) -> np.ndarray:
    """(k,) bool: the best class, and on multi-label data all that are more likely than not."""
    best_k = np.arange(len(scores_k)) == scores_k.argmax()
    return best_k | (scores_k > 0.5) if facts.multilabel else best_k


def _names(facts: DatasetFacts, labels_k: np.ndarray, most: int = 2) -> str:
    """Class names, the first ones of many."""
    names = [facts.classes[label] for label in np.flatnonzero(labels_k)]
    return ", ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")


def picture(dataset: Dataset, shown: ShownFrame, clip: ClipOptions) -> np.ndarray:
    """The frame's pixels (h, w, 3) uint8: as large as the video, or `clip.size` square, of the frames prepared.

    A whole film is not decoded for one of its frames.

    Raises:
        DataError: it cannot be decoded, or a film's frames are not prepared.
    """
    video, source = shown.video, dataset.source(shown.video.id)
    if source.file is None:
        last = len(source.images) - 1
        source = VideoSource(images=source.images[min(shown.frame, last) :][:1])
        return read_frames(source, 1).frames_thwc[0]
    if 3 * video.num_frames * video.width * video.height > LARGEST_VIDEO:
        frame_hwc: np.ndarray = np.array(FrameStore.for_clips(dataset, clip).frames(video.id)[shown.frame])
        return frame_hwc
    return read_frames(source, video.num_frames).frames_thwc[shown.frame]
