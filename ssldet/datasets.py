"""Opening a data set by name."""

from __future__ import annotations

import inspect
import os
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
    known = [key for key in inspect.signature(plugin).parameters if key != "root"]
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option 'dataset.{option}' of data set {name!r}{did_you_mean(option, known)}")
    hints = get_type_hints(plugin.__init__)
    options = {option: _typed(option, value, hints.get(option, Any)) for option, value in options.items()}
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    dataset: Dataset = plugin(Path(chosen).expanduser() if chosen else None, **options)
    return dataset


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
