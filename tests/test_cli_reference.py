"""docs/cli.md is what its generator prints."""

from __future__ import annotations

import runpy
from pathlib import Path

from ssldet import cli

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_what_the_commands_say() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "cli_reference.py"))["page"]()
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page, "print it again: .venv/bin/python scripts/cli_reference.py > docs/cli.md"


def test_the_page_has_every_verb_and_option() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, verb in cli.VERBS.items():
        assert f"### ssldet {name}\n" in written
        for option in verb.command().params:
            assert all(flag in written for flag in option.opts if flag.startswith("--"))
