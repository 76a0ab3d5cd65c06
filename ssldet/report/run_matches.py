"""The per-video matches that a run has left: found, read, and held against its record.

per_video_of(run)                   the whole file
matches_of(run, kept, place)        those of one number, which are what the record's number was made of
"""

from __future__ import annotations

import numpy as np

from ssldet.contracts import Matches
from ssldet.errors import RequestError
from ssldet.evaluation.per_video import PerVideo, read_per_video
from ssldet.evaluation.results import column_titles
from ssldet.report.external_runs import ExternalRun
from ssldet.report.resampling import class_scores
from ssldet.report.run_selection import TestedRun
from ssldet.runs import layout

Place = tuple[str, str, str]
"""Metric, protocol and key of a number."""

_SLACK = 1e-6
"""By how much a record's number may differ from what its matches give, by rounding."""


def per_video_of(run: TestedRun) -> PerVideo:
    """The per-video matches that a finished run has left.

    Raises:
        RequestError: it has none, and says what makes them; or the file is damaged.
    """
    path = run.folder / layout.PER_VIDEO
    if not path.is_file():
        raise RequestError(f"run {run.id} has no {layout.PER_VIDEO} in {run.folder}; {_what_makes_it(run)}")
    return read_per_video(path)


def _what_makes_it(run: TestedRun) -> str:
    if isinstance(run, ExternalRun):
        return f"the same `ssldet evaluate` with --record {run.id} --replace makes it, by frame_map or video_map"
    if (run.folder / layout.DETECTIONS).is_file():
        return f"`ssldet runs rescore {run.folder}` makes it from its {layout.DETECTIONS} and the data"
    return (
        f"it keeps no {layout.DETECTIONS} to make it from: copy its {layout.CONFIG}, remove the run, and make it again "
        "with `ssldet run --config COPY`"
    )


def has_matches(kept: PerVideo, place: Place) -> bool:
    """Whether a file has matches of a number."""
    metric, protocol, key = place
    matches = kept.matches.get(metric, {}).get(protocol)
    return matches is not None and key in matches.columns


def known_places(kept: PerVideo) -> list[str]:
    """Every number of which a file has matches, as "metric:protocol:key"."""
    return [
        f"{metric}:{protocol}:{key}"
        for metric, by_protocol in kept.matches.items()
        for protocol, matches in by_protocol.items()
        for key in matches.columns
    ]


def matches_of(run: TestedRun, kept: PerVideo, place: Place) -> Matches:
    """The matches of one number of a run.

    Raises:
        RequestError: there are none, or they give another number than the record: the file is of another run.
    """
    metric, protocol, key = place
    if not has_matches(kept, place):
        raise RequestError(
            f"run {run.id} kept no matches of {metric}, protocol {protocol}, {key}; it has "
            f"{', '.join(known_places(kept))}"
        )
    matches = kept.matches[metric][protocol]
    recorded, by_file = _recorded(run, place), _number(matches, kept, key)
    if recorded is None or by_file is None or abs(by_file - recorded) <= kept.tolerance + _SLACK:
        return matches
    title = column_titles(metric).get(key, f"{metric} {key}")
    raise RequestError(
        f"{run.folder / layout.PER_VIDEO} is not of run {run.id}: {title} is {by_file:.6f} by it and "
        f"{recorded:.6f} by the record; {_again(run)} makes it again"
    )


def _again(run: TestedRun) -> str:
    if isinstance(run, ExternalRun):
        return f"`ssldet evaluate --record {run.id} --replace`"
    return f"`ssldet runs rescore {run.folder}`"


def _recorded(run: TestedRun, place: Place) -> float | None:
    """The protocol's own mean; `run.number` is another one on a subset of the videos."""
    try:
        return run.record.value(*place)
    except RequestError:
        return None


def _number(matches: Matches, kept: PerVideo, key: str) -> float | None:
    """A mean over classes as the record has it, by its protocol's rule for classes without truth."""
    scores_k = class_scores(matches, key, all_videos(kept))[0]
    present_k = ~np.isnan(scores_k)
    counted = present_k.sum() if matches.rule.skip_empty else len(scores_k)
    return float(scores_k[present_k].sum() / counted) if counted else None


def all_videos(kept: PerVideo) -> np.ndarray:
    """(1, v) weights: every video once."""
    return np.ones((1, len(kept.videos)), np.int64)
