"""Where the published weights of a backbone's parts are on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ssldet.contracts import Backbone
from ssldet.errors import WeightsError


def pretrained_weights(
    backbone: Backbone, dataset: str, *, weights_root: Path | None = None, download: bool = False
) -> dict[str, Path]:
    """The files that the backbone's parts start from, by part; empty: it has none for this data set.

    Each is looked for below the weights root, then where the backbone knows of (an installed package, a cache).

    Args:
        backbone: says which files it wants for the data set.
        dataset: the data set's name.
        weights_root: the folder of weights; None means SSLDET_WEIGHTS, else "weights".
        download: fetch what lies nowhere, if the backbone can.

    Raises:
        WeightsError: a file is absent, or is not what it should be.
    """
    files = located_weights(backbone, dataset, weights_root or Path(os.environ.get("SSLDET_WEIGHTS", "weights")))
    if download:
        files |= _fetched(backbone, dataset, [part for part in files if not files[part].is_file()])
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        place = backbone.weights_place(dataset)
        raise WeightsError(
            f"--pretrained needs {', '.join(missing)}; put the files there, name their folder with "
            f"--weights-root or SSLDET_WEIGHTS, or train with --scratch{place and f'. They come with {place}'}"
        )
    return files


def located_weights(backbone: Backbone, dataset: str, weights_root: Path) -> dict[str, Path]:
    """Where these files lie, or would lie below the weights root. Raises WeightsError: one is not what it should be."""
    files = {part: _of_any_suffix(weights_root / name) for part, name in backbone.pretrained_files(dataset).items()}
    if absent := [part for part, path in files.items() if not path.is_file()]:
        installed = backbone.installed_weights(dataset)
        files |= {part: installed[part] for part in absent if part in installed}
    return files


def _of_any_suffix(path: Path) -> Path:
    """The file, or where there is no such safetensors file a torch file of the same name."""
    forms = (path, path.with_suffix(".pth"), path.with_suffix(".bin")) if path.suffix == ".safetensors" else (path,)
    return next((form for form in forms if form.is_file()), path)


def _fetched(backbone: Backbone, dataset: str, parts: Sequence[str]) -> dict[str, Path]:
    files = {part: backbone.fetch_weights(part, dataset) for part in parts}
    return {part: path for part, path in files.items() if path is not None}
