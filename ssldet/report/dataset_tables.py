"""A table of any data set, from the runs on it: a row for each strategy and the options that it was given.

dataset_table(dataset, collection, request, ...)    the rows, ratios and metrics that the records hold
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ssldet import config
from ssldet.benchmark.cells import Settings
from ssldet.benchmark.dataset_spec import dataset_spec, paper_name, row_of
from ssldet.benchmark.spec import Column, Row, TableSpec
from ssldet.config import DEFAULT_PRESET
from ssldet.report.cell_matching import CellMatcher, SettingsOption, option_of, title_of
from ssldet.report.external_runs import ExternalRun
from ssldet.report.run_selection import Run, RunCollection
from ssldet.report.table_data import Table, TableRequest
from ssldet.report.tables import build_from

OTHER_SETTINGS = (
    "no run on these data has the settings shown: give --preset and --set as the runs had them (left out, below)"
)
"""Note of a table of which nothing was run although there are runs on its data."""


def dataset_table(
    dataset: str,
    collection: RunCollection,
    request: TableRequest,
    *,
    ratios: Sequence[float] = (),
    protocol: str | None = None,
) -> Table:
    """The table of a data set, by its name with or without a flavour.

    Args:
        request: its settings None: the preset under which most cells are filled.
        ratios: label ratios to show; none given means those of the runs.
        protocol: of the metrics; None means the data set's.

    Raises:
        UnknownName: no such data set or preset. ConfigError: a flavour or ratio that there is not, or settings under
            which no cell can be run.
    """
    plain = dataset_spec(dataset, ratios=ratios, protocol=protocol)
    base = Settings(assignments=request.assignments, videos=request.videos)
    matching = CellMatcher(plain, collection, request.settings or base)
    on_data, externals = matching.candidates, matching.externals
    stated = {each.record.ratio for each in externals if each.record.ratio is not None}
    wanted = ratios or sorted({run.experiment.ratio for run in on_data} | stated)

    def option(settings: Settings) -> tuple[TableSpec, SettingsOption]:
        matcher = CellMatcher(plain, collection, settings)
        spec = dataset_spec(dataset, _rows(on_data, settings, matcher), wanted, protocol, _advice(dataset, on_data))
        spec = spec.model_copy(update={"columns": _scored_columns(spec, on_data, externals)})
        counted = option_of(spec, collection, settings)
        return spec if counted.tried or not on_data else spec.model_copy(update={"note": OTHER_SETTINGS}), counted

    if request.settings:
        return build_from(option(request.settings)[0], collection, request, request.settings)
    found = [option(replace(base, preset=preset)) for preset in _presets(on_data)]
    (spec, best), *others = sorted(found, key=lambda pair: _preference(pair[1]), reverse=True)
    table = build_from(spec, collection, request, best.settings)
    return replace(table, best=best, others=tuple(other for _, other in others if other.filled))


def _presets(runs: Sequence[Run]) -> list[str]:
    return sorted({run.preset for run in runs} & set(config.presets())) or [DEFAULT_PRESET]


def _preference(option: SettingsOption) -> tuple[int, int, bool, float]:
    return option.filled, option.tried, option.settings.preset == DEFAULT_PRESET, option.newest


def _rows(runs: Sequence[Run], settings: Settings, matcher: CellMatcher) -> Iterator[Row]:
    """Supervised first, from scratch first; strategies of other presets get the plain row, which says what was left."""
    rows = [_row(run, settings, matcher) for run in runs]
    starts = {row.pretrained for row in rows}
    yield from (row_of("supervised", pretrained=pretrained) for pretrained in sorted(starts))
    yield from sorted(rows, key=lambda row: (row.pretrained, bool(row.options), row.approach))


def _row(run: Run, settings: Settings, matcher: CellMatcher) -> Row:
    experiment = run.experiment
    plain = row_of(experiment.strategy, pretrained=experiment.pretrained)
    if run.preset != settings.preset_for(experiment.pretrained):
        return plain
    changed = matcher.changed_options(experiment)
    title = title_of(paper_name(experiment.strategy), changed)
    return plain.model_copy(update={"approach": title, "options": changed})


def _scored_columns(spec: TableSpec, runs: Sequence[Run], externals: Sequence[ExternalRun]) -> tuple[Column, ...]:
    """Those that any run has; data without tubes have no video-mAP. All of them where there is no number yet."""
    done: list[Run | ExternalRun] = [*(run for run in runs if run.done), *externals]
    scored = tuple(c for c in spec.columns if any(run.number(c.metric, c.protocol, c.key) is not None for run in done))
    return scored or spec.columns


def _advice(dataset: str, runs: Sequence[Run]) -> str:
    """What to do where nothing was run."""
    if runs:
        return ""
    return f"no run on {dataset} here yet; `ssldet grid --dataset {dataset} --strategy NAME,NAME` makes some"
