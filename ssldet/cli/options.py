"""Options that several verbs share, each with one name and one wording, and how `--set` of a data set is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.types import StringParamType

from ssldet.cli.completion import complete_plugins, complete_presets, complete_settings

if TYPE_CHECKING:
    from ssldet.contracts import Dataset

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)

json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), envvar="SSLDET_DATA", help="Folder of the data; or SSLDET_DATA."
)
weights_root = click.option(
    "--weights-root", type=click.Path(path_type=Path), help="Folder of weights; or SSLDET_WEIGHTS.  [default: weights]"
)
download = click.option(
    "--download", is_flag=True, default=None, help="With --pretrained: weights that are nowhere here may be fetched."
)
split_number = click.option("--split", type=int, default=1, show_default=True, help="Official split.")
yes_flag = click.option("--yes", is_flag=True, help="Remove without asking.")
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, help="Processes.  [default: all cores]"
)
results_folder = click.option(
    "--results", type=FOLDER, help="Folder that runs are written to.  [default: results/runs]"
)
results_folders = click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with runs, searched through; several are allowed.  [default: results/runs]",
)
dataset_map = click.option(
    "--dataset-map", help="Data that stand in for the paper's, such as ucf24=synthetic:ucf24,jhmdb=synthetic:jhmdb."
)
data_settings = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the data set, such as flavour=jhmdb.",
    shell_complete=complete_settings("dataset"),
)


class PluginName(StringParamType):
    """The name of a plugin; where it is missing, the installed ones are named."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        from ssldet import plugins

        return f"Installed: {', '.join(plugins.names(self.kind))}."


def preset_option(help_text: str) -> Callable[[F], F]:
    """`--preset`, which the shell completes."""
    return click.option("--preset", help=help_text, shell_complete=complete_presets)


def plugin_option(kind: str, flag: str, help_text: str, **more: Any) -> Callable[[F], F]:
    """An option that takes the name of a plugin, which the shell completes."""
    return click.option(flag, type=PluginName(kind), help=help_text, shell_complete=complete_plugins(kind), **more)


def optional_rows(what: str) -> Callable[[F], F]:
    """The option `--with` of verbs that know tables: names of optional rows."""
    names = "fully_supervised (all labels), readings (the other reading of the baselines' confidence)"
    return click.option("--with", "extra", multiple=True, metavar="NAME", help=f"{what}: {names}.")


def videos_option(help_text: str) -> Callable[[F], F]:
    """`--videos`: a tuple of ids, None where it is not given."""
    return click.option("--videos", callback=_ids, help=f"{help_text}: a file with one id a line, or ids with commas.")


def _ids(context: click.Context, option: click.Parameter, listed: str | None) -> tuple[str, ...] | None:
    """The ids of a file with one a line, or of a list with commas; each once, sorted. Raises DataError."""
    from ssldet.errors import DataError

    if listed is None:
        return None
    is_file = "," not in listed and Path(listed).is_file()
    parts = Path(listed).read_text(encoding="utf-8").splitlines() if is_file else listed.split(",")
    ids = sorted({part.strip() for part in parts} - {""})
    if not ids:
        raise DataError(f"--videos {listed!r}: expected a file with one video id a line, or ids with commas")
    return tuple(ids)


def read_ratios(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """ "0.1,0.2" -> each ratio once, in the order given; none where nothing is given."""
    try:
        ratios = tuple(dict.fromkeys(float(part) for part in (text or "").split(",") if part.strip()))
    except ValueError:
        ratios = (0.0,)
    if not all(0 < ratio <= 1 for ratio in ratios) or (text is not None and not ratios):
        raise click.BadParameter(f"{text!r}: expected shares in (0, 1] with commas, such as 0.1,0.2", context, option)
    return ratios


def settings_file(help_text: str) -> Callable[[F], F]:
    """`--settings`: the path of a file that `ssldet tune` wrote."""
    return click.option("--settings", type=click.Path(path_type=Path, dir_okay=False), help=help_text)


def loader_workers(function: F) -> F:
    """`--loader-workers`: processes that make batches."""
    help_text = "Processes that make batches while a network trains; they change no number.  [default: 0]"
    return click.option("--loader-workers", type=click.IntRange(min=0), help=help_text)(function)


def tracker_option(function: F) -> F:
    """`--tracker`: where logs go beside their files."""
    help_text = "Where the log goes beside its file, tensorboard say; its options: --set tracker.KEY=VALUE."
    return plugin_option("tracker", "--tracker", help_text)(function)


def several_runs(function: F) -> F:
    """The options of verbs that carry out many runs: weights, device, threads, runs at a time, damaged videos."""
    threads = "CPU threads of a run.  [default: the preset's, or OMP_NUM_THREADS, or all cores / jobs]"
    options = (
        weights_root,
        download,
        click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: auto]"),
        click.option("--threads", type=click.IntRange(min=1), help=threads),
        loader_workers,
        click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time."),
        click.option("--skip-damaged", is_flag=True, default=None, help="Leave out videos that do not decode."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def run_settings(help_text: str) -> Callable[[F], F]:
    """`--set KEY=VALUE` of runs, whose keys the shell completes."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help=help_text,
        shell_complete=complete_settings("run"),
    )


def network_and_videos(runs: str) -> Callable[[F], F]:
    """`--backbone` and `--eval-on` of `runs` that a verb plans or shows; `fixed_settings` makes settings of them."""

    def add(function: F) -> F:
        scored = click.option(
            "--eval-on", type=click.Choice(["test", "val"]), help=f"Videos on which {runs} are scored."
        )
        return plugin_option("backbone", "--backbone", f"Network of {runs}.  [default: the preset's]")(scored(function))

    return add


def fixed_settings(assignments: Sequence[str], backbone: str | None, eval_on: str | None) -> tuple[str, ...]:
    """What all runs are given by `--set`, `--backbone` and `--eval-on`, as KEY=VALUE."""
    fixed = {"backbone": backbone, "eval_on": eval_on}
    return (*(f"{name}={value}" for name, value in fixed.items() if value is not None), *assignments)


def read_assignments(assignments: Sequence[str], prefix: str, example: str) -> dict[str, Any]:
    """KEY=VALUE texts as options of one plugin, values in YAML; `prefix` ("dataset.") before a key may be left out.

    Raises:
        ConfigError: names every text that is not of that form.
    """
    from ssldet.errors import ConfigError
    from ssldet.util.settings import read_assignment

    options, mistakes = {}, []
    for text in assignments:
        try:
            key, value = read_assignment(text, example)
            options[key.removeprefix(prefix)] = value
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return options


def data_options(assignments: Sequence[str]) -> dict[str, Any]:
    """The options of a data set that `--set` gives. Raises ConfigError."""
    return read_assignments(assignments, "dataset.", "flavour=jhmdb")


def open_data(name: str, root: Path | None, assignments: Sequence[str] = ()) -> Dataset:
    """A data set by name, or the one that lies in a folder.

    Raises:
        UnknownName, DataError: no such data set or folder; or the folder holds none that is known, or several.
        ConfigError: an option that the data set does not know.
    """
    from ssldet import plugins
    from ssldet.data.datasets import identify, load_dataset
    from ssldet.errors import DataError, RequestError, UnknownName

    check_root(root)
    options = data_options(assignments)
    if name in plugins.names("dataset") or not (Path(name).is_dir() or os.sep in name):
        try:
            return load_dataset(name, root, **options)
        except UnknownName as error:
            if error.kind != "dataset":
                raise
            raise RequestError(f"{error}; nor is there a folder {name}") from error
    if not Path(name).is_dir():
        raise DataError(f"{name}: no such folder; name one that exists, or a data set ({_known()}) with --data-root")
    reasons: dict[str, str] = {}
    found = identify(Path(name), reasons)
    if not found and len(reasons) == 1:
        raise DataError(f"{name}: cannot be read as the data set {next(iter(reasons))}: {next(iter(reasons.values()))}")
    if len(found) != 1:
        what = f"{' and '.join(found)} were found" if found else "no data set was recognised"
        what += "".join(f"\n  not {other}: {reason}" for other, reason in reasons.items())
        raise DataError(
            f"{name}: {what}; name one of {_known()} with --data-root {name} to see what is missing, "
            "or see `ssldet data guide` for the folders expected"
        )
    [(recognised, dataset)] = found.items()
    return load_dataset(recognised, Path(name), **options) if options else dataset


def check_root(root: Path | None) -> None:
    """Raises AbsentData where the data root is a folder that does not exist."""
    from ssldet.errors import AbsentData

    if root is not None and not root.expanduser().is_dir():
        raise AbsentData(f"--data-root {root} (or SSLDET_DATA): no such folder; name the one that holds the data")


def _known() -> str:
    from ssldet import plugins

    return ", ".join(plugins.names("dataset"))
