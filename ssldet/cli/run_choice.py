"""Which runs a request is about: filters, ids and folders, on the command line and for the shell's completion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssldet.cli.completion import quietly
from ssldet.cli.options import plugin_option, preset_option

if TYPE_CHECKING:
    from ssldet.runs.store import RunEntry

STATES = ("done", "failed", "interrupted", "running", "damaged", "incompatible")


@dataclass(frozen=True, slots=True)
class Filters:
    """What runs must have to be chosen; None asks for nothing."""

    strategy: str | None = None
    dataset: str | None = None
    ratio: float | None = None
    seed: int | None = None
    split: int | None = None
    preset: str | None = None
    status: str | None = None

    def __bool__(self) -> bool:
        return self != Filters()

    def accept(self, entry: RunEntry) -> bool:
        asked = {
            "strategy": entry.experiment.get("strategy"),
            "split": entry.experiment.get("split"),
            "seed": entry.experiment.get("seed"),
            "preset": entry.machine.get("preset"),
        }
        return (
            all(getattr(self, name) in (None, value) for name, value in asked.items())
            and (self.dataset is None or self.dataset in (entry.experiment.get("dataset"), dataset_name(entry)))
            and (self.ratio is None or math.isclose(self.ratio, entry.experiment.get("ratio") or math.nan))
            and (self.status is None or self.status == state(entry))
        )


def filter_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `Filters`, and where to look."""
    options = (
        plugin_option("strategy", "--strategy", "Runs of this strategy."),
        plugin_option("dataset", "--dataset", "Runs on this data set, or flavour of one (synthetic:jhmdb)."),
        click.option("--ratio", type=float, help="Runs with this share of labelled videos."),
        click.option("--seed", type=int, help="Runs with this seed."),
        click.option("--split", type=int, help="Runs on this official split."),
        preset_option("Runs under this preset."),
        click.option("--status", type=click.Choice(STATES), help="Runs in this state."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def state(entry: RunEntry) -> str:
    """The entry's status, or "running"."""
    from ssldet.runs.store import is_held

    return "running" if entry.status != "done" and is_held(entry) else entry.status


def dataset_name(entry: RunEntry) -> str | None:
    """The data set, with its flavour where it has one."""
    name, options = entry.experiment.get("dataset"), entry.experiment.get("dataset_options") or {}
    return f"{name}:{options['flavour']}" if "flavour" in options else name


def is_running(entry: RunEntry) -> bool:
    return state(entry) == "running"


@quietly
def complete_runs(context: click.Context) -> list[tuple[str, str]]:
    """Ids of the runs that are there, the newest first, for the shell."""
    return [(entry.id, entry.folder.name) for entry in reversed(runs_in(context.params.get("results") or ()))]


def places_of(results: Sequence[Path]) -> Sequence[Path]:
    """The folders given, or where runs are written by default."""
    from ssldet.runs import layout

    return results or (layout.RESULTS,)


def runs_in(results: Sequence[Path]) -> list[RunEntry]:
    """All runs in the folders given. Newest last."""
    from ssldet.runs.store import find_runs

    return find_runs(places_of(results))


def chosen_run(name: str, results: Sequence[Path]) -> RunEntry:
    """The run that is meant. Raises RequestError."""
    from ssldet.runs.store import find_run

    return find_run(name, runs_in(results), places_of(results))
