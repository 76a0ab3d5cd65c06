"""`ssldet runs watch`: a run is followed from its folder alone, wherever its process is."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_claims import held, leave_claim
from test_run_store import interrupt, write_run

from ssldet.cli import main
from ssldet.runs.curves import curves
from ssldet.runs.store import RunEntry, find_run
from ssldet.runs.watching import Watched, watched

CONFIG = "experiment: {strategy: supervised, train: {steps: 100, epochs: 10}}\nmachine: {preset: smoke}\n"
EPOCHS = "experiment: {strategy: supervised, train: {steps: null, epochs: 10}}\nmachine: {preset: smoke}\n"


def write_log(folder: Path, *steps: int, seconds: float = 2.0) -> None:
    """A log whose lines are so many seconds apart, ten steps an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": step, "epoch": step / 10, "losses": {"box": 10 / step}, "seconds": seconds * (place + 1)}
        for place, step in enumerate(steps)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run without a record."""
    folder = write_run(tmp_path, "a" * 12)
    interrupt(folder, CONFIG)
    return folder


def entry_of(folder: Path) -> RunEntry:
    return find_run(str(folder), ())


def look_at(folder: Path) -> Watched:
    return watched(entry_of(folder))


def watch(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["runs", "watch", *map(str, arguments)])


def test_a_run_on_another_machine_is_training_as_long_as_it_gives_signs_of_life(folder: Path) -> None:
    write_log(folder, 10, 30)
    leave_claim(folder, host="node7")
    look = look_at(folder)
    assert (look.phase, look.step, look.steps, look.is_over) == ("train", 30, 100, False)
    assert look.owner and look.owner.host == "node7"
    assert look.seconds_left == pytest.approx(70 * 2.0 / 20)
    leave_claim(folder, host="node7", silent=1000)
    assert look_at(folder).phase == "interrupted" and look_at(folder).is_over


def test_phases_before_and_after_training_are_told_apart(folder: Path) -> None:
    with held(folder):
        assert look_at(folder).phase == "start"
        write_log(folder, 50, 100)
        assert look_at(folder).phase == "score"
    write_run(folder.parent, "a" * 12)
    assert look_at(folder).phase == "done"


def test_where_epochs_were_asked_for_the_log_says_how_many_steps_they_are(folder: Path) -> None:
    (folder / "config.yaml").write_text(EPOCHS)
    assert look_at(folder).steps is None
    write_log(folder, 20, 40)
    assert look_at(folder).steps == 100


def test_the_first_stage_that_its_process_trains_is_shown_and_no_other(folder: Path) -> None:
    stages = folder.parent / "first_stages"
    write_log(stages / "others", 7)
    leave_claim(stages / "others", host="elsewhere")
    write_log(stages / "ours", 20)
    with held(folder), held(stages / "ours"):
        look = look_at(folder)
        assert (look.phase, look.step) == ("first stage", 20)
        write_log(folder, 40)
        assert (look_at(folder).phase, look_at(folder).step) == ("train", 40)


def test_a_line_is_printed_for_each_new_line_of_the_log_until_the_run_is_done(folder: Path) -> None:
    write_log(folder, 10, 20)

    taken = threading.Event()

    def carry_out() -> None:
        with held(folder):
            taken.set()
            time.sleep(0.5)
            write_log(folder, 10, 20, 60, 100)
            time.sleep(0.5)
            write_run(folder.parent, "a" * 12)

    thread = threading.Thread(target=carry_out)
    thread.start()
    taken.wait()
    result = watch("--results", folder.parent, "--every", 0.1)
    thread.join()
    assert result.exit_code == 0, result.output
    steps = [line.split()[1] for line in result.stdout.splitlines()]
    assert steps == ["20/100", "60/100", "100/100"]
    assert "box 0.1" in result.stdout and "ssldet runs show" in result.stderr


def test_a_run_that_nobody_carries_out_any_more_ends_the_watch_with_what_to_do(folder: Path) -> None:
    write_log(folder, 10)
    result = watch("a" * 12, "--results", folder.parent)
    assert result.exit_code == 1
    assert "10/100" in result.stdout and "the same `ssldet run` goes on with it" in result.stderr


def test_thresholds_of_classes_are_shown_by_their_range() -> None:
    lines = [{"step": 10, "thresholds": {"run": 0.2, "sit": 0.4, "jump": 0.9}}, {"step": 20, "thresholds": {"mu": 0.3}}]
    found = {curve.name: (curve.steps, curve.values) for curve in curves(lines)}
    assert found["least threshold"] == ([10], [0.2]) and found["greatest threshold"] == ([10], [0.9])
    assert found["mean threshold"][1] == pytest.approx([0.5]) and found["mu threshold"] == ([20], [0.3])


def test_a_look_has_progress_and_curves(folder: Path) -> None:
    write_log(folder, 10, 20, 30)
    with held(folder):
        picture = watch("a" * 12, "--once", "--results", folder.parent)
        plain = json.loads(watch("a" * 12, "--json", "--results", folder.parent).stdout)
    assert picture.exit_code == 0
    assert "30/100 steps" in picture.stdout and "of training left" in picture.stdout and "█" in picture.stdout
    assert (plain["phase"], plain["step"], plain["steps"]) == ("train", 30, 100)
    assert plain["curves"]["losses"]["box"]["steps"] == [10, 20, 30]


def test_without_a_run_in_progress_it_says_so(folder: Path) -> None:
    result = watch("--results", folder.parent)
    assert result.exit_code == 2
    assert "no run is being carried out" in result.stderr and "1 runs there" in result.stderr
