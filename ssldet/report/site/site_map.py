"""Where every page lies, so that each can link to all others: names that no record can choose.

    site_map(runs, ...)     the page of each run, table, comparison and set of test videos

A page's name is made of a run's id where that is one, of the place in the list otherwise: an id is what a record says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ssldet.runs import layout

INDEX, TERMS = "index.html", "terms.html"
STYLE, SCRIPT = "assets/site.css", "assets/site.js"


@dataclass(slots=True)
class SiteMap:
    """Pages by what they show, as paths from the top of the site.

    Attributes:
        runs: folder of a run -> its page; `ids`: id of a run -> its page, of several with one id the first.
        tables: name of a table -> its page.
        comparisons: ids on either side -> the page.
        videos: folder of a run -> the page of the videos that it was scored on.
    """

    runs: dict[Path, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    comparisons: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = field(default_factory=dict)
    videos: dict[Path, str] = field(default_factory=dict)

    def add_table(self, name: str) -> str:
        """The page of a table, which is new."""
        return self.tables.setdefault(name, f"tables/{len(self.tables) + 1}.html")


def site_map(runs: Mapping[Path, str]) -> SiteMap:
    """Pages of the runs, by folder and by id.

    Args:
        runs: folder -> the id that its record states.
    """
    pages = SiteMap()
    for folder, name in zip(runs, _names(runs.values()), strict=True):
        page = f"runs/{name}.html"
        pages.runs[folder] = page
        pages.ids.setdefault(runs[folder], page)
    return pages


def _names(ids: Iterable[str]) -> Iterable[str]:
    """A name for each id: the id itself, once."""
    given: set[str] = set()
    for place, run_id in enumerate(ids, start=1):
        name = run_id if layout.RUN_ID.fullmatch(run_id) else f"run-{place}"
        name = name if name not in given else f"{name}-{place}"
        given.add(name)
        yield name
