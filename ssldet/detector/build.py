"""How a detector is built from names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssldet import plugins
from ssldet.contracts import Backbone, Dataset, DatasetFacts, Detector
from ssldet.detector.pretrained import pretrained_weights
from ssldet.detector.weights import apply_weights, read_weights
from ssldet.errors import ConfigError
from ssldet.util.settings import split_flavour, typed_options


def build_detector(
    backbone: str | Backbone,
    *,
    dataset: str | Dataset | DatasetFacts,
    weights: str | Path | None = None,
    pretrained: bool = False,
    weights_root: Path | None = None,
    frame_head: bool | None = None,
    options: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Detector:
    """Build a detector, with random or with loaded weights.

    Args:
        backbone: a plugin name such as "yowo", or a Backbone.
        dataset: a plugin name such as "ucf24" or "synthetic:ucf24" (no data is read), a Dataset, or facts.
        weights: a safetensors file or checkpoint that fits the network entirely, ours or one that the backbone knows.
        pretrained: start the parts from the weights that `ssldet run --pretrained` takes for this data set.
        weights_root: the folder where these are looked for first; None means SSLDET_WEIGHTS, else "weights".
        frame_head: whether F is built; None builds it unless `weights` has none. Where F is not wanted, that of
            the weights is left out.
        options: fields of the backbone's Config, if it is given by name, such as `{"branch_3d": "resnet50"}`.
        keywords: more of these fields, such as `region={"form": "giou"}`.

    Raises:
        UnknownName: no such backbone or data set.
        ConfigError: options that the backbone does not know, or one given twice; a flavour that the data set does not;
            both `weights` and `pretrained`, or `pretrained` where the backbone has none.
        WeightsError: weights that are absent or do not fit.
    """
    if pretrained and weights is not None:
        raise ConfigError("weights= is of a whole network and pretrained=True of its parts; give one of them")
    facts = _facts_of(dataset)
    chosen = _backbone_of(backbone, _joined(options or {}, keywords))
    state = None if weights is None else chosen.translate_weights(read_weights(Path(weights)))
    if frame_head is None:
        frame_head = state is None or any(name.startswith("frame_head.") for name in state)
    detector = chosen.build(facts, frame_head=frame_head)
    if state is not None:
        wanted = {name: value for name, value in state.items() if frame_head or not name.startswith("frame_head.")}
        apply_weights(detector, wanted, source=str(weights))
    if pretrained:
        _load_pretrained(chosen, detector, facts.name, weights_root)
    return detector


def _load_pretrained(backbone: Backbone, detector: Detector, dataset: str, weights_root: Path | None) -> None:
    files = pretrained_weights(backbone, dataset, weights_root=weights_root)
    if not files:
        raise ConfigError(f"{type(backbone).__name__} has no pretrained weights for {dataset}")
    backbone.load_pretrained(detector, files)


def _joined(options: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    if twice := sorted(options.keys() & keywords.keys()):
        raise ConfigError(f"{', '.join(twice)}: given in options= and as a keyword; give it once")
    return {**options, **keywords}


def _facts_of(dataset: str | Dataset | DatasetFacts) -> DatasetFacts:
    if isinstance(dataset, DatasetFacts):
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.facts
    name, options = split_flavour(dataset)
    kind: type[Dataset] = plugins.load("dataset", name)
    return kind.facts_under(typed_options(kind.Config, options, "dataset.", f" of data set {name!r}"))


def _backbone_of(backbone: str | Backbone, options: dict[str, Any]) -> Backbone:
    if isinstance(backbone, str):
        kind = plugins.load("backbone", backbone)
        try:
            chosen: Backbone = kind(kind.Config(**options))
        except ValueError as error:  # pydantic's ValidationError is one
            raise ConfigError(f"options of backbone {backbone!r}: {error}") from error
        return chosen
    if options:
        raise ConfigError(f"options {sorted(options)} go into the backbone's Config, since an object was given")
    return backbone
