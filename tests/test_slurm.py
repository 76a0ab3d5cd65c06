"""Grids on a real Slurm, of one machine: submitted, preempted, cancelled, with a node that dies.

slurm-up and slurm-down, beside the shared data, start and stop the cluster; where it cannot start, the tests skip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_grid import ASKED, command, numbers, start

from ssldet.benchmark.executors import slurm_queue

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        importlib.util.find_spec("submitit") is None, reason='needs submitit: pip install "ssldet[slurm]"'
    ),
]

ON_SLURM = ("--executor", "slurm", "--set", "executor.poll_seconds=1")
LONG = ("--set", "train.steps=900", "--set", "train.checkpoint_every=20")


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; `folder` has its configuration and the numbers of its processes."""

    folder: Path

    def __call__(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout

    def jobs(self, state: str = "RUNNING") -> dict[str, str]:
        """Number of each of our jobs in a state -> its node."""
        lines = self("squeue", "-h", "-t", state, "-o", "%i|%j|%N").splitlines()
        parts = (line.split("|") for line in lines)
        return {number: node for number, name, node in parts if name.startswith("ssldet-")}

    def restarts(self) -> int:
        """How often jobs were requeued, in all."""
        return sum(map(int, re.findall(r"Restarts=(\d+)", self("scontrol", "-o", "show", "job"))))

    def shorten_limits(self) -> None:
        """Have the time limit of running jobs come within a minute, once."""
        for line in self("squeue", "-h", "-t", "RUNNING", "-o", "%i|%M|%l").splitlines():
            number, passed, limit = line.split("|")
            if (slurm_queue.minutes(limit) or 0) > 30:
                minutes = int(slurm_queue.minutes(passed) or 0) + 1
                self("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}")

    def occupy(self, seconds: int) -> None:
        """Jobs of a higher partition that need both nodes."""
        for _ in range(2):
            self("sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", f"sleep {seconds}")

    def kill(self, node: str) -> None:
        """End a node's daemon, as a power cut does; what runs there goes on, and nobody watches it."""
        os.kill(int((self.folder / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def revive(self, node: str) -> None:
        self("slurmd", "-N", node)


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[Cluster]:
    up, down = (shared / "tools" / f"slurm-{way}" for way in ("up", "down"))
    if not up.is_file():
        pytest.skip(f"no Slurm can be started: there is no {up}")
    folder = Path(tempfile.mkdtemp(prefix="ssldet-slurm-"))
    folder.chmod(0o755)  # munge asks for it
    environment = {**os.environ, "SLURM_TEST_DIR": str(folder), "SLURM_TEST_PORT": "17817"}
    began = subprocess.run([up], env=environment, capture_output=True, text=True)
    if began.returncode:
        pytest.skip(f"no Slurm can be started: {began.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", f"/usr/sbin:/sbin:{os.environ['PATH']}")
        yield Cluster(folder)
    subprocess.run([down], env=environment, check=True)
    shutil.rmtree(folder)


def until(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """The first value of a condition that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def grid(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(results, *ASKED, *arguments)
    output, _ = process.communicate(timeout=1200)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def table(results: Path) -> str:
    from click.testing import CliRunner

    from ssldet.cli import main

    return CliRunner().invoke(main, ["table", "6", "--format", "csv", "--results", str(results)]).stdout


def submitted(results: Path) -> int:
    """How many jobs were handed to Slurm."""
    return len(list(results.glob("jobs/*/*_submission.sh")))


def same(one: Path, other: Path) -> bool:
    """Whether two results folders have the same two runs, to the last bit, and the same table."""
    assert len(numbers(other)) == 2
    return numbers(one) == numbers(other) and table(one) == table(other)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(own_cache: Path, own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(own_cache))


def test_jobs_go_on_without_the_command_and_give_the_table_of_the_local_executor(
    tmp_path: Path, cluster: Cluster
) -> None:
    handed = grid(tmp_path / "slurm", *ON_SLURM, "--detach")
    assert handed.returncode == 0 and "handed out 4 tasks" in handed.stdout, handed.stdout
    again = grid(tmp_path / "slurm", *ON_SLURM, "--detach")
    assert "handed out 0 tasks" in again.stdout, "what is in the queue was submitted again"
    shown = grid(tmp_path / "slurm", *ON_SLURM, "--status")
    assert "queued" in shown.stdout or "running" in shown.stdout, shown.stdout
    waited = grid(tmp_path / "slurm", *ON_SLURM)
    assert waited.returncode == 0, waited.stdout
    assert submitted(tmp_path / "slurm") == 4
    assert grid(tmp_path / "local").returncode == 0
    assert same(tmp_path / "slurm", tmp_path / "local")


def test_runs_that_share_a_job_begin_once_their_initial_weights_are_made(tmp_path: Path, cluster: Cluster) -> None:
    asked = (
        "--tables",
        "2",
        "--only",
        "pretrained=true",
        "--only",
        "ratio=0.1",
        "--only",
        "approach=Supervised,FixMatch",
    )
    for results, where in (("slurm", (*ON_SLURM, "--set", "executor.cells_per_job=2")), ("local", ())):
        process = start(tmp_path / results, *asked, *where)
        output, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, output
    assert len(numbers(tmp_path / "slurm")) == 3 and submitted(tmp_path / "slurm") == 2
    assert numbers(tmp_path / "slurm") == numbers(tmp_path / "local")


def test_ctrl_c_leaves_jobs_and_cancel_ends_them(tmp_path: Path, cluster: Cluster) -> None:
    process = start(tmp_path, *ASKED, *LONG, *ON_SLURM)
    until(cluster.jobs, "a job runs")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "what was handed out goes on" in output, output
    assert cluster.jobs()
    ended = grid(tmp_path, *LONG, *ON_SLURM, "--cancel")
    assert ended.returncode == 0 and re.search(r"cancelled [1-9] tasks", ended.stdout), ended.stdout
    until(lambda: not cluster.jobs(), "no job is left")
    assert not numbers(tmp_path)


@pytest.fixture(scope="module")
def local_long(own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the long runs on this machine."""
    results = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLDET_CACHE", str(own_cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        done = grid(results, *LONG)
    assert done.returncode == 0, done.stdout
    return results


def test_a_time_limit_shorter_than_a_run_leaves_the_table_as_it_is(
    tmp_path: Path, cluster: Cluster, local_long: Path
) -> None:
    """It is shortened once there is a checkpoint: on a slow machine imports take as long as the shortest limit."""
    slurm = tmp_path / "slurm"
    process = start(slurm, *ASKED, *LONG, *ON_SLURM, "--set", "executor.hours=1")
    until(lambda: list(slurm.glob("first_stages/*/checkpoint.safetensors")), "a checkpoint")
    before = cluster.restarts()

    def has_another_turn() -> bool:
        cluster.shorten_limits()  # of whatever runs by now
        return cluster.restarts() > before

    until(has_another_turn, "a job whose time was up was queued again")
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    assert same(slurm, local_long)


def test_a_folder_that_nodes_do_not_see_is_said_before_anything_is_submitted(tmp_path: Path, cluster: Cluster) -> None:
    """The command has a file system of its own in the folder's place."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", str(hidden)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    alone = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh", sys.executable]
    asked = command(hidden / "results", *ASKED, *ON_SLURM)
    refused = subprocess.run([*alone, "-m", "ssldet", *asked], capture_output=True, text=True, timeout=600)
    assert refused.returncode == 2 and "a node of the cluster does not see" in refused.stderr, refused.stderr
    assert not cluster.jobs("PENDING") and not cluster.jobs()


def test_preemption_a_cancelled_job_and_a_dead_node_leave_the_table_as_it_is(
    tmp_path: Path, cluster: Cluster, local_long: Path
) -> None:
    slurm = tmp_path / "slurm"
    process = start(slurm, *ASKED, *LONG, *ON_SLURM)
    until(lambda: list(slurm.glob("first_stages/*/checkpoint.safetensors")), "a checkpoint")
    cluster.occupy(seconds=5)
    until(cluster.restarts, "a job was preempted")
    victim, _ = until(lambda: sorted(cluster.jobs().items()), "a job runs again")[0]
    cluster("scancel", victim)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 1 and "was cancelled; the same command submits it again" in output, output

    process = start(slurm, *ASKED, *LONG, *ON_SLURM)
    _, node = until(lambda: sorted(cluster.jobs().items()), "a job runs")[0]
    turns = cluster.restarts() + submitted(slurm)
    cluster.kill(node)
    until(lambda: cluster.restarts() + submitted(slurm) > turns, "the task of the dead node has another turn")
    output, _ = process.communicate(timeout=1200)
    cluster.revive(node)
    assert process.returncode == 0, output
    assert same(slurm, local_long)


def test_a_request_that_no_node_meets_is_blocked_with_slurms_reason(tmp_path: Path, cluster: Cluster) -> None:
    refused = grid(tmp_path, *ON_SLURM, "--set", "executor.cpus=64", "--json")
    assert refused.returncode == 1
    tasks = json.loads(refused.stdout[refused.stdout.index("{") :])["tasks"]
    assert {task["state"] for task in tasks} == {"blocked"}
    assert re.search("node configuration|CPU count|PartitionConfig", tasks[0]["reason"]), tasks[0]["reason"]
    unknown = grid(tmp_path, *ON_SLURM, "--set", "executor.partition=lwo")
    assert unknown.returncode == 2 and "did you mean 'low'" in unknown.stdout
    assert not cluster.jobs("PENDING")
