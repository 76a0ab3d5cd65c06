"""`wandb`: the log as a run of Weights & Biases; in files alone, unless `tracker.online` says otherwise."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from ssldet.contracts import Options, TrackedRun, TrackedStatus, Tracker
from ssldet.errors import RequestError


class Wandb(Tracker):
    """Runs of Weights & Biases, below <results>/trackers/wandb; `wandb sync` sends one later."""

    class Config(Options):
        """Options of `wandb`, as `--set tracker.NAME=VALUE`."""

        online: bool = False
        """Send every line to the server, with the key that `wandb login` left; else nothing leaves this machine."""
        project: str = "ssldet"
        """The project that runs belong to."""
        entity: str | None = None
        """Team or user that the project belongs to; None means the user's own."""

    config: Config

    def check(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise RequestError("the wandb tracker needs Weights & Biases; pip install wandb")

    def start(self, run: TrackedRun) -> None:
        if not self.config.online:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.run: Any = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            id=run.id,
            name=run.name,
            dir=run.folder,
            config=dict(run.config),
            mode="online" if self.config.online else "offline",
            resume="allow" if self.config.online else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def finish(self, status: TrackedStatus, scores: Mapping[str, float]) -> None:
        self.run.summary.update({f"scores/{name}": value for name, value in scores.items()})
        self.run.finish(exit_code=0 if status == "done" else 1)
