"""Tables and sweeps as data: which cells they have, and the numbers that the paper reports.

The files are package data: `benchmarks/paper/table2.yaml` ... `figure4.yaml` (axes, rows, columns), the paper's;
`benchmarks/beyond/table7.yaml`, `table8.yaml`, ours; and `results/paper.yaml` (reported numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssldet.errors import RequestError, UnknownName

FILES = "ssldet.paper"
BEYOND_FILES = "ssldet.beyond"
REPORTED_FILES = "ssldet.results"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """One metric of a table: `record.value(metric, protocol, key)`."""

    title: str
    metric: str
    protocol: str
    key: str


class Row(_Part):
    """One approach under one initialisation.

    Attributes:
        approach: as the paper names it, or our own name for a row that the paper lacks.
        strategy: plugin that trains it; None for a row that is reported only.
        options: of the strategy, beside those of the preset.
        ratio: overrides the table's ratios with a single one (1.0: all labels).
        planned: "always", or the name to be given with `--with` ("fully_supervised", "readings").
        control: a control of ours that the paper lacks.
        published: title of one of the table's `published` columns -> a number in percent, of a row that is reported
            only.
    """

    approach: str
    pretrained: bool
    strategy: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    ratio: float | None = Field(None, gt=0, le=1)
    planned: str = "always"
    control: bool = False
    published: dict[str, float] = Field(default_factory=dict)


class TableSpec(_Part):
    """A table, or a sweep that a figure shows.

    Attributes:
        name: "2", or "figure4".
        title: what it is of.
        dataset: the paper's data set, by plugin name.
        ratios: label ratios, in the order of the columns.
        columns: the metrics; a table has one column for each (metric, ratio).
        rows: in the order of the paper.
        baseline: the strategy to whose plain runs the others are compared; "" for none.
        contrasts: pairs of approaches (A, B) with the same initial weights whose difference A - B is shown beside.
        note: what a reader must know (a sweep on test data, an inferred setting).
        of_dataset: a table of any data set (`dataset_spec`), of which the paper has none: nothing of the paper's
            numbers and marks is in it, and `dataset` may have a flavour ("synthetic:jhmdb").
        beyond: a table of ours on the paper's data, with strategies or questions that the paper does not have: nothing
            of its numbers is in it.
        published: titles of further columns, of numbers that others published by another metric.
    """

    name: str
    title: str
    dataset: str
    ratios: tuple[float, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str = ""
    contrasts: tuple[tuple[str, str], ...] = ()
    note: str = ""
    of_dataset: bool = False
    beyond: bool = False
    published: tuple[str, ...] = ()

    @property
    def is_papers(self) -> bool:
        """Whether the paper has this table: its numbers and contradictions are in it then."""
        return not (self.of_dataset or self.beyond)

    @model_validator(mode="after")
    def _contrasts_name_rows(self) -> Self:
        approaches = {row.approach for row in self.rows}
        if unknown := {name for pair in self.contrasts for name in pair} - approaches:
            raise ValueError(f"contrasts name approaches that are no rows: {', '.join(sorted(unknown))}")
        return self

    @model_validator(mode="after")
    def _published_numbers_have_columns(self) -> Self:
        if unknown := {title for row in self.rows for title in row.published} - set(self.published):
            raise ValueError(f"published numbers stand in columns that there are not: {', '.join(sorted(unknown))}")
        return self

    def row(self, approach: str, *, pretrained: bool) -> Row | None:
        """The row of an approach under one initialisation; None where there is none."""
        return next((row for row in self.rows if (row.approach, row.pretrained) == (approach, pretrained)), None)

    def ratios_of(self, row: Row) -> tuple[float, ...]:
        return self.ratios if row.ratio is None else (row.ratio,)


class Reported(_Part):
    """One number of the paper, in percent, and what the paper prints for the same thing elsewhere."""

    value: float
    elsewhere: tuple[tuple[float, str], ...] = ()
    """(value, where it is printed)"""


class ReportedRow(_Part):
    """The paper's numbers of one row: column title -> ratio ("0.05", or "all") -> number."""

    approach: str
    pretrained: bool
    values: dict[str, dict[str, Reported]]


class ReportedDataset(_Part):
    """What Table 1 says of a data set: column -> entry."""

    title: str
    columns: dict[str, str]


class Statement(_Part):
    """A number that the paper reports outside its tables, in percent."""

    what: str
    value: float
    where: str


class Paper(_Part):
    """results/paper.yaml.

    Attributes:
        tables: reported rows by table.
        datasets: Table 1, by the plugin names of its data sets.
        statements: numbers outside the tables.
        contradictions: the places where the paper contradicts itself, in words.
    """

    source: str
    tables: dict[str, tuple[ReportedRow, ...]]
    datasets: dict[str, ReportedDataset] = Field(default_factory=dict)
    statements: tuple[Statement, ...] = ()
    contradictions: tuple[str, ...] = ()

    def number(self, table: str, row: Row, column: str, ratio: float | str) -> Reported | None:
        """What the paper prints in a cell; None where it prints nothing."""
        for found in self.tables.get(table, ()):
            if (found.approach, found.pretrained) == (row.approach, row.pretrained):
                return found.values.get(column, {}).get(ratio_key(ratio))
        return None


def ratio_key(ratio: float | str) -> str:
    """How a ratio is written as a key: 0.05 -> "0.05"."""
    return ratio if isinstance(ratio, str) else f"{ratio:g}"


@cache
def specs() -> Mapping[str, TableSpec]:
    """All tables and sweeps by name: "2" ... "6", "figure4", and those beyond the paper, "7" and "8"."""
    found = [*_read_specs(FILES, beyond=False), *_read_specs(BEYOND_FILES, beyond=True)]
    return {spec.name: spec for spec in found}


def paper_specs() -> list[TableSpec]:
    """The tables and sweeps that the paper has."""
    return [spec for spec in specs().values() if spec.is_papers]


def _read_specs(package: str, *, beyond: bool) -> list[TableSpec]:
    """Raises RequestError where the package is not installed: it was declared after an editable installation."""
    try:
        entries = sorted(resources.files(package).iterdir(), key=lambda entry: entry.name)
    except ModuleNotFoundError as error:
        raise RequestError(f"package data {package} are missing; install ssldet again (pip install -e .)") from error
    texts = [entry.read_text(encoding="utf-8") for entry in entries if entry.name.endswith(".yaml")]
    return [TableSpec.model_validate({**yaml.safe_load(text), "beyond": beyond}) for text in texts]


def spec(name: str) -> TableSpec:
    """One table or sweep. Raises UnknownName."""
    if name not in specs():
        raise UnknownName("table", name, specs())
    return specs()[name]


def optional_rows() -> list[str]:
    """The names under which optional rows are asked for, of all tables."""
    rows = [row for table in specs().values() for row in table.rows]
    return sorted({row.planned for row in rows} - {"always"})


@cache
def paper() -> Paper:
    """The numbers that the paper reports."""
    return Paper.model_validate(yaml.safe_load((resources.files(REPORTED_FILES) / "paper.yaml").read_text("utf-8")))


@dataclass(frozen=True, slots=True)
class Cell:
    """What one trained number of a table is about; several tables may ask for the same.

    `dataset` is the paper's; which data stand in for it is a matter of `cells.Settings`.
    """

    dataset: str
    strategy: str
    options: tuple[tuple[str, Any], ...]
    ratio: float
    pretrained: bool
    split: int
    seed: int


def cell(table: TableSpec, row: Row, ratio: float, *, split: int, seed: int) -> Cell:
    """The cell behind a row and a ratio of a table."""
    assert row.strategy is not None, "a row that is reported only has no cell"
    options = tuple(sorted(row.options.items()))
    return Cell(table.dataset, row.strategy, options, ratio, row.pretrained, split, seed)
