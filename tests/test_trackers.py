"""Trackers: off by default, given a run's numbers as its log has them, and never in a run's way.

`tensorboard`, `wandb` and `mlflow` are tested with the libraries themselves, where they are installed.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from test_runner import StopAt, config

from ssldet import plugins
from ssldet.cli import main
from ssldet.config import RunConfig, resolve
from ssldet.contracts import Options, TrackedRun, Tracker
from ssldet.errors import ConfigError, RequestError, UnknownName
from ssldet.runs import layout, runner, tracking
from ssldet.runs.log import read_log
from ssldet.runs.planning import plan
from ssldet.runs.record import Record
from ssldet.runs.runner import Interrupted, Reporter
from ssldet.runs.tracking import flat_numbers

TINY = ("clip.size=32", "clip.frames=4")


class Notes(Tracker):
    """Notes its calls; raises or waits where a test says so."""

    class Config(Options):
        label: str = "x"

    calls: ClassVar[list[tuple[Any, ...]]] = []
    fails_at: ClassVar[str] = ""
    hangs_at: ClassVar[str] = ""
    go_on: ClassVar[threading.Event] = threading.Event()

    def start(self, run: TrackedRun) -> None:
        self._take("start", run)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._take("log", step, dict(numbers))

    def finish(self, status: str, scores: Mapping[str, float]) -> None:
        self._take("finish", status, dict(scores))

    def _take(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name == self.hangs_at:
            self.go_on.wait(600)  # longer than any test
        if name == self.fails_at:
            sys.exit("the server is gone")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Notes]]:
    """`Notes`, as if it were installed under the name `notes`."""
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: Notes if name == "notes" else load(kind, name))
    for name, value in (("calls", []), ("fails_at", ""), ("hangs_at", ""), ("go_on", threading.Event())):
        monkeypatch.setattr(Notes, name, value)
    yield Notes
    Notes.go_on.set()


class Hears(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def tracked_config(folder: Path, *more: str) -> RunConfig:
    return config(folder, "supervised", (*TINY, "tracker=notes", *more))


# ----------------------------------------------------------------------------------------------------- settings


def asked(*assignments: str) -> RunConfig:
    return resolve({"strategy": "supervised", "dataset": "synthetic"}, preset="smoke", assignments=assignments)


def test_a_tracker_is_named_with_typed_options_and_is_no_part_of_a_run() -> None:
    made = asked("tracker=wandb", "tracker.project=mine").build_tracker()
    assert made and made.config.model_dump() == {"online": False, "project": "mine", "entity": None}
    assert asked().build_tracker() is None
    assert asked("tracker=wandb").experiment == asked().experiment


def test_unknown_trackers_and_options_are_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        asked("tracker=tensorbord")
    with pytest.raises(ConfigError, match=r"'tracker.projekt' of tracker 'wandb'; did you mean 'tracker.project'"):
        asked("tracker=wandb", "tracker.projekt=x")
    with pytest.raises(ConfigError, match=r"tracker.project is an option of a tracker, and there is none; .*--tracker"):
        asked("tracker.project=x")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_library_that_is_not_installed_is_said_before_anything_is_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *of: None if module == name else find(module, *of))
    asked = ["run", "--strategy", "supervised", "--dataset", "synthetic", "--preset", "smoke", "--tracker", name]
    refused = CliRunner().invoke(main, [*asked, "--results", str(tmp_path / "r")])
    assert refused.exit_code == 2 and "pip install" in refused.stderr
    assert not (tmp_path / "r").exists()


# ----------------------------------------------------------------------------------------------- a run's numbers


def test_a_tracker_gets_what_the_log_has_and_moves_no_number(tmp_path: Path, notes: type[Notes]) -> None:
    """All lines from the first on, those of the shared first stage too, and again where the run goes on."""
    alone = runner.execute(plan(config(tmp_path / "alone", "supervised", TINY)), Reporter())
    planned = plan(tracked_config(tmp_path / "tracked", "tracker.label=y"))
    with pytest.raises(Interrupted):
        runner.execute(planned, StopAt(13))
    assert notes.calls[-1] == ("finish", "interrupted", {})
    notes.calls.clear()
    record = runner.execute(planned, Reporter())
    (_, run), *lines, (_, status, scores) = notes.calls
    assert (run.id, run.name) == (alone.id, planned.folder.name)
    assert run.config["machine"]["tracker_options"] == {"label": "y"}
    assert run.folder == tmp_path / "tracked" / "trackers" / "notes" and run.folder.is_dir()
    log = read_log(planned.folder / layout.LOG)
    assert len(log) > 1 and [step for _, step, _ in lines] == [line["step"] for line in log]
    assert [numbers["lr"] for *_, numbers in lines] == [line["lr"] for line in log]
    assert {f"losses/{name}" for name in log[0]["losses"]} <= set(lines[0][2])
    recall = record.value("recall", "standard", "localization")
    assert (status, scores["recall/standard/localization"]) == ("done", recall)
    assert (record.id, record.metrics) == (alone.id, alone.metrics)
    assert record.files[layout.WEIGHTS] == alone.files[layout.WEIGHTS]
    assert record.provenance["distributions"] == alone.provenance["distributions"]


def test_numbers_have_flat_names_and_are_finite() -> None:
    line = {"losses": {"box": 1, "parts": {"a": 0.5}}, "lr": 0.1, "stage": None, "bad": float("nan"), "on": True}
    assert flat_numbers({**line, "warnings": ["x"]}) == {"losses/box": 1.0, "losses/parts/a": 0.5, "lr": 0.1}


@pytest.mark.parametrize("call", ["start", "finish"])
def test_a_tracker_that_fails_is_said_once_and_stops_no_run(tmp_path: Path, notes: type[Notes], call: str) -> None:
    notes.fails_at = call
    hears, planned = Hears(), plan(tracked_config(tmp_path))
    record = runner.execute(planned, hears)
    fault = "tracker 'notes' failed (SystemExit: the server is gone); the run goes on without it, and its log is whole"
    assert record.status == "done" and [text for text in hears.warnings if fault in text] == hears.warnings[:1]
    assert len(hears.warnings) == 1 and [name for name, *_ in notes.calls].count(call) == 1
    if call != "finish":  # the record is written by then
        assert record.notes["tracker"] == fault
    if call == "start":
        assert [fault in str(line["warnings"]) for line in read_log(planned.folder / layout.LOG)].count(True) == 1


def test_a_tracker_that_hangs_holds_nothing_up(
    tmp_path: Path, notes: type[Notes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_TO_FOLLOW", 0.2)
    notes.hangs_at = "start"
    hears = Hears()
    record = runner.execute(plan(tracked_config(tmp_path)), hears)
    assert record.status == "done" and "did not answer for 0.2 s" in record.notes["tracker"]
    assert hears.warnings == [record.notes["tracker"]]


def test_a_run_that_fails_is_told_so(tmp_path: Path, notes: type[Notes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.scoring, "score_videos", lambda *_: (_ for _ in ()).throw(RequestError("no scores")))
    with pytest.raises(RequestError):
        runner.execute(plan(tracked_config(tmp_path)), Reporter())
    assert notes.calls[-1] == ("finish", "failed", {})


# ------------------------------------------------------------------------------------------------ the first party's


def needs(library: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(absent, reason=f"needs {library}, which is no requirement of the tests")


def run_twice(folder: Path, tracker: str) -> Record:
    """A run that is interrupted, and goes on; both times with a tracker."""
    planned = plan(config(folder, "supervised", (*TINY, f"tracker={tracker}")))
    with pytest.raises(Interrupted):
        runner.execute(planned, StopAt(13))
    return runner.execute(planned, Reporter())


def wanted(folder: Path, name: str) -> dict[int, float]:
    """Step -> a number of the run's log."""
    (path,) = folder.glob(f"*/{layout.LOG}")
    return {line["step"]: value for line in read_log(path) if (value := flat_numbers(line).get(name)) is not None}


@needs("tensorboard")
def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run_twice(tmp_path, "tensorboard")
    assert "tracker" not in record.notes
    (folder,) = (tmp_path / "trackers" / "tensorboard").iterdir()
    shown = EventAccumulator(str(folder)).Reload()
    assert {event.step: pytest.approx(event.value, rel=1e-5) for event in shown.Scalars("lr")} == wanted(tmp_path, "lr")
    (score,) = shown.Scalars("scores/recall/standard/localization")
    assert score.value == pytest.approx(record.value("recall", "standard", "localization"))


@needs("mlflow")
def test_mlflow_has_one_run_with_the_log(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    record = run_twice(tmp_path, "mlflow")
    assert "tracker" not in record.notes
    client = MlflowClient(tracking_uri=(tmp_path / "trackers" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("ssldet")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["ssldet.run"] == record.id
    assert run.data.params["experiment.strategy"] == "supervised"
    history = client.get_metric_history(run.info.run_id, "lr")
    assert {point.step: pytest.approx(point.value) for point in history} == wanted(tmp_path, "lr")


@needs("wandb")
def test_wandb_writes_files_and_calls_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    record = run_twice(tmp_path, "wandb")
    assert "tracker" not in record.notes
    runs = sorted((tmp_path / "trackers" / "wandb" / "wandb").glob(f"offline-run-*-{record.id}"))
    assert runs and all(list(folder.glob("*.wandb")) for folder in runs)
