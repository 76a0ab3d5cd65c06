"""The ray executor: what it makes of a cluster that is played here; tests/test_ray.py has a real one."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_executors import Leaves, invoke, states
from test_grid import Listener, small

from ssldet import __version__
from ssldet.benchmark.executors import make_executor, ray_cluster, ray_keeper, ray_task
from ssldet.benchmark.executors import ray as ray_executor
from ssldet.benchmark.executors.ray import Ray, TasksOnRay, refusal_of
from ssldet.benchmark.executors.ray_keeper import Errand, Keeper, Standing
from ssldet.benchmark.grid import Grid
from ssldet.benchmark.tasks import Task
from ssldet.contracts import TaskProgress, TaskResult
from ssldet.errors import ConfigError, RequestError

G = 1 << 30


class Cluster:
    """Ray, as far as the executor sees it: one node, and a keeper of which the test says where its tasks stand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node: dict[str, float] = {"CPU": 2, "memory": 4 * G}
        self.blind = False
        self.errands: list[Errand] = []
        self.standings: dict[str, Standing] = {}
        self.cancelled: list[str] = []
        self.is_kept = False
        monkeypatch.setattr(ray_cluster, "node_resources", lambda: [self.node])
        monkeypatch.setattr(ray_cluster, "check_nodes", self.check)
        monkeypatch.setattr(ray_cluster, "keeper_of", lambda results: self if self.is_kept else None)
        monkeypatch.setattr(ray_cluster, "start_keeper", self.start)
        monkeypatch.setattr(Ray, "check", lambda executor: None)

    def check(self, results: Path) -> None:
        if self.blind:
            raise RequestError(f"node n1 of the Ray cluster does not see the results folder {results}")

    def start(self, results: Path) -> Cluster:
        self.is_kept = True
        return self

    def submit(self, errand: Errand) -> bool:
        standing = self.standings.get(errand.key)
        if standing and standing.result is None:
            return False
        self.errands.append(errand)
        self.standings[errand.key] = Standing()
        return True

    def look(self) -> Mapping[str, Standing]:
        return self.standings

    def cancel(self, keys: Sequence[str]) -> int:
        self.cancelled += [key for key in keys if key in self.standings]
        return len(self.cancelled)

    def begin(self, task: Task, turns: int = 1) -> None:
        self.standings[task.key] = Standing("n1, process 7", turns, TaskProgress("train", 2, 4, "steps"))

    def end(self, task: Task, result: TaskResult) -> None:
        self.standings[task.key].result = result


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def on_ray(grid: Grid, **options: Any) -> TasksOnRay:
    return TasksOnRay(grid, Ray.Config(**options))


# ------------------------------------------------------------------------------------------------------ refusals


def test_what_is_not_there_is_said_before_anything_is_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor.importlib.util, "find_spec", lambda name: None)
    absent = invoke(tmp_path / "r", "--executor", "ray")
    assert absent.exit_code == 2 and 'pip install "ssldet[ray]"' in absent.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_port_where_nobody_answers_is_named_at_once(address: str) -> None:
    """Ray itself would try for two minutes."""
    with pytest.raises(RequestError, match=r"no Ray cluster answers at .*127\.0\.0\.1:1: .*refused; start one with"):
        ray_cluster.check_port(address)
    ray_cluster.check_port("auto")


def test_a_share_of_several_gpus_is_refused() -> None:
    assert make_executor("ray", ["executor.gpus=0.5"]).config.model_dump()["gpus"] == 0.5
    with pytest.raises(ConfigError, match=r"executor\.gpus: should be a whole number, or a share of one GPU, not 1\.5"):
        make_executor("ray", ["executor.gpus=1.5"])


def test_a_folder_that_a_node_does_not_see_is_said_and_nothing_is_handed_out(tmp_path: Path, cluster: Cluster) -> None:
    cluster.blind = True
    refused = invoke(tmp_path, "--only", "strategy=dual_guidance", "--executor", "ray")
    assert refused.exit_code == 2 and "node n1 of the Ray cluster does not see" in refused.stderr
    assert cluster.errands == []


def test_what_no_node_has_is_blocked_with_the_figures(tmp_path: Path, cluster: Cluster) -> None:
    grid = small(tmp_path)
    tasks = on_ray(grid, cpus=64, memory="2G")
    assert tasks.submit_open() == 0 and tasks.are_over()
    assert states(grid) == ["blocked"] * 4 and cluster.errands == []
    stage = next(iter(grid.tasks.values()))
    assert "no node of the Ray cluster has CPU 64, memory 2.0G together" in stage.reason
    assert "the most that any has is CPU 2, memory 4.0G" in stage.reason


def test_one_node_must_have_all_that_a_task_wants() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert refusal_of({"CPU": 2, "GPU": 1}, nodes) == ""
    assert "CPU 8, GPU 1 together" in refusal_of({"CPU": 8, "GPU": 1}, nodes)


# ------------------------------------------------------------------------------------------------- what it does


def test_each_task_goes_out_with_what_it_needs_and_asks_for(tmp_path: Path, cluster: Cluster) -> None:
    grid = small(tmp_path)
    assert on_ray(grid, cpus=2, gpus=0, memory="3G", retries=5).submit_open() == 4
    assert states(grid) == ["queued"] * 4
    assert [errand.key for errand in cluster.errands] == list(grid.tasks)
    stage, run, *_ = grid.tasks.values()
    assert [errand.needs for errand in cluster.errands[:2]] == [(), (stage.key,)]
    assert cluster.errands[1].resources == {
        **{"name": run.title, "max_retries": 5, "num_cpus": 2, "memory": 3 * G, "resources": {}}
    }
    assert pickle.loads(cluster.errands[1].task).key == run.key


def test_named_resources_and_shares_of_a_gpu_are_asked_for(tmp_path: Path, cluster: Cluster) -> None:
    cluster.node = {"CPU": 2, "GPU": 1, "big": 1}
    assert on_ray(small(tmp_path), gpus=0.5, resources={"big": 1}).submit_open() == 4
    asked = cluster.errands[0].resources
    assert (asked["num_gpus"], asked["resources"]) == (0.5, {"big": 1})


def test_a_grid_goes_from_ray_to_its_end(tmp_path: Path, cluster: Cluster) -> None:
    grid, listener = small(tmp_path), Listener()
    tasks = on_ray(grid)
    tasks.submit_open()
    stage = next(iter(grid.tasks.values()))
    cluster.begin(stage)
    tasks.look(listener)
    assert (stage.state, stage.reason, listener.begun) == ("running", "on n1, process 7", 1)
    cluster.begin(stage, turns=2)  # Ray began it anew
    tasks.look(listener)
    assert (stage.state, stage.reason, listener.begun) == ("running", "on n1, process 7, turn 2", 1)
    for task in grid.tasks.values():
        cluster.end(task, TaskResult("done"))
    tasks.look(listener)
    assert tasks.are_over() and grid.is_done() and listener.begun == 4


def test_what_failed_blocks_what_needs_it_and_what_was_interrupted_goes_out_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    grid = small(tmp_path)
    tasks = on_ray(grid)
    tasks.submit_open()
    stage, run, other, _ = grid.tasks.values()
    cluster.end(stage, TaskResult("failed", "its worker died"))
    cluster.end(run, TaskResult("interrupted", "what it needs did not come to its end"))
    cluster.end(other, TaskResult("interrupted"))  # its node was stopped
    tasks.look(Listener())
    assert states(grid) == ["failed", "blocked", "to run", "queued"]
    assert tasks.submit_open() == 1 and cluster.errands[-1].key == other.key


def test_tasks_of_a_keeper_that_died_go_out_again(tmp_path: Path, cluster: Cluster) -> None:
    """Ray starts another one in its place, which knows of nothing."""
    grid = small(tmp_path)
    tasks = on_ray(grid)
    tasks.submit_open()
    cluster.standings.clear()
    tasks.look(Listener())
    assert states(grid) == ["to run"] * 4 and tasks.submit_open() == 4


def test_a_later_command_finds_the_tasks_and_hands_none_out_twice(tmp_path: Path, cluster: Cluster) -> None:
    assert make_executor("ray").submit(small(tmp_path)) == 4
    again = small(tmp_path)
    stage = next(iter(again.tasks.values()))
    cluster.begin(stage)
    make_executor("ray").attach(again)
    assert states(again) == ["running", "queued", "queued", "queued"] and stage.progress == 0.0
    assert make_executor("ray").submit(small(tmp_path)) == 0 and len(cluster.errands) == 4


def test_leaving_keeps_the_tasks_and_cancel_ends_them(tmp_path: Path, cluster: Cluster) -> None:
    grid = small(tmp_path)
    executor = make_executor("ray", ["executor.poll_seconds=0.01"])
    assert executor.run(grid, jobs=1, callback=Leaves()) is False
    assert cluster.cancelled == [] and states(grid) == ["queued"] * 4
    assert executor.cancel(small(tmp_path)) == 4 and cluster.cancelled == list(grid.tasks)


def test_what_ray_prints_of_its_workers_is_no_output_of_the_command(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "check_nodes", lambda results: print("(raylet) A worker died"))
    make_executor("ray").submit(small(tmp_path / "one"))
    make_executor("ray").run(small(tmp_path / "other"), jobs=1, callback=Leaves())
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("A worker died") == 2


def test_the_command_hands_out_and_shows(tmp_path: Path, cluster: Cluster) -> None:
    asked = ["--only", "strategy=dual_guidance", "--executor", "ray", "--set", "executor.cpus=2"]
    handed = invoke(tmp_path, *asked, "--detach")
    assert handed.exit_code == 0 and "handed out 4 tasks" in handed.stderr
    shown = invoke(tmp_path, *asked, "--status")
    assert "Ray has it" in shown.stdout
    ended = invoke(tmp_path, *asked, "--cancel")
    assert ended.exit_code == 0 and "cancelled 4 tasks" in ended.stderr


# ----------------------------------------------------------------------------------------------------- the keeper


class PlayedRay:
    """Ray's functions, as far as a keeper calls them; what it handed out is in `begun`, by the order of handing out."""

    def __init__(self) -> None:
        self.begun: list[SimpleNamespace] = []
        self.cancelled: list[SimpleNamespace] = []
        self.killed: list[str] = []
        names = ("RayError", "TaskCancelledError", "OutOfMemoryError", "WorkerCrashedError")
        base = type(names[0], (Exception,), {})
        self.exceptions = SimpleNamespace(**{names[0]: base}, **{name: type(name, (base,), {}) for name in names[1:]})

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *given: self._begin(given)))

    def _begin(self, given: tuple[Any, ...]) -> SimpleNamespace:
        self.begun.append(SimpleNamespace(given=given, end=None))
        return self.begun[-1]

    def wait(self, references: list[SimpleNamespace], timeout: float) -> tuple[list[SimpleNamespace], list[Any]]:
        return [reference for reference in references if reference.end is not None], []

    def get(self, reference: SimpleNamespace, timeout: float | None = None) -> Any:
        if isinstance(reference.end, Exception):
            raise reference.end
        return reference.end

    def cancel(self, reference: SimpleNamespace, recursive: bool) -> None:
        self.cancelled.append(reference)

    def kill(self, actor: str) -> None:
        self.killed.append(actor)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(current_actor="the keeper")


@pytest.fixture
def played_ray(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    played = PlayedRay()
    monkeypatch.setitem(sys.modules, "ray", played)
    return played


@pytest.fixture
def keeper(played_ray: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    """One that stays."""
    monkeypatch.setattr(Keeper, "_leave_when_idle", lambda keeper: None)
    return Keeper()


def errand(key: str, *needs: str) -> Errand:
    return Errand(key, needs, b"", {"num_cpus": 1})


def test_a_keeper_hands_each_task_out_once_with_those_that_it_waits_for(keeper: Keeper, played_ray: PlayedRay) -> None:
    assert keeper.submit(errand("stage")) and keeper.submit(errand("run", "stage", "done before"))
    stage, run = played_ray.begun
    assert run.given == ("the keeper", errand("run", "stage", "done before"), stage)
    assert not keeper.submit(errand("run", "stage"))
    stage.end = TaskResult("failed", "no space left")
    assert keeper.look()["stage"].result == stage.end and keeper.look()["run"].result is None
    assert keeper.submit(errand("stage")) and keeper.look()["stage"].result is None


def test_a_keeper_hears_where_its_tasks_are(keeper: Keeper) -> None:
    keeper.submit(errand("stage"))
    for turn in (1, 2):
        keeper.began("stage", f"n{turn}, process 7")
    keeper.progressed("stage", TaskProgress("train", 2, 4, "steps"))
    assert keeper.look()["stage"] == Standing("n2, process 7", 2, TaskProgress("train", 2, 4, "steps"))


def test_what_was_cancelled_is_not_handed_out_again_by_who_waits_for_it(keeper: Keeper, played_ray: PlayedRay) -> None:
    for key in ("left a checkpoint", "waited", "was done", "another's"):
        keeper.submit(errand(key))
    assert keeper.cancel(["left a checkpoint", "waited", "was done", "nobody's"]) == 3
    assert played_ray.cancelled == played_ray.begun[:3]
    ends = (TaskResult("interrupted"), played_ray.exceptions.TaskCancelledError(), TaskResult("done"))
    for task, end in zip(played_ray.begun, ends, strict=False):
        task.end = end
    results = [standing.result for standing in keeper.look().values()]
    said = TaskResult("failed", "it was cancelled; the same command hands it out again")
    assert results == [said, said, TaskResult("done"), None]


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        ("WorkerCrashedError", "failed", "its worker died"),
        ("OutOfMemoryError", "failed", "--set executor.memory=32G"),
        ("RayError", "failed", "no module of that name"),
        ("TaskCancelledError", "interrupted", ""),
    ],
)
def test_what_ray_says_of_a_task_is_said_in_a_line(
    keeper: Keeper, played_ray: PlayedRay, error: str, state: str, said: str
) -> None:
    keeper.submit(errand("run"))
    played_ray.begun[0].end = getattr(played_ray.exceptions, error)("no module of\nthat name\n\n  at line 7")
    result = keeper.look()["run"].result
    assert result and result.state == state and said in result.reason and "line 7" not in result.reason


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((__version__, []), ""),
        (
            (__version__, ["/shared/r/.seen"]),
            "does not see the results folder /shared/r, .*/shared/r/.seen; .*--results",
        ),
        (("0.0.1", []), f"node n1 of the Ray cluster has ssldet 0.0.1, and this command {__version__}"),
        ("traceback\nNo module named 'ssldet'", f"No module named 'ssldet'; the Python .* needs ssldet {__version__}"),
    ],
)
def test_a_node_that_could_not_carry_tasks_out_is_named(played_ray: PlayedRay, answer: Any, said: str) -> None:
    end = played_ray.exceptions.RayError(answer) if isinstance(answer, str) else answer
    with pytest.raises(RequestError, match=said) if said else nullcontext():
        ray_cluster.check_answer("n1", SimpleNamespace(end=end), Path("/shared/r"))


def test_a_keeper_leaves_when_nobody_needs_it(played_ray: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_keeper, "IDLE_SECONDS", 0.2)
    keeper = Keeper()
    keeper.submit(errand("run"))
    time.sleep(0.5)
    assert played_ray.killed == [], "a task is under way"
    played_ray.begun[0].end = TaskResult("done")
    until = time.monotonic() + 20
    while not played_ray.killed and time.monotonic() < until:
        time.sleep(0.05)
    assert played_ray.killed == ["the keeper"]


# ---------------------------------------------------------------------------------------------------- in a worker


class Heard:
    """A keeper, as a task sees it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.began = self.progressed = self

    def remote(self, *values: Any) -> None:
        self.calls.append(values)


def errand_of(grid: Grid, folder: Path) -> Errand:
    task = next(iter(grid.tasks.values()))
    return Errand(task.key, (), pickle.dumps(task), {}, str(folder), {"SSLDET_SAID": "so"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_task_that_is_told_to_end_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Ray cancels by SIGINT, and stops a node by SIGTERM."""
    keeper, errand = Heard(), errand_of(small(tmp_path / "r"), tmp_path)
    monkeypatch.chdir("/")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # so it is where a node was started in the background
    monkeypatch.setenv("SSLDET_SAID", "not so")
    monkeypatch.setattr(ray_task._KeeperReporter, "step", lambda reporter, report: os.kill(os.getpid(), number))
    assert ray_task.carry_out(keeper, errand, [TaskResult("done")]) == TaskResult("interrupted")
    signal.signal(signal.SIGINT, before)
    assert list(tmp_path.glob("r/first_stages/*/checkpoint.safetensors"))
    assert (Path.cwd(), os.environ["SSLDET_SAID"]) == (tmp_path, "so")
    assert keeper.calls[0][0] == errand.key and f"process {os.getpid()}" in keeper.calls[0][1]
    assert any(isinstance(values[-1], TaskProgress) for values in keeper.calls)


def test_a_task_does_not_begin_when_what_it_needs_did_not_end(tmp_path: Path) -> None:
    keeper = Heard()
    ended = ray_task.carry_out(keeper, errand_of(small(tmp_path), tmp_path), [TaskResult("failed", "no space left")])
    assert ended.state == "interrupted" and keeper.calls == []
