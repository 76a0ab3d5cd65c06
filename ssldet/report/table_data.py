"""A table as data: its columns and lines, a number or none in each place, and what is read beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings
from ssldet.benchmark.spec import Reported, Row, TableSpec
from ssldet.report.cell_matching import SettingsOption
from ssldet.report.contrasts import Contrast, Difference
from ssldet.report.external_runs import ExternalRun
from ssldet.report.resampling import Interval
from ssldet.report.run_selection import LeftOut

Ratio = float | Literal["all", "unstated", "published"]

LineKind = Literal["both", "reported", "ours", "plugin", "external", "published"]

UNSTATED: Literal["unstated"] = "unstated"
"""The ratio of others' numbers whose author states none."""

PUBLISHED: Literal["published"] = "published"
"""In the place of a ratio: of a column of numbers that others published by another metric."""

ANOTHER_METRIC = "another metric"
"""In the place of the metric of such a column."""


@dataclass(frozen=True, slots=True)
class TableRequest:
    """What to show. `settings` None: those that fill most cells; `seeds` None: all that are found.

    `assignments` and `videos` are those of the settings, whether these are given or chosen.
    `extra` names optional rows that are shown even if nothing of them was run ("readings"); `cost` adds what each row
    cost.
    """

    settings: Settings | None = None
    assignments: Sequence[str] = ()
    seeds: tuple[int, ...] | None = None
    splits: tuple[int, ...] = (1,)
    extra: tuple[str, ...] = ()
    cost: bool = False
    videos: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A metric at a ratio; `splits` are those whose mean it is, or the one that it shows."""

    metric: benchmark.Column
    ratio: Ratio
    splits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A row and what it is: the paper's and ours, the paper's alone, ours alone, a further plugin's, others' that we
    scored, or others' as they published them.

    `external` has others' numbers where the row is of them.
    """

    row: Row
    kind: LineKind
    external: ExternalRun | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a table, in percent.

    Attributes:
        mean, std: over `n` of `expected` seeds; std with n - 1, None for one seed.
        runs: ids of the runs behind it.
        paper: what the paper prints, or others published.
        difference: to the baseline; None where there is nothing to compare.
        marks: "not run", "failed", "not scored", "split missing", "partial", "other preset", "other data",
            "mixed versions" and "mixed threads".
    """

    mean: float | None = None
    std: float | None = None
    n: int = 0
    expected: int = 0
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    paper: Reported | None = None
    difference: Difference | None = None
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What the runs behind one line took at one ratio, each a mean over them.

    Attributes:
        gradient_clips: clips that went through the student with gradients, first stage included.
        teacher_clips: clips that went through a teacher without.
        hours: of training, wall-clock, on the machines that the records name.
    """

    gradient_clips: float
    teacher_clips: float
    hours: float


@dataclass(frozen=True, slots=True)
class Rank:
    """The mean rank of one line among those of its initial weights that have a number in all `cells` columns.

    `interval` is over draws of the test videos; None where there are no such draws.
    """

    line: int
    rank: float
    interval: Interval | None
    cells: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table as data. `entries` has one row per line and one place per column, None where there is no such cell.

    `contrasts` are those of the table's rows that have numbers, `ranks` the lines that can be ranked; `costs` is by
    (line, ratio), where it was asked for. `few_groups` counts classes whose intervals over test videos say little.
    `best` is set when the settings were not asked for but chosen, as those that fill most cells; `others` could be.
    `no_splits` were asked for, and the data do not have them.
    """

    spec: TableSpec
    settings: Settings
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    entries: tuple[tuple[Entry | None, ...], ...]
    left_out: tuple[LeftOut, ...]
    contrasts: tuple[Contrast, ...] = ()
    costs: Mapping[tuple[int, float], Cost] = field(default_factory=dict)
    ranks: tuple[Rank, ...] = ()
    few_groups: int = 0
    best: SettingsOption | None = None
    others: tuple[SettingsOption, ...] = ()
    no_splits: tuple[int, ...] = ()
