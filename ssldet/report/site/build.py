"""The report of some results folders, written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssldet._version import __version__
from ssldet.benchmark.dataset_spec import paper_name
from ssldet.errors import RequestError
from ssldet.report.cell_matching import title_of
from ssldet.report.comparison import KnownScores
from ssldet.report.run_selection import (
    Folders,
    LeftOut,
    Run,
    RunCollection,
    collect_runs,
    leave_out,
    result_folders,
)
from ssldet.report.site import table_page as table_pages
from ssldet.report.site.compare_page import (
    CONTROL,
    IN_A_TABLE,
    MOST_PAIRS,
    ComparePage,
    Pair,
    compare_page,
    controls,
    pairs,
    related,
)
from ssldet.report.site.leaderboard import FILTERS, Configuration, Link, configurations, leaderboard
from ssldet.report.site.remarks import Remarks
from ssldet.report.site.rendering import assets, render_page
from ssldet.report.site.run_page import Pictures, run_page
from ssldet.report.site.scored_run import DataSets
from ssldet.report.site.site_map import INDEX, TERMS, SiteMap, site_map
from ssldet.report.site.videos_page import VideoPages
from ssldet.report.table_data import Table
from ssldet.runs.external import find_externals
from ssldet.runs.listing import external_summary, options_beside_preset

MARK = ".ssldet-report"
"""A file at the top of a site, by which the next report knows that it may take its place."""

LISTED = 40
"""Videos on the page of a run, its worst ones; the page of all videos has the others."""

WORST = 4
"""Videos of a run that are shown by pictures and a clip, unless told otherwise."""

NO_TABLE = (
    "Tables: no run here has exactly the settings of a cell of any table; `ssldet table --set KEY=VALUE` shows "
    "runs that were given others"
)

Say = Callable[[str], None]
"""Hears what is being done."""


@dataclass(frozen=True, slots=True)
class SiteSummary:
    """What was written.

    Attributes:
        index: the page to open.
        runs, tables, comparisons: how many pages there are of each.
        size: of all files, in bytes.
        left_out: runs that are on no page, and why.
        missing: page -> what it could not show, and why.
    """

    index: Path
    runs: int
    tables: int
    comparisons: int
    size: int
    left_out: tuple[LeftOut, ...]
    missing: Mapping[str, tuple[str, ...]]


def build_site(
    results: Folders | None,
    out: Path,
    *,
    data_root: Path | None = None,
    worst: int = WORST,
    say: Say = lambda text: None,
) -> SiteSummary:
    """Write the report of all runs in or below some folders.

    Args:
        results: one folder or several; None means results/runs.
        out: the folder to write, which is new, empty, or an earlier report: that is replaced when the new one is whole.
        data_root: the folder of the data, for what only they tell; None: the runs' own.
        worst: so many of the worst videos of a run are shown by pictures and a clip.
        say: hears what is being done.

    Returns:
        What was written.

    Raises:
        RequestError: a folder does not exist, none of them holds a record that can be read, or `out` holds something
            else than a report.
    """
    folders = result_folders(results)
    collection = collect_runs(folders)
    shown = [run for run in collection.runs if run.entry.record is not None]
    unread = [leave_out(run.entry, run.entry.problem) for run in collection.runs if run.entry.record is None]
    left_out = [*collection.unreadable, *unread]
    if not shown:
        raise RequestError(_nothing_to_show(folders, left_out))
    _check_out(out)
    with _replaced(out) as folder:
        site = _Site(folder, folders, collection, shown, left_out, DataSets(data_root), worst, say)
        site.write()
    return SiteSummary(
        index=out / INDEX,
        runs=len(site.pages.runs),
        tables=len(site.pages.tables),
        comparisons=len(site.pages.comparisons),
        size=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        left_out=tuple(left_out),
        missing=site.missing,
    )


def _nothing_to_show(folders: Sequence[Path], left_out: Sequence[LeftOut]) -> str:
    places = ", ".join(map(str, folders))
    reasons = "".join(f"\n{each.folder}: {each.reason.splitlines()[0]}" for each in left_out[:5] if each.reason)
    return (
        f"no run in {places} has a record that can be read; `ssldet run` and `ssldet grid` make some, --results names "
        f"another folder{reasons}"
    )


# ------------------------------------------------------------------------------------------------ the folder


def _check_out(out: Path) -> None:
    """Raises RequestError where a report may not take the place of what is there."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; name a folder for the pages with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise RequestError(f"{out} holds something else than a report; name a new folder with --out, or remove it")


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends without an error."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = f".{out.name}.{secrets.token_hex(6)}"
    new, old = out.parent / f"{beside}.tmp", out.parent / f"{beside}.old"
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------------------------- the pages


@dataclass(slots=True)
class _Site:
    """Writes all pages into a folder, those first that others link to."""

    folder: Path
    folders: Sequence[Path]
    collection: RunCollection
    runs: Sequence[Run]
    left_out: list[LeftOut]
    datasets: DataSets
    worst: int
    say: Say
    pages: SiteMap = field(default_factory=SiteMap)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def write(self) -> None:
        remarks = Remarks()
        self.pages = site_map({run.folder: run.id for run in self.runs})
        self.say("tables")
        made = table_pages.filled_tables(self.collection, remarks)
        if not made:
            remarks.add(NO_TABLE)
        for short in made:
            self.pages.add_table(short)
        titles = self._titles(made)
        groups, repeated = configurations(self.runs, titles)
        self.left_out += repeated
        compared = self._compared(pairs(groups, table_pages.contrasted(made)), remarks)
        self._write_tables(made, compared)
        self._write_runs(titles, compared, VideoPages(groups, self.pages))
        self._write_comparisons(compared)
        self._write_index(groups, made, compared, remarks)
        self._page("terms.html.j2", TERMS)
        for place, text in assets().items():
            self._put(place, text)
        self._put(MARK, f"ssldet {__version__}\n")

    def _titles(self, made: Mapping[str, Table]) -> dict[str, str]:
        """Id of a run -> what its approach is called: as tables do, else by strategy and options."""
        named = table_pages.titles(made)
        return {run.id: named.get(run.id) or _title(run) for run in self.runs}

    def _write_tables(self, made: Mapping[str, Table], compared: Sequence[ComparePage]) -> None:
        for short, table in made.items():
            shown = table_pages.table_page(short, table, self.pages.tables[short], self.pages)
            shown = replace(shown, comparisons=tuple(_contrasts(compared, table)))
            self._page("table.html.j2", shown.page, shown=shown)

    def _compared(self, wanted: Sequence[Pair], remarks: Remarks) -> list[ComparePage]:
        """Both sides of each pair held against each other; pairs beyond the limit are named."""
        self.say(f"comparisons ({min(len(wanted), MOST_PAIRS)})")
        compared: list[ComparePage] = []
        known: KnownScores = {}
        for pair in wanted[:MOST_PAIRS]:
            what = f"{pair.first.title} against {pair.second.title}"
            page = f"compare/{len(compared) + 1}.html"
            if shown := remarks.attempt(what, compare_page, pair, page, self.collection.matches, known):
                self.pages.comparisons[pair.ids] = page
                compared.append(shown)
        if len(wanted) > MOST_PAIRS:
            left = wanted[MOST_PAIRS:]
            remarks.add(f"{len(left)} more comparisons: `{left[0].command}` makes the first of them in the terminal")
        return compared

    def _write_comparisons(self, compared: Sequence[ComparePage]) -> None:
        for shown in compared:
            links = {"controls": controls(shown, compared), "related": related(shown, compared)}
            self._page("compare.html.j2", shown.page, shown=shown, **links)
            self._note(shown.page, shown.missing)

    def _write_runs(self, titles: Mapping[str, str], compared: Sequence[ComparePage], videos: VideoPages) -> None:
        listed = max(LISTED, self.worst)
        for place, run in enumerate(self.runs, start=1):
            self.say(f"run {run.id} ({place} of {len(self.runs)})")
            page = self.pages.runs[run.folder]
            shown = run_page(run, page, titles[run.id], self.datasets, Pictures(self.folder, self.worst))
            shown = replace(shown, comparisons=tuple(_links(compared, run)))
            if shown.videos:
                videos.add(run, shown.videos)
            self._page("run.html.j2", page, shown=shown, listed=listed)
            if shown.config:
                self._put(page.removesuffix(".html") + ".yaml", shown.config)
            self._note(page, shown.missing)
        for of_videos in videos.shown():
            self._page("videos.html.j2", of_videos.page, shown=of_videos)

    def _write_index(
        self,
        groups: Sequence[Configuration],
        made: Mapping[str, Table],
        compared: Sequence[ComparePage],
        remarks: Remarks,
    ) -> None:
        links = {group.ids: list(_links(compared, group.reference)) for group in groups}
        board = leaderboard(groups, self.left_out, self.pages, table_pages.mean_ranks(made, self.pages), links)
        externals = [external_summary(each) for each in find_externals(self.folders) if each.record]
        self._page(
            "index.html.j2",
            INDEX,
            board=board,
            filters=FILTERS,
            externals=externals,
            missing=remarks.sentences,
            incomplete=self._incomplete(),
        )
        self._note(INDEX, tuple(remarks.sentences))

    def _incomplete(self) -> dict[str, list[str]]:
        """What pages of runs do not show -> the ids of these runs: the same reason stands once."""
        by_reason: dict[str, list[str]] = {}
        for page, sentences in self.missing.items():
            for sentence in sentences if page.startswith("runs/") else ():
                by_reason.setdefault(sentence, []).append(page)
        return by_reason

    def _page(self, template: str, page: str, **content: Any) -> None:
        site = {"version": __version__, "runs": len(self.runs), "folders": self.folders}
        self._put(page, render_page(template, page, pages=self.pages, site=site, **content))

    def _put(self, place: str, text: str) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _note(self, page: str, missing: tuple[str, ...]) -> None:
        if missing:
            self.missing[page] = missing


def _title(run: Run) -> str:
    return title_of(paper_name(run.experiment.strategy), options_beside_preset(run.entry))


def _contrasts(compared: Sequence[ComparePage], table: Table) -> Iterator[Link]:
    """The comparisons between rows of a table that it contrasts, or that are its baseline."""
    ids = {run_id for row in table.entries for entry in row if entry for run_id in entry.runs}
    for shown in compared:
        first, second = shown.pair.ids
        if shown.pair.why in (CONTROL, IN_A_TABLE) and {first[0], second[0]} <= ids:
            yield Link(shown.page, f"{shown.pair.first.title} {shown.summary}")


def _links(compared: Sequence[ComparePage], run: Run) -> Iterator[Link]:
    """The comparisons that a run is part of: those first in which it is the first side, and what tables contrast."""
    named_first = sorted(compared, key=lambda shown: run.id not in shown.pair.first.ids)
    for shown in named_first:
        if run.id in shown.pair.first.ids:
            yield Link(shown.page, shown.summary)
        elif run.id in shown.pair.second.ids:
            yield Link(shown.page, f"{shown.pair.first.title} {shown.summary}")
