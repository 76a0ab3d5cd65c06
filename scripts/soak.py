"""Kill grids at random, for as long as it takes to see what is lost and what leaks.

    python scripts/soak.py kills --count 100 --report kills.json
    python scripts/soak.py soak --minutes 60 --report soak.json

kills   A small grid on the synthetic data is killed with SIGKILL at random moments, alone or with all its processes,
        and started again by the same command. After every kill the cells that were finished must be as they were, byte
        for byte; whenever the grid comes to its end its tables and weights must be those of a grid that was left alone.
soak    The same in rounds, with SIGKILL and SIGTERM for any process of a grid and of a run after it; then a grid
        within this program, whose workers are killed. After each round: what is left of processes, shared memory and
        temporary files, and the memory and open files of this program and of the server that forks its workers.

Both write what they saw as JSON, and end with exit code 1 where something was lost, differed or leaks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path
from typing import Any, NoReturn

import psutil
from click.testing import CliRunner

from ssldet.benchmark.cells import Settings, parse_dataset_map
from ssldet.benchmark.executors.local import run_grid
from ssldet.benchmark.grid import GridRequest, plan_grid
from ssldet.benchmark.spec import spec
from ssldet.cli import main as ssldet
from ssldet.contracts import GridCallback, GridTask, TaskProgress, TaskResult

MARK = "SSLDET_SOAK"
"""Variable that names all processes of one soak, whoever their parents are by now."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory; it is only listed

SETS = (
    "train.steps=16",
    "train.batch=4",
    "train.unlabelled_batch=4",
    "train.bn_batch=4",
    "train.warmup=4",
    "train.checkpoint_every=4",
    "clip.size=32",
    "clip.frames=4",
    "dataset.train_per_class=10",
    "dataset.test_per_class=1",
)
SETTINGS = ("--preset", "smoke", "--threads", "1", *(part for each in SETS for part in ("--set", each)))
DATA = "synthetic:ucf24"
GRID = ("grid", "--tables", "6", "--only", "ratio=0.1", "--dataset-map", f"ucf24={DATA}", "--jobs", "2", *SETTINGS)
RUN = ("run", "--strategy", "dual_guidance", "--dataset", DATA, "--ratio", "0.2", "--loader-workers", "1", *SETTINGS)
TABLE = ("table", "6", "--format", "csv")

SECONDS_TO_END = 60.0
"""How long processes may take to end that nobody wants any more: they finish a step, or find their parent gone."""

LONGEST_LIFE = 25.0
"""Seconds after which a command of a soak is struck again at the latest."""

Figures = dict[str, Any]


class Lost(Exception):
    """A finished cell is gone or changed, or the numbers are not those of a grid that was left alone."""


# ------------------------------------------------------------------------------------------- commands and processes


def start(arguments: Sequence[str], results: Path) -> subprocess.Popen[bytes]:
    """A command of the suite, in a process group of its own."""
    program = [sys.executable, "-m", "ssldet", *arguments, "--results", str(results)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(program, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def outlives(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a command is still running after so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


class Forked:
    """A command of the suite, forked from this program, in a process group of its own.

    This program has imported all that a command needs: of a kill at a random moment little would be seen otherwise
    but imports.
    """

    def __init__(self, arguments: Sequence[str], results: Path) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become([*arguments, "--results", str(results)])

    def outlives(self, seconds: float) -> bool:
        """Whether it is still running after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return True
            else:
                time.sleep(0.02)
        return False

    def wait(self) -> int:
        """Wait for its end; gives its exit code."""
        self.outlives(math.inf)
        assert self.code is not None
        return self.code

    def kill(self, draw: random.Random) -> str:
        """SIGKILL for it alone, or for all processes of its group; says which."""
        everything = draw.random() < 0.5
        (os.killpg if everything else os.kill)(self.pid, signal.SIGKILL)
        self.wait()
        return "the grid and its processes" if everything else "the grid"


def _become(arguments: list[str]) -> NoReturn:
    """Go on as a command that has nothing to read and nobody to speak to, and end as it does."""
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    code: object = 1
    try:
        ssldet(arguments)
    except SystemExit as ending:
        code = ending.code or 0
    finally:
        os._exit(code if isinstance(code, int) else 1)


def ours() -> Iterator[psutil.Process]:
    """All processes of this soak but this one."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                yield process
        except psutil.Error:  # it has ended, or is another user's
            continue


def ended(spared: Collection[int] = ()) -> list[str]:
    """Wait for all processes of this soak to end; the command lines of those that do not."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := [process for process in ours() if process.pid not in spared]) and time.monotonic() < deadline:
        time.sleep(0.5)
    lines = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return lines


# -------------------------------------------------------------------------------------------------- what is finished


def finished(results: Path) -> dict[str, str]:
    """Finished runs of a folder -> the hash of their records, which hold the hashes of all their files."""
    records = {path.parent.name: path.read_bytes() for path in results.glob("*/record.json")}
    done = {name: content for name, content in records.items() if json.loads(content)["status"] == "done"}
    return {name: hashlib.sha256(content).hexdigest() for name, content in done.items()}


def numbers(results: Path) -> Figures:
    """The table, and of every run its metrics and the hash of its weights."""
    records = [json.loads(path.read_text()) for path in sorted(results.glob("*/record.json"))]
    runs = {record["id"]: [record["metrics"], record["files"]["weights.safetensors"]] for record in records}
    table = CliRunner().invoke(ssldet, [*TABLE, "--results", str(results)])
    return {"table": table.stdout, "runs": runs}


def check_kept(before: Mapping[str, str], results: Path) -> None:
    """Raises Lost where a run that was finished before is not, or is another."""
    now = finished(results)
    if changed := [name for name, content in before.items() if now.get(name) != content]:
        raise Lost(f"finished before a kill, and gone or changed after it: {', '.join(changed)}")


def check_same(expected: Figures, results: Path) -> None:
    """Raises Lost where the numbers differ."""
    if (got := numbers(results)) != expected:
        differing = [name for name in expected["runs"] if got["runs"].get(name) != expected["runs"][name]]
        raise Lost(f"numbers differ from those of a grid that was left alone: {differing or 'the table'} in {results}")


# ------------------------------------------------------------------------------------------------------------ kills


def kills(count: int, longest: float, folder: Path, draw: random.Random) -> Figures:
    """Kill a running grid `count` times, each within `longest` seconds, beginning a new one whenever it is done.

    Raises:
        Lost: of what was finished something is gone or changed.
    """
    began = time.monotonic()
    check_code(Forked(GRID, folder / "whole").wait(), folder / "whole")
    expected, longest = numbers(folder / "whole"), min(longest, time.monotonic() - began)
    struck, at_kill, grids = Counter[str](), list[int](), 0
    while True:
        results = folder / f"killed-{grids}"
        grid, before = Forked(GRID, results), finished(results)
        if struck.total() < count and grid.outlives(draw.uniform(0, longest)):
            before |= finished(results)
            struck[grid.kill(draw)] += 1
            check_kept(before, results)
            at_kill.append(len(before))
            say(f"{struck.total()} kills, {grids} grids done, {len(before)} cells finished")
            continue
        check_code(grid.wait(), results)
        check_same(expected, results)
        shutil.rmtree(results)
        grids += 1
        if struck.total() == count:
            return {"kills": dict(struck), "grids": grids, "finished_cells_at_kills": at_kill, "lost": 0}


def check_code(code: int, results: Path) -> None:
    """Raises Lost where a grid that nobody struck failed."""
    if code:
        raise Lost(f"the grid in {results} ended with exit code {code}; give its command by hand to see why")


# ------------------------------------------------------------------------------------------------------------- soak


@dataclass(slots=True)
class Round:
    """What one round did, and what was left after it.

    Attributes:
        struck: signal and what it struck -> how often.
        processes, shared_memory, temporary: what is there that was not there before the first round.
        halves: unfinished files beside finished runs, which `ssldet runs verify` lists.
        cache_mib: what the cache holds.
        memory_mib, handles: of this program and of the server that its workers are forked from.
        worker_mib: memory of the workers of this program's grid, after each task that one ended.
    """

    number: int
    seconds: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    processes: list[str] = field(default_factory=list)
    shared_memory: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    halves: int = 0
    cache_mib: float = 0.0
    memory_mib: dict[str, float] = field(default_factory=dict)
    handles: dict[str, int] = field(default_factory=dict)
    worker_mib: list[float] = field(default_factory=list)

    def as_json(self) -> Figures:
        return {name: getattr(self, name) for name in self.__slots__} | {"struck": dict(self.struck)}


def soak(minutes: float, folder: Path, draw: random.Random) -> Figures:
    """Rounds for so many minutes, at least two. Raises Lost."""
    began = time.monotonic()
    grid_within(folder / "whole", GridWatcher())
    expected = numbers(folder / "whole")
    machine, rounds = Surroundings(folder), list[Round]()
    while len(rounds) < 2 or time.monotonic() - began < 60 * minutes:
        rounds.append(soak_round(len(rounds), folder, machine, expected, draw))
        say(json.dumps(rounds[-1].as_json()))
    return {"rounds": [each.as_json() for each in rounds], "leaks": leaks(rounds), "lost": 0}


def soak_round(number: int, folder: Path, machine: Surroundings, expected: Figures, draw: random.Random) -> Round:
    """One round, in a results folder of its own that is removed at its end."""
    this, began, results = Round(number), time.monotonic(), [folder / name for name in ("grid", "run", "within")]
    survive(GRID, results[0], this.struck, draw)
    check_same(expected, results[0])
    survive(RUN, results[1], this.struck, draw)
    this.halves = sum(1 for each in results[:2] for _ in each.rglob(".*.tmp"))
    watcher = GridWatcher(draw, this)
    while not grid_within(results[2], watcher):
        pass  # workers that were killed left tasks undone
    check_same(expected, results[2])
    for each in results:
        shutil.rmtree(each)
    machine.look(this)
    this.seconds = round(time.monotonic() - began, 1)
    return this


def survive(command: Sequence[str], results: Path, struck: Counter[str], draw: random.Random) -> None:
    """Strike a command and its processes some times, starting it again whenever it ends of that. Raises Lost."""
    left = draw.randint(2, 4)
    while True:
        process, before = start(command, results), finished(results)
        while left and outlives(process, draw.uniform(2, LONGEST_LIFE)):
            struck[strike(process.pid, draw)] += 1
            left -= 1
        code = process.wait()
        check_kept(before, results)
        if code == 0:
            return


def strike(pid: int, draw: random.Random) -> str:
    """SIGKILL or SIGTERM for a process or any below it; says which."""
    number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    try:
        top = psutil.Process(pid)
        victim = draw.choice([top, top, *top.children(recursive=True)])
        victim.send_signal(number)
    except psutil.NoSuchProcess:
        return "what had just ended"
    return f"{number.name} for {'the command' if victim.pid == pid else 'a process of it'}"


class GridWatcher(GridCallback):
    """Notes what workers take, and kills one of them now and then; without a round it only looks on."""

    def __init__(self, draw: random.Random | None = None, this: Round | None = None) -> None:
        self.draw, self.round = draw or random.Random(0), this
        self.left = 3 if this else 0

    def progressed(self, worker: int, task: GridTask, progress: TaskProgress) -> None:
        if self.round and self.left and self.draw.random() < 0.05:
            self.left -= 1
            self.round.struck["SIGKILL for a worker of this program"] += 1
            os.kill(_worker(worker), signal.SIGKILL)

    def ended(self, worker: int, task: GridTask, result: TaskResult) -> None:
        if self.round and result.state == "done":
            self.round.worker_mib.append(memory_mib(psutil.Process(_worker(worker))))


def _worker(number: int) -> int:
    (pid,) = [child.pid for child in active_children() if child.name == f"ssldet-worker-{number}" and child.pid]
    return pid


def grid_within(results: Path, watcher: GridCallback) -> bool:
    """The same grid, carried out by this process; whether all of it is done."""
    machine = {"results": results, "threads": 1}
    settings = Settings("smoke", parse_dataset_map(f"ucf24={DATA}"), SETS, machine)
    grid = plan_grid(GridRequest([spec("6")], settings, only={"ratio": frozenset({"0.1"})}))
    run_grid(grid, jobs=2, callback=watcher)
    return grid.is_done()


# -------------------------------------------------------------------------------------------------------- what is left


class Surroundings:
    """What this machine has of us beside results: what is there now is what may be there after every round."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.program = folder / "cache", psutil.Process()
        self.spared = {child.pid for child in self.program.children()}
        self.shared_memory, self.temporary = nobodys_memory(), names(Path(tempfile.gettempdir()))

    def look(self, this: Round) -> None:
        """Note what there is now."""
        this.processes = ended(self.spared)
        this.shared_memory = sorted(nobodys_memory() - self.shared_memory)
        this.temporary = sorted(names(Path(tempfile.gettempdir())) - self.temporary)
        this.cache_mib = round(sum(path.stat().st_size for path in self.cache.rglob("*") if path.is_file()) / 2**20, 1)
        (server,) = [child for child in self.program.children() if "forkserver" in " ".join(child.cmdline())]
        for name, process in (("program", self.program), ("fork server", server)):
            this.memory_mib[name], this.handles[name] = memory_mib(process), process.num_fds()


def names(folder: Path) -> set[str]:
    """Entries of a folder; none where it is absent."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def nobodys_memory() -> set[str]:
    """Shared memory that no living process has mapped; the rest is somebody's, of this soak or not.

    By number of the file: semaphores are mapped under a name that they lose.
    """
    held = set[int]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended
            lines = [line.split() for line in maps.read_text().splitlines() if str(SHARED_MEMORY) in line]
            held |= {int(line[4]) for line in lines}
    nobodys = set[str]()
    for path in SHARED_MEMORY.glob("*"):
        with suppress(OSError):  # it has gone
            if path.stat().st_ino not in held:
                nobodys.add(path.name)
    return nobodys


def memory_mib(process: psutil.Process) -> float:
    """Resident memory; 0 for a process that has ended."""
    try:
        return round(float(process.memory_info().rss) / 2**20, 1)
    except psutil.NoSuchProcess:
        return 0.0


def leaks(rounds: Sequence[Round]) -> list[str]:
    """What grows or stays, in words. The first round is left out: it fills caches."""
    last, steady = rounds[-1], list(rounds[1:])
    left = {"processes": last.processes, "shared memory": last.shared_memory, "temporary files": last.temporary}
    said = [f"{what} left behind: {', '.join(which)}" for what, which in left.items() if which]
    for who in last.handles:
        series: dict[str, list[float]] = {"open files": [each.handles[who] for each in steady]}
        series["MiB"] = [each.memory_mib[who] for each in steady]
        said += [f"{what} of the {who} grow: {values}" for what, values in series.items() if grows(values)]
    caches = [each.cache_mib for each in steady]
    return [*said, *([f"the cache grows: {caches} MiB"] if grows(caches) else [])]


def grows(values: Sequence[float]) -> bool:
    """Whether the later half lies above the earlier one, by more than 3 % and more than 4."""
    half = len(values) // 2
    if half == 0:
        return False
    before, after = statistics.median(values[:half]), statistics.median(values[-half:])
    return after - before > max(4.0, 0.03 * before)


# --------------------------------------------------------------------------------------------------------- the program


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "soak"))
    parser.add_argument("--count", type=int, default=100, help="kills (default: 100)")
    parser.add_argument("--within", type=float, default=60.0, help="seconds in which a kill comes (default: 60)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soaking, two rounds at least (default: 60)")
    parser.add_argument("--report", type=Path, help="JSON file of what was seen; printed without it")
    parser.add_argument("--folder", type=Path, help="where all of it happens, and stays (default: one that is removed)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default: 0)")
    return parser.parse_args()


def confined(folder: Path) -> None:
    """Cache and temporary files of this program and all that it starts lie in one folder, and its name is in them."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ |= {MARK: secrets.token_hex(8), "SSLDET_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    tempfile.tempdir = None  # read it again


def main() -> int:
    asked, began = arguments(), time.monotonic()
    temporary = tempfile.TemporaryDirectory(prefix="ssldet-soak-", ignore_cleanup_errors=True)
    with nullcontext(asked.folder) if asked.folder else temporary as place:
        folder, draw = Path(place).absolute(), random.Random(asked.seed)
        confined(folder)
        seen: Figures
        try:
            done = (
                kills(asked.count, asked.within, folder, draw)
                if asked.what == "kills"
                else soak(asked.minutes, folder, draw)
            )
            seen = {"seconds": round(time.monotonic() - began), **done}
        except Lost as error:
            seen = {"seconds": round(time.monotonic() - began), "lost": str(error)}
    text = json.dumps(seen, indent=2)
    if asked.report:
        asked.report.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return int(bool(seen["lost"] or seen.get("leaks")))


if __name__ == "__main__":
    sys.exit(main())
