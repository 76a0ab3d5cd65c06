"""Grids on a real Ray, of one node: handed out, left, cancelled, with a worker that is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from test_grid import command, numbers, start
from test_slurm import table, until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "ssldet[ray]"'),
]

TABLE = ("--tables", "6", "--only", "ratio=0.1")
"""All cells of Table 6 that so few videos allow: four, with two first stages."""

LONG = ("--set", "train.steps=90000", "--set", "train.checkpoint_every=20")

SECONDS_ON_A_BUSY_MACHINE = 900.0

SILENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps to 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    "RAY_AUTH_MODE": "disabled",
    "RAY_raylet_start_wait_time_s": "300",  # on a busy machine processes begin slowly
    "RAY_agent_register_timeout_ms": "300000",
    "OMP_NUM_THREADS": "1",
}
"""So that Ray asks nobody outside for anything, and tells nobody."""


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray node of two CPUs on this machine; skips where none can be started."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # its path is part of those of sockets, which must be short
    (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")  # no look for a cloud's metadata
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SILENT, "HOME": str(folder), "SSLDET_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        address = f"127.0.0.1:{free_port()}"
        with (folder / "output").open("w") as output:
            node = subprocess.Popen(start_command(address, folder), stdout=output, stderr=output)
        try:
            wait_for_node(node, folder / "output")
            yield address
        finally:
            node.terminate()  # it ends all that it started
            node.wait(120)
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_command(address: str, folder: Path) -> list[str]:
    host, _, port = address.partition(":")
    where = ["--port", port, "--node-ip-address", host, "--temp-dir", str(folder), "--num-cpus", "2"]
    less = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory", "100000000"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *where, *less]


def wait_for_node(node: subprocess.Popen[bytes], output: Path) -> None:
    until(lambda: node.poll() is not None or "Ray runtime started" in output.read_text(), "Ray starts")
    if node.poll() is not None:
        pytest.skip(f"no Ray can be started: {output.read_text().strip().splitlines()[-1]}")


@pytest.fixture
def on_ray(ray_address: str, own_folders: None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """What makes `ssldet grid` run there."""
    return ("--executor", "ray", "--set", f"executor.address={ray_address}", "--set", "executor.poll_seconds=1")


def grid(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(results, *TABLE, *arguments)
    output, _ = process.communicate(timeout=1800)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def workers(results: Path) -> list[int]:
    """The processes that are at work in a results folder and have left a checkpoint."""
    found = []
    for checkpoint in results.glob("**/checkpoint.safetensors"):
        with suppress(OSError, ValueError):
            found.append(json.loads((checkpoint.parent / ".claim").read_text())["pid"])
    return found


def test_a_table_through_ray_with_a_killed_worker_is_that_of_the_local_executor(
    tmp_path: Path, on_ray: tuple[str, ...]
) -> None:
    through_ray, local = tmp_path / "ray", tmp_path / "local"
    sets = ("--set", "train.steps=60")
    process = start(through_ray, *TABLE, *sets, *on_ray)
    victim = until(lambda: workers(through_ray), "a worker left a checkpoint", SECONDS_ON_A_BUSY_MACHINE)[0]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    assert "the task will be retried" in output, "the worker was killed after its task had ended"
    assert grid(local, *sets).returncode == 0
    assert len(numbers(local)) == 4
    assert numbers(through_ray) == numbers(local) and table(through_ray) == table(local)


def test_tasks_go_on_without_the_command_until_they_are_cancelled(tmp_path: Path, on_ray: tuple[str, ...]) -> None:
    process = start(tmp_path, *TABLE, *LONG, *on_ray)
    until(lambda: workers(tmp_path), "a worker left a checkpoint", SECONDS_ON_A_BUSY_MACHINE)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "what was handed out goes on" in output, output
    shown = grid(tmp_path, *LONG, *on_ray, "--status")
    assert re.search(r"running: on \S+, process \d+", shown.stdout), shown.stdout
    again = grid(tmp_path, *LONG, *on_ray, "--detach")
    assert "handed out 0 tasks" in again.stdout, again.stdout
    ended = grid(tmp_path, *LONG, *on_ray, "--cancel")
    assert ended.returncode == 0 and "cancelled 6 tasks" in ended.stdout, ended.stdout
    until(lambda: not workers(tmp_path), "nobody is at work")
    assert not numbers(tmp_path)


def test_a_folder_that_nodes_do_not_see_is_said(tmp_path: Path, on_ray: tuple[str, ...]) -> None:
    """The command has a file system of its own in the folder's place."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", str(hidden)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    alone = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh", sys.executable]
    asked = command(hidden / "results", *TABLE, *on_ray)
    refused = subprocess.run([*alone, "-m", "ssldet", *asked], capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "does not see the results folder" in refused.stderr, refused.stderr


def test_what_no_node_has_is_blocked(tmp_path: Path, on_ray: tuple[str, ...]) -> None:
    refused = grid(tmp_path, *on_ray, "--set", "executor.cpus=64")
    assert refused.returncode == 1 and "no node of the Ray cluster has CPU 64" in refused.stdout, refused.stdout
