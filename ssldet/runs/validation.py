"""The networks of a run on videos: for its detections, and on the validation part while it trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from ssldet import plugins
from ssldet.contracts import DatasetFacts, Detector, Metric, Video, VideoDetections
from ssldet.data.batches import ClipReader
from ssldet.errors import ConfigError, PluginError, RequestError
from ssldet.evaluation import results, scoring
from ssldet.evaluation.inference import detect_videos
from ssldet.runs.listing import Place, headline_places
from ssldet.runs.planning import Plan
from ssldet.util.ranks import ALONE, Ranks

ROUND = 16
"""Videos a rank, after which ranks give each other what they detected."""

Detect = Callable[[Sequence[Video]], Iterator[tuple[Video, VideoDetections]]]
"""Videos -> what is detected in each, in their order."""

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
    ranks: Ranks = ALONE,
) -> dict[str, dict[str, float | None]]:
    """Each network's scores on the validation part, by title; fractions, None where a metric gives none.

    Args:
        plan: of the run.
        networks: by name; each is left in the mode that it was in.
        reader: clips of the videos.
        skipped: videos that do not decode.
        after_video: called after every video of every network; what it raises ends the scoring.
        ranks: the processes that share the videos.
    """
    facts, videos = plan.dataset.facts, [video for video in plan.validation if video.id not in skipped]
    places = _places(facts)
    wanted: dict[str, list[str]] = {}
    for metric, protocol, _ in places.values():
        wanted.setdefault(metric, []).append(protocol)
    scores = {}
    for name, network in networks.items():
        detections: dict[str, VideoDetections] = {}
        for video, detected in shared_out(ranks, videos, partial(_detect, plan, reader, network)):
            detections[video.id] = detected
            after_video()
        score = partial(scoring.score, facts, videos, plan.dataset.truth, detections, wanted)
        scored = ranks.from_first(score)
        scores[name] = {title: results.mean_where_truth(scored, *place) for title, place in places.items()}
    return scores


def detections_of(
    plan: Plan, detector: Detector, videos: Sequence[Video], reader: ClipReader
) -> Iterator[tuple[Video, VideoDetections]]:
    """What a network detects in videos under the settings of a run."""
    experiment = plan.config.experiment

    def key_frames_of(video: str) -> np.ndarray:
        return plan.dataset.truth(video).key_frames_m

    autocast = experiment.train.precision == "bfloat16"
    return detect_videos(
        detector, videos, key_frames_of, reader, experiment.detect, device=plan.device, autocast=autocast
    )


def shared_out(ranks: Ranks, videos: Sequence[Video], detect: Detect) -> Iterator[tuple[Video, VideoDetections]]:
    """What is detected in videos by several ranks together; each of them gets it of all videos, in order.

    Each rank detects in some videos of each round, and nowhere twice; rounds bound what lies in memory.
    """
    if ranks.size == 1:
        yield from detect(videos)
        return
    for start in range(0, len(videos), ROUND * ranks.size):
        together = videos[start : start + ROUND * ranks.size]
        mine = shares(together, ranks.size)[ranks.rank]
        detected = {video.id: detections for video, detections in detect(mine)}
        of_all = {video: found for part in ranks.gather_objects(detected) for video, found in part.items()}
        yield from ((video, of_all[video.id]) for video in together)


def _detect(
    plan: Plan, reader: ClipReader, network: Detector, videos: Sequence[Video]
) -> Iterator[tuple[Video, VideoDetections]]:
    return detections_of(plan, network, videos, reader)


def shares(videos: Sequence[Video], count: int) -> list[list[Video]]:
    """Videos dealt out, the longest first, each to whoever has the fewest frames so far."""
    dealt: list[list[Video]] = [[] for _ in range(count)]
    for video in sorted(videos, key=lambda video: -video.num_frames):
        min(dealt, key=lambda some: sum(one.num_frames for one in some)).append(video)
    return dealt


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
