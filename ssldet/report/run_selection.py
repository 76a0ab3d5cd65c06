"""Which runs stand for a cell of a table: those that may be averaged, those that are left out, and why.

    result_folders(given)   where to search for runs
    collect_runs(folders)   all runs in some folders, with the hash of their settings
    select_runs(runs)       of the runs with one cell's settings: those that may be averaged, and the others
    differing(a, b)         the settings in which two experiments differ, in words

Nothing is averaged that was made with other settings, on other data or from other initial weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from pydantic import ValidationError

from ssldet.benchmark.cells import PER_RUN, DatasetChoice, settings_key
from ssldet.config import Experiment, spelled_out
from ssldet.errors import RequestError
from ssldet.evaluation.per_video import PerVideo
from ssldet.report.external_runs import ExternalRun, collect_externals
from ssldet.runs import layout
from ssldet.runs.listing import protocol_of
from ssldet.runs.plugin_code import codes_differ
from ssldet.runs.provenance import COMPARED
from ssldet.runs.record import Record
from ssldet.runs.store import RunEntry, find_runs
from ssldet.util.files import content_hash


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run whose settings are known, in whatever state it is.

    Attributes:
        experiment: its settings; `key`: their hash without seed and split.
    """

    entry: RunEntry
    experiment: Experiment
    key: str

    @property
    def record(self) -> Record:
        assert self.entry.record is not None, "only a run that is done has numbers"
        return self.entry.record

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def folder(self) -> Path:
        return self.entry.folder

    @property
    def split(self) -> int:
        return self.experiment.split

    @property
    def eval_on(self) -> str:
        return self.experiment.eval_on

    @property
    def protocol(self) -> str:
        """The protocol of its data set."""
        return protocol_of(self.entry)

    @property
    def done(self) -> bool:
        return self.entry.status == "done"

    @property
    def place(self) -> tuple[int, int]:
        """(split, seed): one number of a cell."""
        return self.experiment.split, self.experiment.seed

    @property
    def preset(self) -> str:
        return str(self.entry.machine.get("preset", ""))

    @property
    def dataset(self) -> DatasetChoice:
        return DatasetChoice(self.experiment.dataset, self.experiment.dataset_options)

    def number(self, metric: str, protocol: str, key: str) -> float | None:
        """A mean of the record, as a fraction; None where it was not scored so.

        On a subset of the videos a mean over classes is one over those that have truth there, whatever the protocol.
        """
        try:
            if self.experiment.videos is not None:
                return self.record.mean_where_truth(metric, protocol, key)
            return self.record.value(metric, protocol, key)
        except RequestError:
            return None

    def class_numbers(self, metric: str, protocol: str, key: str) -> dict[str, float | None]:
        """Class -> its number, None for a class without truth; empty where there are no numbers by class."""
        return self.record.class_numbers(metric, protocol, key)


TestedRun = Run | ExternalRun
"""What has numbers and per-video matches: a run of ours, or others' detections."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run that is not in a table although it could be thought to be: what kind of reason, and the reason."""

    run: str
    folder: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunCollection:
    """All runs found: those with known settings, newest last, and those of which nothing can be known.

    `externals` are others' numbers that lie beside them.
    `resolved` keeps the settings of cells that were asked for, so that each is resolved once for all tables; `matches`
    and `scores` likewise what runs left for their test videos, and their numbers under draws of these.
    """

    runs: tuple[Run, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    externals: tuple[ExternalRun, ...] = ()
    resolved: dict[str, Experiment | None] = field(default_factory=dict)
    matches: dict[Path, PerVideo] = field(default_factory=dict)
    scores: dict[tuple[Path, tuple[str, str, str]], np.ndarray] = field(default_factory=dict)


Folders = str | Path | Iterable[str | Path]
"""A folder, or several."""


def result_folders(folders: Folders | None = None) -> list[Path]:
    """The folders to search for runs; None means the one that runs are written to by default.

    Raises:
        RequestError: a folder that is given does not exist.
    """
    if folders is None:
        return [layout.RESULTS]
    given = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    for folder in given:
        if not folder.is_dir():
            raise RequestError(f"{folder}: no such folder; name one that holds runs, such as {layout.RESULTS}")
    return given


def collect_runs(folders: Iterable[Path]) -> RunCollection:
    """Read every run in or below some folders, each once, and others' numbers beside them."""
    searched, runs, unreadable = list(folders), [], []
    for entry in find_runs(searched):
        try:
            experiment = Experiment.model_validate(entry.experiment)
        except ValidationError as error:
            unreadable.append(leave_out(entry, entry.problem or _not_ours(error)))
        else:
            experiment = spelled_out(experiment)
            runs.append(Run(entry, experiment, settings_key(experiment)))
    externals, damaged = collect_externals(searched)
    unreadable += [LeftOut(each.name, str(each.folder), "unreadable", each.problem) for each in damaged]
    return RunCollection(tuple(runs), tuple(unreadable), tuple(externals))


def _not_ours(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"this ssldet does not know its settings ({where}: {first['msg']}); read it with the one that made it"


def leave_out(entry: RunEntry, reason: str, kind: str = "") -> LeftOut:
    """A run left out; the kind of reason is its status unless said otherwise."""
    return LeftOut(
        entry.id, str(entry.folder), kind or ("unreadable" if entry.status == "done" else entry.status), reason
    )


# ------------------------------------------------------------------------------------------------- selecting


@dataclass(frozen=True, slots=True)
class RunSelection:
    """The runs of one cell that may be averaged, by (split, seed); the places that only failed; and the rest."""

    runs: Mapping[tuple[int, int], Run]
    failed: tuple[tuple[int, int], ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def data(self) -> str:
        """Fingerprint of the data of its runs; "" without runs."""
        return next((run.record.data_fingerprint for run in self.runs.values()), "")

    @property
    def mixed(self) -> bool:
        """Whether they, or the first stage of one, were made by other versions of ssldet or torch, or plugins' code."""
        runs = self.runs.values()
        noted = any("first_stage_versions" in run.record.notes for run in runs)
        return noted or len(set(map(_versions, runs))) > 1 or codes_differ(run.record.provenance for run in runs)

    @property
    def mixed_threads(self) -> bool:
        """Whether they were trained with different numbers of CPU threads, which round differently."""
        return len({run.record.hardware.get("threads") for run in self.runs.values()}) > 1


def select_runs(runs: Sequence[Run]) -> RunSelection:
    """Of runs with the same settings, the largest group with one origin; the newest of equally large ones."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.done:
            groups.setdefault(_origin(run), []).append(run)
    ranked = sorted(groups.values(), key=_rank, reverse=True)
    kept = {run.place: run for run in sorted(ranked[0], key=_age)} if ranked else {}
    left_out = [leave_out(run.entry, *_why_not(run, kept)) for run in runs if kept.get(run.place) is not run]
    failed = sorted({run.place for run in runs if run.entry.status == "failed"} - kept.keys())
    return RunSelection(kept, tuple(failed), tuple(left_out))


def _rank(group: Sequence[Run]) -> tuple[int, float]:
    return len({run.place for run in group}), max(map(_age, group))


def _age(run: Run) -> float:
    return run.entry.changed


def _why_not(run: Run, kept: Mapping[tuple[int, int], Run]) -> tuple[str, str]:
    """(reason, kind) why a run with a cell's settings is not averaged."""
    if not run.done:
        return run.entry.problem, ""
    reference = next(iter(kept.values()))
    if run.record.data_fingerprint != reference.record.data_fingerprint:
        fingerprints = [each.record.data_fingerprint[:12] for each in (run, reference)]
        return f"data {fingerprints[0]} instead of {fingerprints[1]}", "other data"
    if _origin(run) != _origin(reference):
        return "its initial weights, or the videos it skipped, are others", "other initial weights"
    return f"run {kept[run.place].entry.id} of the same seed is newer", "repeated"


def _origin(run: Run) -> str:
    """Hash of the data and the initial weights of a finished run."""
    notes = run.record.notes
    weights = notes.get("weights") or _without_folders(notes.get("initial_weights"))
    return content_hash([run.record.data_fingerprint, weights, notes.get("skipped_videos")])


def _without_folders(value: Any) -> Any:
    """A report on loaded weights, its files by name alone: the folder they lay in moves no number."""
    if isinstance(value, Mapping):
        return {
            key: PurePath(item).name if key == "source" and isinstance(item, str) else _without_folders(item)
            for key, item in value.items()
        }
    return value


def _versions(run: Run) -> str:
    versions = run.record.provenance.get("distributions", {})
    return content_hash([versions.get(name) for name in COMPARED])


# ------------------------------------------------------------------------------------------------ comparing


ABSENT = "(absent)"
"""Stands for the value of a setting that one of two experiments does not have."""


def differing(experiment: Experiment, expected: Experiment) -> list[str]:
    """ "train.steps 100 instead of 700", for every setting but seed and split.

    Of experiments of different revisions, the settings that one of them does not know are left out.
    """
    values, wanted = (dict(_flat(each.settings())) for each in (experiment, expected))
    if experiment.revision != expected.revision:
        common = values.keys() & wanted.keys()
        values, wanted = ({key: each[key] for key in each if key in common} for each in (values, wanted))
    keys = [key for key in {**wanted, **values} if key not in PER_RUN and values.get(key) != wanted.get(key)]
    return [f"{_short(key)} {_word(values, key)} instead of {_word(wanted, key)}" for key in keys]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield prefix + key, item


def _short(key: str) -> str:
    """The key as `--set` takes it."""
    head, _, rest = key.partition(".")
    return f"{head.removesuffix('_options')}.{rest}" if rest else key


def _word(values: Mapping[str, Any], key: str) -> str:
    if key == "videos":
        return f"({len(values[key])} listed)" if key in values else "(all)"
    return str(values[key]) if key in values else ABSENT
