"""`ssldet table`: the paper's tables from records, theirs beside ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from ssldet.cli.completion import complete_tables
from ssldet.cli.options import (
    data_root,
    dataset_map,
    fixed_settings,
    json_flag,
    network_and_videos,
    optional_rows,
    plugin_option,
    preset_option,
    read_ratios,
    results_folders,
    run_settings,
    settings_file,
    videos_option,
)
from ssldet.cli.output import next_step

FORMATS = ("terminal", "markdown", "latex", "csv", "json", "html")


def _numbers(least: int) -> Callable[[click.Context, click.Parameter, str | None], tuple[int, ...] | None]:
    """Reads "0,1,2": each once, in the order given, none below `least`."""

    def read(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
        if text is None:
            return None
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
            example = ",".join(str(least + i) for i in range(3))
            raise click.BadParameter(
                f"{text!r}: expected whole numbers from {least}, such as {example}", context, option
            )
        return tuple(dict.fromkeys(map(int, parts)))

    return read


@click.command("table", epilog="Example: ssldet table 3 --preset nano --format markdown")
@click.argument("names", metavar="[1 2 3 4 5 6 7 8]...", nargs=-1, shell_complete=complete_tables)
@click.option("--format", "form", type=click.Choice(FORMATS), help="[default: by the suffix of --out, else terminal]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write, whole or not at all.")
@json_flag
@preset_option("Show runs of this preset; or of two, from scratch and pretrained: nano,lite.")
@dataset_map
@network_and_videos("the runs shown")
@run_settings("Show runs made with this setting.")
@videos_option("Show runs that were restricted to these videos")
@settings_file("File of `ssldet tune`: show runs with what was chosen for each strategy.")
@click.option("--seeds", callback=_numbers(0), help="Seeds that each cell should have.  [default: all found]")
@click.option(
    "--splits",
    callback=_numbers(1),
    default="1",
    show_default=True,
    help="Official splits; of several, their mean too.",
)
@optional_rows("Optional rows that are shown even if nothing of them was run")
@click.option(
    "--columns",
    "more_columns",
    type=click.Choice(("cost",)),
    multiple=True,
    help="Further columns: cost adds gradient clips, teacher clips and hours of each row.",
)
@plugin_option("dataset", "--dataset", "Instead of the paper's tables: strategies that were run on these data.")
@click.option("--ratio", "ratios", callback=read_ratios, help="With --dataset: label ratios.  [default: all found]")
@click.option("--protocol", help="With --dataset: of the metrics.  [default: the data set's]")
@results_folders
@data_root
def command(
    names: tuple[str, ...],
    form: str | None,
    out: Path | None,
    as_json: bool,
    preset: str | None,
    dataset_map: str | None,
    backbone: str | None,
    eval_on: str | None,
    assignments: tuple[str, ...],
    videos: tuple[str, ...] | None,
    settings: Path | None,
    seeds: tuple[int, ...] | None,
    splits: tuple[int, ...],
    extra: tuple[str, ...],
    more_columns: tuple[str, ...],
    dataset: str | None,
    ratios: tuple[float, ...],
    protocol: str | None,
    results: tuple[Path, ...],
    data_root: Path | None,
) -> None:
    """Print the paper's tables: our mean and deviation over seeds beside the paper's numbers, differences, contrasts.

    Without numbers: 1 to 6. Tables 7 (all strategies) and 8 (without and with guidance) are ours, beyond the paper.

    Without --preset and --dataset-map each table shows the settings that fill most of its cells. What is not run,
    failed or was left out is said. Table 1 is counted from the data. --json is --format json.

    With --dataset: one table of all strategies that were run on any data, your own too, against Supervised.
    """
    from ssldet.errors import RequestError
    from ssldet.report.paper_tables import dataset_document, documents, table_request
    from ssldet.report.rendering import format_of, render, show
    from ssldet.util.files import write_text

    if as_json and form not in (None, "json"):
        raise RequestError(f"--json asks for another format than --format {form}; give one of them")
    _check_dataset_options(dataset, names, dataset_map, extra, ratios, protocol)
    form = "json" if as_json else form or format_of(out)
    fixed = fixed_settings(assignments, backbone, eval_on)
    request = table_request(preset, dataset_map, fixed, seeds, splits, extra, "cost" in more_columns, videos, settings)
    if dataset:
        shown = [dataset_document(dataset, request, ratios, protocol, results=results or None)]
    else:
        shown = documents(names, request, results=results or None, data_root=data_root)
    if out:
        write_text(out, render(shown, form))
        click.echo(f"{out} written ({form})", err=True)
        return
    if form == "terminal" and sys.stdout.isatty():
        from rich.console import Console

        show(shown, Console(highlight=False))
    else:
        click.echo(render(shown, form), nl=False)
    if form == "terminal":
        next_step("`ssldet compare A B` tests a difference for chance; `--out FILE.html` keeps the table")


def _check_dataset_options(
    dataset: str | None,
    names: tuple[str, ...],
    dataset_map: str | None,
    extra: tuple[str, ...],
    ratios: tuple[float, ...],
    protocol: str | None,
) -> None:
    """Raises RequestError where options of the paper's tables and of a data set's own are mixed."""
    from ssldet.errors import RequestError

    if dataset and (names or dataset_map or extra):
        what = f"table {names[0]}" if names else "--dataset-map" if dataset_map else "--with"
        raise RequestError(f"--dataset asks for a table of {dataset}, and {what} for the paper's; give one of them")
    if not dataset and (ratios or protocol):
        raise RequestError(
            f"{'--ratio' if ratios else '--protocol'} goes with --dataset; the paper's tables have theirs"
        )
