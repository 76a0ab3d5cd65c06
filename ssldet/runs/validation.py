"""The networks of a run on videos: for its detections, and on the validation part while it trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ssldet import plugins
from ssldet.contracts import DatasetFacts, Detector, Metric, Video, VideoDetections
from ssldet.data.batches import ClipReader
from ssldet.errors import ConfigError, PluginError, RequestError
from ssldet.evaluation import results, scoring
from ssldet.evaluation.inference import detect_videos
from ssldet.runs.listing import Place, headline_places
from ssldet.runs.planning import Plan

RECALL: Mapping[str, Place] = {
    "Loc": ("recall", "standard", "localization"),
    "Cls": ("recall", "standard", "classification"),
}
"""Title -> metric, protocol and key of what is scored on the validation part beside the headlines."""


def validation_scores(
    plan: Plan,
    networks: Mapping[str, Detector],
    reader: ClipReader,
    *,
    skipped: Collection[str] = (),
    after_video: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float | None]]:
    """Each network's scores on the validation part, by title; fractions, None where a metric gives none.

    Args:
        plan: of the run.
        networks: by name; each is left in the mode that it was in.
        reader: clips of the videos.
        skipped: videos that do not decode.
        after_video: called after every video of every network; what it raises ends the scoring.
    """
    facts, videos = plan.dataset.facts, [video for video in plan.validation if video.id not in skipped]
    places = _places(facts)
    wanted: dict[str, list[str]] = {}
    for metric, protocol, _ in places.values():
        wanted.setdefault(metric, []).append(protocol)
    scores = {}
    for name, network in networks.items():
        detections: dict[str, VideoDetections] = {}
        for video, detected in detections_of(plan, network, videos, reader):
            detections[video.id] = detected
            after_video()
        scored = scoring.score(facts, videos, plan.dataset.truth, detections, wanted)
        scores[name] = {title: results.mean_where_truth(scored, *place) for title, place in places.items()}
    return scores


def detections_of(
    plan: Plan, detector: Detector, videos: Sequence[Video], reader: ClipReader
) -> Iterator[tuple[Video, VideoDetections]]:
    """What a network detects in videos under the settings of a run."""
    experiment = plan.config.experiment
    return detect_videos(
        detector,
        videos,
        lambda video: plan.dataset.truth(video).key_frames_m,
        reader,
        experiment.detect,
        device=plan.device,
        autocast=experiment.train.precision == "bfloat16",
    )


def _places(facts: DatasetFacts) -> dict[str, Place]:
    """Where the number of every title stands; those that do not apply to the data set are left out."""
    places = {**headline_places(facts.protocol), **RECALL}
    return {title: place for title, place in places.items() if _applies(facts, place)}


def _applies(facts: DatasetFacts, place: Place) -> bool:
    metric, protocol, _ = place
    try:
        kind: type[Metric] = plugins.load("metric", metric)
        kind(facts, protocol)
    except (PluginError, RequestError, ConfigError):
        return False
    return True
