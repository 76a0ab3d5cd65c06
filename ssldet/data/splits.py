"""Labelled and unlabelled splits: stratified by class, frozen by video id, hashed.

The rule, the same on every machine and for every order of the videos:

1. Labelled in all: ratio x N, rounded half up, counted exactly in decimals. N counts the annotated videos; those
   without any class (nobody annotated them) are always unlabelled.
2. Shared out over the classes in proportion to their sizes by largest remainder, at least one each; of equal
   remainders the class that comes first in label order takes it. A video of several classes counts for the first
   that it lists, which by convention is the one with most boxes.
3. Within a class, ids are ordered by the SHA-256 of "<seed>:<id>" and the first ones are labelled. So a larger ratio
   keeps what a smaller one labelled, as far as the classes' shares grow.
4. The validation videos are drawn by the same rule from the labelled ones and taken out of them by whole groups
   (`Video.group`; a video without one is a group of its own). Class after class in label order, groups come in the
   order of their first labelled video; one is taken with all its labelled videos, whatever their class, where that
   brings the class nearer to its share, and left where it would take a class's last labelled video. So each class
   has validation videos if it has two or more labelled groups, unless one of these holds all that another class has.
5. Unlabelled videos of a group in validation are set aside, neither trained on nor scored: validation shares no group
   with what is trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from ssldet.contracts import Video
from ssldet.errors import SplitError
from ssldet.util.files import content_hash, write_text


@dataclass(frozen=True, slots=True)
class LabelSplit:
    """Which training videos are labelled, by id; each tuple sorted.

    Attributes:
        dataset: name of the data set.
        split: number of the official split whose training part was divided.
        ratio: share of the videos that are labelled, validation included, in (0, 1].
        seed: of the draw.
        val_fraction: share of the labelled videos that is held out for validation, in [0, 1).
        labelled: ids to train on with labels.
        unlabelled: ids to train on without.
        validation: ids to choose settings on.
        set_aside: ids that are used for nothing, since their group is in validation.
    """

    dataset: str
    split: int
    ratio: float
    seed: int
    val_fraction: float
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `content`."""
        return content_hash(self.content())

    def content(self) -> dict[str, Any]:
        """All fields; `set_aside` only where there are some, so that splits without keep the hash they ever had."""
        content = asdict(self)
        if not self.set_aside:
            del content["set_aside"]
        return content


def draw(
    dataset_name: str,
    videos: Sequence[Video],
    classes: Sequence[str],
    *,
    split: int,
    ratio: float,
    seed: int,
    val_fraction: float = 0.0,
) -> LabelSplit:
    """Divide training videos into labelled, unlabelled, validation and set aside, as the head of this page says.

    Args:
        videos: the training videos of one official split, in any order.
        classes: class names in label order. Those without a video are not required.

    Raises:
        SplitError: ratio outside (0, 1], val_fraction outside [0, 1), no annotated videos, an id twice, a video whose
            class is not in the list, or fewer labelled videos than classes.
    """
    ratio, val_fraction = _checked(ratio, val_fraction)
    strata = _strata(videos, classes, seed)
    annotated = sum(map(len, strata.values()))
    total = round_half_up(ratio, annotated)
    if total < len(strata):
        raise SplitError(
            f"ratio {ratio:g} of {annotated} {dataset_name} videos labels {total}, fewer than its {len(strata)} "
            f"classes; the smallest ratio that works is {_smallest_ratio(len(strata), annotated):g}"
        )
    sizes = {label: len(ids) for label, ids in strata.items()}
    quotas = share_out(sizes, total, least=dict.fromkeys(sizes, 1))
    labelled = {label: ids[: quotas[label]] for label, ids in strata.items()}
    groups = {video.id: video.group or video.id for video in videos}
    validation = _validation(labelled, groups, val_fraction)
    closed = {groups[video_id] for video_id in validation}
    chosen = {video_id for ids in labelled.values() for video_id in ids}
    rest = set(groups) - chosen
    set_aside = {video_id for video_id in rest if groups[video_id] in closed}
    return LabelSplit(
        dataset=dataset_name,
        split=int(split),
        ratio=ratio,
        seed=int(seed),
        val_fraction=val_fraction,
        labelled=tuple(sorted(chosen - validation)),
        unlabelled=tuple(sorted(rest - set_aside)),
        validation=tuple(sorted(validation)),
        set_aside=tuple(sorted(set_aside)),
    )


def share_out(
    sizes: Mapping[int, int], total: int, *, least: Mapping[int, int], most: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Share `total` over classes in proportion to their sizes by largest remainder, within `least` and `most`.

    Every class starts at its least; then one at a time goes to the class that lies furthest below its proportional
    share, which without limits is the method of largest remainder. Whole numbers only: no rounding anywhere.
    """
    most = most or sizes
    given, everything = dict(least), sum(sizes.values())
    for _ in range(total - sum(given.values())):
        open_classes = [label for label in sorted(sizes) if given[label] < most[label]]
        if not open_classes:
            break
        furthest = max(open_classes, key=lambda label: total * sizes[label] - given[label] * everything)
        given[furthest] += 1
    return given


def round_half_up(fraction: float, count: int) -> int:
    """fraction x count to the nearest whole number, halves up; 0.29 x 50 is 14.5 and gives 15."""
    return math.floor(Fraction(str(fraction)) * count + Fraction(1, 2))


def write(split: LabelSplit, path: Path) -> None:
    """Freeze a split to a JSON file with its hash, whole or not at all."""
    write_text(path, json.dumps({**split.content(), "hash": split.hash}, indent=1) + "\n")


def read(path: Path) -> LabelSplit:
    """Read a frozen split.

    Raises:
        SplitError: the file is absent, is no split, or its content does not have the hash that it names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SplitError(f"{path}: not a readable split file ({error})") from error
    names = {field.name for field in fields(LabelSplit)}
    if not isinstance(content, dict) or {*content, "set_aside"} != names | {"hash"}:
        raise SplitError(f"{path}: not a split file; expected a JSON object with {', '.join(sorted(names))} and hash")
    split = _from_json({name: content.get(name, []) for name in names}, path)
    if split.hash != content["hash"]:
        raise SplitError(f"{path}: was changed after it was frozen (its hash differs); draw it again or restore it")
    return split


def _from_json(content: Mapping[str, Any], path: Path) -> LabelSplit:
    kinds: dict[str, Any] = {"dataset": str, "split": int, "ratio": float, "seed": int, "val_fraction": float}
    id_lists = ("labelled", "unlabelled", "validation", "set_aside")
    sound = all(isinstance(content[name], kind) for name, kind in kinds.items()) and all(
        isinstance(content[name], list) and all(isinstance(item, str) for item in content[name]) for name in id_lists
    )
    if not sound:
        raise SplitError(f"{path}: a field of the split file has the wrong type")
    return LabelSplit(**{**content, **{name: tuple(content[name]) for name in id_lists}})


def _checked(ratio: float, val_fraction: float) -> tuple[float, float]:
    if not 0 < ratio <= 1:
        raise SplitError(f"ratio must be above 0 and at most 1, got {ratio}")
    if not 0 <= val_fraction < 1:
        raise SplitError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    return float(ratio), float(val_fraction)


def _strata(videos: Iterable[Video], classes: Sequence[str], seed: int) -> dict[int, list[str]]:
    """Class -> its video ids in the order in which they are drawn."""
    strata: dict[int, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for video in videos:
        if video.id in seen:
            raise SplitError(f"video {video.id} is listed twice")
        seen.add(video.id)
        if not video.classes:
            continue
        if not 0 <= video.classes[0] < len(classes):
            raise SplitError(f"video {video.id} has no class of the {len(classes)} known; it cannot be stratified")
        strata[video.classes[0]].append(video.id)
    if not strata:
        raise SplitError("there are no annotated training videos to draw labelled ones from")
    return {label: sorted(strata[label], key=lambda video_id: _rank(seed, video_id)) for label in sorted(strata)}


def _rank(seed: int, video_id: str) -> tuple[str, str]:
    return hashlib.sha256(f"{seed}:{video_id}".encode("utf-8", "surrogateescape")).hexdigest(), video_id


def _smallest_ratio(classes: int, videos: int) -> float:
    """The smallest ratio, in steps of 0.0001, that labels as many videos as there are classes."""
    return math.ceil((classes - Fraction(1, 2)) / videos * 10000) / 10000


def _validation(labelled: Mapping[int, Sequence[str]], groups: Mapping[str, str], val_fraction: float) -> set[str]:
    """The labelled videos to hold out: whole groups, class after class; see the head of this page.

    Args:
        labelled: class -> its labelled videos in the order in which they are drawn.
        groups: video -> its group.
    """
    quotas = _validation_quotas(labelled, groups, val_fraction)
    members: dict[str, Counter[int]] = defaultdict(Counter)  # group -> class -> labelled videos
    for label, ids in labelled.items():
        for video_id in ids:
            members[groups[video_id]][label] += 1
    left = {label: len(ids) for label, ids in labelled.items()}
    taken: set[str] = set()
    for label, quota in quotas.items():
        for group in dict.fromkeys(groups[video_id] for video_id in labelled[label]):
            if group not in taken and _suits(members[group], label, quota, len(labelled[label]), left):
                taken.add(group)
                left = {other: count - members[group][other] for other, count in left.items()}
    return {video_id for ids in labelled.values() for video_id in ids if groups[video_id] in taken}


def _suits(members: Mapping[int, int], label: int, quota: int, labelled: int, left: Mapping[int, int]) -> bool:
    """Whether holding out a group brings the class nearer to its quota, or to its first, and leaves no class empty."""
    held = labelled - left[label]
    nearer = held + members[label] - quota <= quota - held or (held == 0 < quota)
    return nearer and held < quota and all(left[other] > count for other, count in members.items())


def _validation_quotas(
    labelled: Mapping[int, Sequence[str]], groups: Mapping[str, str], val_fraction: float
) -> dict[int, int]:
    if val_fraction == 0:
        return dict.fromkeys(labelled, 0)
    counts = {label: len(ids) for label, ids in labelled.items()}
    divisible = {label: len({groups[video_id] for video_id in ids}) >= 2 for label, ids in labelled.items()}
    least = {label: int(several) for label, several in divisible.items()}
    most = {label: count - 1 if divisible[label] else 0 for label, count in counts.items()}
    total = max(round_half_up(val_fraction, sum(counts.values())), sum(least.values()))
    return share_out(counts, total, least=least, most=most)
