"""The detections file: the hard boundary between a model and its score.

One row per box that a detector offers: `video`, `frame` (as the data set numbers frames, mostly from 1), `x1 y1 x2
y2` in pixels of the video, `confidence`, `scores` (list of K class probabilities). The long form has one row per box
and label instead: `label` (from 0), `score` and, optionally, `confidence` (absent = 1). Parquet or CSV; further
published forms are read by `detection_formats`. Nothing is filtered or suppressed here: what is in the file
counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssldet.contracts import DatasetFacts, Video, VideoDetections
from ssldet.errors import DetectionsError
from ssldet.evaluation.detection_conventions import FileConventions, known_names, label_remark
from ssldet.evaluation.detection_formats import is_parquet, read_rows, rows_of_table
from ssldet.evaluation.detection_rows import SIDES, Faults, Rows, assemble, check, empty, in_content_order
from ssldet.util.files import replacing

ROWS_PER_GROUP = 1 << 16

_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int32()),
        *((side, pa.float32()) for side in (*SIDES, "confidence")),
        ("scores", pa.list_(pa.float32())),
    ],
    metadata={"written_by": "ssldet"},  # such a file may be empty: its writer closed it knowing that
)

_FORMAT = {"compression": "zstd", "use_dictionary": ["video"]}
"""Numbers hardly repeat: a dictionary of them costs time and saves nothing."""


class DetectionsWriter:
    """Writes the detections of videos, one after the other, to a Parquet file; whole or not at all.

        with DetectionsWriter(path, dataset.facts) as writer:
            writer.add(video.id, detections)

    Raises:
        DetectionsError: a video comes twice, or its detections hold numbers that are not finite.
    """

    def __init__(self, path: Path, facts: DatasetFacts) -> None:
        self.path, self.facts = Path(path), facts
        self._seen: set[str] = set()
        self._tables: list[pa.Table] = []
        self._waiting = 0

    def __enter__(self) -> DetectionsWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._writer = stack.enter_context(pq.ParquetWriter(temporary, _SCHEMA, **_FORMAT))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                self._stack.__exit__(kind, error, trace)  # removes the temporary file
            else:
                self._flush()

    def add(self, video_id: str, detections: VideoDetections) -> None:
        """Append one video's detections, frames as indices from 0; they are put into the order of content."""
        if video_id in self._seen:
            raise DetectionsError(f"video {video_id!r} was already written to {self.path}")
        self._seen.add(video_id)
        self.extend(video_id, detections)

    def extend(self, video_id: str, detections: VideoDetections) -> None:
        """Append what was detected in later frames of the video that was added last: a long one comes in parts."""
        numbers = (detections.boxes_n4, detections.confidence_n, detections.scores_nk)
        if not all(np.isfinite(values).all() for values in numbers):
            raise DetectionsError(f"the detections of video {video_id!r} hold numbers that are not finite")
        self._tables.append(_table(video_id, in_content_order(detections), self.facts))
        self._waiting += len(detections.frames_n)
        if self._waiting >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._tables), row_group_size=self._waiting)
        self._tables, self._waiting = [], 0


def join_detections(parts: Sequence[Path], path: Path) -> None:
    """Write the rows of several files of `DetectionsWriter`, each of other videos, into one; whole or not at all.

    One group of rows is in memory at a time.
    """
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, **_FORMAT) as writer:
        for file in map(pq.ParquetFile, parts):
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))


def _table(video_id: str, detections: VideoDetections, facts: DatasetFacts) -> pa.Table:
    count, num_classes = detections.scores_nk.shape
    frames_n = facts.numbering.to_file(detections.frames_n)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * num_classes)
    scores = pa.ListArray.from_arrays(offsets, pa.array(detections.scores_nk.reshape(-1), pa.float32()))
    columns = [pa.array(frames_n, pa.int32()), *(pa.array(side, pa.float32()) for side in detections.boxes_n4.T)]
    confidence = pa.array(detections.confidence_n, pa.float32())
    return pa.Table.from_arrays([pa.array([video_id] * count), *columns, confidence, scores], schema=_SCHEMA)


# ------------------------------------------------------------------------------------------ reading


class Detections(Mapping[str, VideoDetections]):
    """Video id -> its detections, for every video that is to be scored; empty arrays where a video has none.

    `dropped` counts the rows that a lenient reading left out, by reason; `remarks` say how the file was read.
    """

    def __init__(
        self,
        facts: DatasetFacts,
        videos: Mapping[str, Video],
        store: Store,
        *,
        lenient: bool,
        conventions: FileConventions,
    ) -> None:
        self._facts, self._videos, self._store, self._conventions = facts, videos, store, conventions
        self._sound = False
        faults, remarks = Faults(strict=not lenient), _Remarks(facts)
        for name in store.names:  # every row is checked before the first score is computed
            self._load(name, faults, remarks)
        if faults.strict and faults:
            raise DetectionsError(faults.text(faults.range.hints(facts)))
        self.dropped: Counter[str] = faults.counts
        self.remarks = (*store.remarks, *remarks.texts())
        self._sound = not faults

    def __getitem__(self, video_id: str) -> VideoDetections:
        if video_id not in self._videos:
            raise KeyError(video_id)
        if video_id not in self._store.names:
            return empty(self._facts)
        return self._load(video_id, Faults(strict=False))

    def __iter__(self) -> Iterator[str]:
        return iter(self._videos)

    def __len__(self) -> int:
        return len(self._videos)

    def _load(self, name: str, faults: Faults, remarks: _Remarks | None = None) -> VideoDetections:
        rows = self._conventions.applied(self._store.rows(name), self._facts, self._videos)
        if remarks is not None:
            remarks.take_in(rows)
            faults.columns = [*dict.fromkeys((*faults.columns, *rows.column_faults))]
        if not self._sound:
            rows = check(rows, self._facts, self._videos, faults)
        return assemble(rows, self._facts, faults)


class _Remarks:
    """What a reader should know of how a file was read, gathered over its videos."""

    def __init__(self, facts: DatasetFacts) -> None:
        self._facts = facts
        self._texts: dict[str, None] = {}
        self._labels: set[int] = set()
        self._shift, self._named = 0, False

    def take_in(self, rows: Rows) -> None:
        self._texts |= dict.fromkeys(rows.remarks)
        if rows.labels_n is not None:
            self._labels |= set(np.unique(rows.labels_n).tolist())
            self._shift, self._named = rows.label_shift, rows.named

    def texts(self) -> list[str]:
        labels = label_remark(self._labels, self._facts, self._shift, self._named)
        return [*([labels] if labels else []), *self._texts]


def read_detections(
    path: Path,
    facts: DatasetFacts,
    videos: Sequence[Video],
    *,
    lenient: bool = False,
    conventions: FileConventions | None = None,
) -> Detections:
    """Open a detections file of any known form and check every row of it.

    A Parquet file whose videos stand one after the other is read video by video, so that memory does not grow
    with the number of videos.

    Args:
        path: a file (.parquet, .csv, .pkl) or a folder of .txt files.
        facts: the classes and the frame numbering of the data set.
        videos: the videos that may occur; a row about another one is unsound.
        lenient: drop and count unsound rows instead of refusing the file.
        conventions: what the file counts from and measures in, where that is not what this module says.

    Raises:
        DetectionsError: names every kind of fault with the first row that has it, and what mends it.
    """
    path, known = Path(path), {video.id: video for video in videos}
    if not path.exists():
        raise DetectionsError(f"no detections at {path}; expected a file (.parquet, .csv, .pkl) or a folder of .txt")
    try:
        store = _open(path, facts, known)
        return Detections(facts, known, store, lenient=lenient, conventions=conventions or FileConventions())
    except DetectionsError as error:
        raise DetectionsError(f"{path}: {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DetectionsError(f"{path} is truncated or damaged: {error}") from error


class Store(Protocol):
    """Where the rows of a file wait: by video."""

    @property
    def names(self) -> Collection[str]: ...

    @property
    def remarks(self) -> Sequence[str]: ...

    def rows(self, name: str) -> Rows: ...


def _open(path: Path, facts: DatasetFacts, videos: Mapping[str, Video]) -> Store:
    if is_parquet(path):
        file = pq.ParquetFile(path)
        if not file.metadata.num_rows and b"written_by" not in (file.schema_arrow.metadata or {}):
            raise DetectionsError("the file has no rows")
        spans = _contiguous(file)
        ids = known_names(spans or (), videos)
        if spans is not None and len(set(ids.values())) == len(ids):
            return _FileStore(file, {ids[name]: span for name, span in spans.items()}, facts, _name_remarks(ids))
        return _MemoryStore(rows_of_table(file.read(), facts), videos)
    return _MemoryStore(read_rows(path, facts, videos), videos)


def _name_remarks(ids: Mapping[str, str]) -> list[str]:
    """ "videos by file name: 'a.mp4' is 'a', and 3 more", of name -> id."""
    others = [(name, video_id) for name, video_id in ids.items() if name != video_id]
    if not others:
        return []
    more = f", and {len(others) - 1} more" if len(others) > 1 else ""
    return [f"videos by file name: {others[0][0]!r} is {others[0][1]!r}{more}"]


def _contiguous(file: pq.ParquetFile) -> dict[str, tuple[int, int]] | None:
    """First and last + 1 row of each video; None where the rows of a video do not stand together."""
    spans: dict[str, tuple[int, int]] = {}
    if "video" not in file.schema_arrow.names:
        return None
    start, last = 0, None
    for batch in file.iter_batches(columns=["video"], batch_size=ROWS_PER_GROUP):
        names = np.asarray(batch.column(0).to_pandas(), dtype=object)
        edges = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
        for low, high in pairwise(edges):
            if low == high:  # a batch without rows
                continue
            name = names[low]
            if not isinstance(name, str) or (name in spans and name != last):
                return None
            spans[name], last = (spans.get(name, (start + low, 0))[0], start + high), name
        start += len(names)
    return spans


class _FileStore:
    """A Parquet file in which each video's rows stand together: one row group is held at a time."""

    def __init__(
        self, file: pq.ParquetFile, spans: Mapping[str, tuple[int, int]], facts: DatasetFacts, remarks: Sequence[str]
    ) -> None:
        self._file, self.names, self._facts, self.remarks = file, spans, facts, remarks
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._offsets = np.concatenate(([0], np.cumsum(counts)))
        self._held: tuple[int, pa.Table] | None = None

    def rows(self, name: str) -> Rows:
        start, stop = self.names[name]
        parts = []
        for group in range(int(np.searchsorted(self._offsets, start, "right")) - 1, len(self._offsets) - 1):
            low, high = self._offsets[group], self._offsets[group + 1]
            if low >= stop:
                break
            parts.append(self._group(group).slice(max(start - low, 0), min(stop, high) - max(start, low)))
        table = pa.concat_tables(parts)
        return rows_of_table(table, self._facts, video=name, first_row=start)

    def _group(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            self._held = (group, self._file.read_row_group(group))
        return self._held[1]


class _MemoryStore:
    """All rows, sorted by video."""

    def __init__(self, rows: Rows, videos: Mapping[str, Video]) -> None:
        if not len(rows):
            raise DetectionsError("the file has no rows")
        rows, self.remarks = _by_id(rows, videos)
        self._sorted = rows.take(np.argsort(rows.codes_n, kind="stable"))
        codes, starts = np.unique(self._sorted.codes_n, return_index=True)
        stops = [*starts[1:].tolist(), len(rows)]
        names = [rows.names[code] for code in codes]
        self.names = {name: (int(low), high) for name, low, high in zip(names, starts, stops, strict=True)}

    def rows(self, name: str) -> Rows:
        start, stop = self.names[name]
        return self._sorted.take(slice(start, stop))


def _by_id(rows: Rows, videos: Mapping[str, Video]) -> tuple[Rows, list[str]]:
    """The same rows under the ids that their names mean, and what to say of it."""
    ids = known_names(rows.names, videos)
    names = list(dict.fromkeys(ids.values()))
    place = {name: code for code, name in enumerate(names)}
    code_of = np.array([*(place[ids[name]] for name in rows.names), 0], np.int64)
    return replace(rows, names=names, codes_n=code_of[rows.codes_n]), _name_remarks(ids)
