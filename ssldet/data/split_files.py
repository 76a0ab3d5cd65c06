"""Published lists of labelled videos: those that ship with a data set's plugin, and those of other people.

A file of frozen splits is JSON: `dataset`, `split`, `videos` (all training videos), and `draws`, each with `ratio`,
`seed`, `labelled` (ids) and the `hash` of the whole split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ssldet.contracts import Dataset, Video
from ssldet.data.splits import LabelSplit, draw
from ssldet.errors import DataError, SplitError
from ssldet.util.files import write_text
from ssldet.util.safe_pickle import load

MAX_LIST_BYTES = 64 * 2**20


def frozen(dataset: type[Dataset]) -> list[LabelSplit]:
    """The splits that ship with a data set; none where it ships none.

    Raises:
        SplitError: the file was changed after it was frozen.
    """
    package, _, folder = dataset.frozen_splits.partition(":")
    if not package:
        return []
    file = resources.files(package) / folder / f"{dataset.facts.name}.json"
    return list(_thawed(json.loads(file.read_text(encoding="utf-8")), str(file))) if file.is_file() else []


def freeze(dataset: Dataset, ratios: Iterable[float], seeds: Sequence[int], path: Path, split: int = 1) -> None:
    """Draw splits of a data set at hand and write the file that ships with its plugin. Raises SplitError."""
    videos = dataset.videos("train", split)
    draws = [
        draw(dataset.facts.name, videos, dataset.facts.classes, split=split, ratio=ratio, seed=seed)
        for ratio in ratios
        for seed in seeds
    ]
    content = {
        "dataset": dataset.facts.name,
        "split": split,
        "videos": sorted(video.id for video in videos),
        "draws": [{"ratio": d.ratio, "seed": d.seed, "hash": d.hash, "labelled": list(d.labelled)} for d in draws],
    }
    write_text(path, json.dumps(content, indent=0) + "\n")


def differences(split: LabelSplit, videos: Sequence[Video], classes: Sequence[str]) -> list[str]:
    """In what a split differs from the one that the data at hand gives; empty when it is the same.

    A list that was imported (see `imported`) is compared by its videos only.
    """
    here, named = (
        {video.id for video in videos},
        {*split.labelled, *split.unlabelled, *split.validation, *split.set_aside},
    )
    found = [f"{len(ids)} videos {what}, such as {min(ids)}" for what, ids in _lost_and_new(named, here) if ids]
    if found or split.seed < 0:
        return found
    redrawn = draw(
        split.dataset,
        videos,
        classes,
        split=split.split,
        ratio=split.ratio,
        seed=split.seed,
        val_fraction=split.val_fraction,
    )
    if redrawn.hash != split.hash:
        found.append(f"drawn again with seed {split.seed} it has the hash {redrawn.hash[:12]}, not {split.hash[:12]}")
    return found


def imported(name: str, path: Path, videos: Sequence[Video], split: int = 1) -> tuple[LabelSplit, list[str]]:
    """Someone's published list of labelled videos as a split (its seed is -1), and the names that are not here.

    Args:
        name: of the data set.
        path: a text file of ids (a suffix .avi and numbers behind are dropped), a JSON list, or a pickle of ids, of
            a dictionary by id, or of rows that begin with the id.
        videos: the training videos of the split.

    Raises:
        SplitError: the list names no training video. DataError: it cannot be read.
    """
    named = read_list(path)
    here = {video.id for video in videos}
    labelled = named & here
    if not labelled:
        raise SplitError(f"{path}: none of its {len(named)} names is a training video of {name}")
    ratio = round(len(labelled) / len(here), 4)
    chosen = LabelSplit(name, split, ratio, -1, 0.0, tuple(sorted(labelled)), tuple(sorted(here - labelled)))
    return chosen, sorted(named - here)


def read_list(path: Path) -> set[str]:
    """The video ids in a list; see `imported` for its forms. Raises DataError."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; lists of videos have at most {MAX_LIST_BYTES}")
        if path.suffix in (".pkl", ".pickle"):
            return set(_names(load(path), path))
        text = path.read_text(encoding="utf-8")
        return set(_names(json.loads(text) if path.suffix == ".json" else text.splitlines(), path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: no readable list of videos ({error})") from error


def _names(content: Any, path: Path) -> Iterator[str]:
    if not isinstance(content, dict | list | tuple | set | frozenset):
        raise DataError(f"{path}: expected a list of videos, got a {type(content).__name__}")
    for item in content:
        name = item[0] if isinstance(item, list | tuple) and item else item
        if not isinstance(name, str):
            raise DataError(f"{path}: expected names of videos, got a {type(name).__name__}")
        if name.strip():
            yield str(name).strip().split(" ")[0].removesuffix(".avi")


def _lost_and_new(named: set[str], here: set[str]) -> list[tuple[str, set[str]]]:
    return [("of the split are not in the data", named - here), ("of the data are not in the split", here - named)]


def _thawed(content: dict[str, Any], where: str) -> Iterator[LabelSplit]:
    videos = set(content["videos"])
    for entry in content["draws"]:
        labelled = set(entry["labelled"])
        split = LabelSplit(
            dataset=content["dataset"],
            split=content["split"],
            ratio=entry["ratio"],
            seed=entry["seed"],
            val_fraction=0.0,
            labelled=tuple(sorted(labelled)),
            unlabelled=tuple(sorted(videos - labelled)),
        )
        if split.hash != entry["hash"]:
            raise SplitError(f"{where}: ratio {split.ratio:g}, seed {split.seed} was changed after it was frozen")
        yield split
