"""What looks wrong with an annotation though it can be read, by its truth alone: nothing is opened or decoded.

Errors make a data set unfit; doubts are for a look. Each check sees all annotated videos, and speaks once.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Truth, Video
from ssldet.errors import DataError

MARGIN = 1.0
"""Pixels that a box may stick out of the frame: annotation tools count edges, or centres, of pixels."""

SPARSE = 0.9
"""A tube with boxes on a smaller share of the frames that it spans is sparse."""

FEW_BOXES = 20
"""With fewer boxes nothing is said of the frame's part that they cover."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedVideo:
    """A video with boxes or background frames, and the subset that it is in."""

    video: Video
    truth: Truth
    subset: Subset

    @property
    def boxes_n4(self) -> np.ndarray:
        return self.truth.boxes_n4

    @property
    def edges_4(self) -> np.ndarray:
        """x1 y1 x2 y2 of the whole frame."""
        return np.array([0, 0, self.video.width, self.video.height], np.float64)


def listed_videos(dataset: Dataset, split: int = 1, only: Collection[str] | None = None) -> list[tuple[Video, Subset]]:
    """All videos of a split with their subsets; `only`: ids of those to look at."""
    videos = [(video, subset) for subset in get_args(Subset) for video in _listed(dataset, subset, split)]
    return [(video, subset) for video, subset in videos if only is None or video.id in only]


def annotated(dataset: Dataset, videos: Iterable[tuple[Video, Subset]]) -> list[AnnotatedVideo]:
    """Those that the annotation speaks of; what cannot be read is left to `verify`."""
    read = (
        AnnotatedVideo(video, truth, subset)
        for video, subset in videos
        if (truth := _truth(dataset, video)) is not None
    )
    return [video for video in read if len(video.truth.key_frames_m)]


def _listed(dataset: Dataset, subset: Subset, split: int) -> Sequence[Video]:
    try:
        return dataset.videos(subset, split)
    except DataError:
        return []


def _truth(dataset: Dataset, video: Video) -> Truth | None:
    try:
        return dataset.truth(video.id)
    except DataError:
        return None


def doubt(what: str, remedy: str = "", video: str = "") -> Problem:
    """A problem for a look."""
    return Problem(what, remedy=remedy, video=video, severity="doubt")


def named(ids: Sequence[str], what: str = "video") -> str:
    """ "1 video (left_0)", "12 videos (such as left_0)"."""
    which = ids[0] if len(ids) == 1 else f"such as {ids[0]}"
    return f"{count(len(ids), what)} ({which})"


def count(number: int, what: str) -> str:
    """ "1 box", "2 boxes"."""
    plural = {"box": "boxes", "class": "classes"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else plural}"


# ---------------------------------------------------------------------------------------------------- coordinates


def _units(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Boxes in shares of the frame instead of pixels."""
    small = [v.video.id for v in videos if len(v.boxes_n4) and v.boxes_n4.max() <= 1]
    if small:
        yield doubt(
            f"all boxes of {named(small)} lie between 0 and 1: they look like shares of the frame",
            "boxes are in pixels: multiply x by the width, y by the height",
        )


def _scale(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Boxes of frames of another size: all too far out, or all in the upper left of the frame."""
    shares_n2 = [v.boxes_n4[:, 2:] / v.edges_4[2:] for v in videos if len(v.boxes_n4) and v.boxes_n4.max() > 1]
    if sum(map(len, shares_n2)) < FEW_BOXES:
        return
    reach = np.concatenate(shares_n2).max(0)
    beyond = float(np.mean(np.concatenate(shares_n2) > 1.02))
    if beyond > 0.1 and _alike(reach):
        yield doubt(
            f"{beyond:.0%} of right and lower edges lie outside the frame, up to {reach[0]:.2f} times its width and "
            f"{reach[1]:.2f} times its height: the boxes look drawn on larger frames",
            "scale boxes to the size of the videos, or give the videos that were annotated",
        )
    elif reach.max() < 0.6 and _alike(reach):
        yield doubt(
            f"no box reaches beyond {reach[0]:.0%} of the width and {reach[1]:.0%} of the height: the boxes look drawn "
            "on smaller frames, or given in percent",
            "scale boxes to the size of the videos, or give the videos that were annotated",
        )


def _alike(reach_2: np.ndarray) -> bool:
    """Whether x and y are off by about one ratio."""
    return bool(reach_2.min() > 0.75 * reach_2.max())


def _outside(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Boxes wholly outside the frame, which are errors, and counts of those that stick out."""
    partly: dict[str, int] = {}
    boxes = 0
    for v in videos:
        x1, y1, x2, y2 = v.boxes_n4.T
        _, _, width, height = v.edges_4
        outside_n = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
        if outside_n.any():
            yield _wholly_outside(v, outside_n)
        beyond_n = (v.boxes_n4[:, :2] < -MARGIN).any(1) | (v.boxes_n4[:, 2:] > v.edges_4[2:] + MARGIN).any(1)
        boxes += len(v.boxes_n4)
        if sticking := int((beyond_n & ~outside_n).sum()):
            partly[v.video.id] = sticking
    if partly:
        yield doubt(
            f"{sum(partly.values()):,} of {count(boxes, 'box')} stick out of the frame by more than a pixel, in "
            f"{named(list(partly))}"
        )


def _wholly_outside(v: AnnotatedVideo, outside_n: np.ndarray) -> Problem:
    first = int(np.flatnonzero(outside_n)[0])
    edges = ", ".join(f"{edge:g}" for edge in v.boxes_n4[first])
    what = (
        f"{v.video.id}: {count(int(outside_n.sum()), 'box')} wholly outside its frame of {v.video.width} x "
        f"{v.video.height}, the first in frame {v.truth.frames_n[first] + 1}: ({edges})"
    )
    return Problem(what, remedy="boxes are x1 y1 x2 y2 in pixels of the video", video=v.video.id)


def _duplicates(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """The same box with the same label twice in a frame."""
    twice = {v.video.id: number for v in videos if (number := _repeated(v.truth))}
    if twice:
        what = f"{count(sum(twice.values()), 'box')} given twice in one frame with the same label, in"
        yield doubt(f"{what} {named(list(twice))}", "each counts as an actor of its own: remove the copies")


def _repeated(truth: Truth) -> int:
    rows = np.column_stack([truth.frames_n, truth.boxes_n4.round(1), truth.labels_nk])
    return len(rows) - len(np.unique(rows, axis=0)) if len(rows) else 0


# ----------------------------------------------------------------------------------------------- classes and tubes


def _class_names(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Names that look like two spellings of one class."""
    for one, other in combinations(facts.classes, 2):
        if _nearly_equal(one, other):
            yield doubt(f"classes {one!r} and {other!r} look like one", "if they are, give one name to both")


def _nearly_equal(one: str, other: str) -> bool:
    """But for case, accents and punctuation; or for one letter of a long word."""
    a, b = _letters(one), _letters(other)
    return a == b or a + "s" == b or b + "s" == a or (min(len(a), len(b)) >= 6 and _one_letter_apart(a, b))


def _letters(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in plain if letter.isalnum()) or name


def _one_letter_apart(a: str, b: str) -> bool:
    if len(a) > len(b):
        a, b = b, a
    same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return len(b) - len(a) <= 1 and a[same + (len(a) == len(b)) :] == b[same + 1 :]


def _empty_classes(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Classes that the boxes of one subset lack: not learnt, or not scored."""
    for subset in get_args(Subset):
        of_subset = [v.truth.labels_nk.any(0) for v in videos if v.subset == subset]
        if not of_subset:
            continue
        scored = facts.evaluated if facts.evaluated is not None else range(facts.num_classes)
        missing = [facts.classes[label] for label in scored if not np.any(of_subset, 0)[label]]
        if missing:
            what = {"train": "training", "test": "test"}[subset]
            yield doubt(f"no {what} video has boxes of {named(missing, 'class')}")


def _unlinked(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Boxes without tubes, on data whose frames follow each other."""
    boxes = sum(len(v.boxes_n4) for v in videos)
    loose = {v.video.id: number for v in videos if (number := int((v.truth.tubes_n < 0).sum()))}
    if loose and facts.numbering.step == 1:
        what = f"{sum(loose.values()):,} of {count(boxes, 'box')} belong to no tube, in {named(list(loose))}"
        yield doubt(what, "video-mAP needs tubes and leaves these out: export tracks, with their numbers")


def _sparse(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Tubes with boxes on a small share of the frames that they span."""
    if facts.numbering.step != 1:
        return
    shares = {v.video.id: tube_shares(v.truth) for v in videos}
    sparse = [video_id for video_id, share_m in shares.items() if (share_m < SPARSE).any()]
    if sparse:
        thin = np.concatenate([shares[video_id][shares[video_id] < SPARSE] for video_id in sparse])
        yield doubt(
            f"{count(len(thin), 'tube')} with boxes on only {thin.mean():.0%} of the frames from first to last, in "
            f"{named(sparse)}",
            "frames between that the annotation does not list are unknown: not trained on with labels, not scored; "
            "nothing need be done where only some frames were annotated",
        )


def tube_shares(truth: Truth) -> np.ndarray:
    """Of each tube the share of frames with a box, from its first to its last."""
    tubes = [np.unique(truth.frames_n[truth.tubes_n == tube]) for tube in np.unique(truth.tubes_n[truth.tubes_n >= 0])]
    return np.array([len(frames) / (frames[-1] - frames[0] + 1) for frames in tubes])


def _background(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Listed frames without boxes: most of them, or all of a video."""
    listed = sum(len(v.truth.key_frames_m) for v in videos)
    empty = sum(len(v.truth.background_frames) for v in videos)
    if listed and empty > 0.75 * listed:
        what = f"{empty:,} of {count(listed, 'frame')} that the annotation speaks of have no box ({empty / listed:.0%})"
        yield doubt(what, "they count as background; frames that nobody looked at must not be listed")
    whole = [v.video.id for v in videos if not len(v.boxes_n4)]
    if whole:
        yield doubt(f"{named(whole)} without a box, though frames are listed", "they count as background throughout")


# --------------------------------------------------------------------------------------------------------- groups


def count_groups(videos: Iterable[tuple[Video, Subset]]) -> dict[str, int]:
    """Subset -> how many groups its videos are of; empty where no video has a group.

    A video that stands alone is a group of its own.
    """
    groups: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for video, subset in videos:
        groups[subset].add((video.group, "" if video.group else video.id))
    grouped = any(group for members in groups.values() for group, _ in members)
    return {subset: len(members) for subset, members in groups.items()} if grouped else {}


Check = Callable[[DatasetFacts, Sequence[AnnotatedVideo]], Iterator[Problem]]

CHECKS: dict[str, Check] = {
    "units of boxes": _units,
    "scale of boxes": _scale,
    "boxes outside the frame": _outside,
    "duplicated boxes": _duplicates,
    "class names": _class_names,
    "classes without boxes": _empty_classes,
    "boxes without tubes": _unlinked,
    "sparse tubes": _sparse,
    "background": _background,
}
"""What is looked at, by name."""
