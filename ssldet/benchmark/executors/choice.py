"""An executor by name, with its options: `make_executor("slurm", ("executor.partition=gpu",))`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ssldet import plugins
from ssldet.contracts import Executor
from ssldet.util.settings import read_assignment, typed_options

PREFIX = "executor."


def split_assignments(assignments: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The "executor.KEY=VALUE" of some assignments, and the others, which are settings of runs."""
    listed = tuple(assignments)
    ours = tuple(text for text in listed if text.strip().startswith(PREFIX))
    return ours, tuple(text for text in listed if text not in ours)


def make_executor(name: str, assignments: Sequence[str] = ()) -> Executor:
    """An executor with its options; whether it can work here is for its `check` to say.

    Args:
        name: of its plugin.
        assignments: "executor.KEY=VALUE", values in YAML.

    Raises:
        UnknownName, PluginError: no such executor, or a broken one. ConfigError: options that it does not know.
    """
    plugin: type[Executor] = plugins.load("executor", name)
    given = dict(read_assignment(text, "executor.partition=gpu") for text in assignments)
    values = {key.removeprefix(PREFIX): value for key, value in given.items()}
    return plugin(typed_options(plugin.Config, values, PREFIX, f" of executor {name!r}"))
