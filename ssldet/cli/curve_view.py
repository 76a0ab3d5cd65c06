"""Series over the steps of a run as small curves of blocks, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssldet.cli.output import sparkline

if TYPE_CHECKING:
    from ssldet.runs.curves import Curve


def curve_rows(drawn: Sequence[Curve], width: int = 24) -> list[tuple[str, ...]]:
    """A curve for each series, over the steps that any of them has, with its first, last, least and greatest number.

    The first row has titles. A log of a single line has no curves.
    """
    steps = sorted({step for curve in drawn for step in curve.steps})
    if len(steps) < 2:
        return []
    rows: list[tuple[str, ...]] = [(f"steps {steps[0]} to {steps[-1]}", "", "first", "last", "low", "high")]
    tops: dict[str, float] = {}
    for curve in drawn:
        tops[_scale(curve)] = max(tops.get(_scale(curve), 0.0), *curve.values)
    for curve in drawn:
        top = tops[_scale(curve)] if curve.kind in ("pseudo_labels", "thresholds", "validation") else None
        by_step = dict(zip(curve.steps, curve.values, strict=True))
        name = f"grad {curve.name}" if curve.kind == "gradient_norms" else curve.name
        numbers = (curve.values[0], curve.values[-1], min(curve.values), max(curve.values))
        drawing = sparkline([by_step.get(step) for step in steps], top=top, width=width)
        rows.append((name, drawing, *(f"{number:.3g}" for number in numbers)))
    return rows


def _scale(curve: Curve) -> str:
    """What has one scale, from 0: a score, of student and teacher."""
    return f"{curve.kind} {curve.name.split()[-1]}"
