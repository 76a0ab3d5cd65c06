"""Ten kinds of broken plugin: each is named with its distribution, version and reason, and troubles nobody else."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import numba
import pytest
from click.testing import CliRunner, Result
from test_plugins import GOOD, METRIC, Fabricate, fabricator
from test_runner import config

from ssldet import cli, plugins
from ssldet.contracts import DatasetFacts
from ssldet.errors import PluginError
from ssldet.evaluation import scoring
from ssldet.runs import runner

UNREADABLE = "this line has no value"

SOURCES = {
    "absent_import": "import nothing_of_this_name",
    "no_python": "this is no Python",
    "exits": "import sys; sys.exit(3)",
    "no_attribute": "Other = 1",
    "no_subclass": "class Broken: pass",
    "abstract": "from ssldet.contracts import {base}\nclass Broken({base}): pass",
    "other_api": "{good}\nclass Broken(Good): api_version = '3.0'",
    "malformed": "{good}",
    "other_ssldet": "{good}\nBroken = Good",
    "twice": "{good}\nBroken = Good",
    "unreadable": "{good}\nBroken = Good",
}
"""Name -> its module; `{good}` is a plugin without fault."""

REASONS = {
    "absent_import": "does not import: ModuleNotFoundError: No module named 'nothing_of_this_name'",
    "no_python": "does not import: SyntaxError",
    "exits": "does not import: SystemExit: 3",
    "no_attribute": "has no 'Broken'",
    "no_subclass": "is not a class derived from ssldet.contracts.",
    "abstract": "lacks ",
    "other_api": "is written for API 3.0, and this is API 2.",
    "malformed": "is not of the form module:Class",
    "other_ssldet": "it needs ssldet>=9, and this is ssldet 0.",
    "twice": "is offered by ",
}
"""What using each says; one with unreadable metadata has no name that could be used."""

TRACED = ("absent_import", "no_python", "exits")

FACTS = DatasetFacts("made", ("run", "jump"), ((1.0, 1.0),))


@pytest.fixture
def fabricate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricate:
    return fabricator(tmp_path, monkeypatch)


def install(fabricate: Fabricate, fault: str, kind: str = "strategy") -> None:
    """Install a plugin of a kind that has one of the faults."""
    good = {"strategy": GOOD, "metric": METRIC}[kind]
    source = SOURCES[fault].format(good=good, base=kind.capitalize())
    for copy in ("", "_again") if fault == "twice" else ("",):
        module = f"{fault}_{kind}{copy}"
        target = module if fault == "malformed" else f"{module}:Broken"
        line = UNREADABLE if fault == "unreadable" else f"{fault} = {target}"
        requires = "ssldet>=9" if fault == "other_ssldet" else ""
        points = f"[{plugins.GROUPS[kind]}]\n{line}\n"
        fabricate(f"{fault}-{kind}{copy}", points, {module: source}, requires=requires)


def ssldet(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


@pytest.mark.parametrize("fault", REASONS)
def test_a_broken_plugin_is_an_error_when_it_is_used(fabricate: Fabricate, fault: str) -> None:
    install(fabricate, fault)
    result = ssldet("plugins", "show", fault)
    last = result.stderr.splitlines()[-1]
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{fault}-strategy 1.2" in last
    assert REASONS[fault] in last
    assert ("Traceback" in result.stderr) == (fault in TRACED)


def test_two_distributions_of_one_name_are_both_named(fabricate: Fabricate) -> None:
    install(fabricate, "twice")
    with pytest.raises(PluginError, match=r"twice-strategy 1\.2 .* and twice-strategy_again 1\.2 .*uninstall one"):
        plugins.load("strategy", "twice")


def test_one_distribution_that_gives_a_name_twice_is_named(fabricate: Fabricate) -> None:
    fabricate("odd-dist", "[ssldet.metrics]\nodd = one:A\nodd = two:B\n")
    with pytest.raises(PluginError, match=r"odd-dist 1\.2 \(one:A\) and odd-dist 1\.2 \(two:B\); its author"):
        plugins.load("metric", "odd")


@pytest.mark.parametrize("fault", SOURCES)
def test_a_broken_plugin_is_found_by_a_search_for_faults(fabricate: Fabricate, fault: str) -> None:
    install(fabricate, fault)
    found = [str(one) for one in plugins.faults(imports=True)]
    assert found
    assert all(f"{fault}-strategy" in one and " 1.2: " in one for one in found)
    assert REASONS.get(fault, "its metadata cannot be read") in found[0]


@pytest.mark.parametrize("fault", SOURCES)
def test_strict_mode_refuses_to_work_beside_a_broken_plugin(
    fabricate: Fabricate, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.load("strategy", "supervised")
    install(fabricate, fault)
    plugins.load("strategy", "supervised")
    monkeypatch.setenv("SSLDET_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=f"{fault}-strategy"):
        plugins.load("strategy", "supervised")


def test_strict_mode_refuses_a_slow_import(fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = f"import time; time.sleep(0.3)\n{METRIC}"
    fabricate("slow-dist", "[ssldet.metrics]\nslow = slow_module:Good\n", {"slow_module": slow})
    plugins.faults(imports=True)
    monkeypatch.delitem(sys.modules, "slow_module")
    monkeypatch.setattr(plugins, "SLOW_SECONDS", 0.2)
    monkeypatch.setenv("SSLDET_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"metric 'slow' of slow-dist 1\.2 takes"):
        plugins.load("metric", "recall")


def test_broken_metrics_cost_the_others_nothing(fabricate: Fabricate) -> None:
    before = set(scoring.applicable(FACTS)[0])
    for fault in SOURCES:
        install(fabricate, fault, "metric")
    wanted, reasons = scoring.applicable(FACTS)
    assert set(wanted) == before
    assert reasons.keys() >= REASONS.keys()
    assert all(REASONS[fault] in reasons[fault] for fault in REASONS)


def test_a_run_works_beside_every_broken_plugin(
    fabricate: Fabricate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.core.entrypoints, "_already_initialized", False)  # as in a program that has just started
    for fault in SOURCES:
        install(fabricate, fault)
        install(fabricate, fault, "metric")
    with pytest.raises((TypeError, ValueError)):
        importlib.metadata.entry_points()  # what others do, and cannot with such metadata installed
    small = ("train.steps=2", "train.warmup=0", "train.checkpoint_every=2")
    planned = runner.plan(config(tmp_path / "runs", "supervised", small))
    record = runner.execute(planned, runner.Reporter())
    assert record.status == "done"
    assert {"frame_map", "video_map", "recall"} <= record.metrics.keys()
    listed = ssldet("plugins", "list", "--json")
    assert listed.exit_code == 0
    assert {row["name"] for row in json.loads(listed.stdout)} >= REASONS.keys()
