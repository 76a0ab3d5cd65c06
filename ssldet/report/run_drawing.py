"""Pictures of the data of `run_figures`, drawn with matplotlib. Runs differ by line style and grey too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssldet.evaluation.confusion import Confusion
from ssldet.report.drawing import INK, STYLE
from ssldet.report.run_figures import Bars, Cost, Panel

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#1f4e79", "ls": "-", "marker": "o"},
    {"color": "#e08214", "ls": "--", "marker": "s"},
    {"color": "#542788", "ls": ":", "marker": "^"},
    {"color": "#2a8f5b", "ls": "-.", "marker": "D"},
    {"color": "#8c8c8c", "ls": "-", "marker": "v"},
    {"color": "#b2182b", "ls": (0, (5, 1, 1, 1, 1, 1)), "marker": "P"},
)
"""Of as many runs as a figure takes; their lightness differs too."""

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++")
COLUMNS = 3
"""Of panels."""


def draw_panels(panels: Sequence[Panel], title: str, x_label: str, y_label: str = "") -> Figure:
    """A grid of panels over one x axis, a line a run; marks stand on the numbers where these are few."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    looks = dict(zip(labels, LOOKS, strict=False))
    end = max((x for panel in panels for line in panel.lines for x in line.xs), default=1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns + 0.4, 1.9 * rows + 0.5 + 0.2 * len(labels)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for place, one in enumerate(axes.flat):
            if place < len(panels):
                _draw_panel(one, panels[place], looks)
                one.set_xlim(0, 1.03 * end)
            else:
                one.set_visible(False)
        for place in range(len(panels)):
            if place + columns >= len(panels):
                axes.flat[place].set_xlabel(x_label)
        for row_axes in axes if y_label else ():
            row_axes[0].set_ylabel(y_label)
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        _legend(figure, axes.flat)
    return figure


def _draw_panel(axes: Axes, panel: Panel, looks: dict[str, dict[str, Any]]) -> None:
    for line in panel.lines:
        look = dict(looks[line.label])
        if len(line.xs) > 40:
            del look["marker"]
        axes.plot(line.xs, line.ys, label=line.label, lw=1.2, ms=3, **look)
    axes.set_title(panel.title, fontsize=8)
    axes.tick_params(labelsize=7)
    if panel.fraction:
        axes.set_ylim(-0.02, 1.02)


def _legend(figure: Figure, all_axes: Any) -> None:
    """One for all panels, below them, a run a line."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", frameon=False, fontsize=8)


def draw_bars(bars: Bars, title: str) -> Figure:
    """A group of bars a class, a bar a run; what a run has no number of is left out."""
    runs, classes = bars.values_rk.shape
    height = 0.8 / runs
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.6 + 0.11 * classes * (runs + 1)), layout="constrained")
        axes = figure.subplots()
        for run, (label, values_k) in enumerate(zip(bars.labels, bars.values_rk, strict=True)):
            places = np.arange(classes) - 0.4 + height * (run + 0.5)
            look = {"color": LOOKS[run]["color"], "hatch": HATCHES[run], "edgecolor": "white" if run else INK}
            axes.barh(places, values_k, height, label=label, lw=0.4, **look)
        axes.set_yticks(np.arange(classes), bars.classes)
        axes.set_ylim(classes - 0.4, -0.6)
        axes.set_xlabel(f"{bars.title} in percent")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        _legend(figure, [axes])
    return figure


def draw_costs(costs: Sequence[Cost], title: str, score: str) -> Figure:
    """A mark a run: its score over the clips that went through the student with gradients."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.0 + 0.2 * len(costs)), layout="constrained")
        axes = figure.subplots()
        for look, cost in zip(LOOKS, costs, strict=False):
            label = f"{cost.label}: {cost.score:.1f}, {cost.hours:.2g} h of training"
            axes.plot(cost.gradient_clips, cost.score, ms=7, label=label, **{**look, "ls": ""})
        axes.set_xlim(0, 1.1 * max(cost.gradient_clips for cost in costs))
        axes.set_ylim(0, 1.15 * max(cost.score for cost in costs) or 1)
        axes.ticklabel_format(axis="x", style="plain")
        axes.set_xlabel("clips with gradients")
        axes.set_ylabel(f"{score} in percent")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        _legend(figure, [axes])
    return figure


def draw_confusion(matrix: Confusion, title: str) -> Figure:
    """Rows are true classes, columns predicted ones; dark is much. Cells of 1 percent of a row or more have it."""
    shares_kp = matrix.shares_kp
    size = 1.6 + 0.28 * len(matrix.predicted)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size + 1.2, size + 0.4), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares_kp, cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks(range(len(matrix.predicted) + 1), [*matrix.predicted, "missed"], rotation=90, fontsize=7)
        counts_k = matrix.counts_kp.sum(axis=1)
        names = [f"{name} ({count})" for name, count in zip(matrix.classes, counts_k, strict=True)]
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.axvline(len(matrix.predicted) - 0.5, color=INK, lw=0.8)
        for (row, column), share in np.ndenumerate(shares_kp):
            if share >= 0.01:
                ink = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=5, color=ink)
        axes.set_xlabel("class of the surest detection on the box")
        axes.set_ylabel("class of the truth (boxes)")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
