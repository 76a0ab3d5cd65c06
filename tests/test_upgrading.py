"""docs/upgrading.md keeps its word: what it says to change to is there, and what it says is gone is gone."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from ssldet import contracts

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "upgrading.md").read_text(encoding="utf-8")

GUIDE, _, TABLE = PAGE.partition("## Where modules went")

MOVES = re.findall(r"^\| `(ssldet\.[\w.]+)` \| (`ssldet\.[^|]+) \|$", TABLE, re.MULTILINE)
"""Old module, and the cell with its new ones."""

NEW_IMPORTS = re.findall(r"^\+from (ssldet[\w.]*) import (.+)$", PAGE, re.MULTILINE)

QUALIFIED = sorted(set(re.findall(r"`(ssldet(?:\.\w+)+)`", GUIDE)))

PACKAGES = {"ssldet.benchmark", "ssldet.detector", "ssldet.testing", "ssldet.training"}
"""Modules of 1.x whose names packages have now."""


def test_the_page_is_about_this_version() -> None:
    assert f"version {contracts.API_VERSION} " in PAGE
    assert len(MOVES) > 50 and len(NEW_IMPORTS) >= 4


@pytest.mark.parametrize(("old", "new"), MOVES, ids=[old for old, _ in MOVES])
def test_a_module_is_where_the_table_says(old: str, new: str) -> None:
    for module in re.findall(r"`([\w.]+)`", new):
        assert importlib.util.find_spec(module) is not None, module
    assert old in PACKAGES or missing(old)


def missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # its package is gone as well
        return True


@pytest.mark.parametrize(("module", "names"), NEW_IMPORTS)
def test_the_new_imports_of_the_snippets_work(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split(", ") if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", QUALIFIED)
def test_a_qualified_name_in_the_text_exists_unless_it_is_old(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if module in dict(MOVES) and module not in PACKAGES:
        return
    assert name in dict(MOVES) or hasattr(importlib.import_module(module), attribute)
