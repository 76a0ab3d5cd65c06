"""per_video.parquet: which detection of which video was a hit, small enough to be committed with a record.

    per_video(facts, ...)           its content, from what `scoring.score_videos` gives
    write_per_video(path, kept)     whole or not at all, at most `LIMIT` bytes where a tail may be cut for it
    read_per_video(path)            checked: such a file may come from anyone

One row is a number of detections of one class and video with the same outcome; rows stand in rank order, so that no
score is needed. Columns: `ranking` (place in the metadata's list), `label`, `video` (place in its list), `detections`
(how many), `outcomes` (bits). Protocols of a metric that rank the same detections in the same order share a ranking,
each with bits of its own. Average precision follows from the ranks of hits alone, so that the misses between two hits
stand in the order of their videos; misses behind the last hit are left out.
"""

from __future__ import annotations

import io
import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssldet.contracts import DatasetFacts, Matches, PrecisionRule, RankedDetections, Video
from ssldet.errors import PluginError, RequestError
from ssldet.ops.average_precision import FORMS
from ssldet.util.files import write_bytes

LIMIT = 500_000
"""Bytes that a file should not exceed."""

TOLERANCES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01)
"""What the AP of a class may lose by a cut; the first of them that keeps the file within `LIMIT`."""

BITS = 64
"""Outcomes of one row, all protocols that share a ranking together."""

_MOST_ROWS = 20_000_000
"""More than any data set gives; a small file may claim to hold more."""

_MOST_CELLS = 250_000_000
"""Hits of a class times videos."""

_KEY = b"ssldet.per_video"
_SCHEMA = pa.schema(
    [
        ("ranking", pa.int16()),
        ("label", pa.int16()),
        ("video", pa.int32()),
        ("detections", pa.int32()),
        ("outcomes", pa.uint64()),
    ]
)

_FORMAT = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "store_schema": False}
"""A stored schema would repeat what the types of the columns say."""


@dataclass(frozen=True, slots=True)
class ScoredVideo:
    """A test video: what it was cut from ("": it stands alone), and the labels of its classes."""

    id: str
    group: str
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PerVideo:
    """The content of a file.

    Attributes:
        dataset: the data set's name; `split`: the official split.
        classes: the names of its classes.
        videos: the videos scored, in the order of `Matches.videos`.
        matches: metric -> protocol -> matches.
        tolerance: what any AP of these videos may have lost by a cut; 0 when all that counts is there.
    """

    dataset: str
    split: int
    classes: tuple[str, ...]
    videos: tuple[ScoredVideo, ...]
    matches: Mapping[str, Mapping[str, Matches]]
    tolerance: float = 0.0


def per_video(
    facts: DatasetFacts, split: int, videos: Iterable[Video], matches: Mapping[str, Mapping[str, Matches]]
) -> PerVideo:
    """What a file holds of a data set's scored videos, all matches in the order of their ids.

    Raises:
        PluginError: a metric's matches are of other videos.
    """
    scored = tuple(
        ScoredVideo(video.id, video.group, video.classes) for video in sorted(videos, key=lambda video: video.id)
    )
    ordered = {
        metric: {protocol: _in_order(f"{metric}, protocol {protocol}", each, scored) for protocol, each in of.items()}
        for metric, of in matches.items()
    }
    return PerVideo(facts.name, split, facts.classes, scored, ordered)


def _in_order(what: str, matches: Matches, videos: Sequence[ScoredVideo]) -> Matches:
    """The same matches, their videos in the order of `videos`."""
    ids = tuple(video.id for video in videos)
    if sorted(matches.videos) != sorted(ids):
        raise PluginError(
            f"matches of metric {what}: {len(matches.videos)} videos, expected the {len(ids)} scored ones"
        )
    if matches.videos == ids:
        return matches
    place_of = {video_id: place for place, video_id in enumerate(ids)}
    places_v = np.array([place_of[video_id] for video_id in matches.videos])
    ranked = {label: replace(each, videos_n=places_v[each.videos_n]) for label, each in matches.ranked.items()}
    return replace(matches, videos=ids, truths_vk=matches.truths_vk[np.argsort(places_v)], ranked=ranked)


# ------------------------------------------------------------------------------------------------ metadata


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Protocol(_Part):
    """One protocol of a ranking; its outcomes begin at `first_bit`."""

    protocol: str
    thresholds: tuple[float, ...]
    columns: dict[str, Annotated[tuple[int, ...], Field(min_length=1)]]
    rule: PrecisionRule
    first_bit: int = Field(ge=0, lt=BITS)


class _Ranking(_Part):
    """A metric's protocols that rank alike; truths are (video, label, count)."""

    metric: str
    protocols: tuple[_Protocol, ...] = Field(min_length=1)
    labels: tuple[int, ...]
    truths: tuple[tuple[int, int, Annotated[int, Field(ge=1)]], ...]


class _Metadata(_Part):
    format: Literal[1] = 1
    dataset: str
    split: int
    classes: tuple[str, ...]
    videos: tuple[ScoredVideo, ...]
    tolerance: float = Field(ge=0, le=1)
    rankings: tuple[_Ranking, ...]


# ------------------------------------------------------------------------------------------------- writing


def write_per_video(path: Path, kept: PerVideo) -> float:
    """Write the file, whole or not at all, exact if that fits into `LIMIT`.

    Where it does not, each class is cut at the first rank up to which its AP, at any threshold, is no more than a
    tolerance below what all its detections give. The least of `TOLERANCES` that fits is taken, and the last one where
    none does.

    Returns:
        The tolerance that was taken.

    Raises:
        PluginError: a metric's matches have more thresholds than fit.
    """
    for tolerance in TOLERANCES:
        content = _encoded(kept, tolerance)
        if len(content) <= LIMIT:
            break
    write_bytes(Path(path), content)
    return tolerance


def _encoded(kept: PerVideo, tolerance: float) -> bytes:
    groups = [
        (metric, group) for metric, by_protocol in kept.matches.items() for group in _sharing(metric, by_protocol)
    ]
    rankings = tuple(_described(metric, group) for metric, group in groups)
    metadata = _Metadata(
        dataset=kept.dataset,
        split=kept.split,
        classes=kept.classes,
        videos=kept.videos,
        tolerance=max(tolerance, kept.tolerance),
        rankings=rankings,
    )
    table = pa.concat_tables([_SCHEMA.empty_table(), *_tables([group for _, group in groups], tolerance)])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, _SCHEMA, **_FORMAT) as writer:
        writer.write_table(table, row_group_size=max(len(table), 1))
        writer.add_key_value_metadata({_KEY: metadata.model_dump_json()})
    return sink.getvalue()


_Group = dict[str, Matches]
"""Protocol -> matches, of protocols that share a ranking."""


def _sharing(metric: str, by_protocol: Mapping[str, Matches]) -> list[_Group]:
    """A metric's protocols, those together that rank the same detections alike."""
    groups: list[_Group] = []
    for protocol, matches in by_protocol.items():
        if len(matches.thresholds) > BITS:
            raise PluginError(
                f"matches of metric {metric}, protocol {protocol}: {len(matches.thresholds)} thresholds, expected at "
                f"most {BITS}"
            )
        for group in groups:
            bits = sum(len(other.thresholds) for other in group.values()) + len(matches.thresholds)
            if bits <= BITS and _rank_alike(next(iter(group.values())), matches):
                group[protocol] = matches
                break
        else:
            groups.append({protocol: matches})
    return groups


def _rank_alike(one: Matches, other: Matches) -> bool:
    return (
        one.ranked.keys() == other.ranked.keys()
        and np.array_equal(one.truths_vk, other.truths_vk)
        and all(
            np.array_equal(one.ranked[label].videos_n, other.ranked[label].videos_n)
            and np.array_equal(one.ranked[label].counts_n, other.ranked[label].counts_n)
            for label in one.ranked
        )
    )


def _first_bits(group: _Group) -> list[int]:
    return [0, *itertools.accumulate(len(matches.thresholds) for matches in group.values())][:-1]


def _described(metric: str, group: _Group) -> _Ranking:
    protocols = tuple(
        _Protocol(
            protocol=protocol,
            thresholds=matches.thresholds,
            columns=dict(matches.columns),
            rule=matches.rule,
            first_bit=first_bit,
        )
        for (protocol, matches), first_bit in zip(group.items(), _first_bits(group), strict=True)
    )
    first = next(iter(group.values()))
    truths = tuple((int(v), int(k), int(first.truths_vk[v, k])) for v, k in np.argwhere(first.truths_vk))
    return _Ranking(metric=metric, protocols=protocols, labels=tuple(first.ranked), truths=truths)


def _tables(groups: Sequence[_Group], tolerance: float) -> Iterator[pa.Table]:
    for place, group in enumerate(groups):
        first = next(iter(group.values()))
        for label in first.ranked:
            videos_n, outcomes_n, counts_n = _rows(group, label, tolerance)
            columns = [np.full(len(videos_n), place), np.full(len(videos_n), label), videos_n, counts_n, outcomes_n]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
            yield pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _rows(group: _Group, label: int, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Videos, outcomes and counts of one class, what shares a place between two hits added up."""
    first = next(iter(group.values())).ranked[label]
    outcomes_n = np.zeros(len(first), np.uint64)
    for matches, first_bit in zip(group.values(), _first_bits(group), strict=True):
        outcomes_n |= matches.ranked[label].outcomes_n.astype(np.uint64) << np.uint64(first_bit)
    rows = max((_needed(matches, label, tolerance) for matches in group.values()), default=0)
    return _merged(first.videos_n[:rows], outcomes_n[:rows], first.counts_n[:rows])


def _merged(
    videos_n: np.ndarray, outcomes_n: np.ndarray, counts_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with the misses between two hits in order of their videos, and those of one video as one row."""
    hits_n = outcomes_n > 0
    gaps_n = 2 * np.cumsum(hits_n) - hits_n  # odd: a hit, even: the misses behind it
    order_n = np.lexsort((videos_n, gaps_n))
    videos_n, gaps_n = videos_n[order_n], gaps_n[order_n]
    starts_m = np.flatnonzero((np.diff(gaps_n, prepend=-1) != 0) | (np.diff(videos_n, prepend=-1) != 0))
    counts_m = np.add.reduceat(counts_n[order_n], starts_m) if len(starts_m) else counts_n
    return videos_n[starts_m], outcomes_n[order_n][starts_m], counts_m


def _needed(matches: Matches, label: int, tolerance: float) -> int:
    """How many rows of a class must be kept so that its AP loses no more than `tolerance` at any threshold."""
    ranked, truths = matches.ranked[label], int(matches.truths_vk[:, label].sum())
    rows_n = np.repeat(np.arange(len(ranked)), ranked.counts_n)
    form = FORMS[matches.rule.form]
    needed = 0
    for bit in range(len(matches.thresholds)):
        hits_n = (ranked.outcomes_n[rows_n] >> bit & 1) == 1
        ends_m = [0, *(np.flatnonzero(hits_n) + 1).tolist()]  # more hits never lower an AP, so that bisection finds it
        least = form(hits_n, truths) - tolerance
        end = ends_m[bisect_left(ends_m, least, key=lambda end: form(hits_n[:end], truths))]
        needed = max(needed, int(rows_n[end - 1]) + 1 if end else 0)
    return needed


# ------------------------------------------------------------------------------------------------- reading


def read_per_video(path: Path) -> PerVideo:
    """Read and check a file.

    Raises:
        RequestError: it is absent, damaged, or not what it should be; names the file and what is wrong.
    """
    try:
        table, metadata = _opened(Path(path))
        _check(table, metadata)
        return _content(table, metadata)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise RequestError(f"{path} is no readable file of per-video matches: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"metadata at {'.'.join(map(str, first['loc'])) or 'top'}: {first['msg']}"
    return str(error)


def _opened(path: Path) -> tuple[pa.Table, _Metadata]:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > _MOST_ROWS:
            raise ValueError(f"it claims {file.metadata.num_rows} rows, expected at most {_MOST_ROWS}")
        text = (file.metadata.metadata or {}).get(_KEY)
        if text is None:
            raise ValueError(f"it has no metadata {_KEY.decode()!r}; expected a file that `ssldet run` wrote")
        metadata = _Metadata.model_validate_json(text)
        if not (schema := file.schema_arrow.remove_metadata()).equals(_SCHEMA):
            raise ValueError(f"its columns are {_words(schema)}; expected {_words(_SCHEMA)}")
        return file.read(), metadata


def _words(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _check(table: pa.Table, metadata: _Metadata) -> None:
    """Raises ValueError unless every number points to something."""
    classes, videos = len(metadata.classes), len(metadata.videos)
    if videos * classes > _MOST_ROWS:
        raise ValueError(f"it claims {videos} videos of {classes} classes")
    if len({video.id for video in metadata.videos}) != videos:
        raise ValueError("a video occurs twice")
    names = [(ranking.metric, each.protocol) for ranking in metadata.rankings for each in ranking.protocols]
    if len(set(names)) != len(names):
        raise ValueError("a protocol of a metric occurs twice")
    for ranking in metadata.rankings:
        _check_within("labels", ranking.labels, 0, classes)
        _check_within("labels of truths", [label for _, label, _ in ranking.truths], 0, classes)
        _check_within("videos of truths", [video for video, _, _ in ranking.truths], 0, videos)
        for each in ranking.protocols:
            _check_within("bits", [each.first_bit + len(each.thresholds)], 1, BITS + 1)
            _check_within("columns", [place for of in each.columns.values() for place in of], 0, len(each.thresholds))
    if any(column.null_count for column in table.columns):
        raise ValueError("a row has an empty cell")
    for name, low, high in (
        ("ranking", 0, len(metadata.rankings)),
        ("label", 0, classes),
        ("video", 0, videos),
        ("detections", 1, 1 << 31),
    ):
        _check_within(f"column {name!r}", table[name].to_numpy(), low, high)
    _check_hits(table, videos)


def _check_hits(table: pa.Table, videos: int) -> None:
    """A row may claim more hits than there are truths in the world, and each is counted against every video."""
    hits_n = table["outcomes"].to_numpy() > 0
    ranking_m, label_m, counts_m = (table[name].to_numpy()[hits_n] for name in ("ranking", "label", "detections"))
    _, of_m = np.unique(np.stack([ranking_m, label_m]), axis=1, return_inverse=True)
    most = int(np.bincount(of_m.reshape(-1), counts_m).max(initial=0))
    if most * videos > _MOST_CELLS:
        raise ValueError(f"it claims {most} hits of a class in {videos} videos")


def _check_within(what: str, values: Sequence[int] | np.ndarray, low: int, high: int) -> None:
    values = np.asarray(values, np.int64)
    wrong = values[(values < low) | (values >= high)]
    if len(wrong):
        raise ValueError(f"{what}: {wrong[0]}, expected {low} to {high - 1}")


def _content(table: pa.Table, metadata: _Metadata) -> PerVideo:
    columns = {name: table[name].to_numpy() for name in _SCHEMA.names}
    matches: dict[str, dict[str, Matches]] = {}
    for place, ranking in enumerate(metadata.rankings):
        rows = np.flatnonzero(columns["ranking"] == place)
        of_ranking = {name: values[rows] for name, values in columns.items()}
        for each in ranking.protocols:
            matches.setdefault(ranking.metric, {})[each.protocol] = _matches(of_ranking, metadata, ranking, each)
    return PerVideo(
        metadata.dataset, metadata.split, metadata.classes, metadata.videos, matches, tolerance=metadata.tolerance
    )


def _matches(columns: Mapping[str, np.ndarray], metadata: _Metadata, ranking: _Ranking, protocol: _Protocol) -> Matches:
    truths_vk = np.zeros((len(metadata.videos), len(metadata.classes)), np.int64)
    for video, label, count in ranking.truths:
        truths_vk[video, label] = count
    mask = np.uint64((1 << len(protocol.thresholds)) - 1)
    outcomes_n = columns["outcomes"] >> np.uint64(protocol.first_bit) & mask
    ranked = {}
    for label in ranking.labels:
        rows = np.flatnonzero(columns["label"] == label)
        ranked[label] = RankedDetections(
            columns["video"][rows].astype(np.int64), outcomes_n[rows], columns["detections"][rows].astype(np.int64)
        )
    ids = tuple(video.id for video in metadata.videos)
    return Matches(ids, protocol.thresholds, protocol.columns, protocol.rule, truths_vk, ranked)
