"""The package of docs/examples: its own tests, as its author runs them, and its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ssldet import plugins
from ssldet.config import resolve
from ssldet.plugin_info import describe

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "ssldet-freematch"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plugins.PluginInfo:
    """The example, findable as if it were installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((group, points),) = project["entry-points"].items()
    ((name, target),) = points.items()
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    requires = "".join(f"Requires-Dist: {one}\n" for one in project["dependencies"])
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head + requires)
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return plugins.PluginInfo("strategy", name, target, project["name"], project["version"], ">=0.1,<1")


def test_its_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=EXAMPLE, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_it_is_a_plugin_like_those_of_ssldet(installed: plugins.PluginInfo) -> None:
    assert [one.name for one in plugins.available("strategy") if one.distribution == installed.distribution] == [
        "freematch"
    ]
    found = plugins.load("strategy", "freematch")
    assert f"{found.__module__}:{found.__name__}" == installed.target
    shown = describe(installed)
    assert "arXiv 2205.07246" in shown["sources"]
    assert not [option["option"] for option in shown["options"] if not option["meaning"]]


def test_its_options_are_settings_of_a_run(installed: plugins.PluginInfo) -> None:
    flags = {"strategy": installed.name, "dataset": "synthetic", "ratio": 0.2}
    found = resolve(flags, preset="smoke", assignments=["strategy.threshold_decay=0.9"]).experiment
    assert found.strategy_options["threshold_decay"] == 0.9
    assert found.strategy_options["o_th"] == 0.1  # what the preset proposes to any strategy that has the option


def test_it_is_a_short_file() -> None:
    """A longer one would say that the contract lacks something."""
    (file,) = (EXAMPLE / "src").rglob("*.py")
    assert len(file.read_text().splitlines()) < 200
