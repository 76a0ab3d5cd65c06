"""The paper's tables, and those beyond it, as text, in one call.

table(numbers, ...)                     the text of tables, in one of six formats
documents(numbers, request, ...)        the same in words, not yet in a format
dataset_document(dataset, request, ...) a table of any data set in words
table_request(preset, ...)              what they show, out of plain values
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.tuned_settings import read_tuned
from ssldet.errors import RequestError, UnknownName
from ssldet.report import tables
from ssldet.report.cell_matching import requested_settings
from ssldet.report.data_table import TABLE_1, data_table
from ssldet.report.dataset_tables import dataset_table
from ssldet.report.document import Document
from ssldet.report.documents import of_data, of_table
from ssldet.report.rendering import FORMATS, render
from ssldet.report.run_selection import Folders, RunCollection, collect_runs, result_folders
from ssldet.report.table_data import TableRequest

Numbers = int | str | Iterable[int | str] | None
"""Which tables: one, several, or None for all of the paper's."""


def table(
    numbers: Numbers = None,
    *,
    results: Folders | None = None,
    format: str = "terminal",
    preset: str | None = None,
    dataset_map: Mapping[str, str] | str | None = None,
    assignments: Sequence[str] = (),
    seeds: Iterable[int] | None = None,
    splits: Iterable[int] = (1,),
    extra: Iterable[str] = (),
    cost: bool = False,
    videos: Iterable[str] | None = None,
    settings: str | Path | None = None,
    data_root: str | Path | None = None,
    dataset: str | None = None,
    ratios: Iterable[float] = (),
    protocol: str | None = None,
) -> str:
    """The paper's tables from the records of runs, our numbers beside the paper's, as text; or one of any data set.

    Nothing is trained or scored: a number is there if a finished run has exactly the settings of its cell. What is not
    run, failed or was left out is said in the text.

    Args:
        numbers: the tables to show, such as `3` or `[2, 3]`; None shows the paper's six. 7 and 8 are ours.
        results: the folder, or folders, to search for runs; by default `results/runs`.
        format: "terminal", "markdown", "latex", "csv", "json" or "html".
        preset: shows runs of this preset. Without `preset` and `dataset_map` each table shows the settings that fill
            most of its cells.
        dataset_map: the data that stand in for the paper's, such as `{"jhmdb": "synthetic:jhmdb"}`.
        assignments: settings that the runs were given, "KEY=VALUE" as `--set` takes them.
        seeds: the seeds that each cell should have; None takes all that are found.
        splits: official splits; of several, a column shows their mean.
        extra: optional rows that are shown even if nothing of them was run, such as "readings".
        cost: whether to show what each row cost: gradient clips, teacher clips, hours.
        settings: a file that `ssldet tune` wrote; shows runs with what was chosen for each strategy.
        videos: shows runs that were restricted to these ids; means are over the classes that have truth there.
        data_root: the folder of the data, for Table 1, which is counted from annotation.
        dataset: instead of the paper's tables, one of the strategies that were run on this data set, such as "folder"
            or "synthetic:jhmdb", against Supervised.
        ratios, protocol: of that table; by default the ratios of its runs, and the data set's protocol.

    Returns:
        The text, which ends with a line's end. In LaTeX it needs the package booktabs; in HTML it is a whole page.

    Raises:
        UnknownName: no such table, format, preset or data set.
        ConfigError: settings under which no cell can be run, or splits that the data do not have.
        RequestError: a folder in `results` does not exist, or what only the paper's tables have goes with `dataset`.

    Example:
        ```python
        print(ssldet.table(3, preset="nano", format="markdown"))
        ```
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    request = table_request(preset, dataset_map, assignments, seeds, splits, extra, cost, videos, settings)
    if dataset is not None:
        if numbers is not None or dataset_map is not None or request.extra:
            raise RequestError("numbers, dataset_map and extra are of the paper's tables; leave them out with dataset")
        return render([dataset_document(dataset, request, tuple(ratios), protocol, results=results)], format)
    return render(documents(numbers, request, results=results, data_root=data_root), format)


def table_request(
    preset: str | None = None,
    dataset_map: Mapping[str, str] | str | None = None,
    assignments: Sequence[str] = (),
    seeds: Iterable[int] | None = None,
    splits: Iterable[int] = (1,),
    extra: Iterable[str] = (),
    cost: bool = False,
    videos: Iterable[str] | None = None,
    settings: str | Path | None = None,
) -> TableRequest:
    """What tables show, out of the arguments of `table`. Raises ConfigError, or UnknownName of an optional row."""
    tuned = read_tuned(Path(settings)) if settings is not None else None
    listed = None if videos is None else tuple(sorted(set(videos)))
    requested = requested_settings(preset, dataset_map, assignments, listed, tuned)
    wanted = tuple(extra)
    for name in wanted:
        if name not in benchmark.optional_rows():
            raise UnknownName("optional row", name, benchmark.optional_rows())
    chosen_seeds = None if seeds is None else tuple(seeds)
    return TableRequest(requested, tuple(assignments), chosen_seeds, tuple(splits), wanted, cost, listed)


def documents(
    numbers: Numbers, request: TableRequest, *, results: Folders | None = None, data_root: str | Path | None = None
) -> list[Document]:
    """Tables in words, each once. Raises as `table` does."""
    names = _table_names(numbers)
    folders = result_folders(results)
    collection = collect_runs(folders) if names != [TABLE_1] else RunCollection()
    return [
        of_data(data_table(Path(data_root) if data_root else None))
        if name == TABLE_1
        else of_table(tables.build_table(name, collection, request))
        for name in names
    ]


def dataset_document(
    dataset: str,
    request: TableRequest,
    ratios: Sequence[float] = (),
    protocol: str | None = None,
    *,
    results: Folders | None = None,
) -> Document:
    """The table of any data set in words. Raises as `table` does."""
    collection = collect_runs(result_folders(results))
    return of_table(dataset_table(dataset, collection, request, ratios=ratios, protocol=protocol))


def _table_names(numbers: Numbers) -> list[str]:
    """Each table once, in the order given; the paper's when none is named. Raises UnknownName."""
    known = tables.all_names()
    given = [numbers] if isinstance(numbers, int | str) else list(numbers or ())
    names = list(dict.fromkeys(map(str, given))) or tables.names()
    for name in names:
        if name not in known:
            raise UnknownName("table", name, known)
    return names
