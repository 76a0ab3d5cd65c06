"""Under which settings a table is shown, and which runs are those of its cells under them.

CellMatcher(spec, collection, settings)     the runs of a cell; those that nearly are; a plugin's that no table names
settings_options(spec, collection)          the settings found in records, those that fill most cells first
requested_settings(preset, dataset_map)     those that were asked for
settings_problem(spec, settings)            why no cell could be run under them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from ssldet import config
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import DatasetChoice, Settings, parse_dataset_map, run_config, settings_key
from ssldet.benchmark.spec import Cell, Row, TableSpec
from ssldet.benchmark.tuned_settings import TunedSettings
from ssldet.config import DEFAULT_PRESET, Experiment
from ssldet.errors import PluginError, SsldetError, UnknownName
from ssldet.report.run_selection import Run, RunCollection, differing
from ssldet.util.files import content_hash

OF_STRATEGY = ("strategy", "strategy_options")

UNRESOLVED = "what its cell asks for cannot be worked out here: a plugin is absent, or refuses a setting"


@dataclass(frozen=True, slots=True)
class SettingsOption:
    """Settings under which a table could be shown.

    Attributes:
        filled: how many of its cells have a finished run; tried: how many have any.
        newest: when the last of them was changed.
    """

    settings: Settings
    filled: int = 0
    tried: int = 0
    newest: float = 0.0

    @property
    def mixes_presets(self) -> bool:
        """Whether runs from scratch and those that start from weights have presets of their own."""
        return self.settings.preset_for(False) != self.settings.preset_for(True)


# -------------------------------------------------------------------------------------------------- matching


class CellMatcher:
    """The runs of each cell of a table under some settings. A configuration is resolved once, and only when needed."""

    def __init__(self, spec: TableSpec, collection: RunCollection, settings: Settings) -> None:
        self.spec, self.settings = spec, settings
        self._resolved, self._chosen_data = collection.resolved, settings.dataset(spec.dataset)
        self.data = data = self._data_of_cells()
        # of the paper's tables other options are other data; a table of any data set says that it left them out
        on_data = (lambda run: str(run.dataset) == str(data)) if spec.of_dataset else (lambda run: run.dataset == data)
        self.candidates = [run for run in collection.runs if on_data(run)]
        self.externals = [each for each in collection.externals if str(each.dataset) == str(data)]

    def runs(self, row: Row, ratio: float) -> list[Run]:
        """Runs with exactly the settings of a cell."""
        near = self._near(row, ratio)
        expected = self.expected(row, ratio) if near else None
        key = settings_key(expected) if expected else None
        return [run for run in near if run.key == key]

    def expected(self, row: Row, ratio: float) -> Experiment | None:
        """The settings of a cell, on split 1 with seed 0; None when they cannot be resolved here."""
        assert row.strategy is not None
        chosen = self.settings
        tuned = chosen.tuned_for(row.strategy)
        settings = [
            chosen.preset_for(row.pretrained),
            self._chosen_data,
            chosen.all_assignments(),
            chosen.videos,
            tuned,
        ]
        name = content_hash([row.strategy, row.options, row.pretrained, ratio, settings])
        if name not in self._resolved:
            options = tuple(sorted(row.options.items()))
            cell = Cell(self.spec.dataset, row.strategy, options, ratio, row.pretrained, split=1, seed=0)
            self._resolved[name] = _resolved(cell, self.settings)
        return self._resolved[name]

    def _data_of_cells(self) -> DatasetChoice:
        """The data that its cells are run on: those of the map, with what assignments make of their options."""
        experiment = next(filter(None, (self.expected(row, ratio) for row, ratio in cells(self.spec))), None)
        return DatasetChoice(experiment.dataset, experiment.dataset_options) if experiment else self._chosen_data

    def _near(self, row: Row, ratio: float) -> list[Run]:
        """Runs that look like a cell's, whatever their other settings."""
        return [run for run in self._at(row.pretrained, ratio) if run.experiment.strategy == row.strategy]

    def _at(self, pretrained: bool, ratio: float) -> list[Run]:
        at = (pretrained, ratio)
        return [run for run in self.candidates if (run.experiment.pretrained, run.experiment.ratio) == at]

    def unmatched(self) -> Iterator[tuple[Run, list[str]]]:
        """Runs that look like a cell's and are no cell's of any table, with the fewest settings that they differ in."""
        matched = {run.entry.folder for row, ratio in self._all_cells() for run in self.runs(row, ratio)}
        nearest: dict[Any, tuple[Run, list[str]]] = {}
        for row, ratio in cells(self.spec):
            for run in self._near(row, ratio):
                expected = self.expected(row, ratio)
                folder = run.entry.folder
                if folder not in matched:
                    candidate = (run, differing(run.experiment, expected) if expected else [UNRESOLVED])
                    nearest[folder] = min(nearest.get(folder, candidate), candidate, key=lambda pair: len(pair[1]))
        yield from nearest.values()

    def _all_cells(self) -> Iterator[tuple[Row, float]]:
        """The cells of every table and sweep about the same data; of a table of any data set, its own alone."""
        for spec in [self.spec] if self.spec.of_dataset else benchmark.specs().values():
            if spec.dataset == self.spec.dataset:
                yield from cells(spec)

    def of_plugins(self) -> Iterator[tuple[Row, float, list[Run], list[Run]]]:
        """Strategies that no table of the paper names: (row, ratio, runs, runs with other settings).

        Their runs are held against the baseline's: they must equal it in everything but the strategy.
        """
        if self.spec.of_dataset:  # which has a row for every strategy
            return
        tables = benchmark.specs().values() if self.spec.beyond else benchmark.paper_specs()
        named = {row.strategy for spec in tables for row in spec.rows}
        for base, ratio in baseline_cells(self.spec):
            by_row: dict[str, tuple[Row, list[Run]]] = {}
            for run in self._at(base.pretrained, ratio):
                if run.experiment.strategy not in named:
                    row = Row(
                        approach=self._title(run.experiment),
                        pretrained=base.pretrained,
                        strategy=run.experiment.strategy,
                        options=run.experiment.strategy_options,
                    )
                    by_row.setdefault(content_hash([row.strategy, row.options]), (row, []))[1].append(run)
            for row, runs in by_row.values():
                expected = self.expected(self.compared(row, base), ratio)
                fit = [run for run in runs if expected and not beside_strategy(run.experiment, expected)]
                yield row, ratio, fit, [run for run in runs if run not in fit]

    def compared(self, row: Row, base: Row) -> Row:
        """The row whose settings a further strategy's runs must have: its own where it was tuned, or the baseline's."""
        return row if row.strategy and self.settings.tuned_for(row.strategy) else base

    def _title(self, experiment: Experiment) -> str:
        return title_of(experiment.strategy, self.changed_options(experiment))

    def changed_options(self, experiment: Experiment) -> dict[str, Any]:
        """Those of a strategy's options that are not what it would have had without being asked."""
        plain = Row(approach="", pretrained=experiment.pretrained, strategy=experiment.strategy)
        usual = self.expected(plain, experiment.ratio)
        defaults = usual.strategy_options if usual else {}
        return {k: v for k, v in experiment.strategy_options.items() if k not in defaults or defaults[k] != v}


def title_of(name: str, options: Mapping[str, Any]) -> str:
    """A strategy's name and some of its options, as a row is called."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def cells(spec: TableSpec) -> list[tuple[Row, float]]:
    """The trained rows of a table with each of their ratios."""
    return [(row, ratio) for row in spec.rows if row.strategy for ratio in spec.ratios_of(row)]


def baseline_cells(spec: TableSpec) -> list[tuple[Row, float]]:
    """The cells of the baseline's own rows, at the ratios of the table."""
    return [(row, ratio) for row, ratio in cells(spec) if is_baseline(spec, row) and ratio in spec.ratios]


def is_baseline(spec: TableSpec, row: Row) -> bool:
    return row.strategy == spec.baseline and not row.options


def beside_strategy(experiment: Experiment, expected: Experiment) -> list[str]:
    """The settings in which two experiments differ, the strategy's apart."""
    adapted = experiment.model_copy(update={name: getattr(expected, name) for name in OF_STRATEGY})
    return differing(adapted, expected)


def _resolved(cell: Cell, settings: Settings) -> Experiment | None:
    try:
        return run_config(cell, settings).experiment
    except SsldetError:  # its plugin is absent, or has no such option: no run can be this cell's
        return None


# ------------------------------------------------------------------------------------------------- settings


def requested_settings(
    preset: str | None,
    dataset_map: Mapping[str, str] | str | None,
    assignments: Sequence[str] = (),
    videos: Sequence[str] | None = None,
    tuned: TunedSettings | None = None,
) -> Settings | None:
    """The settings that were asked for; None where no preset, data or tuned settings were. Raises ConfigError.

    Args:
        dataset_map: {"ucf24": "synthetic:ucf24"}, or the same as the command line takes it, "ucf24=synthetic:ucf24".
        videos: the ids that runs were restricted to.
        tuned: settings that were chosen on validation videos; their preset is the default.
    """
    if preset is None and dataset_map is None and tuned is None:
        return None
    preset = preset or (tuned.preset if tuned else DEFAULT_PRESET)
    if dataset_map is not None and not isinstance(dataset_map, str):
        dataset_map = ",".join(f"{paper}={choice}" for paper, choice in dataset_map.items())
    stand_ins = parse_dataset_map(dataset_map or "")
    return Settings(preset, stand_ins, tuple(assignments), videos=videos, tuned=tuned)


def settings_options(spec: TableSpec, collection: RunCollection, base: Settings | None = None) -> list[SettingsOption]:
    """Settings found in records under which a table could be shown, those that fill most cells first.

    Among them are pairs of presets: of runs from scratch, and of those that start from weights.

    Args:
        base: what they have in common, preset and data apart.
    """
    base = base or Settings()
    presets_of: dict[str, tuple[DatasetChoice, set[str]]] = {}
    for run in collection.runs:
        if run.preset in config.presets() and _may_stand_for(run.dataset, spec.dataset):
            name = content_hash([run.dataset.name, run.dataset.options])
            presets_of.setdefault(name, (run.dataset, set()))[1].add(run.preset)
    counted = [
        option_of(spec, collection, replace(base, preset=preset, dataset_map=_stand_in(data, spec.dataset)))
        for data, presets in presets_of.values()
        for preset in [*sorted(presets), *map(",".join, permutations(sorted(presets), 2))]
    ]
    return sorted(counted, key=_preference, reverse=True)


def _stand_in(data: DatasetChoice, name: str) -> dict[str, DatasetChoice]:
    """The map that puts data in the place of the paper's; empty where they are the paper's."""
    changed = config.non_default_options("dataset", data.name, data.options)
    return {} if data.name == name and not changed else {name: data}


def _may_stand_for(choice: DatasetChoice, name: str) -> bool:
    """Whether flags can ask for these data: neither another data set of the paper, nor made-up data like one."""
    other_datasets = benchmark.paper().datasets.keys() - {name}
    changed = config.non_default_options("dataset", choice.name, choice.options)
    return changed.keys() <= {"flavour"} and not {choice.name, choice.options.get("flavour")} & other_datasets


def option_of(spec: TableSpec, collection: RunCollection, settings: Settings) -> SettingsOption:
    """How many cells of a table have runs under some settings."""
    matcher = CellMatcher(spec, collection, settings)
    by_cell = [runs for row, ratio in cells(spec) if (runs := matcher.runs(row, ratio))]
    filled = sum(any(run.done for run in runs) for runs in by_cell)
    return SettingsOption(
        settings, filled, len(by_cell), max((run.entry.changed for runs in by_cell for run in runs), default=0.0)
    )


def _preference(option: SettingsOption) -> tuple[int, int, bool, bool, bool, float]:
    settings = option.settings
    usual = not option.mixes_presets, settings.preset == DEFAULT_PRESET, not settings.dataset_map
    return option.filled, option.tried, *usual, option.newest


def settings_problem(spec: TableSpec, settings: Settings) -> SsldetError | None:
    """Why no cell of a table can be run under the settings; None when one can."""
    for name in settings.dataset_map:
        if name not in benchmark.paper().datasets:
            return UnknownName("data set of the paper", name, benchmark.paper().datasets)
    first = None
    for row, ratio in cells(spec):
        try:
            run_config(benchmark.cell(spec, row, ratio, split=1, seed=0), settings)
            return None
        except PluginError:
            continue  # that cell cannot be run here; records of it may be there
        except SsldetError as error:
            first = first or error
    return first
