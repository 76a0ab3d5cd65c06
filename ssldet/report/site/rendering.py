"""Pages out of templates. What a template puts into a page is escaped, and has no characters that steer anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssldet.report.comparison import ColumnDifference
from ssldet.report.rendering import printable
from ssldet.report.site.charts import number
from ssldet.report.site.site_map import SCRIPT, STYLE, TERMS
from ssldet.report.worst_videos import kinds_in


def render_page(template: str, page: str, **content: Any) -> str:
    """The text of a page.

    Args:
        template: its name; `page`: where the page will lie, from the top of the site.
        content: what the template shows.
    """
    return _environment().get_template(template).render(page=page, root="../" * page.count("/"), **content)


def assets() -> Mapping[str, str]:
    """The style sheet and the script, by their places in a site."""
    folder = resources.files("ssldet.report.site") / "static"
    return {place: (folder / place.rpartition("/")[2]).read_text(encoding="utf-8") for place in (STYLE, SCRIPT)}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ssldet.report.site"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed, "short": number, "anchor": anchor}
    environment.filters |= {"widest": widest, "few_groups": few_groups}
    environment.globals |= {"kinds_in": kinds_in, "folder_of": folder_of, "terms": TERMS}
    return environment


def folder_of(page: str) -> str:
    """The folder of a page's pictures, beside the page."""
    return page.rpartition("/")[2].removesuffix(".html")


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction in percent: 0.1523 -> "15.2"; "-" for what is no number."""
    return f"{100 * fraction:.{digits}f}" if math.isfinite(fraction) else "-"


def signed(fraction: float, digits: int = 2) -> str:
    """A difference of fractions in points, with its sign: 0.012 -> "+1.20"."""
    return f"{100 * fraction:+.{digits}f}" if math.isfinite(fraction) else "-"


def anchor(name: str) -> str:
    """A name as part of an id in a page, whatever is in it: the same for the same name."""
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def widest(column: ColumnDifference) -> float:
    """The end of an axis from -x to +x that holds the differences of all classes, and their intervals over videos."""
    intervals = [each.over_videos for each in column.classes if each.over_videos]
    ends = [end for interval in intervals for end in (interval.low, interval.high)]
    return max((abs(end) for end in (*(each.difference for each in column.classes), *ends)), default=0.0) or 1.0


def few_groups(columns: Sequence[ColumnDifference]) -> bool:
    """Whether the interval of any class says little."""
    return any(each.few for column in columns for each in column.classes)
