"""Fingerprints of the code of plugins."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plugins import GOOD, Fabricate, fabricator

from ssldet.runs import plugin_code
from ssldet.runs.plugin_code import changed_plugins, of_others

POINTS = "[ssldet.strategies]\ngood = good_package.inner.good:Good\nlone = lone_module:Good\nlost = nowhere:Good\n"


@pytest.fixture
def fabricate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricate:
    return fabricator(tmp_path, monkeypatch)


@pytest.fixture
def package(tmp_path: Path, fabricate: Fabricate) -> Path:
    """A distribution with a package, a module, and an entry point that leads nowhere."""
    fabricate("good-dist", POINTS, {"lone_module": GOOD})
    folder = tmp_path / "good-dist-dist-info" / "good_package"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py"):
        (folder / name).write_text(
            "raise RuntimeError('a fingerprint imports nothing of ours')\n" if "inner" in name else ""
        )
    (folder / "inner" / "good.py").write_text(GOOD)
    return folder


def fingerprint(name: str) -> str | None:
    plugin_code._hash_below.cache_clear()
    code: str | None = plugin_code.plugin_code([("strategy", name)])[f"strategy {name}"]["code"]
    return code


def test_it_follows_every_file_of_code_of_the_package_and_nothing_else(package: Path) -> None:
    before = fingerprint("good")
    (package / "notes.txt").write_text("other")
    (package.parent / "beside.py").write_text("x = 1")
    assert before and fingerprint("good") == before
    (package / "helper.py").write_text("x = 1")
    helped = fingerprint("good")
    (package / "helper.py").write_text("x = 2")
    assert len({before, helped, fingerprint("good")}) == 3
    (package / "helper.py").rename(package / "other.py")
    renamed = fingerprint("good")
    (package / "other.py").unlink()
    assert renamed not in (before, helped) and fingerprint("good") == before


def test_a_module_stands_for_itself(package: Path) -> None:
    before = fingerprint("lone")
    (package / "helper.py").write_text("x = 1")
    assert fingerprint("lone") == before
    (package.parent / "lone_module.py").write_text(GOOD + "# other\n")
    assert fingerprint("lone") != before


def test_what_is_not_there_has_none(package: Path) -> None:
    assert fingerprint("lost") is None
    assert plugin_code.plugin_code([("strategy", "nobody")]) == {}


def test_changed_code_is_told_and_unknown_code_is_not(package: Path) -> None:
    plugin_code._hash_below.cache_clear()
    recorded = plugin_code.plugin_code([("strategy", "good"), ("strategy", "supervised")])
    assert of_others(recorded).keys() == {"strategy good"}
    assert changed_plugins({"plugins": recorded}) == changed_plugins({}) == {}
    (package / "__init__.py").write_text("x = 1")
    plugin_code._hash_below.cache_clear()
    assert changed_plugins({"plugins": recorded}) == {"strategy good": recorded["strategy good"]}
    assert changed_plugins({"plugins": {"strategy good": {"code": None}}}) == {}
