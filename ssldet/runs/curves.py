"""What the log of a run has over its steps, as series: losses, pseudo-labels, scores on the validation part.

curves(lines)       the series, by kind and name
as_json(curves)     as plain data
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

CurveKind = Literal["losses", "gradient_norms", "pseudo_labels", "thresholds", "validation"]

PSEUDO_LABELS = ("frame_coverage", "frame_precision", "box_coverage", "box_precision")
"""What is shown of pseudo-labels, fractions: how many clips have some, and how many of these are right."""


@dataclass(slots=True)
class Curve:
    """One number over the steps; lines of the log without it are left out.

    Attributes:
        name: within its kind, such as "box_u", "frame_coverage", "teacher F@0.5".
    """

    kind: CurveKind
    name: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def curves(lines: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The series of a log, in the order of their kinds and of their first line; lines of older versions have fewer."""
    found: dict[tuple[CurveKind, str], Curve] = {}
    for line in lines:
        for kind, name, value in _numbers(line):
            if isinstance(value, int | float):
                curve = found.setdefault((kind, name), Curve(kind, name))
                curve.steps.append(line["step"])
                curve.values.append(float(value))
    kinds: tuple[CurveKind, ...] = ("losses", "gradient_norms", "pseudo_labels", "thresholds", "validation")
    return sorted(found.values(), key=lambda curve: kinds.index(curve.kind))


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[CurveKind, str, Any]]:
    for name, value in (line.get("losses") or {}).items():
        yield "losses", name, value
    yield "losses", "unlabelled_ratio", line.get("unlabelled_ratio")
    for name, value in (line.get("gradient_norms") or {}).items():
        yield "gradient_norms", name, value
    for name in PSEUDO_LABELS:
        yield "pseudo_labels", name, (line.get("pseudo_labels") or {}).get(name)
    for name, value in _in_short(line.get("thresholds") or {}).items():
        yield "thresholds", f"{name} threshold", value
    for network, scores in (line.get("validation") or {}).items():
        for title, value in scores.items():
            yield "validation", f"{network} {title}", value


def _in_short(thresholds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Thresholds by name; where there are several, as of classes, the range that they are in."""
    values = [value for value in thresholds.values() if isinstance(value, int | float)]
    if len(values) < 2:
        return thresholds
    return {"least": min(values), "mean": fmean(values), "greatest": max(values)}


def as_json(found: Sequence[Curve]) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Kind -> name -> {steps, values}."""
    content: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for curve in found:
        content.setdefault(curve.kind, {})[curve.name] = {"steps": curve.steps, "values": curve.values}
    return content
