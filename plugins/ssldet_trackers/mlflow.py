"""`mlflow`: the log as a run of MLflow; in a folder beside the results, unless `tracker.uri` names a server."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ssldet.contracts import Options, TrackedRun, TrackedStatus, Tracker
from ssldet.errors import RequestError

RUN_TAG = "ssldet.run"
STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
AT_ONCE = 100
"""Settings in one call; MLflow takes no more."""


class MLflow(Tracker):
    """Runs of MLflow, for `mlflow ui --backend-store-uri <results>/trackers/mlflow`."""

    class Config(Options):
        """Options of `mlflow`, as `--set tracker.NAME=VALUE`."""

        uri: str | None = None
        """Where MLflow keeps runs, a server's address say; None means the folder <results>/trackers/mlflow."""
        experiment: str = "ssldet"
        """The experiment that runs belong to."""

    config: Config

    def check(self) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise RequestError("the mlflow tracker needs MLflow; pip install mlflow-skinny")

    def start(self, run: TrackedRun) -> None:
        if self.config.uri is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        self.client: Any = MlflowClient(tracking_uri=self.config.uri or run.folder.absolute().as_uri())
        experiment = self._experiment()
        for earlier in self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'"):
            self.client.delete_run(earlier.info.run_id)
        created = self.client.create_run(experiment, run_name=run.name, tags={RUN_TAG: run.id})
        self.run_id: str = created.info.run_id
        self._keep_settings(dict(_flat(run.config)))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in numbers.items()])

    def finish(self, status: TrackedStatus, scores: Mapping[str, float]) -> None:
        self.log(0, {f"scores/{name}": value for name, value in scores.items()})
        self.client.set_terminated(self.run_id, STATUS[status])

    def _experiment(self) -> str:
        """The id of the experiment, which another run may be creating at this moment."""
        from mlflow.exceptions import MlflowException

        if known := self.client.get_experiment_by_name(self.config.experiment):
            return str(known.experiment_id)
        try:
            return str(self.client.create_experiment(self.config.experiment))
        except MlflowException:
            if known := self.client.get_experiment_by_name(self.config.experiment):
                return str(known.experiment_id)
            raise

    def _keep_settings(self, settings: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in settings.items()]
        for first in range(0, len(params), AT_ONCE):
            self.client.log_batch(self.run_id, params=params[first : first + AT_ONCE])


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """{"train": {"lr": 0.1}} -> ("train.lr", "0.1")."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)[:500]
