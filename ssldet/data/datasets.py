"""Opening a data set by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ssldet import plugins
from ssldet.contracts import Dataset, Subset
from ssldet.errors import ConfigError, DataError, PluginError, did_you_mean

ROOT_VARIABLE = "SSLDET_DATA"


def load_dataset(name: str, root: str | Path | None = None, **options: Any) -> Dataset:
    """Open a data set.

    Args:
        name: a plugin name, such as "jhmdb".
        root: the folder that holds it; None means $SSLDET_DATA, else the data set's own default, where it has one.
        options: keyword arguments that this data set knows.

    Raises:
        UnknownName: no such data set. ConfigError: an option that it does not know, or of another type.
        DataError: data that is absent.
    """
    plugin = plugins.load("dataset", name)
    typed, mistakes = checked_options(plugin, options)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    dataset: Dataset = plugin(Path(chosen).expanduser() if chosen else None, **typed)
    return dataset


def checked_options(plugin: type[Dataset], options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of a data set by the types that its `__init__` declares, and one line for each that is wrong."""
    known = [key for key in inspect.signature(plugin).parameters if key != "root"]
    hints = get_type_hints(plugin.__init__)
    typed, mistakes = {}, []
    for option, value in options.items():
        if option not in known:
            said = did_you_mean(f"dataset.{option}", [f"dataset.{name}" for name in known])
            mistakes.append(f"unknown option 'dataset.{option}' of data set {plugin.facts.name!r}{said}")
            continue
        try:
            typed[option] = _typed(option, value, hints.get(option, Any))
        except ConfigError as error:
            mistakes.append(str(error))
    return typed, mistakes


def _typed(option: str, value: Any, annotation: Any) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ConfigError(f"dataset.{option}: {message[0].lower()}{message[1:]}, not {value!r}") from error


def identify(folder: Path) -> dict[str, Dataset]:
    """Which data sets lie in a folder: name -> opened, of all installed ones that users hold on their disks."""
    found = {}
    for name in plugins.names("dataset"):
        try:
            plugin = plugins.load("dataset", name)
            if plugin.guide():  # others are made on the spot, not found
                dataset: Dataset = plugin(folder)
                if _holds_videos(dataset):
                    found[name] = dataset
        except (DataError, PluginError):
            continue
    return found


def _holds_videos(dataset: Dataset) -> bool:
    subsets: tuple[Subset, ...] = get_args(Subset)
    for subset in subsets:
        try:
            if dataset.videos(subset, dataset.splits[0]):
                return True
        except DataError:
            continue
    return False
