"""Pictures: the data of `figures` and `qualitative` drawn with matplotlib, and written as .png, .pdf or .svg.

A reader who prints in grey tells everything apart by lightness, hatching, marker or line style.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ssldet.contracts import Video
from ssldet.errors import RequestError
from ssldet.report.figures import ClassChange, ClassChanges, Panel, Sweep
from ssldet.report.qualitative import Box, Frames, ShownFrame
from ssldet.util.files import replacing

FORMATS = (".png", ".pdf", ".svg")
STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType inside the file: text stays text
    "svg.fonttype": "none",  # the same
    "svg.hashsalt": "ssldet",  # names of parts follow from what they are
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DARK, LIGHT, INK = "#1f4e79", "#f3c78b", "#222222"
LONGEST_NAME = 28
FEWEST_COLUMNS = 2
"""Of Figure 5, so that what is said above it finds room."""

LETTERS_PER_INCH = 14
"""Of the text above Figure 5, rather too few than too many."""


def draw_changes(changes: ClassChanges) -> Figure:
    """A bar a class, dark for a gain, light and hatched for a loss; whiskers are a standard deviation."""
    classes = changes.classes
    places, means = np.arange(len(classes)), np.array([change.mean for change in classes])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.5 + 0.24 * len(classes)), layout="constrained")
        axes = figure.subplots()
        for which, colour, hatch, label in (
            (means >= 0, DARK, "", "gain"),
            (means < 0, LIGHT, "////", "loss"),
        ):
            if which.any():
                axes.barh(places[which], means[which], color=colour, hatch=hatch, edgecolor=INK, lw=0.6, label=label)
        spread = _whiskers(axes, places, classes)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(places, [_class_label(change) for change in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlabel(f"change of {changes.column.title} in points, {changes.ours} minus {changes.baseline}{spread}")
        axes.set_ylabel("class (training videos)" if all(change.videos is not None for change in classes) else "class")
        axes.set_title(f"{changes.title}\n{_caption(changes, [len(changes.runs)])}", fontsize=9, loc="left")
        axes.legend(frameon=False, loc="best")
    return figure


def _whiskers(axes: Axes, places: np.ndarray, classes: Sequence[ClassChange]) -> str:
    """Draw them where there are several seeds; gives what is to be said of them."""
    spread = [place for place, change in zip(places, classes, strict=True) if change.std is not None]
    if not spread:
        return ""
    means, stds = ([getattr(classes[place], name) for place in spread] for name in ("mean", "std"))
    axes.errorbar(means, spread, xerr=stds, fmt="none", ecolor="#777777", elinewidth=1.2, capsize=2)
    return " (whiskers: ± std)"


def _class_label(change: ClassChange) -> str:
    return change.name if change.videos is None else f"{change.name} ({change.videos})"


def _caption(shown: ClassChanges | Sweep, counts: Iterable[int]) -> str:
    """Data, preset and numbers of seeds: "synthetic:ucf24 in place of ucf24, preset nano, 2-3 seeds"."""
    data = shown.settings.dataset(shown.dataset)
    place = "" if str(data) == shown.dataset else f" in place of {shown.dataset}"
    low, *_, high = sorted([*counts] * 2)
    seeds = f"{high} seed{'' if high == 1 else 's'}" if low == high else f"{low}-{high} seeds"
    return f"{data}{place}, preset {shown.settings.preset}, {seeds}"


def draw_sweep(sweep: Sweep) -> Figure:
    """A panel a threshold: ours as filled circles, the paper's as open diamonds, crosses where there is no run."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(sweep.panels), 3.2), layout="constrained")
        all_axes = figure.subplots(1, len(sweep.panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(all_axes, sweep.panels, strict=True):
            _draw_panel(axes, panel, {each.option: each.label for each in sweep.panels})
        all_axes[0].set_ylabel(f"{sweep.column.title} in percent")
        all_axes[0].set_ylim(bottom=0)
        counts = [point.n for panel in sweep.panels for point in panel.points if point.n]
        words = f"{sweep.title} (report-only: swept on test videos)\n{_caption(sweep, counts)}"
        figure.suptitle(words, fontsize=9, x=0.01, ha="left")
        legend = {
            label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: Panel, labels: Mapping[str, str]) -> None:
    values, means, stds, reported_means = (
        np.array([getattr(point, name) for point in panel.points], float) for name in ("value", "mean", "std", "paper")
    )
    done, reported = ~np.isnan(means), ~np.isnan(reported_means)
    line: dict[str, Any] = {"fmt": "o-", "color": DARK, "capsize": 2, "label": "ours (mean ± std)"}
    diamond: dict[str, Any] = {"marker": "D", "ls": "", "mfc": "white", "mec": INK, "ms": 7, "label": "paper"}
    cross: dict[str, Any] = {"marker": "x", "ls": "", "color": INK, "clip_on": False, "label": "no run"}
    if done.any():
        axes.errorbar(values[done], means[done], yerr=np.nan_to_num(stds[done]), **line)
    if reported.any():
        axes.plot(values[reported], reported_means[reported], **diamond)
    if not done.all():
        at_bottom = axes.get_xaxis_transform()
        axes.plot(values[~done], np.zeros((~done).sum()), transform=at_bottom, **cross)
    axes.set_xticks(values)
    fixed = ", ".join(f"{labels[name]} = {value}" for name, value in panel.fixed.items())
    axes.set_xlabel(f"{panel.label} ({fixed})" if fixed else panel.label)


TRUTH: dict[str, Any] = {"colour": "#1c4fd6", "style": "-", "text": "white", "halo": "white"}
DETECTION: dict[str, Any] = {"colour": "#37d63a", "style": (0, (4, 2)), "text": "black", "halo": "black"}


def draw_frames(frames: Frames, pictures: Mapping[tuple[str, int], np.ndarray]) -> Figure:
    """A grid of frames: truth in solid blue, detections in dashed green, each row with its label.

    Args:
        pictures: (video id, frame) -> (h, w, 3) uint8, of any size: it is stretched over the video's.
    """
    rows = [(row, label) for row, label in zip(frames.rows, frames.labels, strict=True) if row]
    columns = max(FEWEST_COLUMNS, *(len(row) for row, _ in rows))
    shape = max(shown.video.height / shown.video.width for row, _ in rows for shown in row)
    with matplotlib.rc_context(STYLE):
        width = 2.3 * columns + 0.3
        words = _about_run(frames, int(width * LETTERS_PER_INCH))
        height = (2.3 * shape + 0.4) * len(rows) + 0.2 * (1 + words.count("\n")) + 0.2
        figure = Figure(figsize=(width, height), layout="constrained")
        grid_axes = figure.subplots(len(rows), columns, squeeze=False)
        for row_axes, (row, kind) in zip(grid_axes, rows, strict=True):
            for place, axes in enumerate(row_axes):
                axes.set(xticks=[], yticks=[], frame_on=False)
                if place < len(row):
                    _draw_frame(axes, row[place], pictures[row[place].video.id, row[place].frame])
            row_axes[0].set_ylabel(_shortened(kind))
        figure.suptitle(words, fontsize=9, x=0.01, ha="left")
    return figure


def _about_run(frames: Frames, letters: int) -> str:
    """What is shown, in lines of at most so many letters."""
    run, experiment = frames.run, frames.run.experiment
    paragraphs = (
        f"{experiment.strategy} on {run.dataset}, {experiment.ratio:.0%} labelled, preset {run.preset}, "
        f"seed {experiment.seed}, run {run.entry.id}",
        f"truth: solid blue; detections: dashed green. {frames.right} of {frames.judged} drawn frames are right "
        "by their surest box",
    )
    return "\n".join(textwrap.fill(paragraph, letters) for paragraph in paragraphs)


def _draw_frame(axes: Axes, shown: ShownFrame, pixels_hwc: np.ndarray) -> None:
    video = shown.video
    axes.imshow(pixels_hwc, extent=(0, video.width, video.height, 0), interpolation="antialiased")
    labels = _Labels(video)
    for box in shown.truth:
        _draw_box(axes, video, box, TRUTH, labels, at_top=False)
    for rank, box in reversed(list(enumerate(shown.detections))):  # the best one on top, and stronger
        _draw_box(axes, video, box, DETECTION, labels, at_top=True, width=1.2 if rank else 2.0)
    iou = f"IoU {shown.iou:.2f}" if shown.detections else "no detection"
    axes.set_title(f"{_shortened(video.id)}\nframe {shown.number}: {iou}", fontsize=7)


def _shortened(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


class _Labels:
    """Places of the labels in one picture: within it, and not over each other as long as there is room."""

    LETTER, LINE = 0.021, 0.07
    """Width of a letter in widths of a picture, and height of a line in heights of one."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._taken: list[tuple[float, float, float, float]] = []

    def place(self, text: str, x: float, y: float) -> tuple[float, float]:
        """Left and upper edge of a label that is wanted at (x, y), moved line by line until it covers no other."""
        width, height = len(text) * self.LETTER * self._video.width, self.LINE * self._video.height
        x = min(max(x, 0.0), max(self._video.width - width, 0.0))
        for step in (0, 1, -1, 2, -2, 3, -3):
            area = (x, y + step * height, x + width, y + (step + 1) * height)
            inside = area[1] >= 0 and area[3] <= self._video.height
            if inside and not any(_covers(area, other) for other in self._taken):
                break
        else:
            area = (x, y, x + width, y + height)
        self._taken.append(area)
        return area[0], area[1]


def _covers(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_box(
    axes: Axes,
    video: Video,
    box: Box,
    look: Mapping[str, Any],
    labels: _Labels,
    *,
    at_top: bool,
    width: float = 1.5,
) -> None:
    (x1, x2), (y1, y2) = np.clip(box.box_4[::2], 0, video.width), np.clip(box.box_4[1::2], 0, video.height)
    halo = [withStroke(linewidth=width + 1.1, foreground=look["halo"])]
    outline = {"fill": False, "ec": look["colour"], "ls": look["style"], "lw": width, "path_effects": halo}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **outline))
    score = "" if box.score is None else f" {box.score:.2f}"
    x, y = labels.place(box.label + score, x1, y1 if at_top else y2 - _Labels.LINE * video.height)
    axes.text(
        x,
        y,
        box.label + score,
        fontsize=6,
        color=look["text"],
        va="top",
        clip_on=True,
        bbox={"facecolor": look["colour"], "edgecolor": "none", "pad": 1, "alpha": 0.85},
    )


# --------------------------------------------------------------------------------------------------- files


def check_format(path: Path) -> None:
    """Raises RequestError for a file that is no .png, .pdf or .svg."""
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"a figure is written to a file named {', '.join(FORMATS)}, not {path.name!r}")


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; the same figure gives the same bytes. Raises RequestError."""
    check_format(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
