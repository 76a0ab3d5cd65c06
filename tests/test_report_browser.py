"""The report in a browser: sorting, filtering, keyboard, contrast, narrow windows, print. Skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from headless import Browser, browser, installed
from helpers import QUICK
from made_site import write_hostile, write_results

from ssldet import cli
from ssldet.report import tables
from ssldet.report.site import build_site

RESULTS = Path(__file__).resolve().parents[1] / "results" / "campaigns"
AXE = Path(__file__).parent / "axe" / "axe.min.js"

FOLDERS = ("tables", "runs", "compare", "videos")
"""Where the pages of each kind lie, beside the leaderboard."""

pytestmark = pytest.mark.skipif(not installed(), reason="needs Chromium, on the path or named by CHROMIUM")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browsed")
    write_results(root / "results")
    write_hostile(root / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "all_names", lambda: ["3"])
        build_site([root / "results"], root / "pages")
    return root / "pages"


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as page:
        yield page


@pytest.fixture
def page(running: Browser) -> Browser:
    running.complaints.clear()
    running.window(1440)
    return running


def one_of_each(site: Path) -> list[Path]:
    """The leaderboard, the terms, and a page of every other kind that there is, that of the hostile run among them."""
    folders = (sorted((site / folder).glob("*.html"))[:1] for folder in FOLDERS)
    alone = [site / "index.html", site / "terms.html"]
    return [*alone, *(path for found in folders for path in found), *(site / "runs").glob("run-*.html")]


def shown_rows(page: Browser, column: int) -> list[str]:
    """The words of a column of the leaderboard, in rows that are shown."""
    rows = "[...document.querySelectorAll('#board tbody tr')].filter(row => !row.hidden)"
    found: list[str] = page.run(f"{rows}.map(row => row.cells[{column}].textContent.trim())")
    return found


def click_head(page: Browser, title: str) -> str:
    """Click a head of the leaderboard; gives how the column is sorted then."""
    head = f"[...document.querySelectorAll('#board th')].find(head => head.textContent.trim() === '{title}')"
    page.run(f"{head}.querySelector('button').click()")
    sorted_how: str = page.run(f"{head}.getAttribute('aria-sort')")
    return sorted_how


def column_of(page: Browser, title: str) -> int:
    found: int = page.run(
        f"[...document.querySelectorAll('#board thead th')].findIndex(head => head.textContent.trim() === '{title}')"
    )
    return found


# ------------------------------------------------------------------------------------------- all pages at once


def test_no_page_complains_or_fetches_anything(site: Path, page: Browser) -> None:
    for path in site.rglob("*.html"):
        page.open(path)
        assert page.run("document.title").endswith("ssldet report")
    assert not page.complaints


@pytest.mark.parametrize("width", [360, 1440])
def test_no_page_is_wider_than_the_window(width: int, site: Path, page: Browser) -> None:
    page.window(width)
    for path in one_of_each(site):
        page.open(path)
        assert page.run("document.documentElement.scrollWidth") <= width, path


CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const painted = (colours) => {
    canvas.fillStyle = "#fff"; canvas.fillRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest("title")) continue;
    const style = getComputedStyle(element);
    const behind = [];
    for (let each = element; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
    const bars = element.closest(".bar") ? [getComputedStyle(document.documentElement).getPropertyValue("--bar")] : [];
    const ground = light(painted([...behind, ...bars]));
    const ink = light(painted([...behind, ...bars, element.closest("svg") ? style.fill : style.color]));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
  }
  return low;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_a_contrast_of_4_5(dark: bool, site: Path, page: Browser) -> None:
    page.window(1440, dark=dark)
    for path in one_of_each(site):
        page.open(path)
        page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.run(CONTRASTS) == [], path


def complaints_of_axe(page: Browser, path: Path) -> list[str]:
    """What axe-core finds on a page with all that can be opened open."""
    page.open(path)
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.run(f"{AXE.read_text(encoding='utf-8')};0")
    found: list[str] = page.run(
        "axe.run().then(all => all.violations.map(each => each.id + ': ' + each.nodes.slice(0, 3)"
        ".map(node => node.html.slice(0, 160) + ' ' + (node.any[0] || node.all[0] || node.none[0] || {}).message)))"
    )
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(dark: bool, site: Path, page: Browser) -> None:
    page.window(1440, dark=dark)
    for path in one_of_each(site):
        assert complaints_of_axe(page, path) == [], path


def check_all(site: Path, page: Browser) -> None:
    """No page complains or is wider than a narrow window; of each kind one satisfies axe-core in both schemes."""
    page.window(360)
    for path in site.rglob("*.html"):
        page.open(path)
        assert page.run("document.documentElement.scrollWidth") <= 360, path
    assert not page.complaints
    for dark in (False, True):
        page.window(360, dark=dark)
        for path in one_of_each(site):
            assert complaints_of_axe(page, path) == [] and page.run(CONTRASTS) == [], path


@pytest.mark.acceptance
@pytest.mark.parametrize("campaign", sorted(folder.name for folder in RESULTS.iterdir() if folder.is_dir()))
def test_a_committed_campaign_is_shown_in_less_than_5_mb(campaign: str, page: Browser, tmp_path: Path) -> None:
    written = build_site([RESULTS / campaign], tmp_path / "pages")
    assert written.size < 5e6 and not written.left_out
    assert all("more comparisons" in remark for remark in written.missing.get("index.html", ()))
    check_all(tmp_path / "pages", page)


@pytest.mark.acceptance
def test_a_grid_is_shown_with_pictures_and_clips(page: Browser, tmp_path: Path) -> None:
    results = tmp_path / "results"
    cells = ("approach=Supervised,Dual Guidance", "ratio=0.1", "pretrained=false")
    settings = (*QUICK, "dataset.train_per_class=10", "dataset.test_per_class=1")
    arguments = [
        *("grid", "--tables", "2", "--preset", "smoke", "--dataset-map", "ucf24=synthetic:ucf24", "--seeds", "0,1"),
        *(word for cell in cells for word in ("--only", cell)),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    assert CliRunner().invoke(cli.main, [*arguments, "--results", str(results)]).exit_code == 0
    written = build_site([results], tmp_path / "pages", worst=2)
    assert written.runs == 4 and written.comparisons > 2
    assert written.missing.keys() == {"index.html"}  # that these settings are of no table
    check_all(tmp_path / "pages", page)
    page.open(next((tmp_path / "pages" / "runs").glob("*.html")))
    page.run("document.querySelector('video').play().then(() => document.querySelector('video').pause())")
    assert page.run("document.querySelector('video').videoWidth") > 0


# --------------------------------------------------------------------------------------------- the leaderboard


def test_columns_are_sorted_by_their_heads(site: Path, page: Browser) -> None:
    page.open(site / "index.html")
    place = column_of(page, "V@0.5")

    def values() -> list[float]:
        return [float(text.partition(" ")[0]) for text in shown_rows(page, place)]

    assert len(values()) == 3
    assert click_head(page, "V@0.5") == "descending" and values() == sorted(values(), reverse=True)
    assert click_head(page, "V@0.5") == "ascending" and values() == sorted(values())
    assert click_head(page, "Approach") == "ascending"
    names = shown_rows(page, 0)
    assert names == sorted(names, key=str.lower)
    assert page.run("document.querySelectorAll('#board [aria-sort]').length") == 1


def test_rows_are_filtered_and_the_address_keeps_the_filter(site: Path, page: Browser) -> None:
    page.open(site / "index.html")
    page.run(
        "{const chosen = document.querySelector('.filters [name=strategy]'); chosen.value = 'dual_guidance';"
        "chosen.dispatchEvent(new Event('input', {bubbles: true}))}"
    )
    assert shown_rows(page, 0) == ["Dual Guidance"]
    assert page.run("document.querySelector('.count').value") == "1 of 3 rows"
    assert (
        page.run("[...document.querySelectorAll('[data-row]')].filter(dot => dot.style.display !== 'none').length") == 1
    )
    kept = page.run("location.hash")
    page.open(site / "runs")
    page.open(site / "index.html", kept)
    assert shown_rows(page, 0) == ["Dual Guidance"]
    page.run("document.querySelector('.filters button').click()")
    page.run("new Promise(done => setTimeout(done, 20))")
    assert len(shown_rows(page, 0)) == 3


def test_rows_are_searched_by_words(site: Path, page: Browser) -> None:
    page.open(site / "index.html")
    page.run(
        "{const search = document.querySelector('.filters [name=words]'); search.value = 'SUPERV';"
        "search.dispatchEvent(new Event('input', {bubbles: true}))}"
    )
    assert shown_rows(page, 0) == ["Supervised"]


def test_the_keyboard_skips_to_the_content_and_sorts(site: Path, page: Browser) -> None:
    page.open(site / "index.html")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    assert page.run("document.activeElement.id") == "main"
    page.run("document.querySelector('#board th[data-kind] button').focus()")
    page.press("Enter")
    assert page.run("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# ------------------------------------------------------------------------------------------------- other pages


def test_values_are_read_off_curves(site: Path, page: Browser) -> None:
    page.open(next(path for path in (site / "runs").glob("*.html") if "Loss term box" in path.read_text()))
    page.run(
        "{const drawn = document.querySelector('.chart > svg'), box = drawn.getBoundingClientRect();"
        "drawn.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 15, clientY: box.top + 50}))}"
    )
    step, box, box_u = page.run("document.querySelector('.reading').textContent").split("\n")
    assert step == "30" and box == "box 0.333"
    assert box_u.startswith("box_u 0.03")


def test_videos_are_sorted_below_two_rows_of_heads(site: Path, page: Browser) -> None:
    page.open(site / "videos" / "1.html")
    heads = "document.querySelectorAll('thead tr:last-child th')"
    assert page.run("document.querySelectorAll('thead tr:first-child button').length") == 0
    place = page.run(f"[...{heads}].findLastIndex(head => head.textContent === 'mean')")
    for direction, falling in (("descending", True), ("ascending", False)):
        page.run(f"{heads}[{place}].querySelector('button').click()")
        assert page.run(f"{heads}[{place}].getAttribute('aria-sort')") == direction
        words = page.run(f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{place}].textContent)")
        scores = [float(word) for word in words if word != "-"]
        assert len(scores) > 3 and scores == sorted(scores, reverse=falling)
        assert words[len(scores) :] == ["-"] * (len(words) - len(scores))


def test_pages_are_whole_without_the_script(site: Path, page: Browser) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(site / "index.html")
        page.call("Emulation.setScriptExecutionDisabled", value=False)
        assert len(shown_rows(page, 0)) == 3
        assert not page.run("document.querySelector('.filters').checkVisibility()")
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_moves_for_who_wants_no_motion(site: Path, page: Browser) -> None:
    moving = "getComputedStyle(document.documentElement).scrollBehavior"
    for still, expected in ((False, "smooth"), (True, "auto")):
        page.window(1440, still=still)
        page.open(site / "index.html")
        assert page.run(moving) == expected
    assert page.run("document.getAnimations().length") == 0


def test_print_leaves_out_what_is_for_the_screen(site: Path, page: Browser) -> None:
    page.window(1440, dark=True, media="print")
    page.open(site / "index.html")
    hidden = "['.top', '.filters'].map(each => document.querySelector(each).checkVisibility())"
    assert page.run(hidden) == [False, False]
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
