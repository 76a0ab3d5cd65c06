"""Discovery and faults of plugins, on distributions fabricated in a temporary folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssldet import plugins
from ssldet.contracts import Strategy
from ssldet.errors import PluginError, UnknownName

GOOD = """
from ssldet.contracts import Needs, Strategy, StepLosses

class Good(Strategy):
    needs = Needs()

    def losses(self, batch, student, progress):
        return StepLosses({})
"""

Fabricate = Callable[..., None]


@pytest.fixture
def fabricate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricate:
    """Install a distribution: its modules and metadata in a folder of their own on sys.path."""

    def make(name: str, points: str, modules: dict[str, str] | None = None, *, info: str = "dist-info") -> None:
        folder = tmp_path / f"{name}-{info}"
        metadata = folder / f"{name}-1.2.{info}"
        metadata.mkdir(parents=True)
        kind = "METADATA" if info == "dist-info" else "PKG-INFO"
        (metadata / kind).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(points)
        for module, source in (modules or {}).items():
            (folder / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(folder))

    return make


def broken(fabricate: Fabricate, source: str, target: str = "broken_module:Broken") -> None:
    fabricate("broken-dist", f"[ssldet.strategies]\nbroken = {target}\n", {"broken_module": source})


def test_a_third_party_is_found_beside_the_first(fabricate: Fabricate) -> None:
    fabricate("good-dist", "[ssldet.strategies]\ngood = good_module:Good\n", {"good_module": GOOD})
    assert {"good", "supervised", "dual_guidance"} <= set(plugins.names("strategy"))
    info = plugins.PluginInfo("strategy", "good", "good_module:Good", "good-dist", "1.2")
    assert info in plugins.available("strategy")
    assert "good_module" not in sys.modules
    assert issubclass(plugins.load("strategy", "good"), Strategy)


def test_every_kind_has_a_contract() -> None:
    assert [plugins._misfit(kind, object) is not None for kind in plugins.KINDS] == [True] * 4


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'strategy'"):
        plugins.available("strategies")


def test_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="unknown strategy 'dual_guidence'; did you mean 'dual_guidance'") as caught:
        plugins.load("strategy", "dual_guidence")
    assert caught.value.exit_code == 2
    assert "supervised" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_this_name", "does not import: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("this is no Python", "does not import: SyntaxError"),
        ("raise ValueError('bad day')", "does not import: ValueError: bad day"),
        ("import sys; sys.exit(3)", "does not import: SystemExit: 3"),
        ("Other = 1", "module 'broken_module' has no 'Broken'"),
        ("Broken = 1", "is not a class derived from ssldet.contracts.Strategy"),
        ("class Broken: pass", "is not a class derived from ssldet.contracts.Strategy"),
        ("from ssldet.contracts import Metric as Broken", "is not a class derived from ssldet.contracts.Strategy"),
        ("from ssldet.contracts import Strategy\nclass Broken(Strategy): pass", "lacks losses, needs"),
        ("class Broken: api_version = '2.0'", "is written for API 2.0, and this is API 1."),
        (GOOD + "class Broken(Good): api_version = '0.9'", "is written for API 0.9"),
    ],
)
def test_a_broken_plugin_is_blamed_by_name(fabricate: Fabricate, source: str, reason: str) -> None:
    broken(fabricate, source)
    with pytest.raises(PluginError) as caught:
        plugins.load("strategy", "broken")
    assert "strategy 'broken' of broken-dist 1.2" in str(caught.value)
    assert reason in str(caught.value)


def test_the_cause_of_a_failed_import_is_kept(fabricate: Fabricate) -> None:
    broken(fabricate, "1 / 0")
    with pytest.raises(PluginError) as caught:
        plugins.load("strategy", "broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_another_minor_version_is_welcome(fabricate: Fabricate) -> None:
    broken(fabricate, GOOD + "class Broken(Good): api_version = '1.7'")
    assert plugins.load("strategy", "broken").api_version == "1.7"


@pytest.mark.parametrize("target", ["broken_module", "broken module:Broken", ":Broken"])
def test_a_target_without_an_attribute_is_refused(fabricate: Fabricate, target: str) -> None:
    broken(fabricate, GOOD, target)
    with pytest.raises(PluginError, match="not of the form module:Class"):
        plugins.load("strategy", "broken")


def test_a_broken_plugin_troubles_nobody_else(fabricate: Fabricate) -> None:
    broken(fabricate, "1 / 0")
    fabricate("good-dist", "[ssldet.strategies]\ngood = good_module:Good\n", {"good_module": GOOD})
    assert plugins.load("strategy", "good").__name__ == "Good"
    assert not plugins.faults()
    assert "ZeroDivisionError" in str(plugins.faults(imports=True))


def test_unreadable_metadata_troubles_nobody_else(fabricate: Fabricate) -> None:
    fabricate("odd-dist", "[ssldet.strategies]\nthis line has no value\n")
    fabricate("good-dist", "[ssldet.strategies]\ngood = good_module:Good\n", {"good_module": GOOD})
    assert plugins.load("strategy", "good").__name__ == "Good"
    assert [fault.distribution for fault in plugins.faults()] == ["odd-dist"]


def test_two_distributions_with_one_name_are_an_error_when_used(fabricate: Fabricate) -> None:
    for name in ("first", "second"):
        fabricate(f"{name}-dist", f"[ssldet.strategies]\ntwin = {name}_module:Good\n", {f"{name}_module": GOOD})
    assert plugins.names("strategy").count("twin") == 1
    assert {fault.distribution for fault in plugins.faults()} == {"first-dist", "second-dist"}
    with pytest.raises(PluginError, match=r"first-dist 1\.2 .* and second-dist 1\.2 .*uninstall one"):
        plugins.load("strategy", "twin")


def test_a_name_may_serve_several_kinds(fabricate: Fabricate) -> None:
    points = "[ssldet.strategies]\ngood = good_module:Good\n[ssldet.metrics]\ngood = good_module:Good\n"
    fabricate("good-dist", points, {"good_module": GOOD})
    assert plugins.load("strategy", "good").__name__ == "Good"
    with pytest.raises(PluginError, match=r"metric 'good' of good-dist .* derived from ssldet\.contracts\.Metric"):
        plugins.load("metric", "good")


def test_one_distribution_listed_twice_is_no_duplicate(fabricate: Fabricate) -> None:
    points = "[ssldet.strategies]\ngood = good_module:Good\n"
    fabricate("good_dist", points, {"good_module": GOOD}, info="egg-info")
    fabricate("Good-Dist", points, {"good_module": GOOD})
    assert len([plugin for plugin in plugins.available("strategy") if plugin.name == "good"]) == 1
    assert plugins.load("strategy", "good").__name__ == "Good"


def test_strict_mode_refuses_what_would_be_passed_over(fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("good-dist", "[ssldet.strategies]\ngood = good_module:Good\n", {"good_module": GOOD})
    broken(fabricate, "1 / 0")
    monkeypatch.setenv("SSLDET_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"broken-dist.*ZeroDivisionError"):
        plugins.load("strategy", "good")
    fabricate("odd-dist", "[ssldet.strategies]\nthis line has no value\n")
    with pytest.raises(PluginError, match="odd-dist"):
        plugins.available("strategy")


def test_listing_imports_nothing_and_is_quick() -> None:
    code = (
        "import sys, time, json\nfrom ssldet import plugins\nstart = time.perf_counter()\n"
        "for kind in plugins.KINDS: plugins.available(kind)\n"
        "print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )

    def seconds() -> float:
        taken, modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
        assert not {"numpy", "pydantic", "torch", "ssldet_strategies"} & set(modules)
        return float(taken)

    assert any(seconds() < 0.05 for _ in range(10))  # once is enough: the machine may be busy
