"""What only a run's detections and the data tell together: the boxes of its test videos beside the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ssldet.contracts import Dataset, Video
from ssldet.data.datasets import load_dataset
from ssldet.errors import RequestError
from ssldet.evaluation.detections import Detections, read_detections
from ssldet.report.run_selection import Run
from ssldet.runs import layout
from ssldet.runs.rescoring import scored_videos
from ssldet.util.files import content_hash


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRun:
    """A run's detections of the videos that it was scored on, and their data set."""

    run: Run
    dataset: Dataset
    videos: tuple[Video, ...]
    detections: Detections


@dataclass(slots=True)
class DataSets:
    """The data sets of a report's runs, each opened and hashed once.

    Attributes:
        root: the folder of the data; None: the one that a run names.
    """

    root: Path | None
    _opened: dict[str, tuple[Dataset, str]] = field(default_factory=dict)

    def of(self, run: Run) -> Dataset:
        """The data that a run was scored on.

        Raises:
            RequestError: they are not there, or are others. PluginError: the data set is broken.
        """
        experiment = run.experiment
        root = self.root or run.entry.machine.get("data_root")
        name = content_hash([experiment.dataset, experiment.dataset_options, str(root)])
        if name not in self._opened:
            dataset = load_dataset(experiment.dataset, root, **experiment.dataset_options)
            self._opened[name] = dataset, dataset.fingerprint()
        dataset, fingerprint = self._opened[name]
        if fingerprint != run.record.data_fingerprint:
            raise RequestError(
                f"the run was scored on data {run.record.data_fingerprint[:12]}, and these are {fingerprint[:12]}; "
                "name the folder of its data with --data-root"
            )
        return dataset


def scored_run(run: Run, datasets: DataSets) -> ScoredRun:
    """Read a run's detections.

    Raises:
        RequestError: it keeps none, or they do not fit the data; the data are absent or others.
    """
    path = run.folder / layout.DETECTIONS
    if not path.is_file():
        raise RequestError(f"the run keeps no {layout.DETECTIONS}, and they need it beside the data (--data-root)")
    dataset = datasets.of(run)
    videos = tuple(scored_videos(run.folder, run.record, run.experiment, dataset))
    return ScoredRun(run, dataset, videos, read_detections(path, dataset.facts, videos))
