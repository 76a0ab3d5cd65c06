"""The short form of scripts/soak.py: a few kills, two rounds. Minutes; run by scripts/acceptance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.acceptance

PROGRAM = Path(__file__).resolve().parents[1] / "scripts" / "soak.py"


def seen(folder: Path, *arguments: str) -> dict[str, Any]:
    """What the program reports, which must end well."""
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments, "--report", str(report)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:] + (report.read_text() if report.exists() else "")
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def test_no_finished_cell_is_lost_to_kills(tmp_path: Path) -> None:
    report = seen(tmp_path, "kills", "--count", "6", "--within", "40")
    assert sum(report["kills"].values()) == 6 == len(report["finished_cells_at_kills"])
    assert report["lost"] == 0 and report["grids"] >= 1


def test_nothing_leaks_in_two_rounds(tmp_path: Path) -> None:
    report = seen(tmp_path, "soak", "--minutes", "0")
    assert (len(report["rounds"]), report["lost"], report["leaks"]) == (2, 0, [])
    assert all(sum(each["struck"].values()) >= 3 for each in report["rounds"])
