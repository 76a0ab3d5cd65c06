"""`tensorboard`: the log as TensorBoard shows it, a folder for each run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssldet.contracts import Options, TrackedRun, TrackedStatus, Tracker
from ssldet.errors import RequestError

EVENTS = "events.out.tfevents.*"
"""How TensorBoard names its files."""


class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir <results>/trackers/tensorboard`. Nothing leaves this machine."""

    class Config(Options):
        """Options of `tensorboard`, as `--set tracker.NAME=VALUE`."""

        folder: Path | None = None
        """Where the folders of runs lie; None means <results>/trackers/tensorboard."""

    config: Config

    def check(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise RequestError('the tensorboard tracker needs TensorBoard; pip install "ssldet[tensorboard]"')

    def start(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = (self.config.folder or run.folder) / run.name
        for earlier in folder.glob(EVENTS):
            earlier.unlink()
        self.last_step = 0
        self.writer: Any = SummaryWriter(str(folder), flush_secs=30)
        self.writer.add_text("config", f"```\n{json.dumps(run.config, indent=2)}\n```")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.last_step = step
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, status: TrackedStatus, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self.writer.add_scalar(f"scores/{name}", value, self.last_step)
        self.writer.close()
