"""Detections and truth -> metric values: one pass over the videos, each video's truth read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ssldet import plugins
from ssldet.contracts import DatasetFacts, Matches, Metric, Truth, Video, VideoDetections
from ssldet.errors import ConfigError, PluginError, UnknownName
from ssldet.evaluation.detection_rows import empty, in_content_order
from ssldet.evaluation.results import Results


@dataclass(frozen=True, slots=True)
class Scored:
    """Numbers, and what they follow from video by video: metric -> protocol -> matches, where a metric gives them."""

    results: Results
    matches: Mapping[str, Mapping[str, Matches]]


def score(
    facts: DatasetFacts,
    videos: Iterable[Video],
    truth: Callable[[str], Truth],
    detections: Mapping[str, VideoDetections],
    metrics: Mapping[str, Sequence[str]],
) -> Results:
    """Score detections by the named metrics, each under the named protocols.

    Args:
        facts: the data set's facts.
        videos: the videos to score; detections of others are not looked at.
        truth: gives one video's annotation.
        detections: by video id; a video without an entry is one in which nothing was detected.
        metrics: metric name -> protocols; an empty sequence means the data set's protocol, or where the metric does
            not know that one, the metric's first.

    Raises:
        UnknownName: no such metric, or a protocol that a metric does not know.
        ConfigError: a metric does not apply to the data set.
    """
    return score_videos(facts, videos, truth, detections, metrics).results


def score_videos(
    facts: DatasetFacts,
    videos: Iterable[Video],
    truth: Callable[[str], Truth],
    detections: Mapping[str, VideoDetections],
    metrics: Mapping[str, Sequence[str]],
) -> Scored:
    """As `score`, with the matches of every video, which comparisons need."""
    meters = build_meters(facts, metrics)
    for video in videos:
        annotation, detected = truth(video.id), in_content_order(detections.get(video.id) or empty(facts))
        for by_protocol in meters.values():
            for meter in by_protocol.values():
                meter.update(video, detected, annotation)
    results = {name: {protocol: meter.compute() for protocol, meter in of.items()} for name, of in meters.items()}
    return Scored(results, {name: found for name, of in meters.items() if (found := _matches(of))})


def _matches(meters: Mapping[str, Metric]) -> dict[str, Matches]:
    """Protocol -> matches, for the protocols that have them."""
    found = {protocol: meter.matches() for protocol, meter in meters.items()}
    return {protocol: matches for protocol, matches in found.items() if matches is not None}


def applicable(facts: DatasetFacts) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
    """All installed metrics that apply to a data set, with all their protocols; and the others, with the reason."""
    wanted: dict[str, Sequence[str]] = {}
    reasons: dict[str, str] = {}
    for name in plugins.names("metric"):
        try:
            kind: type[Metric] = plugins.load("metric", name)
            kind(facts, kind.protocols[0])
            wanted[name] = kind.protocols
        except (PluginError, ConfigError) as error:  # one metric that does not fit must not cost the others
            reasons[name] = str(error)
        except Exception as error:  # nor one that is broken
            reasons[name] = f"{type(error).__name__}: {error}"
    return wanted, reasons


def build_meters(facts: DatasetFacts, metrics: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Metric]]:
    """Fresh metrics by name and protocol; an empty sequence of protocols means the default one. Raises as `score`."""
    meters: dict[str, dict[str, Metric]] = {}
    for name, protocols in metrics.items():
        kind: type[Metric] = plugins.load("metric", name)
        for protocol in protocols:
            if protocol not in kind.protocols:
                raise UnknownName(f"protocol of metric {name}", protocol, kind.protocols)
        meters[name] = {protocol: kind(facts, protocol) for protocol in protocols or [default_of(kind, facts)]}
    return meters


def default_of(kind: type[Metric], facts: DatasetFacts) -> str:
    """The protocol of a metric where none is named: the data set's if the metric knows it, else its own first one."""
    return facts.protocol if facts.protocol in kind.protocols else kind.protocols[0]
