"""The documentation as a site: its pages open from a folder, and the search too. Skipped without its builder."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headless import browser, installed

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.skipif(
        not importlib.util.find_spec("zensical"), reason='needs the site builder: pip install -e ".[docs]"'
    ),
    pytest.mark.skipif(not installed(), reason="needs Chromium, on the path or named by CHROMIUM"),
]

WIDE = "[...document.querySelectorAll('pre > code')].filter(each => each.scrollWidth > each.clientWidth + 1).length"
OPENED = """(() => {
  if (!document.activeElement.shadowRoot) document.querySelector('.md-search__button').click();
  return Boolean(document.activeElement.shadowRoot);
})()"""
HITS = "[...document.activeElement.shadowRoot.querySelectorAll('a')].map(each => each.textContent).join(' ')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documentation")
    shutil.copy(ROOT / "mkdocs.yml", root)
    for name in ("docs", "ssldet", "plugins"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    builder = Path(sys.executable).parent / "zensical"
    built = subprocess.run([builder, "build", "--strict", "--clean"], cwd=root, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return root / "site"


def until(found: Callable[[], Any]) -> Any:
    """The first value that is true, within a minute: a busy machine takes its time."""
    deadline = time.monotonic() + 60
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


def test_no_page_fetches_or_scrolls_a_command(site: Path) -> None:
    with browser() as page:
        page.window(1280)
        for path in sorted(site.glob("*.html")):
            if path.name != "404.html":  # for a server: its links begin at the top of the host
                page.open(path)
                assert page.run(WIDE) == 0, path
        assert page.complaints == []


def test_colours_are_those_of_the_system(site: Path) -> None:
    with browser() as page:
        for dark, scheme in ((False, "default"), (True, "slate"), (False, "default")):
            page.window(1280, dark=dark)
            page.open(site / "index.html")
            shown = "document.body.getAttribute('data-md-color-scheme')"
            assert until(lambda shown=shown, scheme=scheme: page.run(shown) == scheme), (dark, page.run(shown))


def test_the_search_works_from_a_folder(site: Path) -> None:
    with browser() as page:
        page.open(site / "index.html")
        assert until(lambda: page.run(OPENED))  # the button does nothing before the script has been read
        for letter in "negative_sampling":
            page.call("Input.dispatchKeyEvent", type="char", text=letter)
        assert until(lambda: "negative_sampling" in page.run(HITS)), page.run(HITS)
        assert page.complaints == []
