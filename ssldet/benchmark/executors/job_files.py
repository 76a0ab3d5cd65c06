"""What is left in a results folder of tasks that a batch system has: enough for any later command to find them again.

<results>/jobs/<key>.json             which job has the task, and how often it was handed out
               <key>.progress.json    how far it is, written by the job now and then
               <key>.result.json      how it ended, written by the job
               <stamp>/               what the batch system was given, and the output of jobs
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssldet.contracts import TaskProgress, TaskResult
from ssldet.runs import layout
from ssldet.util.files import write_json


@dataclass(frozen=True, slots=True)
class Job:
    """A task in the hands of a batch system.

    Attributes:
        task: key of the task.
        id: the batch system's number of the job.
        name: of the job, which tells it from one of the same number in another queue.
        folder: where the job's output goes.
        attempt: how often the task was handed out, from 1.
        submitted: when, ISO 8601 in UTC.
    """

    task: str
    id: str
    name: str
    folder: str
    attempt: int = 1
    submitted: str = ""


class JobFiles:
    """The jobs of one results folder, on disk."""

    def __init__(self, results: Path) -> None:
        self.results = Path(results).absolute()
        self.folder = self.results / layout.JOBS

    def new_folder(self) -> Path:
        """A fresh folder for one submission: batch systems reuse numbers, and no old output may be taken for new."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return self.folder / f"{stamp}-{secrets.token_hex(3)}"

    def write(self, job: Job) -> None:
        """Note a job; how the one before it ended is forgotten."""
        self.forget_result(job.task)
        self._path(job.task, "progress").unlink(missing_ok=True)
        write_json(self._path(job.task), asdict(job))

    def give_number(self, job: Job, number: str) -> Job:
        """Note the number that the batch system gave a job."""
        numbered = replace(job, id=number, submitted=datetime.now(UTC).isoformat(timespec="seconds"))
        write_json(self._path(job.task), asdict(numbered))
        return numbered

    def read(self, task: str) -> Job | None:
        """The job that has, or had, a task; None where there is none or its file cannot be read."""
        content = _read(self._path(task))
        try:
            return Job(**content) if content else None
        except TypeError:  # of another version
            return None

    def forget(self, task: str) -> None:
        """Take a task out of the batch system's hands."""
        self._path(task).unlink(missing_ok=True)

    def forget_result(self, task: str) -> None:
        """Forget how the turn before ended."""
        self._path(task, "result").unlink(missing_ok=True)

    def is_known(self, task: str) -> bool:
        """Whether the folder holds a task's file: a worker that does not see it works in another folder."""
        return self._path(task).is_file()

    def write_progress(self, task: str, progress: TaskProgress) -> None:
        write_json(self._path(task, "progress"), asdict(progress))

    def progress(self, task: str) -> TaskProgress | None:
        """How far a job is; None where it has not said so."""
        content = _read(self._path(task, "progress"))
        return TaskProgress(**content) if content else None

    def write_result(self, task: str, job_id: str, result: TaskResult) -> None:
        write_json(self._path(task, "result"), {"job": job_id, **asdict(result)})

    def result(self, job: Job) -> TaskResult | None:
        """How a job ended; None while it has not, and where it could not say so."""
        content = dict(_read(self._path(job.task, "result")))
        return TaskResult(**content) if content and content.pop("job") == job.id else None

    def _path(self, task: str, part: str = "") -> Path:
        return self.folder / ".".join(filter(None, (task, part, "json")))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}
