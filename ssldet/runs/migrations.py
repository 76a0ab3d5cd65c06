"""Records of earlier schemas, brought to the present one in memory; the file is left as it is.

A step takes the content of a record of schema N and gives that of schema N + 1: `STEPS[N]`. The configuration stays as
it was written; `config.migrated` gives its fields the names of today where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ssldet.evaluation.results import is_threshold

SCHEMA_VERSION = 3
"""Schema of the records that are written."""

FIRST_WITH_CHECKSUM = 3
"""Since this schema a record has a checksum of its own content."""

RENAMED_KEYS = {"errors": {"localisation": "localization"}}
"""Metric -> key of its results in schema 1 -> key since."""


def migrate(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record's content as the present schema has it. Its `schema_version` is one of `known_schemas`."""
    migrated = dict(content)
    while (version := migrated["schema_version"]) != SCHEMA_VERSION:
        migrated = {**STEPS[version](migrated), "schema_version": version + 1}
    return migrated


def known_schemas() -> tuple[int, ...]:
    """The schemas that can be read, the oldest first."""
    return (*STEPS, SCHEMA_VERSION)


# --------------------------------------------------------------------------------------------- 1 -> 2


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Kinds of error were called thresholds, and one of them was spelled otherwise."""
    metrics = content.get("metrics")
    if not isinstance(metrics, Mapping):
        return content
    return {**content, "metrics": {name: _metric_from_1(name, found) for name, found in metrics.items()}}


def _metric_from_1(name: str, found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    renamed = RENAMED_KEYS.get(name, {})
    if isinstance(found.get("protocol"), str):  # one with scalars, flat under its name
        return _result_from_1(found, renamed)
    return {
        protocol: _result_from_1(result, renamed) if isinstance(result, Mapping) else result
        for protocol, result in found.items()
    }


def _result_from_1(result: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    values = result.get("thresholds")
    if not isinstance(values, Mapping):
        return dict(result)
    thresholds = {key: value for key, value in values.items() if is_threshold(key)}
    kinds = {renamed.get(key, key): value for key, value in values.items() if not is_threshold(key)}
    forms = {"thresholds": thresholds, "kinds": kinds}
    others = {key: value for key, value in result.items() if key != "thresholds"}
    return others | {form: found for form, found in forms.items() if found}


# --------------------------------------------------------------------------------------------- 2 -> 3


def _from_2(content: dict[str, Any]) -> dict[str, Any]:
    """A checksum came; a record without one stays without."""
    return content


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}
