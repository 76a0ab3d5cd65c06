"""The options that name a trained detector, which verbs share, and the detector that they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import data_root, plugin_option, preset_option, results_folders, run_settings
from ssldet.cli.run_choice import chosen_run, complete_runs

if TYPE_CHECKING:
    from ssldet.runs.network import TrainedDetector


def trained_options(function: Callable[..., None]) -> Callable[..., None]:
    """`--run` or `--weights`, and what a weights file alone needs."""
    options = (
        click.option(
            "--run", "name", metavar="RUN", shell_complete=complete_runs, help="Run whose weights are used, or a pack."
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A weights file instead: a run's, or one of --backbone and --dataset.",
        ),
        results_folders,
        plugin_option("dataset", "--dataset", "With --weights: data set whose classes they tell apart."),
        plugin_option("backbone", "--backbone", "With --weights: their network.  [default: the preset's]"),
        preset_option("With --weights: settings of clips and network.  [default: paper]"),
        run_settings("With --weights: a setting, such as clip.frames=8."),
        data_root,
    )
    for option in reversed(options):
        function = option(function)
    return function


def trained_detector(
    name: str | None,
    weights: Path | None,
    results: tuple[Path, ...],
    data_root: Path | None,
    assignments: tuple[str, ...],
    **network: str | None,
) -> TrainedDetector:
    """The detector that the options name.

    Raises:
        RequestError: they name none, or two; as the detector's run, pack or file.
        WeightsError: the weights do not fit their network.
    """
    from ssldet.errors import RequestError
    from ssldet.runs.network import trained_file, trained_run
    from ssldet.runs.packing import is_pack, packed_detector

    if (name is None) == (weights is None):
        raise RequestError("whose weights? Name a run with --run (`ssldet runs list`), or a file with --weights: one")
    given: dict[str, Any] = {key: value for key, value in network.items() if value is not None}
    if assignments:
        given["set"] = assignments
    if name is not None:
        if given:
            raise RequestError(
                f"--{next(iter(given))} belongs to --weights FILE; a run says itself what its network is"
            )
        return packed_detector(Path(name)) if is_pack(name) else trained_run(chosen_run(name, results), data_root)
    assert weights is not None
    return trained_file(weights, network, assignments, data_root)
