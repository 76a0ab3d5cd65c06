"""Claims: one writer a folder, whatever dies, sleeps or lies about the time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_claims import held, leave_claim
from test_grid import ASKED, Listener, command, small
from test_runner import StopAt, config

from ssldet.benchmark import grid as grid_module
from ssldet.benchmark.executors.local import run_grid
from ssldet.cli import main
from ssldet.runs import claims, layout, runner, store
from ssldet.runs.claims import Claim, ClaimHeld, ClaimLost, claimed, owner_of, read_owner
from ssldet.runs.planning import plan
from ssldet.runs.runner import Interrupted, Reporter
from ssldet.training.loop import StepReport


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.05)


def test_one_process_holds_a_folder_and_leaves_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path) as claim:
        assert claim and claim.is_mine() and owner_of(tmp_path) == claim.owner
        with pytest.raises(ClaimHeld, match=rf"process {os.getpid()} on "), claimed(tmp_path):
            pass
        claim.check()
    assert owner_of(tmp_path) is None and not list(tmp_path.iterdir())


def in_process(code: str, folder: Path) -> None:
    """Code with a `claim` that was taken, in a process of its own."""
    begin = "import os, sys; from pathlib import Path; from ssldet.runs.claims import Claim"
    take = "claim = Claim(Path(sys.argv[1])); assert claim.take()"
    subprocess.run([sys.executable, "-c", f"{begin}\n{take}\n{code}", str(folder)], check=True)


def test_what_a_dead_process_of_this_machine_held_is_taken_at_once(tmp_path: Path) -> None:
    in_process("os._exit(0)", tmp_path)  # as a kill does
    assert read_owner(tmp_path / ".claim") and owner_of(tmp_path) is None
    with claimed(tmp_path) as claim:
        assert claim and claim.is_mine()


def test_another_machine_is_believed_dead_after_a_long_silence_alone(tmp_path: Path) -> None:
    leave_claim(tmp_path, silent=claims.SILENCE_SECONDS - 30)
    with pytest.raises(ClaimHeld, match=r"on far, .*after 120 s without a sign of life"), claimed(tmp_path):
        pass
    assert owner_of(tmp_path)
    leave_claim(tmp_path, silent=claims.SILENCE_SECONDS + 30)
    assert owner_of(tmp_path) is None
    with claimed(tmp_path) as claim:
        assert claim and claim.is_mine()


def test_a_clock_that_jumps_makes_no_one_dead(tmp_path: Path) -> None:
    """Forward: the owner goes on while it is watched. Back: its last sign of life lies in the future."""
    path = leave_claim(tmp_path, silent=1e6)
    beat = threading.Timer(0.15, os.utime, [path])
    beat.start()
    assert not Claim(tmp_path).take()
    beat.join()
    leave_claim(tmp_path, silent=-1e6)
    assert not Claim(tmp_path).take()


def test_a_claim_that_is_being_written_is_one(tmp_path: Path) -> None:
    (tmp_path / ".claim").touch()
    assert not Claim(tmp_path).take() and owner_of(tmp_path)
    os.utime(tmp_path / ".claim", (1000, 1000))  # its process died before it had written
    assert Claim(tmp_path).take()


def test_of_many_that_take_over_one_wins(tmp_path: Path) -> None:
    for turn in range(5):
        folder = tmp_path / str(turn)
        leave_claim(folder, silent=1e6)
        won: list[Claim] = []
        every = [Claim(folder) for _ in range(6)]

        def race(claim: Claim, won: list[Claim] = won) -> None:
            if claim.take():
                won.append(claim)

        racing = [threading.Thread(target=race, args=[claim]) for claim in every]
        for thread in racing:
            thread.start()
        for thread in racing:
            thread.join()
        assert len(won) == 1 and won[0].is_mine()
        assert [path.name for path in folder.iterdir()] == [".claim"]
        won[0].release()


def test_a_taker_that_died_while_it_took_over_is_no_obstacle(tmp_path: Path) -> None:
    leave_claim(tmp_path, silent=1e6)
    (tmp_path / ".claim-theirs").touch()
    assert not Claim(tmp_path).take()
    os.utime(tmp_path / ".claim-theirs", (1000, 1000))
    assert [Claim(tmp_path).take() for _ in range(2)] == [False, True]


def test_who_lost_its_claim_stops_and_leaves_that_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(tmp_path) as claim:
        assert claim
        path = leave_claim(tmp_path / "aside")
        path.replace(tmp_path / ".claim")
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)  # as if it had slept
        with pytest.raises(ClaimLost, match=r"was taken over by process .* on far"):
            claim.check()
    owner = read_owner(tmp_path / ".claim")
    assert owner and owner.token == "theirs"


def test_a_file_system_that_is_away_for_a_moment_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is away for as long as others wait is: a stale handle stays stale."""

    def stale(file: int) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with claimed(tmp_path) as claim:
        assert claim
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
        monkeypatch.setattr(claims.os, "utime", stale)
        claim.check()
        monkeypatch.setattr(claims, "SILENCE_SECONDS", 0.0)
        with pytest.raises(ClaimLost, match="could not be reached"):
            claim.check()


def test_the_owner_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    with held(tmp_path):
        os.utime(tmp_path / ".claim", (1000, 1000))
        deadline = time.monotonic() + 10
        while (tmp_path / ".claim").stat().st_mtime < 2000 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert claims.silence(tmp_path / ".claim") < 60


def test_waiting_says_for_whom_and_can_be_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    with held(tmp_path):
        waiting = claimed(
            tmp_path, patience=60, stop=lambda: len(said) > 1, waiting=lambda owner: said.append(str(owner))
        )
        with waiting as claim:
            assert claim is None
    assert said[0].startswith(f"process {os.getpid()} on ")


# -------------------------------------------------------------------------------------------- runs and grids


def test_the_status_of_a_grid_shows_what_other_processes_are_at(tmp_path: Path) -> None:
    """Without a queue to ask: by their claims."""
    stage, *others = small(tmp_path).tasks.values()
    assert stage.folder
    leave_claim(stage.folder)
    done = CliRunner().invoke(main, command(tmp_path, *ASKED, "--status", "--json"))
    assert done.exit_code == 0, done.output
    first, *rest = json.loads(done.stdout)["tasks"]
    assert (first["key"], first["state"]) == (stage.key, "running") and "on far, since" in first["reason"]
    assert [task["state"] for task in rest] == ["to run"] * len(others)


class AtStep(Reporter):
    """Does something once, at a step."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number, self.action = number, action

    def step(self, report: StepReport) -> None:
        if report.step == self.number:
            self.action()


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a checkpoint nor a record that says it failed: both are the new owner's by now."""
    planned = plan(config(tmp_path, "supervised", ("train.burn_in=0",)))
    before: list[bytes] = []

    def lose() -> None:
        before.append((planned.folder / layout.CHECKPOINT).read_bytes())
        leave_claim(tmp_path / "aside").replace(planned.folder / ".claim")
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)

    with pytest.raises(ClaimLost):
        runner.execute(planned, AtStep(15, lose))
    assert [(planned.folder / layout.CHECKPOINT).read_bytes()] == before
    assert not planned.record_path.exists()


def test_a_results_folder_that_vanishes_ends_the_run_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(config(tmp_path, "supervised", ("train.burn_in=0",)))

    def vanish() -> None:
        shutil.rmtree(planned.folder)
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)

    with pytest.raises(ClaimLost, match="vanished, or the claim in it was removed"):
        runner.execute(planned, AtStep(10, vanish))
    assert not planned.record_path.exists()


def test_a_run_with_a_damaged_checkpoint_ends_as_one_without_and_says_so(tmp_path: Path) -> None:
    alone = ("train.burn_in=0",)  # without a first stage
    whole = runner.execute(plan(config(tmp_path / "whole", "supervised", alone)), Reporter())
    planned = plan(config(tmp_path / "damaged", "supervised", alone))
    with pytest.raises(Interrupted):
        runner.execute(planned, StopAt(13))
    newest = planned.folder / layout.CHECKPOINT
    assert newest.is_file() and (planned.folder / layout.CHECKPOINT_BEFORE).is_file()
    newest.write_bytes(newest.read_bytes()[:-100])
    record = runner.execute(planned, Reporter())
    assert record.metrics == whole.metrics and record.files[layout.WEIGHTS] == whole.files[layout.WEIGHTS]
    (warning,) = record.notes["warnings"]
    assert "training goes on from the checkpoint before it, of step 8" in warning
    assert not newest.exists() and not (planned.folder / layout.CHECKPOINT_BEFORE).exists()


def test_a_run_without_a_checkpoint_that_can_be_read_begins_anew_and_says_so(tmp_path: Path) -> None:
    """With its first stage, which is not trained again; the damaged files are kept until the run is removed."""
    first = ("train.burn_in=0.25",)
    whole = runner.execute(plan(config(tmp_path / "whole", "supervised", first)), Reporter())
    planned = plan(config(tmp_path / "damaged", "supervised", first))
    with pytest.raises(Interrupted):
        runner.execute(planned, StopAt(13))
    for name in (layout.CHECKPOINT, layout.CHECKPOINT_BEFORE):
        (planned.folder / name).write_bytes((planned.folder / name).read_bytes()[:-100])
    (stage,) = tmp_path.glob("damaged/first_stages/*/checkpoint.safetensors")
    trained = stage.stat().st_mtime_ns
    record = runner.execute(planned, Reporter())
    assert record.metrics == whole.metrics and record.files[layout.WEIGHTS] == whole.files[layout.WEIGHTS]
    (warning,) = record.notes["warnings"]
    kept = " and ".join(layout.DAMAGED)
    assert warning.endswith(f"no checkpoint in {planned.folder} can be read: kept as {kept}; training begins anew")
    assert stage.stat().st_mtime_ns == trained
    assert all((planned.folder / name).is_file() for name in layout.DAMAGED)
    assert store.remove(store.find_runs([tmp_path / "damaged"])[0]) == []


def test_a_first_stage_without_a_checkpoint_that_can_be_read_is_trained_anew(tmp_path: Path) -> None:
    planned = plan(config(tmp_path, "supervised", ("train.burn_in=0.75",)))
    whole = runner.execute(planned, Reporter())
    for newest in tmp_path.glob("first_stages/*/checkpoint*.safetensors"):
        newest.write_bytes(b"")
    planned.record_path.unlink()
    record = runner.execute(planned, Reporter())
    assert record.metrics == whole.metrics
    (warning,) = record.notes["warnings"]
    assert "training begins anew" in warning


def test_a_damaged_first_stage_is_trained_on_from_its_checkpoint_before(tmp_path: Path) -> None:
    planned = plan(config(tmp_path, "supervised", ("train.burn_in=0.75",)))
    whole = runner.execute(planned, Reporter())
    (newest,) = tmp_path.glob("first_stages/*/checkpoint.safetensors")
    newest.write_bytes(b"")
    planned.record_path.unlink()
    record = runner.execute(planned, Reporter())
    assert record.metrics == whole.metrics
    (warning,) = record.notes["warnings"]
    assert "of step 8" in warning


def test_a_run_of_another_machine_is_left_alone_and_named(tmp_path: Path) -> None:
    planned = plan(config(tmp_path, "supervised"))
    leave_claim(planned.folder)
    with pytest.raises(ClaimHeld, match=r"this run is being carried out: another process .* on far"):
        runner.execute(planned, Reporter())
    assert [path.name for path in planned.folder.iterdir()] == [".claim"]


def test_a_grid_waits_for_what_another_grid_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with the rest meanwhile, and then takes what the other one left."""
    monkeypatch.setattr(grid_module, "SECONDS_BETWEEN_QUESTIONS", 0.2)
    grid = small(tmp_path)
    for run in grid.cells():
        del grid.tasks[run.key]
    stage, other = grid.tasks.values()
    assert stage.folder
    seen: list[str] = []

    class Watches(Listener):
        def ended(self, worker, task, result):
            seen.append(f"{result.state} {task.key}")
            if task is other:
                claim.release()

    claim = Claim(stage.folder)
    assert claim.take()
    assert run_grid(grid, jobs=1, callback=Watches())
    assert grid.is_done() and seen[0] == f"held {stage.key}"
    assert seen.index(f"done {other.key}") < seen.index(f"done {stage.key}")
