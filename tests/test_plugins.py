"""Discovery and faults of plugins, on distributions fabricated in a temporary folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ssldet import cli, plugin_info, plugins
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


def fabricator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricate:
    """What installs a distribution: its modules and metadata in a folder of their own on sys.path."""

    def make(
        name: str, points: str, modules: dict[str, str] | None = None, *, info: str = "dist-info", requires: str = ""
    ) -> None:
        folder = tmp_path / f"{name}-{info}"
        metadata = folder / f"{name}-1.2.{info}"
        metadata.mkdir(parents=True)
        kind = "METADATA" if info == "dist-info" else "PKG-INFO"
        needed = f"Requires-Dist: {requires}\n" if requires else ""
        (metadata / kind).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{needed}")
        (metadata / "entry_points.txt").write_text(points)
        for module, source in (modules or {}).items():
            (folder / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(folder))

    return make


@pytest.fixture
def fabricate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricate:
    return fabricator(tmp_path, monkeypatch)


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
    assert [plugins._misfit(kind, object) is not None for kind in plugins.KINDS] == [True] * len(plugins.KINDS)


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
        ("class Broken: api_version = '3.0'", "is written for API 3.0, and this is API 2."),
        (GOOD + "class Broken(Good): api_version = '0.9'", "is written for API 0.9"),
    ],
)
def test_a_broken_plugin_is_blamed_by_name(fabricate: Fabricate, source: str, reason: str) -> None:
    broken(fabricate, source)
    with pytest.raises(PluginError) as caught:
        plugins.load("strategy", "broken")
    assert "strategy 'broken' of broken-dist 1.2" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            GOOD + "class Broken(Good):\n    def start(self, student): pass\n",
            "has start(self, student), which is called as start(self, student, info); it seems",
        ),
        (
            GOOD + "class Broken(Good):\n    def after_step(self, student): pass\n",
            "has after_step(self, student), which is called as after_step(self, student, progress); it seems",
        ),
        ("from ssldet.contracts import DetectorParts", "cannot import name 'DetectorParts'"),
        (
            "from ssldet.objectives import supervised_terms",
            "No module named 'ssldet.objectives'; it seems",
        ),
    ],
)
def test_a_plugin_for_an_older_api_is_told_what_to_change(fabricate: Fabricate, source: str, reason: str) -> None:
    broken(fabricate, source)
    with pytest.raises(PluginError) as caught:
        plugins.load("strategy", "broken")
    assert reason in str(caught.value)
    assert "change it as docs/upgrading.md says" in str(caught.value)


def test_a_data_set_with_options_of_its_own_is_told_to_have_a_config(fabricate: Fabricate) -> None:
    source = """
from ssldet.testing.tiny import SINGLE_LABEL
from ssldet.contracts import Dataset

class Old(Dataset):
    facts = SINGLE_LABEL
    def __init__(self, root=None, seed=0): pass
    def videos(self, subset, split=1): return []
    def truth(self, video_id): return None
    def source(self, video_id): return None
    def verify(self, split=1): return []
    def fingerprint(self): return ""
"""
    fabricate("old-dist", "[ssldet.datasets]\nold = old_module:Old\n", {"old_module": source})
    with pytest.raises(
        PluginError, match=r"__init__\(self, root, seed\), which is called as __init__\(self, root, config\)"
    ):
        plugins.load("dataset", "old")


def test_a_method_may_take_more_than_the_contract_gives(fabricate: Fabricate) -> None:
    broken(fabricate, GOOD + "class Broken(Good):\n    def start(self, net, info=None, *more, extra=1): pass\n")
    assert plugins.load("strategy", "broken").__name__ == "Broken"


def test_the_cause_of_a_failed_import_is_kept(fabricate: Fabricate) -> None:
    broken(fabricate, "1 / 0")
    with pytest.raises(PluginError) as caught:
        plugins.load("strategy", "broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_another_minor_version_is_welcome(fabricate: Fabricate) -> None:
    broken(fabricate, GOOD + "class Broken(Good): api_version = '2.7'")
    assert plugins.load("strategy", "broken").api_version == "2.7"


@pytest.mark.parametrize("target", ["broken_module", "broken module:Broken", ":Broken"])
def test_a_target_without_an_attribute_is_refused(fabricate: Fabricate, target: str) -> None:
    broken(fabricate, GOOD, target)
    with pytest.raises(PluginError, match="not of the form module:Class"):
        plugins.load("strategy", "broken")


@pytest.mark.parametrize(
    ("requires", "shown"),
    [
        ("ssldet>=0.1,<1", ">=0.1,<1"),
        ("ssldet (>=0.1)", ">=0.1"),
        ("ssldet", ""),
        ("ssldet_tools>=9", ""),
        ('ssldet>=9; extra == "new"', ""),
    ],
)
def test_a_requirement_that_is_met_is_shown(fabricate: Fabricate, requires: str, shown: str) -> None:
    fabricate("good-dist", "[ssldet.strategies]\ngood = good_module:Good\n", {"good_module": GOOD}, requires=requires)
    (info,) = [plugin for plugin in plugins.available("strategy") if plugin.name == "good"]
    assert info.requires == shown
    assert plugins.load("strategy", "good").__name__ == "Good"


def test_metadata_without_a_name_troubles_nobody_else(fabricate: Fabricate, tmp_path: Path) -> None:
    fabricate("bare-dist", "[ssldet.strategies]\nbare = bare_module:Bare\n")
    (tmp_path / "bare-dist-dist-info" / "bare-dist-1.2.dist-info" / "METADATA").unlink()
    fabricate("latin-dist", "")
    (tmp_path / "latin-dist-dist-info" / "latin-dist-1.2.dist-info" / "entry_points.txt").write_bytes(b"\xe9 = \xff")
    assert "supervised" in plugins.names("strategy")
    assert {str(fault).split(" ")[0] for fault in plugins.faults()} == {"bare-dist-1.2.dist-info", "latin-dist"}


def test_a_plugin_without_what_its_contract_declares_is_refused(fabricate: Fabricate) -> None:
    source = "from ssldet.contracts import Strategy\nclass Broken(Strategy):\n  Config = dict\n  needs = losses = None"
    broken(fabricate, source)
    with pytest.raises(PluginError, match="a Config that is not derived from"):
        plugins.load("strategy", "broken")


def test_a_data_set_with_options_as_keywords_is_told_what_to_change(fabricate: Fabricate) -> None:
    source = (
        "from ssldet.contracts import Dataset\nclass Old(Dataset):\n  facts = None\n"
        "  def __init__(self, root=None, *, seed=0): pass\n"
        "  videos = truth = source = verify = fingerprint = None"
    )
    fabricate("old-dist", "[ssldet.datasets]\nold = old_module:Old\n", {"old_module": source})
    with pytest.raises(
        PluginError, match=r"has __init__\(self, root, seed\), which is called as __init__\(self, root, config\)"
    ):
        plugins.load("dataset", "old")


# --------------------------------------------------------------------------------- imports in a process of its own

METRIC = """
from ssldet.contracts import Metric

class Good(Metric):
    protocols, columns = ("standard",), {"x": "X"}
    __init__ = update = compute = lambda self, *arguments: None
"""


def offer(fabricate: Fabricate, source: str) -> plugins.PluginInfo:
    """A metric of this source, installed."""
    fabricate("some-dist", "[ssldet.metrics]\nsome = some_module:Good\n", {"some_module": source})
    return next(plugin for plugin in plugins.available("metric") if plugin.name == "some")


@pytest.mark.parametrize(
    ("extra", "status", "reason"),
    [
        ("print('noise ' * 100_000)\nimport atexit, time; atexit.register(time.sleep, 99)", "ok", ""),
        ("1 / 0", "broken", "metric 'some' of some-dist 1.2 does not import: ZeroDivisionError: division by zero"),
        ("import os; os._exit(7)", "broken", "metric 'some' of some-dist 1.2 ended the process .*exit 7"),
        ("import time; time.sleep(99)", "broken", "metric 'some' of some-dist 1.2 was not imported within 2 s"),
    ],
)
def test_a_check_survives_whatever_an_import_does(fabricate: Fabricate, extra: str, status: str, reason: str) -> None:
    found = plugins.check(offer(fabricate, METRIC + extra), timeout=2)
    assert found.status == status, found
    assert re.fullmatch(reason + ".*", found.reason)
    assert "some_module" not in sys.modules


def test_a_slow_import_is_a_fault_that_works(fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch) -> None:
    info = offer(fabricate, METRIC + "import time; time.sleep(0.3)")
    monkeypatch.setattr(plugins, "SLOW_SECONDS", 0.2)
    found = plugins.timed_load(info)
    assert (found.status, found.seconds and found.seconds >= 0.3) == ("slow", True)
    assert found.reason == "metric 'some' of some-dist 1.2 takes 0 s to import"


# -------------------------------------------------------------------------------------------------- command line


def ssldet(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["plugins", *arguments])


@pytest.fixture
def only_third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the first party out of lists, to save the time of checking it."""
    available = plugins.available
    others = lambda kind: [plugin for plugin in available(kind) if plugin.distribution != "ssldet"]  # noqa: E731
    monkeypatch.setattr(plugins, "available", others)


@pytest.mark.usefixtures("only_third_parties")
def test_the_list_marks_duplicates_and_ranges(fabricate: Fabricate) -> None:
    for name in ("first", "second"):
        points = f"[ssldet.metrics]\ntwin = {name}_module:Good\n"
        fabricate(f"{name}-dist", points, {f"{name}_module": METRIC}, requires="ssldet>=0.1,<1")
    result = ssldet("list")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["metric", "twin", "(duplicate)", "first-dist", "1.2", ">=0.1,<1", "first_module:Good"],
        ["metric", "twin", "(duplicate)", "second-dist", "1.2", ">=0.1,<1", "second_module:Good"],
    ]
    assert [row["duplicate"] for row in json.loads(ssldet("list", "--json").stdout)] == [True, True]
    checked = ssldet("list", "--check", "--json")
    assert checked.exit_code == 1
    assert [row["status"] for row in json.loads(checked.stdout)] == ["broken", "broken"]


@pytest.mark.usefixtures("only_third_parties")
def test_a_checked_list_says_what_works(fabricate: Fabricate) -> None:
    offer(fabricate, METRIC)
    result = ssldet("list", "--check")
    assert result.exit_code == 0 and result.stderr.startswith("next: ") and result.stderr.count("\n") == 1
    assert result.stdout.splitlines()[1].split() == ["metric", "some", "some-dist", "1.2", "any", "ok"]
    fabricate("bad-dist", "[ssldet.metrics]\nbad = bad_module:Bad\n", {"bad_module": "1 / 0"})
    result = ssldet("list", "--check")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[-1] == "broken"
    assert "fault: metric 'bad' of bad-dist 1.2 does not import: ZeroDivisionError" in result.stderr


def test_show_tells_options_within_an_option_by_the_name_that_set_takes() -> None:
    content = json.loads(CliRunner().invoke(cli.main, ["plugins", "show", "yowo_nano", "--json"]).stdout)
    options = {option["option"]: option for option in content["options"]}
    assert "region" not in options
    assert options["region.form"]["default"] == "paper" and "giou" in options["region.form"]["type"]
    assert options["region.ignore_iou"]["default"] == "0.6" and options["region.ignore_iou"]["meaning"]


def test_show_tells_options_with_defaults_bounds_and_meaning() -> None:
    content = json.loads(ssldet("show", "dual_guidance", "--json").stdout)
    options = {option["option"]: option for option in content["options"]}
    assert content["sources"] == ["arXiv 2507.21247"]
    assert content["needs"]["frame_head"] is True
    assert options["o_th"] == {
        "option": "o_th",
        "type": "float",
        "default": "0.4",
        "bounds": ">= 0, <= 1",
        "meaning": "O_th; a box is a candidate when its confidence is above (strictly).",
    }
    assert all(option["meaning"] for option in content["options"])


OWN_STRATEGIES = sorted(plugin.name for plugin in plugins.available("strategy") if plugin.distribution == "ssldet")


@pytest.mark.parametrize("name", OWN_STRATEGIES)
def test_show_tells_source_equation_and_deviations_of_a_strategy(name: str) -> None:
    """All that people read of a method: where it is from, what it computes, and in what it differs from there."""
    content = plugin_info.describe(plugin_info.choose(name, "strategy"))
    equations = [line for line in content["method"].splitlines() if line.startswith("    ") and "=" in line]
    assert equations, f"the module's docstring of {name} has no equation"
    if name not in ("supervised", "dual_guidance"):  # which docs/paper-map.md tells of
        assert "Deviations. " in content["method"]
    assert content["sources"] or re.search(r"\(\w+ et al\., \".+\", \w+ \d{4}\)", content["method"], re.DOTALL)
    assert all(option["meaning"] for option in content["options"])
    if name == "soft_teacher":
        shown = ssldet("show", name).stdout
        assert "w_j = n r_j / sum_k r_k" in shown and "sources: arXiv 2106.09018" in shown and "spread_th" in shown


SEED_OPTION = "seed int 0 >= 0 Of the generator. Another seed makes other videos of the same classes."


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("yowo_nano", ["stride: 16 pixels a cell", "distribution: ssldet 0.1.0"]),
        ("ava", ["labels: several a box", "numbering: files count from 900, one every 30 frames"]),
        ("synthetic", ["splits: 1", "ratio: 0.2 where a run names none", SEED_OPTION]),
        ("frame_map", ["protocols: standard, yowo, act", "0.5: F@0.5"]),
    ],
)
def test_show_tells_what_each_kind_has(name: str, lines: list[str]) -> None:
    result = ssldet("show", name)
    assert result.exit_code == 0
    assert set(lines) <= {" ".join(line.split()) for line in result.stdout.splitlines()}


def test_a_name_of_several_kinds_must_say_which(fabricate: Fabricate) -> None:
    points = "[ssldet.strategies]\nsome = some_module:Good\n[ssldet.metrics]\nsome = some_module:Good\n"
    fabricate("some-dist", points, {"some_module": METRIC})
    result = ssldet("show", "some")
    assert result.exit_code == 2
    assert result.stderr == "error: 'some' is the name of a strategy and of a metric; say which with --kind\n"
    assert "columns:" in ssldet("show", "some", "--kind", "metric").stdout
    assert ssldet("show", "recal").stderr.startswith("error: unknown plugin 'recal'; did you mean 'recall'?")


def test_names_complete_with_their_kinds() -> None:
    from ssldet.cli.plugins import complete_name, show

    found = complete_name(click.Context(show), show.params[0], "y")
    names = ("yowo", "yowo_lite", "yowo_nano")
    assert [(item.value, item.help) for item in found] == [(name, "backbone") for name in names]


def test_a_plugin_is_tested_through_pytest(fabricate: Fabricate, capfd: pytest.CaptureFixture[str]) -> None:
    offer(fabricate, METRIC)
    assert ssldet("test", "some").exit_code == 1
    printed = capfd.readouterr().out
    assert "TestPlugin::test_its_protocols_and_columns_are_named PASSED" in printed
    assert "Good has no docstring" in printed


def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssldet.testing.suite.importlib.util.find_spec", lambda name: None)
    result = ssldet("test", "recall")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("pip install pytest\n")


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
