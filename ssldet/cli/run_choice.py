"""Which runs a request is about: filters, ids and folders, on the command line and for the shell's completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssldet.cli.completion import quietly
from ssldet.cli.options import plugin_option, preset_option
from ssldet.runs.filters import STATES

if TYPE_CHECKING:
    from ssldet.runs.external import External
    from ssldet.runs.store import RunEntry


def filter_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a `RunFilter`."""
    options = (
        plugin_option("strategy", "--strategy", "Runs of this strategy."),
        plugin_option("dataset", "--dataset", "Runs on this data set, or flavour of one (synthetic:jhmdb)."),
        click.option("--ratio", type=float, help="Runs with this share of labelled videos."),
        click.option("--seed", type=int, help="Runs with this seed."),
        click.option("--split", type=int, help="Runs on this official split."),
        preset_option("Runs under this preset."),
        plugin_option("backbone", "--backbone", "Runs of this network."),
        click.option("--eval-on", type=click.Choice(["test", "val"]), help="Runs that were scored on these videos."),
        click.option("--status", type=click.Choice(STATES), help="Runs in this state."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@quietly
def complete_runs(context: click.Context) -> list[tuple[str, str]]:
    """Ids of the runs that are there, the newest first, and names of others' numbers, for the shell."""
    places = context.params.get("results") or ()
    runs = [(entry.id, entry.folder.name) for entry in reversed(runs_in(places))]
    return [*runs, *((each.name, "external") for each in externals_in(places))]


def places_of(results: Sequence[Path]) -> Sequence[Path]:
    """The folders given, or where runs are written by default."""
    from ssldet.runs import layout

    return results or (layout.RESULTS,)


def runs_in(results: Sequence[Path]) -> list[RunEntry]:
    """All runs in the folders given. Newest last."""
    from ssldet.runs.store import find_runs

    return find_runs(places_of(results))


def externals_in(results: Sequence[Path]) -> list[External]:
    """Others' numbers in the folders given, by name."""
    from ssldet.runs.external import find_externals

    return find_externals(places_of(results))


def chosen_external(name: str, results: Sequence[Path]) -> External | None:
    """Others' numbers of that name or in that folder; None where there are none. Raises RequestError."""
    from ssldet.runs.external import find_external

    return find_external(name, places_of(results))


def chosen_run(name: str, results: Sequence[Path]) -> RunEntry:
    """The run that is meant. Raises RequestError."""
    from ssldet.runs.store import find_run

    return find_run(name, runs_in(results), places_of(results))
