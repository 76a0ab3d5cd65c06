"""The numbers of a run's record as its page shows them: means, and scores and kinds of error class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssldet.contracts import MetricResult
from ssldet.evaluation.results import class_numbers, column_titles
from ssldet.runs.listing import headline_places
from ssldet.runs.record import Record

ERRORS = "errors"
"""The metric whose kinds add up to 1 in each class; it need not be installed."""


@dataclass(frozen=True, slots=True)
class Mean:
    """One number of a metric under a protocol, a fraction or None."""

    metric: str
    protocol: str
    title: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """A kind of error and its share; `style` counts from 0."""

    kind: str
    value: float
    style: int


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class: title of a score -> its fraction, and what its detections got wrong."""

    name: str
    scores: Mapping[str, float | None]
    errors: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Scores and errors by class, under one protocol; `overall` has the means of the kinds of error."""

    protocol: str
    titles: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    overall: tuple[Share, ...]


def means(record: Record) -> tuple[Mean, ...]:
    """Every mean and plain number of a record."""
    return tuple(
        Mean(metric, protocol, column_titles(metric).get(key, key), value)
        for metric, by_protocol in record.metrics.items()
        for protocol, result in by_protocol.items()
        for key, value in result.numbers.items()
    )


def class_table(record: Record, protocol: str) -> ClassTable:
    """Scores and kinds of error of the classes; without rows where the record has no numbers by class."""
    scores = {title: class_numbers(record.metrics, *place) for title, place in headline_places(protocol).items()}
    scores = {title: of for title, of in scores.items() if of}
    errors = record.metrics.get(ERRORS, {}).get(protocol)
    names = list(dict.fromkeys(name for of in scores.values() for name in of))
    rows = (
        ClassRow(name, {title: of.get(name) for title, of in scores.items()}, tuple(_shares(errors, name)))
        for name in names
    )
    return ClassTable(protocol, tuple(scores), tuple(rows), tuple(_shares(errors)))


def _shares(errors: MetricResult | None, name: str | None = None) -> Iterator[Share]:
    """The kinds of error of a class, or of all; none where they are not known."""
    for style, (kind, value) in enumerate(errors.kinds.items() if errors else ()):
        share = value.mean if name is None else value.per_class.get(name)
        if share is not None:
            yield Share(kind, share, style)
