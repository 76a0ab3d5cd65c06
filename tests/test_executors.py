"""Executors: chosen by name with typed options, refused with a remedy, and what the slurm one makes of the queue.

The queue is played here, by what Slurm's commands would say; tests/test_slurm.py has a real one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_grid import Listener, command, numbers, request, small

from ssldet.benchmark.executors import make_executor, slurm, slurm_job, slurm_probe, slurm_queue
from ssldet.benchmark.executors.job_files import Job, JobFiles
from ssldet.benchmark.executors.local import Local
from ssldet.benchmark.executors.slurm import GridJobs, Slurm
from ssldet.benchmark.executors.slurm_job import SlurmJob, TaskFailed
from ssldet.benchmark.executors.slurm_queue import QueueState
from ssldet.benchmark.grid import Grid, plan_grid
from ssldet.benchmark.tasks import Task, TaskProgress, TaskResult, attempt
from ssldet.cli import main
from ssldet.errors import ConfigError, RequestError, UnknownName
from ssldet.runs import layout
from ssldet.runs.planning import DatasetCache
from ssldet.runs.runner import Reporter

has_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason='needs submitit: pip install "ssldet[slurm]"'
)

# ---------------------------------------------------------------------------------------- choice and refusals


def test_an_executor_is_made_by_name_with_typed_options() -> None:
    made = make_executor("slurm", ["executor.partition=gpu", "executor.gpus=1", "executor.hours=12"])
    assert isinstance(made, Slurm)
    assert (made.config.partition, made.config.gpus, made.config.hours) == ("gpu", 1, 12)
    assert isinstance(make_executor("local"), Local)


def test_unknown_executors_and_options_are_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownName, match=r"unknown executor 'slrum'; did you mean 'slurm'"):
        make_executor("slrum")
    with pytest.raises(
        ConfigError, match=r"'executor.partitoin' of executor 'slurm'; did you mean 'executor.partition'"
    ):
        make_executor("slurm", ["executor.partitoin=gpu"])
    with pytest.raises(ConfigError, match=r"executor.memory: string should match"):
        make_executor("slurm", ["executor.memory=much"])
    with pytest.raises(ConfigError, match=r"unknown option 'executor.gpus' of executor 'local'"):
        make_executor("local", ["executor.gpus=1"])


def invoke(results: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, command(results, "--tables", "6", "--only", "ratio=0.1", *arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--executor", "slrum"], "did you mean 'slurm'"),
        (["--executor", "slurm", "--set", "executor.gpu=1"], "did you mean 'executor.gpus'"),
        (["--detach"], "leave out --detach"),
        (["--cancel"], "Ctrl-C stops it"),
        (["--detach", "--status"], "--detach and --status ask for different things"),
    ],
)
def test_bad_requests_exit_2_and_leave_nothing(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = invoke(tmp_path / "r", *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and said in result.stderr
    assert not (tmp_path / "r").exists()


def test_what_is_not_installed_is_said_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    absent = invoke(tmp_path / "r", "--executor", "slurm")
    assert absent.exit_code == 2 and 'pip install "ssldet[slurm]"' in absent.stderr
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: "here")
    monkeypatch.setenv("PATH", str(tmp_path))
    elsewhere = invoke(tmp_path / "r", "--executor", "slurm")
    assert elsewhere.exit_code == 2 and "no sbatch here" in elsewhere.stderr and "--executor local" in elsewhere.stderr
    assert not (tmp_path / "r").exists()


def commands_of_slurm(folder: Path, **scripts: str) -> None:
    """Programs of Slurm's names that do what the scripts say."""
    for name in ("sbatch", "squeue", "scancel", "sinfo", "srun"):
        (folder / name).write_text(f"#!/bin/sh\n{scripts.get(name, '')}\n")
        (folder / name).chmod(0o755)


def test_what_slurms_commands_say_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sinfo = 'case "$*" in *%P*) echo "low*"; echo high;; *) echo "low|infinite"; echo "high|1-02:00:00";; esac'
    squeue = "echo '7|PENDING|ssldet-a|(Resources)'; echo '8|RUNNING|ssldet-b|n1'; echo nonsense"
    commands_of_slurm(tmp_path, sinfo=sinfo, squeue=squeue)
    assert slurm_queue.partitions() == {"low": None, "high": 1560.0}
    assert slurm_queue.default_partition() == "low"
    assert slurm_queue.queue() == {
        "7": QueueState("PENDING", "ssldet-a", "Resources"),
        "8": QueueState("RUNNING", "ssldet-b", "n1"),
    }
    with pytest.raises(UnknownName, match="unknown partition 'hihg'; did you mean 'high'"):
        slurm_queue.check_reachable("hihg")
    down = "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1"
    commands_of_slurm(tmp_path, sinfo=down, squeue=down)
    assert slurm_queue.queue() is None
    with pytest.raises(RequestError, match=r"Slurm does not answer: sinfo says: .*Unable to contact"):
        slurm_queue.check_reachable(None)


@pytest.mark.parametrize(
    ("text", "expected"), [("30:00", 30), ("2:30:00", 150), ("1-00:00:30", 1440.5), ("infinite", None), ("", None)]
)
def test_times_of_slurm_are_read(text: str, expected: float | None) -> None:
    assert slurm_queue.minutes(text) == expected


# -------------------------------------------------------------------------------------------- a played queue


class Queue:
    """Slurm, as far as the executor sees it: numbers for jobs, and what the test says of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, QueueState] | None = {}
        self.given: dict[str, dict[str, Any]] = {}
        self.cancelled: list[str] = []
        self.refuses = ""
        self.blind = False
        self.probed: list[dict[str, Any]] = []
        monkeypatch.setattr(slurm_queue, "queue", lambda: None if self.states is None else dict(self.states))
        monkeypatch.setattr(slurm_queue, "partitions", lambda: {"low": 45.0})
        monkeypatch.setattr(slurm_queue, "default_partition", lambda: "low")
        monkeypatch.setattr(slurm_queue, "cancel", self.cancelled.extend)
        monkeypatch.setattr(slurm, "SETTLING_SECONDS", 0.0)
        monkeypatch.setattr(slurm, "check_nodes", lambda folder, options: self.probe(folder, options))
        monkeypatch.setattr(GridJobs, "_sbatch", lambda jobs, tasks, job: self.take(jobs._parameters(tasks, job)))

    def probe(self, folder: Path, options: dict[str, Any]) -> None:
        self.probed.append(options)
        if self.blind:
            raise RequestError(f"a node of the cluster does not see {folder}")

    def take(self, parameters: dict[str, Any]) -> str:
        from submitit.core.utils import FailedJobError

        if self.refuses:
            raise FailedJobError(self.refuses)
        number = str(100 + len(self.given))
        self.given[number] = parameters
        assert self.states is not None
        self.states[number] = QueueState("PENDING", parameters["job_name"], "Priority")
        return number

    def say(self, number: str, state: str, reason: str = "n1") -> None:
        assert self.states is not None
        self.states[number] = QueueState(state, self.given[number]["job_name"], reason)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    pytest.importorskip("submitit")
    return Queue(monkeypatch)


def states(grid: Grid) -> list[str]:
    return [task.state for task in grid.tasks.values()]


def jobs_of(grid: Grid, **options: Any) -> GridJobs:
    return GridJobs(grid, Slurm.Config(**options))


def test_first_stages_go_before_what_needs_them_and_each_task_is_a_job(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid, partition="low", gpus=2, memory="8G", account="lab", sbatch={"exclude": "n3"})
    assert jobs.submit_open() == 4 and states(grid) == ["queued"] * 4
    assert [given.get("dependency") for given in queue.given.values()] == [None, "afterok:100", None, "afterok:102"]
    first = queue.given["100"]
    assert (first["partition"], first["gpus_per_node"], first["mem"], first["account"]) == ("low", 2, "8G", "lab")
    assert first["time"] == 45  # what the partition allows
    assert first["additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes", "exclude": "n3"}
    assert jobs.submit_open() == 0 and not jobs.are_over()


def test_runs_wait_for_the_job_that_makes_their_initial_weights(tmp_path: Path, queue: Queue) -> None:
    chosen = {"pretrained": frozenset({"true"}), "ratio": frozenset({"0.1"}), "approach": frozenset({"Supervised"})}
    grid = plan_grid(request(tmp_path, "2", only=chosen))
    assert jobs_of(grid).submit_open() == 2
    assert [task.kind for task in grid.tasks.values()] == ["pretraining", "run"]
    assert [given.get("dependency") for given in queue.given.values()] == [None, "afterok:100"]


def test_the_time_limit_is_what_is_asked_for_or_follows_from_the_estimate(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs_of(grid, hours=0.25).submit_open()
    assert {given["time"] for given in queue.given.values()} == {15}
    assert {given["signal_delay_s"] for given in queue.given.values()} == {90}
    again = small(tmp_path / "other")
    for task in again.tasks.values():
        task.seconds = 120.0
    jobs_of(again).submit_open()
    assert queue.given["104"]["time"] == 34


def test_a_grid_goes_from_the_queue_to_its_end(tmp_path: Path, queue: Queue) -> None:
    grid, listener = small(tmp_path), Listener()
    jobs = jobs_of(grid)
    jobs.submit_open()
    stage, run, *_ = grid.tasks.values()
    queue.say("100", "RUNNING", "n7")
    jobs.files.write_progress(stage.key, TaskProgress("train", 2, 4, "steps"))
    jobs.look(listener)
    assert (stage.state, stage.reason, listener.begun) == ("running", "job 100 on n7", 1)
    assert (run.state, run.reason) == ("queued", "job 101 waits: Priority")
    for task, job in [(task, jobs.jobs[task.key]) for task in grid.tasks.values()]:
        jobs.files.write_result(task.key, job.id, TaskResult("done"))
        queue.say(job.id, "COMPLETED")
    jobs.look(listener)
    assert jobs.are_over() and grid.is_done()
    assert {result.state for result in listener.results.values()} == {"done"} and listener.begun == 4


def test_a_later_command_finds_the_jobs_and_submits_none_twice(tmp_path: Path, queue: Queue) -> None:
    jobs_of(small(tmp_path)).submit_open()
    queue.say("100", "RUNNING")
    again = small(tmp_path)
    jobs = jobs_of(again)
    jobs.attach()
    assert states(again) == ["running", "queued", "queued", "queued"]
    assert jobs.submit_open() == 0 and len(queue.given) == 4
    assert jobs.cancel() == 4 and queue.cancelled == ["100", "101", "102", "103"]
    queue.states = None
    with pytest.raises(RequestError, match="Slurm does not answer"):
        jobs_of(small(tmp_path)).attach()


# --------------------------------------------------------------------------------------------- several cells a job


def of_one_stage(results: Path) -> Grid:
    """The two cells of `small`, which need the same."""
    grid = small(results)
    first, second = grid.cells()
    second.needs = first.needs
    del grid.tasks[[key for key, task in grid.tasks.items() if task.kind != "run"][1]]
    return grid


def test_runs_that_need_the_same_share_a_job_and_its_time(tmp_path: Path, queue: Queue) -> None:
    grid = of_one_stage(tmp_path)
    for task in grid.tasks.values():
        task.seconds, task.memory_bytes = 120.0, 1 << 30
    grid.cells()[1].memory_bytes = 3 << 29
    assert jobs_of(grid, cells_per_job=4).submit_open() == 3 and list(queue.given) == ["100", "101"]
    assert [given.get("dependency") for given in queue.given.values()] == [None, "afterok:100"]
    assert [given["time"] for given in queue.given.values()] == [34, 38]  # twice 120 s, twice 240 s, and half an hour
    assert [given["mem"] for given in queue.given.values()] == ["2048M", "3072M"]  # twice that of the largest
    assert {task.reason for task in grid.cells()} == {"job 101"}


def test_runs_that_need_other_things_share_no_job(tmp_path: Path, queue: Queue) -> None:
    """A first stage that fails blocks what needs it alone."""
    assert jobs_of(small(tmp_path), cells_per_job=4, hours=2).submit_open() == 4 and len(queue.given) == 4
    assert {given["time"] for given in queue.given.values()} == {120}


def test_no_more_than_so_many_share_a_job(tmp_path: Path, queue: Queue) -> None:
    kinds = ["run", "first stage", "run", "run"]
    tasks = [Task(kind, str(number), kind) for number, kind in enumerate(kinds)]  # type: ignore[arg-type]
    assert [[task.key for task in job] for job in slurm.together(tasks, 2)] == [["1"], ["0", "2"], ["3"]]


def test_a_job_is_at_one_of_its_cells_after_the_other(tmp_path: Path, queue: Queue) -> None:
    grid, listener = of_one_stage(tmp_path), Listener()
    jobs = jobs_of(grid, cells_per_job=2)
    jobs.submit_open()
    stage, first, second = grid.tasks.values()
    jobs.files.write_result(stage.key, "100", TaskResult("done"))
    queue.say("100", "COMPLETED")
    queue.say("101", "RUNNING", "n7")
    jobs.look(listener)
    assert (first.state, first.reason) == ("running", "job 101 on n7")
    assert (second.state, second.reason) == ("queued", "job 101 on n7 is at another of its cells")
    jobs.files.write_result(first.key, "101", TaskResult("failed", "no space left"))
    jobs.look(listener)
    assert (first.state, second.state, second.reason) == ("failed", "running", "job 101 on n7")

    again = of_one_stage(tmp_path)  # a later command: what failed goes out again, beside the job that goes on
    later = jobs_of(again, cells_per_job=2)
    later.attach()
    assert states(again)[1:] == ["to run", "running"]


def test_a_job_with_several_cells_that_died_is_handed_out_again(tmp_path: Path, queue: Queue) -> None:
    grid = of_one_stage(tmp_path)
    jobs = jobs_of(grid, cells_per_job=2)
    jobs.submit_open()
    stage, first, second = grid.tasks.values()
    jobs.files.write_result(stage.key, "100", TaskResult("done"))
    jobs.files.write_result(first.key, "101", TaskResult("done"))
    queue.say("101", "NODE_FAIL")
    jobs.look(Listener())
    assert (first.state, second.state) == ("done", "to run")
    jobs.submit_open()
    assert jobs.jobs[second.key].id == "102" and jobs.cancel() == 1


def test_a_cell_that_is_blocked_leaves_the_others_of_its_job_alone(tmp_path: Path, queue: Queue) -> None:
    grid = of_one_stage(tmp_path)
    jobs = jobs_of(grid, cells_per_job=2)
    jobs.submit_open()
    grid.cells()[0].state = "blocked"
    jobs.look(Listener())
    assert queue.cancelled == [] and jobs.jobs[grid.cells()[1].key].id == "101"


def test_memory_is_the_cluster_s_with_gpus_and_as_asked_for(tmp_path: Path, queue: Queue) -> None:
    """The estimate is of this machine's processors."""
    for options, expected in (({"gpus": 1}, None), ({"memory": "8G"}, "8G"), ({}, "2048M")):
        grid = small(tmp_path / str(len(queue.given)))
        for task in grid.tasks.values():
            task.memory_bytes = 1 << 30
        jobs_of(grid, **options).submit_open()
        assert next(reversed(queue.given.values())).get("mem") == expected


# ------------------------------------------------------------------------------------------------ what jobs become


def test_another_job_of_the_same_number_is_not_taken_for_it(tmp_path: Path, queue: Queue) -> None:
    """Numbers begin anew with another cluster, or another database."""
    jobs_of(small(tmp_path)).submit_open()
    assert queue.states is not None
    queue.states = {number: QueueState("RUNNING", "somebody's", "n1") for number in queue.states}
    again = small(tmp_path)
    jobs_of(again).attach()
    assert states(again) == ["to run"] * 4


def test_a_job_that_is_queued_again_goes_on_by_itself(tmp_path: Path, queue: Queue) -> None:
    grid, listener = small(tmp_path), Listener()
    jobs = jobs_of(grid)
    jobs.submit_open()
    stage = next(iter(grid.tasks.values()))
    for state, expected in (("RUNNING", "running"), ("PENDING", "queued"), ("RUNNING", "running")):
        queue.say("100", state)
        jobs.look(listener)
        assert stage.state == expected
    assert listener.results[stage.title].state == "interrupted" and listener.begun == 2
    assert len(queue.given) == 4


def test_a_silent_queue_changes_nothing(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid)
    jobs.submit_open()
    queue.states = None
    jobs.look(Listener())
    assert states(grid) == ["queued"] * 4 and not jobs.are_over()


def test_a_job_that_died_is_handed_out_again_with_what_needs_it(tmp_path: Path, queue: Queue) -> None:
    """Slurm ends the jobs that need it, as what they wait for never comes."""
    grid, listener = small(tmp_path), Listener()
    jobs = jobs_of(grid, retries=1)
    jobs.submit_open()
    stage, run, *_ = grid.tasks.values()
    queue.say("100", "NODE_FAIL")
    queue.say("101", "CANCELLED")
    jobs.look(listener)
    jobs.submit_open()
    assert list(queue.given)[4:] == ["104", "105"] and queue.given["105"]["dependency"] == "afterok:104"
    queue.say("104", "NODE_FAIL")
    jobs.look(listener)
    assert stage.state == "failed" and "its job 104 ended as NODE_FAIL, attempt 2" in stage.reason
    assert run.state == "blocked" and stage.title in run.reason
    jobs.look(listener)
    assert "105" in queue.cancelled and jobs.submit_open() == 0


def test_a_task_that_left_a_checkpoint_goes_on_however_often(tmp_path: Path, queue: Queue) -> None:
    """Time limits shorter than a run, on a cluster that does not requeue."""
    grid = small(tmp_path)
    jobs = jobs_of(grid, retries=0)
    jobs.submit_open()
    stage = next(iter(grid.tasks.values()))
    for _ in range(3):
        number = jobs.jobs[stage.key].id
        jobs.files.write_result(stage.key, number, TaskResult("interrupted"))
        queue.say(number, "TIMEOUT")
        jobs.look(Listener())
        jobs.submit_open()
        assert stage.state == "queued" and jobs.jobs[stage.key].id != number


def test_a_task_that_gets_further_each_turn_goes_on_without_a_word_too(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid, retries=0)
    jobs.submit_open()
    stage = next(iter(grid.tasks.values()))
    for steps, state in ((1, "queued"), (2, "queued"), (2, "failed")):
        jobs.files.write_progress(stage.key, TaskProgress("train", steps, 4, "steps"))
        queue.say(jobs.jobs[stage.key].id, "TIMEOUT")
        jobs.look(Listener())
        jobs.submit_open()
        assert stage.state == state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("CANCELLED", "its job 100 was cancelled; the same command submits it again"),
        ("OUT_OF_MEMORY", "--set executor.memory=32G"),
        ("FAILED", "do the nodes see that folder, under the same path?"),
    ],
)
def test_what_would_happen_again_is_not_tried_again(tmp_path: Path, queue: Queue, state: str, said: str) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid)
    jobs.submit_open()
    queue.say("100", state)
    jobs.look(Listener())
    stage = next(iter(grid.tasks.values()))
    assert stage.state == "failed" and said in stage.reason
    assert list(small(tmp_path).ready()), "the same command tries again"


def test_a_job_that_failed_before_its_task_says_where_its_output_is(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid)
    jobs.submit_open()
    stage = next(iter(grid.tasks.values()))
    folder = Path(jobs.jobs[stage.key].folder)
    folder.mkdir(parents=True)
    (folder / "100_0_log.out").write_text("begins\nImportError: no such thing\nsrun: error: n1: task 0\n")
    (folder / "100_0_result.pkl").touch()
    queue.say("100", "FAILED")
    jobs.look(Listener())
    assert stage.state == "failed"
    assert "100_0_log.out" in stage.reason and stage.reason.endswith("ImportError: no such thing")


def test_what_slurm_takes_no_job_for_is_blocked_with_its_reason(tmp_path: Path, queue: Queue) -> None:
    queue.refuses = (
        "Command failed\nsbatch: error: Batch job submission failed: Requested node configuration is not available"
    )
    grid = small(tmp_path)
    jobs = jobs_of(grid)
    assert jobs.submit_open() == 0 and jobs.are_over()
    assert states(grid) == ["blocked"] * 4
    stage, run, *_ = grid.tasks.values()
    assert stage.reason.endswith("Batch job submission failed: Requested node configuration is not available")
    assert run.reason.startswith(f"{stage.title} is blocked")
    assert not list(tmp_path.glob("jobs/*.json"))


def test_a_job_that_would_wait_for_ever_is_taken_back_with_slurms_reason(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    jobs = jobs_of(grid)
    jobs.submit_open()
    queue.say("100", "PENDING", "PartitionTimeLimit")
    queue.say("102", "PENDING", "Resources")
    jobs.look(Listener())
    stage, run, other, _ = grid.tasks.values()
    assert stage.state == "blocked" and "never begins its job 100: PartitionTimeLimit" in stage.reason
    assert queue.cancelled[0] == "100" and run.state == "blocked" and other.state == "queued"


@has_submitit
def test_what_sbatch_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through submitit, with programs of Slurm's names that note what they get."""
    import cloudpickle

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    count = f"n=$(ls {tmp_path}/*.script 2>/dev/null | wc -l)"
    commands_of_slurm(
        tmp_path,
        sbatch=f'{count}; cp "$1" {tmp_path}/$n.script; echo "Submitted batch job 70$n"',
        sinfo='case "$*" in *%P*) echo "low*";; *) echo "low|infinite";; esac',
    )
    grid = small(tmp_path / "r")
    options = {"memory": "16G", "gpus": 1, "python": "apptainer exec ssldet.sif python", "setup": ("module load x",)}
    jobs = jobs_of(grid, partition="low", sbatch={"exclude": "n3"}, **options)
    assert jobs.submit_open() == 4 and [job.id for job in jobs.jobs.values()] == ["700", "701", "702", "703"]
    script = (tmp_path / "1.script").read_text()
    for line in (
        *("partition=low", "mem=16G", "gpus-per-node=1", "cpus-per-task=1", "time=1440", "exclude=n3", "requeue"),
        *("dependency=afterok:700", "kill-on-invalid-dep=yes", "signal=USR2@90", "open-mode=append"),
    ):
        assert f"#SBATCH --{line}\n" in script, script
    assert "\nmodule load x\n" in script and " apptainer exec ssldet.sif python -u -m submitit" in script
    assert """sh -c 'trap "" USR2 TERM; exec "$@"' ssldet-job apptainer""" in script
    stage = next(iter(grid.tasks.values()))
    (pickled,) = (tmp_path / "r" / "jobs").glob("*/700_submitted.pkl")
    carried = cloudpickle.loads(pickled.read_bytes()).function
    assert isinstance(carried, SlurmJob) and carried.tasks[0].key == stage.key and carried.results.is_absolute()

    commands_of_slurm(tmp_path, sbatch="echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    refused = small(tmp_path / "refused")
    assert jobs_of(refused, hours=1).submit_open() == 0
    assert {task.reason for task in refused.tasks.values() if not task.needs} == {
        "Slurm takes no job for it: Batch job submission failed: Invalid account"
    }


class Leaves(Listener):
    """Presses Ctrl-C at once."""

    def stop(self) -> bool:
        return True


def test_leaving_keeps_the_jobs(tmp_path: Path, queue: Queue) -> None:
    grid = small(tmp_path)
    executor = make_executor("slurm", ["executor.poll_seconds=0.01"])
    assert executor.run(grid, jobs=1, callback=Leaves()) is False
    assert queue.cancelled == [] and states(grid) == ["queued"] * 4
    again = small(tmp_path)
    assert executor.submit(again) == 0 and states(again) == ["queued"] * 4
    assert executor.cancel(small(tmp_path)) == 4


@has_submitit
def test_the_command_shows_hands_out_and_cancels(tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slurm, "check", lambda executor: None)
    asked = ["--only", "strategy=dual_guidance", "--executor", "slurm", "--set", "executor.cpus=3"]
    handed = invoke(tmp_path, *asked, "--detach")
    assert handed.exit_code == 0 and "handed out 4 tasks" in handed.stderr
    assert queue.given["100"]["cpus_per_task"] == 3
    queue.say("100", "RUNNING", "n7")
    shown = json.loads(invoke(tmp_path, *asked, "--status", "--json").stdout)
    assert [(task["state"], task["reason"]) for task in shown["tasks"]][:2] == [
        ("running", "job 100 on n7"),
        ("queued", "job 101 waits: Priority"),
    ]
    ended = invoke(tmp_path, *asked, "--cancel")
    assert ended.exit_code == 0 and "cancelled 4 tasks" in ended.stderr and len(queue.cancelled) == 4


# ------------------------------------------------------------------------------- whether nodes see the results folder


def test_nothing_is_submitted_where_nodes_do_not_see_the_results_folder(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slurm, "check", lambda executor: None)
    queue.blind = True
    asked = ["--only", "strategy=dual_guidance", "--executor", "slurm", "--set", "executor.sbatch={exclude: n3}"]
    refused = invoke(tmp_path, *asked, "--set", "executor.partition=low")
    assert refused.exit_code == 2 and "a node of the cluster does not see" in refused.stderr
    assert queue.given == {} and queue.probed == [{"partition": "low", "exclude": "n3"}]


def test_nodes_are_asked_only_where_something_is_to_be_submitted(tmp_path: Path, queue: Queue) -> None:
    jobs_of(small(tmp_path)).hand_out()
    assert jobs_of(small(tmp_path)).hand_out() == 0 and queue.probed == [{}]


@pytest.fixture
def cluster_of_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs of Slurm's names."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("PROBE_SECONDS", "SETTLING_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(slurm_probe, name, 0.2)
    return tmp_path


BEGINS_AT_ONCE = 'for line; do :; done; sh -c "$line"; echo "77;cluster"'


@pytest.mark.parametrize(
    ("sbatch", "state", "blind"),
    [
        (BEGINS_AT_ONCE, "COMPLETED", False),
        ("echo 77", "FAILED", True),
        ("echo 77", "PENDING", False),
        ("echo 77", "NODE_FAIL", False),
        ("exit 1", "", False),
    ],
)
def test_a_probe_finds_a_node_that_does_not_see_a_folder(
    cluster_of_programs: Path, sbatch: str, state: str, blind: bool
) -> None:
    squeue, scancel = f"echo '77|{state}|ssldet-probe|n1'", f"echo $* > {cluster_of_programs}/cancelled"
    commands_of_slurm(cluster_of_programs, sbatch=sbatch, squeue=squeue, scancel=scancel)
    folder = cluster_of_programs / "a folder"
    folder.mkdir()
    with (
        pytest.raises(RequestError, match=r"a node of the cluster does not see .*--results") if blind else nullcontext()
    ):
        slurm_probe.check_nodes(folder, {"partition": "low", "exclusive": True})
    assert list(folder.iterdir()) == []
    assert (cluster_of_programs / "cancelled").exists() is (state == "PENDING"), "a probe that waits is taken back"


def test_a_probe_goes_where_jobs_go(cluster_of_programs: Path) -> None:
    commands_of_slurm(cluster_of_programs, sbatch=f"echo $* > {cluster_of_programs}/asked; {BEGINS_AT_ONCE}")
    slurm_probe.check_nodes(cluster_of_programs, {"partition": "low", "exclusive": True, "overcommit": False})
    asked = (cluster_of_programs / "asked").read_text()
    assert asked.startswith("--partition=low --exclusive --parsable") and "overcommit" not in asked


# ------------------------------------------------------------------------------------------------ in a job


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "100")


def noted(grid: Grid) -> JobFiles:
    """The files of jobs of a grid, as its executor writes them."""
    files = JobFiles(grid.results)
    for task in grid.tasks.values():
        files.write(Job(task.key, "100", "name", "folder"))
    return files


def first_cell(results: Path) -> Grid:
    """A grid of one cell and its first stage."""
    grid = small(results)
    for key in list(grid.tasks)[2:]:
        del grid.tasks[key]
    return grid


def test_tasks_in_jobs_give_what_they_give_here(tmp_path: Path, job: None) -> None:
    grid = first_cell(tmp_path / "jobs")
    files = noted(grid)
    for task in grid.tasks.values():
        SlurmJob([task], grid.results)()
        assert files.result(Job(task.key, "100", "", "")) == TaskResult("done")
        assert files.result(Job(task.key, "99", "", "")) is None
    assert small(tmp_path / "jobs").cells()[0].state == "done"
    for same_task in first_cell(tmp_path / "here").tasks.values():
        assert attempt(same_task, Reporter(), DatasetCache()).state == "done"
    assert numbers(tmp_path / "jobs") == numbers(tmp_path / "here") != {}
    assert files.progress(task.key) is not None


def test_a_task_that_fails_fails_its_job(tmp_path: Path, job: None) -> None:
    grid = small(tmp_path)
    files, task = noted(grid), grid.cells()[0]
    assert task.folder
    (task.folder / layout.WEIGHTS / "in the way").mkdir(parents=True)
    with pytest.raises(TaskFailed):
        SlurmJob([task], grid.results)()
    result = files.result(Job(task.key, "100", "", ""))
    assert result and result.state == "failed" and result.reason


def test_a_job_does_its_tasks_one_after_another_and_fails_at_the_end(
    tmp_path: Path, job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(tmp_path)
    files, (first, second) = noted(grid), grid.cells()
    ends = {first.key: TaskResult("failed", "no space left"), second.key: TaskResult("done")}
    monkeypatch.setattr(slurm_job, "attempt", lambda task, *others: ends[task.key])
    with pytest.raises(TaskFailed, match="no space left"):
        SlurmJob([first, second], grid.results)()
    assert [files.result(Job(task.key, "100", "", "")) for task in (first, second)] == list(ends.values())


def test_a_node_that_does_not_see_the_results_says_so(tmp_path: Path) -> None:
    grid = small(tmp_path)
    with pytest.raises(RequestError, match="does not see the results folder"):
        SlurmJob([grid.cells()[0]], grid.results)()


@pytest.mark.parametrize(
    ("number", "state", "expected"),
    [
        (signal.SIGUSR2, "RUNNING", ["scontrol requeue 100"]),
        (signal.SIGTERM, "RUNNING", ["wait", "scontrol requeue 100"]),
        (signal.SIGTERM, "COMPLETING", ["wait"]),  # it was cancelled
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_rest_to_slurm(
    tmp_path: Path, job: None, monkeypatch: pytest.MonkeyPatch, number: int, state: str, expected: list[str]
) -> None:
    grid = small(tmp_path)
    files, task = noted(grid), next(iter(grid.tasks.values()))
    done: list[str] = []

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(slurm_job.time, "sleep", lambda seconds: done.append("wait"))
    monkeypatch.setattr(slurm_job.subprocess, "run", lambda words, **options: done.append(" ".join(words)))
    monkeypatch.setattr(slurm_job.os, "_exit", leave)
    monkeypatch.setattr(slurm_queue, "queue", lambda: {"100": QueueState(state, "name", "n1")})
    sent = slurm_job._FileReporter.step

    def step(reporter: Any, report: Any) -> None:
        sent(reporter, report)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # batch systems send several

    monkeypatch.setattr(slurm_job._FileReporter, "step", step)
    with pytest.raises(SystemExit) as left:
        SlurmJob([task], grid.results)()
    assert left.value.code == 128 + number and done[: len(expected)] == expected
    assert list(tmp_path.glob("first_stages/*/checkpoint.safetensors"))
    assert files.result(Job(task.key, "100", "", "")) == TaskResult("interrupted")
