"""What the weights of a run are of, and the trained detector that they make, without the data that it was trained on.

network_of(entry)            of a run, from its network.json; of one of an earlier version from its settings
trained_run(entry)           its network with its weights
trained_file(file, names)    the network of a weights file
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ssldet import plugins
from ssldet._version import __version__
from ssldet.config import DetectOptions, Experiment, resolve
from ssldet.contracts import Backbone, Dataset, DatasetFacts, Detector, Options
from ssldet.data.batches import ClipOptions
from ssldet.data.datasets import dataset_options, load_dataset
from ssldet.detector.build import build_detector
from ssldet.detector.weights import read_weights
from ssldet.detector.weights_fit import compare_with_network
from ssldet.errors import ConfigError, RequestError, WeightsError
from ssldet.runs import layout
from ssldet.runs.planning import Plan
from ssldet.runs.rescoring import what_is_lost
from ssldet.runs.store import RunEntry, find_run, is_run
from ssldet.util.files import file_hash, write_json
from ssldet.util.settings import typed_options

FORM = 1
"""Of network.json; it grows when an older version could not read it."""


class Network(Options):
    """What weights are of: a network, and how it is applied."""

    form: int = FORM
    """Version of what stands here."""
    backbone: str
    """The plugin that builds it."""
    backbone_options: dict[str, Any]
    """Its options."""
    facts: DatasetFacts
    """Of the data that it was trained on: classes, anchors, whether boxes have several labels."""
    clip: ClipOptions
    """The clips that it takes."""
    detect: DetectOptions
    """Filter and suppression of its boxes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic."""


@dataclass(frozen=True, slots=True)
class TrainedDetector:
    """A detector with its weights, on the CPU; `source` says whose they are."""

    detector: Detector
    network: Network
    source: str


# ------------------------------------------------------------------------------------------------- what it is


def network_of_experiment(experiment: Experiment, facts: DatasetFacts) -> Network:
    """The network that settings describe, for data of which these facts are known."""
    return Network(
        backbone=experiment.backbone,
        backbone_options=experiment.backbone_options,
        facts=facts,
        clip=experiment.clip,
        detect=experiment.detect,
        precision=experiment.train.precision,
    )


def network_of_plan(plan: Plan) -> Network:
    """The network that a run trains."""
    return network_of_experiment(plan.config.experiment, plan.dataset.facts)


def network_of(entry: RunEntry, data_root: Path | None = None) -> Network:
    """The network of a run.

    Args:
        entry: the run.
        data_root: where its data lie; only runs of earlier versions on data whose classes are not known without them
            need it. None means where the run had them.

    Raises:
        RequestError: a later version wrote it, it is damaged, or the data are others than those of the run.
        ConfigError, UnknownName: its settings are none of this version.
    """
    path = entry.folder / layout.NETWORK
    if path.is_file():
        return read_network(path)
    experiment = Experiment.model_validate(entry.experiment)
    if facts := _known_facts(experiment):
        return network_of_experiment(experiment, facts)
    dataset = _data(experiment, data_root or entry.machine.get("data_root"))
    if entry.record and dataset.fingerprint() != entry.record.data_fingerprint:
        raise RequestError(
            f"run {entry.id} has no {layout.NETWORK}, and these are not the data that it was trained on, so that "
            "nothing says which classes its network tells apart; name the folder of its data with --data-root"
        )
    return network_of_experiment(experiment, dataset.facts)


def _known_facts(experiment: Experiment) -> DatasetFacts | None:
    """What is known of the data of an experiment without having them; None where their classes are not."""
    kind = plugins.load("dataset", experiment.dataset)
    facts: DatasetFacts = kind.facts_under(dataset_options(kind, experiment.dataset_options))
    return facts if facts.classes else None


def _data(experiment: Experiment, root: Path | None) -> Dataset:
    return load_dataset(experiment.dataset, root, **experiment.dataset_options)


def write_network(path: Path, network: Network) -> None:
    """Write network.json, whole or not at all."""
    write_json(path, network)


def read_network(path: Path) -> Network:
    """Read network.json.

    Raises:
        RequestError: it is absent or damaged, or a later version wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"no readable {layout.NETWORK} at {path}: {error}") from error
    form = content.get("form") if isinstance(content, dict) else None
    if type(form) is int and form > FORM:
        raise RequestError(
            f"{path} has form {form}, which a later version of ssldet wrote; this one ({__version__}) reads forms up "
            f"to {FORM}: use that version"
        )
    try:
        return Network.model_validate(content)
    except ValidationError as error:
        raise RequestError(f"{path} does not describe a network: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


# ------------------------------------------------------------------------------------------- with its weights


def trained_run(entry: RunEntry, data_root: Path | None = None) -> TrainedDetector:
    """The detector that a finished run left.

    Raises:
        RequestError: it is not finished, or its weights are gone or are not those that it left; as `network_of`.
        WeightsError: they do not fit the network as this version builds it.
    """
    if entry.status != "done" or entry.record is None:
        raise RequestError(f"run {entry.id} is {entry.status} and left no weights: {entry.problem}")
    weights = entry.folder / layout.WEIGHTS
    if not weights.is_file():
        lost = what_is_lost(entry.record, entry.folder, entry.id)
        raise RequestError(f"run {entry.id} has no {layout.WEIGHTS} in {entry.folder}; {lost}".rstrip("; "))
    if entry.record.files.get(layout.WEIGHTS, "") != file_hash(weights):
        raise RequestError(
            f"{weights} is not the file that run {entry.id} left: its SHA-256 is another; copy it anew, or make the "
            f"run again (`ssldet runs rm {entry.id}`, and the same request)"
        )
    return trained_weights(weights, network_of(entry, data_root), f"run {entry.id}")


def trained_weights(file: Path, network: Network, source: str = "") -> TrainedDetector:
    """A network with the weights of a file. Nothing in the file is executed.

    Raises:
        WeightsError: the file is absent or damaged, or does not fit the network.
        UnknownName, ConfigError: there is no such backbone, or it has no such option.
    """
    backbone, source = _backbone(network), source or str(file)
    _check_fit(backbone, network, backbone.translate_weights(read_weights(file)), file)
    detector = build_detector(backbone, dataset=network.facts, weights=file)
    return TrainedDetector(detector.eval(), network, source)


def trained_file(
    file: Path,
    names: Mapping[str, str | None],
    assignments: Sequence[str] = (),
    data_root: Path | None = None,
) -> TrainedDetector:
    """The detector of a weights file: that of the run in whose folder it lies, else one whose settings are given.

    Args:
        file: the weights.
        names: dataset, backbone and preset, where they are given.
        assignments: further settings, as KEY=VALUE.
        data_root: where the data lie, if classes are not known without them.

    Raises:
        RequestError: nothing says what network it is; as `trained_run` and `trained_weights`.
    """
    given = {key: value for key, value in names.items() if value is not None}
    if not given and not assignments and file.name == layout.WEIGHTS and is_run(file.parent):
        return trained_run(find_run(f"{file.parent}{os.sep}", ()), data_root)
    if "dataset" not in given:
        raise RequestError(
            f"nothing says whose classes {file} tells apart; name the data set with --dataset, and its network with "
            f"--preset or --backbone, where it is not the paper's; `ssldet weights inspect {file}` looks at it"
        )
    preset = given.pop("preset", None)
    experiment = resolve({"strategy": "supervised", **given}, preset=preset, assignments=assignments).experiment
    facts = _known_facts(experiment) or _data(experiment, data_root).facts
    return trained_weights(file, network_of_experiment(experiment, facts))


def _backbone(network: Network) -> Backbone:
    kind = plugins.load("backbone", network.backbone)
    backbone: Backbone = kind(typed_options(kind.Config, network.backbone_options, "backbone."))
    if network.clip.size % backbone.stride:
        raise ConfigError(f"clips of {network.clip.size} pixels are no multiple of the stride of {network.backbone}")
    backbone.check_clips(network.clip.frames, network.clip.size)
    return backbone


def _check_fit(backbone: Backbone, network: Network, state: Mapping[str, Any], file: Path) -> None:
    """Hold shapes against each other before a network is built that a stranger's file may have made huge."""
    report = compare_with_network(backbone, network.facts, None, state, str(file))
    if not report.complete:
        raise WeightsError(
            f"the weights do not fit {network.backbone} for {len(network.facts.classes)} classes as ssldet "
            f"{__version__} builds it: they are of another network, or of another version of it. {report}"
        )
