"""What is said of splits: their counts, and whether they are still what the data give.

find_splits(name)          the splits of a file, or those that ship with a data set
shipped_splits()           all that ship with the installed data sets
compare_with_data(split)   whether the data at hand give the same split
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssldet import plugins
from ssldet.data import split_files, splits
from ssldet.data.datasets import load_dataset
from ssldet.data.splits import LabelSplit
from ssldet.errors import DataError, PluginError, SplitError


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What came of a comparison: the split in words, whether it differs from the data, and what was found."""

    split: str
    differs: bool
    found: str


def compare_with_data(split: LabelSplit, data_root: Path | None, options: Mapping[str, Any]) -> SplitCheck:
    """Compare a split with what its data set gives, where that is at hand.

    Args:
        split: as it was read, its hash checked.
        data_root: folder of the data; None where the data set needs none.
        options: of the data set.
    """
    try:
        dataset = load_dataset(split.dataset, data_root, **options)
        videos = dataset.videos("train", split.split)
    except DataError as error:
        found = f"unchanged; not compared with the data ({str(error).splitlines()[0]})"
        return SplitCheck(in_words(split), differs=False, found=found)
    differing = split_files.differences(split, videos, dataset.facts.classes)
    return SplitCheck(in_words(split), bool(differing), "; ".join(differing) or "the same as the data")


def find_splits(name: Path) -> list[LabelSplit]:
    """The split of a file, or those that ship with the data set of that name.

    Raises:
        SplitError: the file cannot be read or is damaged, or no splits ship with the data set.
    """
    plain = str(name).partition(":")[0]
    if name.exists() or plain not in plugins.names("dataset"):
        return [splits.read(name)]
    found = split_files.frozen(plugins.load("dataset", plain))
    if not found:
        raise SplitError(f"no splits ship with {name}; make one with: ssldet split make {name} FILE --ratio R")
    return found


def shipped_splits(on_fault: Callable[[str], None] = lambda fault: None) -> list[LabelSplit]:
    """All splits that ship with the installed data sets; `on_fault` hears of each data set that cannot be used."""
    found = []
    for name in plugins.names("dataset"):
        try:
            found += split_files.frozen(plugins.load("dataset", name))
        except PluginError as error:
            on_fault(str(error))
    return found


def summary(split: LabelSplit) -> dict[str, Any]:
    """Where a split comes from and how many videos it has, as plain data; per folder of videos (labelled, all)."""
    labelled = Counter(video_id.rpartition("/")[0] for video_id in split.labelled)
    parts = (split.labelled, split.unlabelled, split.validation, split.set_aside)
    every = Counter(video_id.rpartition("/")[0] for part in parts for video_id in part)
    return {
        "dataset": split.dataset,
        "split": split.split,
        "ratio": split.ratio,
        "seed": split.seed,
        "hash": split.hash,
        "labelled": len(split.labelled),
        "unlabelled": len(split.unlabelled),
        "validation": len(split.validation),
        "set_aside": len(split.set_aside),
        "folders": {name: (labelled[name], count) for name, count in sorted(every.items())},
    }


def in_words(split: LabelSplit) -> str:
    """A split in one line."""
    drawn = "imported" if split.seed < 0 else f"seed {split.seed}"
    parts = f"{len(split.labelled)} labelled, {len(split.unlabelled)} unlabelled"
    held = f", {len(split.validation)} validation" if split.validation else ""
    held += f", {len(split.set_aside)} set aside" if split.set_aside else ""
    return f"{split.dataset} split {split.split}, ratio {split.ratio:g}, {drawn}: {parts}{held} ({split.hash[:12]})"
