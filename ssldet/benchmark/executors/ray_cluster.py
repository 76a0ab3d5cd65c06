"""What a Ray cluster is asked: whether it is there, what its nodes have and see, and for the keeper of tasks."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssldet import __version__
from ssldet.benchmark.executors.ray_keeper import Errand, Keeper, Standing
from ssldet.errors import RequestError
from ssldet.util.files import content_hash

NAMESPACE = "ssldet"

CONNECT_SECONDS = 5.0
"""How long the port of a cluster may take to answer; Ray itself would try for two minutes."""

ANSWER_SECONDS = 180.0
"""How long the keeper, or a node, may take to answer: a first call starts a process."""

START_IT = (
    "start one with `ray start --head`, name one with --set executor.address=HOST:6379, or leave out --executor ray"
)


def connect(address: str | None) -> None:
    """Join a running cluster, once a process.

    Args:
        address: HOST:PORT; None means that of RAY_ADDRESS, or the cluster that runs on this machine.

    Raises:
        RequestError: there is none, or it has another version of Ray or Python.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if ray.is_initialized():
        return
    check_port(address)
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:  # RuntimeError: of another version
        raise RequestError(f"no Ray cluster answers: {' '.join(str(error).split())}; {START_IT}") from error


def check_port(address: str) -> None:
    """Raises RequestError where an address has a port, and nobody answers there."""
    host, _, port = address.partition("://")[2].rpartition(":") if "://" in address else address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise RequestError(f"no Ray cluster answers at {address}: {error}; {START_IT}") from error


def node_resources() -> list[Mapping[str, float]]:
    """What each node has: "CPU", "GPU", "memory" in bytes, and what its administrator named."""
    return [node["Resources"] for node in _nodes()]


def check_nodes(results: Path) -> None:
    """Have each node look for a file in the results folder, and for the folder that relative paths are meant from.

    Raises:
        RequestError: a node does not see them under the same path, or has no or another ssldet.
    """
    import ray

    results.mkdir(parents=True, exist_ok=True)
    probe = results / f".seen-by-{secrets.token_hex(4)}"
    probe.touch()
    look, paths = ray.remote(_look), [str(probe), str(Path.cwd())]
    try:
        answers = [
            (node["NodeName"], look.options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node)).remote(paths))
            for node in _nodes()
        ]
        for node, answer in answers:
            check_answer(node, answer, results)
    finally:
        probe.unlink(missing_ok=True)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _on(node: Mapping[str, Any]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _look(paths: Sequence[str]) -> tuple[str, list[str]]:
    """In a worker: its version of ssldet, and the paths that are not there."""
    return __version__, [path for path in paths if not Path(path).exists()]


def check_answer(node: str, reference: Any, results: Path) -> None:
    """Take in what a node's look came to. Raises RequestError where it could carry out no task."""
    import ray

    try:
        version, absent = ray.get(reference, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1]
        raise RequestError(
            f"node {node} of the Ray cluster cannot carry out tasks: {said}; the Python that Ray runs there needs "
            f"ssldet {__version__}"
        ) from error
    if absent:
        raise RequestError(
            f"node {node} of the Ray cluster does not see the results folder {results}, or not under the same path: "
            f"nothing is at {', '.join(absent)}; give a folder that all nodes share, with --results"
        )
    if version != __version__:
        raise RequestError(f"node {node} of the Ray cluster has ssldet {version}, and this command {__version__}")


class KeeperLink:
    """The keeper of a results folder, as a command talks to it. All methods raise RequestError where Ray is silent."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def submit(self, errand: Errand) -> bool:
        """Hand a task out; False where Ray has it already."""
        return self._ask("submit", errand)

    def look(self) -> Mapping[str, Standing]:
        """Where each task stands, by key."""
        return self._ask("look")

    def cancel(self, keys: Sequence[str]) -> int:
        """Cancel tasks; gives how many had not ended."""
        return self._ask("cancel", list(keys))

    def _ask(self, method: str, *values: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self.actor, method).remote(*values), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())
            raise RequestError(f"Ray does not answer: {said}; the same command goes on when it does") from error


def keeper_of(results: Path) -> KeeperLink | None:
    """The keeper that earlier commands left for a results folder."""
    import ray

    with suppress(ValueError):  # there is none
        return KeeperLink(ray.get_actor(_name(results), namespace=NAMESPACE))
    return None


def start_keeper(results: Path) -> KeeperLink:
    """The keeper of a results folder, started where there is none."""
    import ray

    options = {"name": _name(results), "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    again = {"max_restarts": -1, "max_task_retries": -1}  # with nothing in hand: whoever waits hands out again
    return KeeperLink(ray.remote(Keeper).options(num_cpus=0, **options, **again).remote())


def _name(results: Path) -> str:
    return f"grid-{content_hash(str(results))[:16]}"
