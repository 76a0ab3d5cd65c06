"""Opening a data set by name, and lists of its videos."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from ssldet import plugins
from ssldet.contracts import Dataset, Options, Problem, Subset
from ssldet.errors import AbsentData, DataError, PluginError, RequestError
from ssldet.util.settings import split_flavour, typed_options

ROOT_VARIABLE = "SSLDET_DATA"


def load_dataset(name: str, root: str | Path | None = None, **options: Any) -> Dataset:
    """Open a data set.

    Args:
        name: a plugin name, such as "jhmdb", with or without a flavour ("synthetic:jhmdb").
        root: the folder that holds it; None means $SSLDET_DATA, else the data set's own default, where it has one.
        options: fields of its Config, such as flavour="jhmdb"; `ssldet plugins show NAME` lists them.

    Raises:
        UnknownName: no such data set.
        ConfigError: an option that it does not know, or of another type.
        DataError: data that is absent.
    """
    name, options = split_flavour(name, options)
    plugin = plugins.load("dataset", name)
    config = dataset_options(plugin, options)
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    dataset: Dataset = plugin(Path(chosen).expanduser() if chosen else None, config)
    return dataset


def dataset_options(plugin: type[Dataset], options: Mapping[str, Any]) -> Options:
    """The typed options of a data set. Raises ConfigError, one line for each option that is unknown or wrong."""
    return typed_options(plugin.Config, options, "dataset.", f" of data set {plugin.facts.name!r}")


def default_protocol(name: str, options: Mapping[str, Any] | None = None) -> str:
    """The protocol under which a data set's numbers are shown where none is named; needs no data.

    It is "standard" for a data set that is not installed or does not know its options.
    """
    try:
        plain, chosen = split_flavour(name, options)
        plugin: type[Dataset] = plugins.load("dataset", plain)
        return plugin.facts_under(dataset_options(plugin, chosen)).protocol
    except (PluginError, RequestError):
        return "standard"


def identify(folder: Path, reasons: dict[str, str] | None = None) -> dict[str, Dataset]:
    """Which data sets lie in a folder: name -> opened, of all installed ones that users hold on their disks.

    Args:
        reasons: if given, why data sets that seem to lie there cannot be read is written here, by name.
    """
    recognised = {}
    for name in plugins.names("dataset"):
        try:
            plugin = plugins.load("dataset", name)
            if plugin.guide():  # others are made on the spot, not found
                dataset: Dataset = plugin(folder)
                if _holds_videos(dataset):
                    recognised[name] = dataset
        except (AbsentData, PluginError):
            continue
        except DataError as error:
            if reasons is not None:
                reasons[name] = str(error)
    return recognised


def check_ids(dataset: Dataset, ids: Collection[str], split: int = 1) -> None:
    """Raises RequestError where listed ids are no videos of a split."""
    subsets: tuple[Subset, ...] = get_args(Subset)
    known = {video.id for subset in subsets for video in dataset.videos(subset, split)}
    if unknown := sorted(set(ids) - known):
        raise RequestError(
            f"{len(unknown)} listed videos are not in {dataset.facts.name}, such as {unknown[0]!r}; "
            f"its ids look like {min(known)!r}"
        )


def concerning(problems: Iterable[Problem], ids: Collection[str] | None) -> list[Problem]:
    """Of the problems of a data set those that concern listed videos, or the whole; all where nothing is listed."""
    return [problem for problem in problems if ids is None or not problem.video or problem.video in ids]


def _holds_videos(dataset: Dataset) -> bool:
    subsets: tuple[Subset, ...] = get_args(Subset)
    for subset in subsets:
        try:
            if dataset.videos(subset, dataset.splits[0]):
                return True
        except DataError:
            continue
    return False
