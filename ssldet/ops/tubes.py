"""Tubes: boxes linked over time, how much two of them overlap, and the links that turn boxes into tubes.

Letters: t frames, n boxes, k classes, p tubes. Boxes are xyxy in pixels, frames are counted from 0. The loops
over boxes are compiled by numba when they are first called, never at import.

Linking follows Gkioxari & Malik 2015 and Peng & Schmid 2016 in the form of YOWO's evaluator (`link_paths`),
and the greedy links of ACT with one frame a step (`link_greedily`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ssldet.ops.compiled import compiled
from ssldet.ops.iou import box_iou

MAX_PATHS = 3


class Tube(NamedTuple):
    """One tube of class `label`: `frames_t` (t,) int64 rising, `boxes_t4` (t, 4) float32, score in [0, 1]."""

    label: int
    score: float
    frames_t: np.ndarray
    boxes_t4: np.ndarray


def tube_iou(a: Tube, b: Tube, *, plus_one: bool = False, least_shared: int = 1) -> float:
    """Spatio-temporal IoU: temporal IoU x mean box IoU over the shared frames, in [0, 1].

    `plus_one` counts pixels inclusively. Tubes that share fewer than `least_shared` frames score 0 (YOWO: 2).
    """
    return float(_tube_iou(a.frames_t, a.boxes_t4, b.frames_t, b.boxes_t4, plus_one, least_shared))


def tube_nms(
    tubes: Sequence[Tube], threshold: float = 0.3, *, plus_one: bool = False, least_shared: int = 1
) -> list[Tube]:
    """Greedy NMS of tubes of one class: the best stays and removes those whose IoU with it is above `threshold`."""
    kept: list[Tube] = []
    for tube in sorted(tubes, key=lambda tube: -tube.score):
        overlaps = (tube_iou(tube, other, plus_one=plus_one, least_shared=least_shared) for other in kept)
        if all(overlap <= threshold for overlap in overlaps):
            kept.append(tube)
    return kept


# ------------------------------------------------------------------------------------------ best paths


def link_paths(
    frames_n: np.ndarray,
    boxes_n4: np.ndarray,
    scores_nk: np.ndarray,
    num_frames: int,
    *,
    plus_one: bool = False,
    paths: int = MAX_PATHS,
) -> list[Tube]:
    """Link the boxes of one video to at most `paths` tubes a class, each over the whole video.

    Per class, the path of greatest sum of IoU + (s_i + s_j) + 0.5 s_i s_j over consecutive frames is taken and
    its boxes are removed, until a frame runs out. A frame without boxes borrows those of the nearest frame that
    has some, the earlier one on a tie. A tube's score is the mean of its boxes' scores.

    Args:
        frames_n: frame of each box, rising.
        boxes_n4: boxes.
        scores_nk: score of each box for each class; NaN where the box does not stand for the class.
        num_frames: length of the video.
        plus_one: count pixels inclusively in IoU.
        paths: most tubes per class.
    """
    tubes: list[Tube] = []
    for labels_k, rows_n in _groups_of_classes(scores_nk):
        rows_m, offsets_t = _fill_frames(frames_n[rows_n], rows_n, num_frames)
        if not len(rows_m):
            continue
        boxes_m4 = np.ascontiguousarray(boxes_n4[rows_m], dtype=np.float64)
        scores_mk = np.ascontiguousarray(scores_nk[np.ix_(rows_m, labels_k)], dtype=np.float64)
        limit = min(paths, int(np.diff(offsets_t).min()))
        paths_pkt = _best_paths(boxes_m4, scores_mk, offsets_t, limit, plus_one)
        tubes += _tubes_of_paths(paths_pkt, labels_k, boxes_m4, scores_mk)
    return sorted(tubes, key=lambda tube: tube.label)


def _groups_of_classes(scores_nk: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Classes that the same boxes stand for (all of them, in the wide form), with the rows of these boxes."""
    offered_nk = ~np.isnan(scores_nk)
    if offered_nk.all():
        yield np.arange(scores_nk.shape[1]), np.arange(len(scores_nk))
        return
    for label in np.flatnonzero(offered_nk.any(axis=0)):
        yield np.array([label]), np.flatnonzero(offered_nk[:, label])


def _fill_frames(frames_n: np.ndarray, rows_n: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every frame of the video, one frame after the other, and where each frame starts (t + 1 offsets)."""
    filled, starts, counts = np.unique(frames_n, return_index=True, return_counts=True)
    if not len(filled):
        return np.empty(0, np.int64), np.zeros(num_frames + 1, np.int64)
    all_frames = np.arange(num_frames)
    later = np.searchsorted(filled, all_frames).clip(max=len(filled) - 1)
    earlier = (later - 1).clip(min=0)
    nearest = np.where(np.abs(filled[earlier] - all_frames) <= np.abs(filled[later] - all_frames), earlier, later)
    offsets_t = np.concatenate(([0], np.cumsum(counts[nearest])))
    within = np.arange(offsets_t[-1]) - np.repeat(offsets_t[:-1], counts[nearest])
    return rows_n[np.repeat(starts[nearest], counts[nearest]) + within], offsets_t


def _tubes_of_paths(
    paths_pkt: np.ndarray, labels_k: np.ndarray, boxes_m4: np.ndarray, scores_mk: np.ndarray
) -> Iterator[Tube]:
    frames_t = np.arange(paths_pkt.shape[2])
    means_pk = np.take_along_axis(scores_mk.T[None], paths_pkt, axis=2).mean(axis=2)
    boxes_pkt4 = boxes_m4.astype(np.float32)[paths_pkt]
    for column, label in enumerate(labels_k.tolist()):
        for path in range(len(paths_pkt)):
            yield Tube(label, float(means_pk[path, column]), frames_t, boxes_pkt4[path, column])


# ------------------------------------------------------------------------------------------ greedy links


def link_greedily(
    frames_n: np.ndarray,
    boxes_n4: np.ndarray,
    scores_nk: np.ndarray,
    *,
    plus_one: bool = True,
    boxes_per_frame: int = 10,
    least_iou: float = 0.5,
    misses: int = 5,
    least_frames: int = 15,
    least_score: float = 0.005,
) -> list[Tube]:
    """Link the boxes of one video as ACT does, one frame a step.

    Per class the `boxes_per_frame` best boxes of each frame take part. Frame by frame, tubes in order of their
    mean score take the best-scored free box whose IoU with their last box is at least `least_iou`; boxes that
    nobody takes start tubes; a tube ends after `misses` frames without a box. Frames missed within a tube get
    boxes between their neighbours'. Tubes that are too short, or score too low, are dropped.
    """
    tubes: list[Tube] = []
    for label in range(scores_nk.shape[1]):
        rows_m = np.flatnonzero(~np.isnan(scores_nk[:, label]))
        scores_m = scores_nk[rows_m, label].astype(np.float64)
        rows_m, scores_m = _best_of_each_frame(frames_n, rows_m, scores_m, boxes_per_frame)
        boxes_m4 = boxes_n4[rows_m].astype(np.float64)
        frames_m = frames_n[rows_m]
        members_m = _greedy_links(frames_m, boxes_m4, scores_m, least_iou, misses, plus_one)
        tubes += [
            _tube_between(label, frames_m[rows], boxes_m4[rows], scores_m[rows])
            for rows in _sound_tubes(members_m, frames_m, scores_m, least_frames, least_score)
        ]
    return tubes


def _best_of_each_frame(
    frames_n: np.ndarray, rows_m: np.ndarray, scores_m: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `most` best rows of each frame, by frame and falling score."""
    order = np.lexsort((-scores_m, frames_n[rows_m]))
    frames_m = frames_n[rows_m[order]]
    place_in_frame = np.arange(len(order)) - np.searchsorted(frames_m, frames_m)
    order = order[place_in_frame < most]
    return rows_m[order], scores_m[order]


def _sound_tubes(
    members_m: np.ndarray, frames_m: np.ndarray, scores_m: np.ndarray, least_frames: int, least_score: float
) -> Iterator[np.ndarray]:
    """The rows of every tube that is long enough and scores enough."""
    order = np.argsort(members_m, kind="stable")
    starts_p = np.flatnonzero(np.diff(members_m[order], prepend=-1))
    stops_p = np.append(starts_p[1:], len(order))
    spans_p = frames_m[order[stops_p - 1]] - frames_m[order[starts_p]] + 1 if len(order) else starts_p
    means_p = np.bincount(members_m, weights=scores_m) / np.maximum(stops_p - starts_p, 1)
    for tube in np.flatnonzero((spans_p >= least_frames) & (means_p >= least_score)):
        yield order[starts_p[tube] : stops_p[tube]]


def _tube_between(label: int, frames_m: np.ndarray, boxes_m4: np.ndarray, scores_m: np.ndarray) -> Tube:
    """A tube through the given boxes, with boxes in between where it missed a frame."""
    frames_t = np.arange(frames_m[0], frames_m[-1] + 1)
    sides = [np.interp(frames_t, frames_m, boxes_m4[:, side]) for side in range(4)]
    return Tube(label, float(scores_m.mean()), frames_t, np.stack(sides, axis=1).astype(np.float32))


# ------------------------------------------------------------------------------------------ compiled loops


@compiled()
def _tube_iou(frames_a, boxes_a, frames_b, boxes_b, plus_one, least_shared):  # type: ignore[no-untyped-def]
    i, j, shared, total = 0, 0, 0, 0.0
    while i < len(frames_a) and j < len(frames_b):
        if frames_a[i] < frames_b[j]:
            i += 1
        elif frames_a[i] > frames_b[j]:
            j += 1
        else:
            total += box_iou(boxes_a[i], boxes_b[j], plus_one)
            shared, i, j = shared + 1, i + 1, j + 1
    if shared < max(least_shared, 1):
        return 0.0
    return total / (len(frames_a) + len(frames_b) - shared)


@compiled()
def _best_paths(boxes_m4, scores_mk, offsets_t, paths, plus_one):  # type: ignore[no-untyped-def]
    """Rows of the best paths, (p, k, t). All classes advance together, so that IoU is computed once for all."""
    num_frames, num_classes = len(offsets_t) - 1, scores_mk.shape[1]
    widest = 0
    for t in range(num_frames):
        widest = max(widest, offsets_t[t + 1] - offsets_t[t])
    found = np.empty((paths, num_classes, num_frames), np.int64)
    taken = np.zeros(scores_mk.shape, np.bool_)
    back = np.zeros(scores_mk.shape, np.int32)
    best = np.empty((widest, num_classes), np.float64)
    nxt = np.empty((widest, num_classes), np.float64)
    for path in range(paths):
        for i in range(offsets_t[1]):  # a video of one frame has no edges: its best-scored box is the path
            for k in range(num_classes):
                start = scores_mk[i, k] if num_frames == 1 else 0.0
                best[i, k] = -np.inf if taken[i, k] else start
        for t in range(1, num_frames):
            low, here, end = offsets_t[t - 1], offsets_t[t], offsets_t[t + 1]
            for j in range(here, end):
                nxt[j - here, :] = -np.inf
                for i in range(low, here):
                    iou = box_iou(boxes_m4[i], boxes_m4[j], plus_one)
                    for k in range(num_classes):
                        s_i, s_j = scores_mk[i, k], scores_mk[j, k]
                        total = best[i - low, k] + (iou + (s_i + s_j) + 0.5 * s_i * s_j)
                        if total > nxt[j - here, k]:
                            nxt[j - here, k] = total
                            back[j, k] = i
                for k in range(num_classes):
                    if taken[j, k]:
                        nxt[j - here, k] = -np.inf
            best, nxt = nxt, best
        last = offsets_t[num_frames - 1]
        for k in range(num_classes):
            row = last + np.argmax(best[: offsets_t[num_frames] - last, k])
            for t in range(num_frames - 1, -1, -1):
                found[path, k, t] = row
                taken[row, k] = True
                row = back[row, k]
    return found


@compiled()
def _greedy_links(frames_m, boxes_m4, scores_m, least_iou, misses, plus_one):  # type: ignore[no-untyped-def]
    """Number of the tube that each row joins; rows are ordered by frame, then by falling score."""
    members = np.full(len(frames_m), -1, np.int64)
    last = np.empty(len(frames_m), np.int64)  # last row of each tube
    total = np.zeros(len(frames_m), np.float64)
    count = np.zeros(len(frames_m), np.int64)
    waiting = np.empty(len(frames_m), np.int64)  # tubes that may still grow
    tubes, open_tubes, start = 0, 0, 0
    while start < len(frames_m):
        end = start
        while end < len(frames_m) and frames_m[end] == frames_m[start]:
            end += 1
        still_open = 0
        for place in range(open_tubes):
            if frames_m[start] - frames_m[last[waiting[place]]] <= misses:
                _insert(waiting, still_open, waiting[place], total, count)
                still_open += 1
        for tube in waiting[:still_open]:
            for row in range(start, end):
                if members[row] < 0 and box_iou(boxes_m4[last[tube]], boxes_m4[row], plus_one) >= least_iou:
                    members[row], last[tube] = tube, row
                    total[tube] += scores_m[row]
                    count[tube] += 1
                    break
        for row in range(start, end):
            if members[row] < 0:
                members[row], last[tubes], total[tubes], count[tubes] = tubes, row, scores_m[row], 1
                waiting[still_open] = tubes
                tubes, still_open = tubes + 1, still_open + 1
        open_tubes, start = still_open, end
    return members


@compiled()
def _insert(waiting, length, tube, total, count):  # type: ignore[no-untyped-def]
    """Put a tube into the first `length` places, which are ordered by falling mean score, after its equals."""
    place = length
    while place > 0 and total[waiting[place - 1]] / count[waiting[place - 1]] < total[tube] / count[tube]:
        waiting[place] = waiting[place - 1]
        place -= 1
    waiting[place] = tube
