"""The contract suite: what every plugin keeps, as tests that its author runs.

With pytest, in the plugin's own tests:

    from ssldet.testing import StrategyContract

    class TestMyTeacher(StrategyContract):
        plugin = MyTeacher
        config = {"threshold": 0.5}

Without: `check(MyTeacher, config={"threshold": 0.5})`, or on the command line `ssldet plugins test my_teacher`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import SkipTest

from ssldet.contracts import Backbone, Dataset, Executor, Metric, Strategy, Tracker
from ssldet.errors import SsldetError
from ssldet.testing.backbones import BackboneContract
from ssldet.testing.base import Contract
from ssldet.testing.datasets import DatasetContract
from ssldet.testing.executors import ExecutorContract
from ssldet.testing.metrics import MetricContract
from ssldet.testing.strategies import StrategyContract
from ssldet.testing.trackers import TrackerContract

CONTRACTS: dict[type[Any], type[Contract]] = {
    Dataset: DatasetContract,
    Backbone: BackboneContract,
    Strategy: StrategyContract,
    Metric: MetricContract,
    Executor: ExecutorContract,
    Tracker: TrackerContract,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test of a suite found; `reason` says why it failed or was skipped."""

    test: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""


def contract_of(plugin: type[Any], **attributes: Any) -> type[Contract]:
    """The suite of a plugin's kind, bound to it; `attributes` are those of the suite, `config` among them.

    Raises:
        TypeError: the class is no plugin of any kind.
    """
    for kind, suite in CONTRACTS.items():
        if isinstance(plugin, type) and issubclass(plugin, kind):
            return type(f"Test{plugin.__name__}", (suite,), {"plugin": plugin, **attributes})
    expected = ", ".join(f"ssldet.{kind.__name__}" for kind in CONTRACTS)
    raise TypeError(f"{plugin!r} is no plugin; expected a class derived from one of {expected}")


def check(plugin: type[Any], *, only: str = "", skip: Collection[str] = (), **attributes: Any) -> list[Outcome]:
    """Run a plugin's contract suite here, without pytest: every test, whatever the others find.

    Args:
        plugin: its class.
        only: the name of one test; "" means all.
        skip: names of tests to leave out.
        attributes: of the suite, such as `config`.

    Raises:
        SsldetError: Python was started with -O, under which no assertion can fail.
    """
    if not __debug__:
        raise SsldetError("under python -O no test can fail; start Python without it")
    bound = contract_of(plugin, **attributes)
    names = [only] if only else [name for name in dir(bound) if name.startswith("test_") and name not in skip]
    bound.setup_class()
    try:
        return [_outcome(bound, name) for name in names]
    finally:
        bound.teardown_class()


def _outcome(bound: type[Contract], name: str) -> Outcome:
    try:
        getattr(bound(), name)()
    except SkipTest as skipped:
        return Outcome(name, "skipped", str(skipped))
    except Exception as error:  # a plugin may raise anything, and that is what is being found out
        reason = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Outcome(name, "failed", reason)
    return Outcome(name, "passed")


TEST_FILE = """\
from ssldet import plugins, testing

TestPlugin = testing.contract_of(plugins.load({kind!r}, {name!r}))
"""


def run_pytest(kind: str, name: str, *, output: int | None = None) -> int:
    """Run the suite of an installed plugin through pytest, in a process of its own that prints; its exit code.

    Args:
        output: the file descriptor that it prints to; None means stdout.

    Raises:
        SsldetError: pytest is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise SsldetError("the contract suite runs in pytest, which is not installed; pip install pytest")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        file = Path(folder, f"test_{kind}.py")
        file.write_text(TEST_FILE.format(kind=kind, name=name), encoding="utf-8")
        options = ["-v", "-rs", "--no-header", "-p", "no:cacheprovider", "--rootdir", folder]
        command = [sys.executable, "-P", "-m", "pytest", *options, str(file)]
        return subprocess.run(command, cwd=folder, env=_environment(), stdout=output, check=False).returncode


def _environment() -> Mapping[str, str]:
    """This environment without what steers another pytest, or plugins of pytest; modules are found as they are here."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHONOPTIMIZE"))}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
