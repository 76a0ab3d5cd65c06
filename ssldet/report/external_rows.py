"""Others' numbers in a table: which stand in it, each in a row of its own, and why the others do not.

They stand beside our rows and take no part in them: in no mean, difference, contrast or rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssldet.benchmark.cells import DatasetChoice, Settings
from ssldet.benchmark.spec import TableSpec
from ssldet.errors import RequestError
from ssldet.evaluation.per_video import read_per_video
from ssldet.report.external_runs import ExternalRun
from ssldet.report.run_selection import LeftOut, Run
from ssldet.report.table_data import UNSTATED, Column, Entry, Ratio
from ssldet.runs import layout


@dataclass(frozen=True, slots=True)
class ExternalRows:
    """What a table says of others' numbers.

    Attributes:
        data: the data of the table's cells; `split`: the official split whose numbers it shows.
        runs: our runs in its cells: theirs are the data and test videos.
        ratios: of its columns, "all" among them where it has such a column.
    """

    spec: TableSpec
    settings: Settings
    data: DatasetChoice
    split: int
    runs: Sequence[Run]
    ratios: Sequence[Ratio]

    def why_not(self, external: ExternalRun) -> tuple[str, str] | None:
        """(kind of reason, reason) why it does not stand in the table; None where it does."""
        checks = {
            "other data": self._other_data(external),
            "other split": f"split {external.split} instead of {self.split}" if external.split != self.split else "",
            "other test videos": self._other_videos(external),
            "other ratio": self._other_ratio(external),
            self._kind_unscored(external): self._not_scored(external),
        }
        return next(((kind, reason) for kind, reason in checks.items() if reason), None)

    def left_out(self, external: ExternalRun, why: tuple[str, str]) -> LeftOut:
        kind, reason = why
        return LeftOut(external.id, str(external.folder), f"external, {kind}", reason)

    def ratio_of(self, external: ExternalRun) -> Ratio:
        """The ratio of its column; that of all labels may be called "all"."""
        stated = external.record.ratio
        if stated is None:
            return UNSTATED
        return "all" if stated == 1 and stated not in self.ratios and "all" in self.ratios else stated

    def entry(self, external: ExternalRun, column: Column) -> Entry | None:
        """Its number in a column; None where it has none there."""
        if column.splits != (external.split,) or column.ratio != self.ratio_of(external):
            return None
        metric, listed = column.metric, self.settings.videos is not None
        number = external.number(metric.metric, metric.protocol, metric.key, where_truth=listed)
        if number is None:
            return Entry(expected=1, marks=("not scored",))
        marks = ("other data",) if self.spec.dataset in self.settings.dataset_map else ()
        return Entry(mean=100 * number, n=1, expected=1, marks=marks)

    def _other_data(self, external: ExternalRun) -> str:
        known = [run.record.data_fingerprint for run in self.runs]
        theirs = external.record.data_fingerprint
        options = list(_differing(external.dataset.options, self.data.options))
        if theirs in known or not (known or options):
            return ""
        return "; ".join(options) or f"data {theirs[:12]} instead of {known[0][:12]}"

    def _other_videos(self, external: ExternalRun) -> str:
        """By the per-video matches, where there are any, else by the lists that were given."""
        theirs, paths = external.folder / layout.PER_VIDEO, [run.entry.folder / layout.PER_VIDEO for run in self.runs]
        path = next((path for path in paths if path.is_file()), None)
        if path is None or not theirs.is_file():
            lists = [None if ids is None else set(ids) for ids in (external.record.videos, self.settings.videos)]
            return "" if lists[0] == lists[1] else f"{_listed(lists[0])} instead of {_listed(lists[1])}"
        try:
            ids, ours = ({video.id for video in read_per_video(each).videos} for each in (theirs, path))
        except RequestError as error:
            return str(error)
        lone = sorted(ids ^ ours)
        where = "with" if lone and lone[0] in ids else "without"
        return f"{len(ids)} test videos, {where} {lone[0]!r}, instead of {len(ours)}" if lone else ""

    def _other_ratio(self, external: ExternalRun) -> str:
        ratio = self.ratio_of(external)
        if ratio == UNSTATED or ratio in self.ratios:
            return ""
        return f"ratio {ratio:g} is none of {', '.join(f'{each:g}' for each in self.spec.ratios)}"

    def _kind_unscored(self, external: ExternalRun) -> str:
        known = any(column.metric in external.record.metrics for column in self.spec.columns)
        return "other protocol" if known else "not scored"

    def _not_scored(self, external: ExternalRun) -> str:
        metrics = external.record.metrics
        if any(external.number(each.metric, each.protocol, each.key) is not None for each in self.spec.columns):
            return ""
        scored = [f"{metric}, protocol {protocol}" for metric, of in metrics.items() for protocol in of]
        shown = dict.fromkeys(f"{column.metric}, protocol {column.protocol}" for column in self.spec.columns)
        return f"it was scored by {' and '.join(scored)}, and the table shows {' and '.join(shown)}"


def _differing(options: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if name in expected and expected[name] != value:
            yield f"dataset.{name} {value} instead of {expected[name]}"


def _listed(ids: set[str] | None) -> str:
    return "all test videos" if ids is None else f"{len(ids)} listed videos"
