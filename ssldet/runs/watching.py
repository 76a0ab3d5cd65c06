"""How far a run has come, from its folder alone: nothing of the process that carries it out is asked.

watched(entry)      where it stands now
run_to_watch(found)  the run that a process carries out, the last that gave a sign of life
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssldet.errors import RequestError
from ssldet.runs import layout
from ssldet.runs.claims import Owner, owner_of
from ssldet.runs.log import read_log
from ssldet.runs.store import RunEntry, find_run

Phase = Literal["start", "first stage", "train", "score", "done", "failed", "interrupted", "damaged", "incompatible"]
OVER: tuple[Phase, ...] = ("done", "failed", "interrupted", "damaged", "incompatible")


@dataclass(frozen=True, slots=True)
class Watched:
    """Where a run stands.

    Attributes:
        phase: "start" before the first line of its log, "score" after the last; OVER where no process is at work.
        step: of the last line of the log. steps: in all; None as long as the log does not say.
        lines: of the log; during the first stage those of the stage, which runs share.
        owner: the process at work; None where there is none.
    """

    entry: RunEntry
    phase: Phase
    step: int
    steps: int | None
    lines: Sequence[Mapping[str, Any]]
    owner: Owner | None

    @property
    def is_over(self) -> bool:
        return self.phase in OVER

    @property
    def seconds_left(self) -> float | None:
        """Of training, at the pace between the last two lines of the log; None where that is unknown."""
        if self.steps is None or len(self.lines) < 2:
            return None
        before, last = self.lines[-2:]
        steps, seconds = last["step"] - before["step"], _seconds(last) - _seconds(before)
        return (self.steps - self.step) * seconds / steps if steps > 0 and seconds > 0 else None


def watched(entry: RunEntry) -> Watched:
    """Where a run stands now; its folder is read anew."""
    entry = find_run(str(entry.folder.resolve()), ())
    owner = owner_of(entry.folder)
    lines, in_stage = _lines(entry, owner)
    step = lines[-1]["step"] if lines else 0
    steps = _steps(entry.experiment.get("train") or {}, lines)
    return Watched(entry, _phase(entry, owner, step, steps, in_stage), step, steps, lines, owner)


def run_to_watch(found: Sequence[RunEntry], places: Sequence[Path]) -> RunEntry:
    """The run that a process carries out whose files changed last. Raises RequestError where there is none."""
    running = [entry for entry in found if entry.status != "done" and owner_of(entry.folder)]
    if not running:
        where = ", ".join(map(str, places))
        raise RequestError(
            f"no run is being carried out in {where} ({len(found)} runs there): name a run to see what its log has"
        )
    return max(running, key=lambda entry: entry.changed)


def _phase(entry: RunEntry, owner: Owner | None, step: int, steps: int | None, in_stage: bool) -> Phase:
    if entry.status == "done" or owner is None:
        return entry.status
    if not step:
        return "start"
    return "score" if step == steps else "first stage" if in_stage else "train"


def _lines(entry: RunEntry, owner: Owner | None) -> tuple[list[dict[str, Any]], bool]:
    """The lines of its log, and whether they are those of a first stage that its process is training."""
    log = entry.folder / layout.LOG
    if log.is_file():
        return read_log(log), False
    for stage in sorted(entry.folder.parent.glob(f"{layout.FIRST_STAGES}/*/{layout.LOG}")) if owner else ():
        trainer = owner_of(stage.parent)
        if trainer and owner and (trainer.machine, trainer.pid) == (owner.machine, owner.pid):
            return read_log(stage), True
    return [], False


def _steps(train: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> int | None:
    """As many as were asked for; where epochs were, the log says how many steps one has."""
    if train.get("steps"):
        return int(train["steps"])
    epoch = lines[-1].get("epoch") if lines else None
    return round(lines[-1]["step"] / epoch * train["epochs"]) if epoch and train.get("epochs") else None


def _seconds(line: Mapping[str, Any]) -> float:
    return float(line.get("seconds") or 0.0)
