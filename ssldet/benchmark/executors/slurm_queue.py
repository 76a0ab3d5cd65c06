"""What Slurm's commands say and do: partitions, the user's queue, ending jobs. No accounting database is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ssldet.errors import RequestError, UnknownName

COMMAND_SECONDS = 30.0
"""How long a command of Slurm may take: its controller can be busy for a while."""

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
UNDER_WAY = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})
"""States of a job that has not ended; it ended in any other."""

NEVER = re.compile(
    r"PartitionConfig|Partition(Node|Time)Limit|BadConstraints|Invalid(Account|QOS)|(Account|QOS)NotAllowed"
    r"|(Assoc|QOS)\w*Max\w*PerJob\w*|MaxMemPerLimit"
)
"""Reasons for which a job waits that no waiting mends: it asks for what it is never given there."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """Where a job stands: Slurm's state, the job's name, and the nodes that it is on or the reason why it waits."""

    state: str
    name: str
    reason: str

    def waits_in_vain(self) -> bool:
        """Whether Slurm will never begin it as it is."""
        return self.state == "PENDING" and bool(NEVER.fullmatch(self.reason))


def check_reachable(partition: str | None) -> None:
    """Raises RequestError where Slurm is absent or does not answer, UnknownName where it has no such partition."""
    if missing := [name for name in ("sbatch", "squeue", "scancel", "sinfo", "srun") if shutil.which(name) is None]:
        raise RequestError(
            f"no {missing[0]} here: the slurm executor runs on a machine that Slurm jobs are submitted from, such as a "
            "login node; --executor local runs the grid on this one"
        )
    found = partitions()
    if partition is not None and (unknown := [name for name in partition.split(",") if name not in found]):
        raise UnknownName("partition", unknown[0], found)


def partitions() -> dict[str, float | None]:
    """Partition -> the longest time of a job in minutes, None for any. Raises RequestError."""
    lines = (line.split("|") for line in _answer("sinfo", "--noheader", "--format=%R|%l").splitlines())
    return {name: minutes(limit) for name, limit in lines}


def default_partition() -> str | None:
    """The partition of jobs that name none; None where there is none."""
    names = _answer("sinfo", "--noheader", "--format=%P").split()
    return next((name.rstrip("*") for name in names if name.endswith("*")), None)


def minutes(text: str) -> float | None:
    """Slurm's "1-02:30:00", "2:30:00" or "30:00" in minutes; None for what is no time, "infinite" say."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, of_hour, seconds = (int(part or 0) for part in match.groups())
    return 1440 * days + 60 * hours + of_hour + seconds / 60


def queue() -> dict[str, QueueState] | None:
    """The user's jobs by number, also those that ended a short while ago; None where Slurm does not answer now."""
    asked = ("--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%j|%R")
    try:
        lines = _answer("squeue", *asked).splitlines()
    except RequestError:
        return None
    parts = (line.split("|", 3) for line in lines if line.count("|") >= 3)
    return {number: QueueState(state, name, reason.strip("()")) for number, state, name, reason in parts}


def submit_line(line: str, name: str, options: Mapping[str, str | int | bool]) -> str:
    """Submit one line of shell as a job of a minute without output; gives its number, "" where Slurm takes none."""
    words = [
        f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items() if value is not False
    ]
    plain = ("--parsable", f"--job-name={name}", "--time=1", "--ntasks=1", "--output=/dev/null", "--chdir=/")
    try:
        return _answer("sbatch", *words, *plain, "--wrap", line).strip().partition(";")[0]
    except RequestError:
        return ""


def cancel(numbers: Iterable[str]) -> None:
    """End jobs, with all their processes. Those that have ended are passed over. Raises RequestError."""
    if listed := sorted(numbers):
        _answer("scancel", *listed)


def _answer(*command: str) -> str:
    """What a command of Slurm prints. Raises RequestError with what it complains of."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(f"Slurm does not answer: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise RequestError(f"Slurm does not answer: {command[0]} says: {said}")
    return done.stdout
