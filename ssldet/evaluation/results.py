"""Results of metrics: the JSON form in which records hold them, and how one number of them is named.

as_json, from_json      typed results <-> metric -> protocol -> {protocol, thresholds, kinds, scalars, notes}
value(results, ...)     one number, by its key ("0.5") or its column's title ("V@0.5")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from ssldet import plugins
from ssldet.contracts import MetricResult
from ssldet.errors import PluginError, RequestError, UnknownName

Results = dict[str, dict[str, MetricResult]]
"""Metric -> protocol -> its result."""

_NUMBER = r"\d+(\.\d+)?"
_THRESHOLD = re.compile(rf"{_NUMBER}(:{_NUMBER})?")
_RESULT = TypeAdapter(MetricResult)
_FIELDS = tuple(MetricResult.__dataclass_fields__)


def is_threshold(key: str) -> bool:
    """Whether a key is a number ("0.5") or a range of numbers ("0.5:0.95")."""
    return _THRESHOLD.fullmatch(key) is not None


# -------------------------------------------------------------------------------------------------- JSON


def as_json(results: Mapping[str, Mapping[str, MetricResult]]) -> dict[str, Any]:
    """Results as a record holds them: metric -> protocol -> {protocol, thresholds: {"0.5": {mean, per_class}}}.

    A metric of plain scalars (recall) under a single protocol stands flat under its own name.
    """
    return {
        name: _flat(by_protocol) or {protocol: result_as_json(result) for protocol, result in by_protocol.items()}
        for name, by_protocol in results.items()
    }


def _flat(by_protocol: Mapping[str, MetricResult]) -> dict[str, Any]:
    if len(by_protocol) != 1:
        return {}
    (result,) = by_protocol.values()
    return result_as_json(result) if result.scalars and not result.by_class else {}


def result_as_json(result: MetricResult) -> dict[str, Any]:
    """One result: its protocol, its thresholds, kinds and scalars, and its notes; what is empty is left out."""
    content: dict[str, Any] = {"protocol": result.protocol}
    for form in ("thresholds", "kinds"):
        values = getattr(result, form)
        if values:
            content[form] = {
                key: {"mean": value.mean, "per_class": dict(value.per_class)} for key, value in values.items()
            }
    content |= dict(result.scalars)
    return content | ({"notes": dict(result.notes)} if result.notes else {})


def from_json(content: Mapping[str, Any]) -> Results:
    """Typed results from the JSON form, whether or not their metrics are installed.

    Raises:
        ValueError: names the metric that has not that form.
    """
    results: Results = {}
    for name, of_metric in content.items():
        try:
            results[name] = _by_protocol(of_metric)
        except (TypeError, ValueError, PluginError) as error:
            raise ValueError(f"metric {name!r}: {error}") from error
    return results


def _by_protocol(content: Mapping[str, Any]) -> dict[str, MetricResult]:
    if not isinstance(content, Mapping):
        raise TypeError(f"expected its results by protocol, not {content!r}")
    if isinstance(content.get("protocol"), str):
        return {content["protocol"]: _result(content)}
    return {protocol: _result({"protocol": protocol, **result}) for protocol, result in content.items()}


def _result(content: Mapping[str, Any]) -> MetricResult:
    """One result; what is neither a field of it nor a number is kept among its notes."""
    fields = {key: content[key] for key in _FIELDS if key in content}
    others = {key: value for key, value in content.items() if key not in fields}
    scalars = {key: value for key, value in others.items() if value is None or isinstance(value, int | float)}
    notes = {key: value for key, value in others.items() if key not in scalars} | fields.get("notes", {})
    return _RESULT.validate_python({**fields, "scalars": scalars, "notes": notes})


# ----------------------------------------------------------------------------------------------- one number


def value(results: Mapping[str, Mapping[str, MetricResult]], metric: str, protocol: str, column: str) -> float | None:
    """One number of some results.

    Args:
        results: metric -> protocol -> result.
        metric: the metric's plugin name; it need not be installed.
        protocol: one of the protocols that it was scored under.
        column: the number's key ("0.5", "localization"), or the title of its column ("V@0.5", "Loc").

    Returns:
        The mean or scalar as a fraction; None where the protocol gives none.

    Raises:
        UnknownName: there is no such metric, protocol or column; names those that there are.
    """
    if metric not in results:
        raise UnknownName("metric of these results", metric, results)
    if protocol not in results[metric]:
        raise UnknownName(f"protocol of these results of {metric}", protocol, results[metric])
    result = results[metric][protocol]
    if column in result.numbers:
        return result.value(column)
    titles = column_titles(metric)
    keys = {titles[key]: key for key in result.numbers if key in titles}
    if column not in keys:
        raise UnknownName(f"column of {metric}", column, {*result.numbers, *keys})
    return result.value(keys[column])


def class_numbers(
    results: Mapping[str, Mapping[str, MetricResult]], metric: str, protocol: str, key: str
) -> dict[str, float | None]:
    """Class -> its number, None for a class without truth; empty where there are no numbers by class."""
    result = results.get(metric, {}).get(protocol)
    value = result.by_class.get(key) if result else None
    if result is None or value is None:
        return {}
    absent = result.notes.get("classes_without_truth", ())
    return {name: None if name in absent else number for name, number in value.per_class.items()}


def mean_where_truth(
    results: Mapping[str, Mapping[str, MetricResult]], metric: str, protocol: str, key: str
) -> float | None:
    """The mean over the classes that have truth, whatever the protocol; `value` of what is no mean over classes.

    Raises as `value`.
    """
    if by_class := class_numbers(results, metric, protocol, key):
        numbers = [number for number in by_class.values() if number is not None]
        return fmean(numbers) if numbers else None
    return value(results, metric, protocol, key)


def column_titles(metric: str) -> Mapping[str, str]:
    """Result key -> column title, as the metric declares them; empty where it is not installed or broken."""
    try:
        kind = plugins.load("metric", metric)
    except (PluginError, RequestError):
        return {}
    titles: Mapping[str, str] = kind.columns
    return titles
