"""Charts as data: what the templates draw as SVG. Colours are the style sheet's, so that both schemes have theirs.

    line_chart(title, series, ...)      lines over a common axis
    scatter_chart(title, dots, ...)     named points, each with a page behind it

Coordinates are pixels of the drawing, y down. A chart is small and is never scaled up, so that its text stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

WIDTH, HEIGHT = 340, 200
SMALL = (230, 160)
"""Width and height of charts of which there are many."""

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
"""Margins, in which the axes have their words."""

MOST_POINTS = 200
"""Of a line; a longer one is thinned evenly, its last point kept."""

COLOURS = 8
"""Line styles and colours of the style sheet, taken in turn."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers to draw as one line; pairs that are not finite are left out.

    `words` stand beside its name; by default its first and its last number do.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    words: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, in pixels, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it is drawn. `style` counts from 0; `words` is what is said of its numbers."""

    name: str
    style: int
    path: str
    points: int
    words: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter chart before it is placed: its numbers, its name, its page, and the row that it stands for.

    Points of one name have one style.
    """

    name: str
    x: float
    y: float
    page: str
    row: str


@dataclass(frozen=True, slots=True)
class PlacedDot:
    """A point of a scatter chart as it is drawn, with its numbers in words."""

    dot: Dot
    style: int
    path: str
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing: axes with their ticks, and lines or dots.

    Attributes:
        title, x_title, y_title: in words; `summary`: what the drawing says, for who does not see it.
        x_range, y_range: the numbers at the ends of the axes, from which a script reads values off lines.
        kinds: name, style and shape of the dots, for a legend.
    """

    title: str
    x_title: str
    y_title: str
    summary: str
    x_range: Range
    y_range: Range
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[PlacedDot, ...] = ()
    kinds: tuple[tuple[str, int, str], ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP

    @property
    def line_count(self) -> int:
        return len(self.lines)

    @property
    def right(self) -> int:
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM


def line_chart(
    title: str,
    series: Iterable[Series],
    *,
    x_title: str,
    y_title: str = "",
    x_range: Range | None = None,
    y_range: Range | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    most_points: int = MOST_POINTS,
) -> Chart | None:
    """Lines over a common axis; None where none of them has a finite point.

    Args:
        title: what the lines are of.
        series: the lines, in the order of their styles; one without numbers keeps its style for other charts.
        x_title, y_title: of the axes, with the unit.
        x_range, y_range: the ends of the axes; by default those of the numbers, y from 0 where none is below it.
        size: width and height in pixels.
        most_points: of a line.
    """
    kept = {style: finite for style, each in enumerate(series) if (finite := _finite(each)).xs}
    if not kept:
        return None
    across = x_range or _spread([x for each in kept.values() for x in each.xs])
    up = y_range or _from_zero([y for each in kept.values() for y in each.ys])
    width, height = size
    place_x, place_y = _scale(across, LEFT, width - RIGHT), _scale(up, height - BOTTOM, TOP)
    lines = tuple(_line(each, style, place_x, place_y, most_points) for style, each in kept.items())
    words = "; ".join(f"{line.name}: {line.words}" for line in lines)
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        summary=f"{title}. {words}",
        x_range=across,
        y_range=up,
        x_ticks=_ticks(across, place_x, round(width / 70)),
        y_ticks=_ticks(up, place_y, round(height / 50)),
        lines=lines,
        width=width,
        height=height,
    )


def scatter_chart(
    title: str, dots: Sequence[Dot], *, x_title: str, y_title: str, names: Sequence[str] = ()
) -> Chart | None:
    """Points whose names have styles of their own; None without points.

    Args:
        title: what the points are of.
        dots: the points.
        x_title, y_title: of the axes, with the unit.
        names: those of several charts, so that a name has one style in all of them.
    """
    known = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not known:
        return None
    styles = {name: style for style, name in enumerate(dict.fromkeys([*names, *(dot.name for dot in known)]))}
    shown = dict.fromkeys(dot.name for dot in known)
    across, up = _from_zero([dot.x for dot in known]), _from_zero([dot.y for dot in known])
    place_x, place_y = _scale(across, LEFT, WIDTH - RIGHT), _scale(up, HEIGHT - BOTTOM, TOP)
    placed = tuple(
        PlacedDot(
            dot,
            styles[dot.name] % COLOURS,
            _shape(styles[dot.name], place_x.of(dot.x), place_y.of(dot.y)),
            f"{number(dot.x)} {x_title}, {number(dot.y)} {y_title}",
        )
        for dot in known
    )
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        summary=f"{title}. {'; '.join(f'{each.dot.name}: {each.words}' for each in placed)}",
        x_range=across,
        y_range=up,
        x_ticks=_ticks(across, place_x, round(WIDTH / 70)),
        y_ticks=_ticks(up, place_y, round(HEIGHT / 50)),
        dots=placed,
        kinds=tuple((name, styles[name] % COLOURS, _shape(styles[name], 7, 7)) for name in shown),
    )


def _shape(style: int, x: float, y: float) -> str:
    """A disc, a square, a diamond or a triangle: a reader in grey tells dots apart by shape."""
    shapes = (
        "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
        "m-4-4h8v8h-8z",
        "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
        "m0-5l5 9h-10z",
    )
    return f"M{x:.1f} {y:.1f}{shapes[style % len(shapes)]}"


def number(value: float) -> str:
    """A number in at most four digits, thousands and millions as k and M: "0.0123", "12.5k"."""
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


# ------------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True, slots=True)
class _Scale:
    """Numbers to pixels: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def of(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def _scale(ends: Range, start: float, end: float) -> _Scale:
    return _Scale(*ends, start, end)


def _finite(series: Series) -> Series:
    pairs = [(x, y) for x, y in zip(series.xs, series.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return replace(series, xs=[x for x, _ in pairs], ys=[y for _, y in pairs])


def _spread(values: Sequence[float]) -> Range:
    """The least and the greatest, a little apart where they are equal."""
    low, high = min(values), max(values)
    margin = 0.0 if high > low else abs(low) / 2 or 0.5
    return low - margin, high + margin


def _from_zero(values: Sequence[float]) -> Range:
    """From 0 to a little above the greatest, or from the least to the greatest where some are below 0."""
    low, high = min(values), max(values)
    if low < 0:
        return _spread(values)
    return (0.0, 1.05 * high) if high > 0 else (0.0, 1.0)


def _line(series: Series, style: int, x: _Scale, y: _Scale, most: int) -> Line:
    places = _thinned(len(series.xs), most)
    tenths = [(round(10 * x.of(series.xs[place])), round(10 * y.of(series.ys[place]))) for place in places]
    words = series.words or f"{number(series.ys[0])} → {number(series.ys[-1])}"
    return Line(series.name, style % COLOURS, _path(tenths), len(places), words)


def _path(tenths: Sequence[tuple[int, int]]) -> str:
    """A line through points, in tenths of a pixel, in as few characters as may be: after the first, steps."""
    steps = [(x - before_x, y - before_y) for (before_x, before_y), (x, y) in pairwise(tenths)]
    rest = "".join(word if word.startswith("-") else f" {word}" for step in steps for word in map(_short, step))
    return f"M{_short(tenths[0][0])} {_short(tenths[0][1])}" + (f"l{rest.lstrip()}" if steps else "")


def _short(tenths: int) -> str:
    """Tenths as SVG has numbers: 12 -> "1.2", -3 -> "-.3", 40 -> "4"."""
    return f"{tenths / 10:g}".replace("0.", ".", 1) if abs(tenths) < 10 and tenths else f"{tenths / 10:g}"


def _thinned(count: int, most: int) -> Sequence[int]:
    if count <= most:
        return range(count)
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _ticks(ends: Range, scale: _Scale, about: int) -> tuple[Tick, ...]:
    """Round numbers within the ends, `about` as many as asked for."""
    step = _round_step((ends[1] - ends[0]) / about)
    first = math.ceil(ends[0] / step - 1e-9)
    last = math.floor(ends[1] / step + 1e-9)
    values = [count * step for count in range(first, last + 1)]
    return tuple(Tick(round(scale.of(value), 1), number(round(value, 12))) for value in values)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the least that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
