"""AVA v2.1 and v2.2: films of which seconds 902 to 1798 are annotated once a second, with several labels a box.

Time counts from second 900 at 30 frames a second, which is how frame folders are cut: frame index = 30 (second - 900).
Boxes come in fractions of the frame; they are given in pixels of the film's frames where these are there, else the
film counts as 1 x 1 pixels and boxes stay fractions (plain-area IoU is the same; protocols with +1 areas need frames).

The training subset is the train csv, the test subset the validation csv: the truth of AVA's test films is not public.
A film's classes are ordered by their number of boxes, so that it is stratified by its most frequent action.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Truth, Video, VideoSource
from ssldet.errors import DataError
from ssldet.video import probe
from ssldet_datasets import facts
from ssldet_datasets.layouts import (
    ImageFolders,
    LayoutRow,
    checked_id,
    find_source,
    frame_layouts,
    open_root,
    source_bytes,
)

FIRST_SECOND, LAST_SECOND = 902, 1798
NUM_FRAMES = 900 * 30
VERSIONS = ("v2.2", "v2.1")

FRAMES: tuple[LayoutRow, ...] = (("frames", ImageFolders), ("rawframes", ImageFolders))

GUIDE = """\
How to get AVA: the annotation (ava_v2.2.zip) from research.google.com/ava; the films from its list of mirrors, cut to
frames at 30 per second from second 900; put them into one folder ava/:
    ava/frames/<film>/<film>_000001.jpg            (or rawframes/<film>/img_00001.jpg)
    ava/ava_train_v2.2.csv, ava/ava_val_v2.2.csv   (v2.1 is read too; also below annotations/)
    ava/ava_train_excluded_timestamps_v2.2.csv, ava/ava_val_excluded_timestamps_v2.2.csv
then name it, or the folder that holds it, with --data-root (or SSLDET_DATA)."""

PARTS: Mapping[Subset, str] = {"train": "train", "test": "val"}

BoxKey = tuple[int, tuple[float, ...], str]
"""Second, box in fractions of the frame, person."""


@dataclass(frozen=True, slots=True)
class Film:
    """The annotation of one film: the labels of each box, and the seconds that are not to be scored."""

    rows: Mapping[BoxKey, set[int]]
    excluded: frozenset[int]


class AVA(Dataset):
    """AVA below `root` (or `root`/ava). Ids are the films' YouTube ids. Truth needs the annotation only.

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.AVA

    def __init__(self, root: Path | None = None) -> None:
        folders = ("", "annotations/")
        kinds = ("train", "val", "train_excluded_timestamps", "val_excluded_timestamps")
        marks = [f"{folder}ava_{kind}_{version}.csv" for folder in folders for kind in kinds for version in VERSIONS]
        self.root = open_root(root, ("ava", "AVA"), marks, GUIDE)
        self.layouts = frame_layouts(self.root, FRAMES)
        self._parts: dict[str, Mapping[str, Film]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        if split != 1:
            raise DataError(f"AVA has one split, 1; asked for {split}")
        films = self._part(PARTS[subset])
        return [self._video(film, films[film]) for film in sorted(films)]

    def truth(self, video_id: str) -> Truth:
        film = self._film(video_id)
        width, height = self._size(video_id)
        boxes = sorted(film.rows)
        labels_nk = np.zeros((len(boxes), self.facts.num_classes), bool)
        for row, key in enumerate(boxes):
            labels_nk[row, list(film.rows[key])] = True
        fractions_n4 = np.array([box for _, box, _ in boxes], np.float64).reshape(-1, 4)
        seconds = np.setdiff1d(np.arange(FIRST_SECOND, LAST_SECOND + 1), sorted(film.excluded))
        to_index = self.facts.numbering.to_index
        return Truth(
            frames_n=np.array([to_index(second) for second, _, _ in boxes], np.int64),
            boxes_n4=(fractions_n4 * (width, height, width, height)).astype(np.float32),
            labels_nk=labels_nk,
            tubes_n=np.full(len(boxes), -1, np.int64),
            key_frames_m=np.array([to_index(int(second)) for second in seconds], np.int64),
        )

    def source(self, video_id: str) -> VideoSource:
        source = find_source(self.layouts, checked_id(video_id, self.root))
        if source is None:
            looked = ", ".join(str(layout.expected(video_id)) for layout in self.layouts) or self.root / FRAMES[0][0]
            raise DataError(f"no frames of AVA film {video_id}; looked for {looked}.\n{GUIDE}")
        return source

    def fingerprint(self) -> str:
        return self._fingerprint

    def verify(self, split: int = 1) -> list[Problem]:
        return list(self._problems(split))

    # ------------------------------------------------------------------------------------------------ reading

    def _csv(self, part: str) -> Path:
        """The annotation of a part, newest version first; a file cut short may say so behind its version."""
        folders = (self.root, self.root / "annotations")
        found = (path for v in VERSIONS for f in folders for path in sorted(f.glob(f"ava_{part}_{v}*.csv")))
        path = next(found, None)
        if path is None:
            raise DataError(f"no AVA annotation ava_{part}_v2.2.csv or v2.1; looked in {self.root}.\n{GUIDE}")
        return path

    def _excluded_csv(self, part: str) -> Path:
        path = self._csv(part)
        version = next(v for v in VERSIONS if v in path.name)
        return path.with_name(f"ava_{part}_excluded_timestamps_{version}.csv")

    def _part(self, part: str) -> Mapping[str, Film]:
        if part not in self._parts:
            excluded = self._excluded_csv(part)
            dropped = read_excluded(excluded) if excluded.is_file() else {}  # verify says that it is absent
            self._parts[part] = read_films(self._csv(part), dropped)
        return self._parts[part]

    def _film(self, video_id: str) -> Film:
        for part in PARTS.values():
            try:
                films = self._part(part)
            except DataError:
                continue  # a user may hold the validation part only
            if video_id in films:
                return films[video_id]
        raise DataError(f"AVA has no annotation of a film {video_id}")

    def _video(self, video_id: str, film: Film) -> Video:
        boxes = Counter(label for labels in film.rows.values() for label in labels)
        classes = sorted(boxes, key=lambda label: (-boxes[label], label))
        return Video(video_id, NUM_FRAMES, *self._size(video_id), tuple(classes))

    def _size(self, video_id: str) -> tuple[int, int]:
        """Width and height of a film's frames; (1, 1) without them."""
        if video_id not in self._sizes:
            source = find_source(self.layouts, checked_id(video_id, self.root))
            info = probe(source) if source is not None else None
            self._sizes[video_id] = (info.width, info.height) if info else (1, 1)
        return self._sizes[video_id]

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"ava")
        films: set[str] = set()
        for part in PARTS.values():
            try:
                files = [self._csv(part), self._excluded_csv(part)]
            except DataError:
                continue
            films.update(self._part(part))
            digest.update(b"".join(path.read_bytes() for path in files if path.is_file()))
        for film in sorted(films):
            digest.update(repr((film, list(source_bytes(find_source(self.layouts, film))))).encode())
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------------- verifying

    def _problems(self, split: int) -> Iterator[Problem]:
        if split != 1:
            yield Problem(f"AVA has one split, 1; asked for {split}")
        if not self.layouts:
            yield Problem("no folder with frames", f"{self.root}", GUIDE)
        for part in PARTS.values():
            try:
                films, excluded = self._part(part), self._excluded_csv(part)
            except DataError as error:
                yield Problem(str(error))
                continue
            if not excluded.is_file():
                yield Problem(f"no excluded timestamps of {part}", f"{excluded}", "they come with the annotation")
            for film in sorted(films):
                yield from self._problems_of(film)

    def _problems_of(self, film: str) -> Iterator[Problem]:
        if not self.layouts:
            return
        source, expected = find_source(self.layouts, film), f"{self.layouts[0].expected(film)}"
        if source is None:
            yield Problem(f"no frames of {film}", expected, "cut the film to frames, 30 a second from second 900")
        elif len(source.images) <= self.facts.numbering.to_index(LAST_SECOND):
            what = f"{film} has {len(source.images)} frames; its last key frame is number "
            yield Problem(what + f"{self.facts.numbering.to_index(LAST_SECOND) + 1}", expected, "cut it again")


def read_films(path: Path, excluded: Mapping[str, frozenset[int]]) -> dict[str, Film]:
    """The films of `video,timestamp,x1,y1,x2,y2,action,person` rows, less those at excluded seconds.

    A row without box and action says that nobody is in the frame.

    Raises:
        DataError: the file cannot be read, or a row is not of this form.
    """
    rows: dict[str, dict[BoxKey, set[int]]] = defaultdict(lambda: defaultdict(set))
    for number, row in enumerate(_read_csv(path), 1):
        try:
            film, second, *rest = row
            key, label = (int(second), tuple(map(float, rest[:4])), rest[5] if len(rest) > 5 else ""), int(rest[4]) - 1
        except (ValueError, IndexError) as error:
            if len(row) >= 2 and not any(row[2:]):
                rows.setdefault(checked_id(row[0], path), defaultdict(set))
                continue
            raise DataError(f"{path}, line {number}: expected film,second,x1,y1,x2,y2,action,person") from error
        _check_row(key, label, f"{path}, line {number}")
        if key[0] not in excluded.get(film, ()):
            rows[checked_id(film, path)][key].add(label)
    return {film: Film(dict(boxes), excluded.get(film, frozenset())) for film, boxes in rows.items()}


def read_excluded(path: Path) -> dict[str, frozenset[int]]:
    """Film -> seconds that are not to be scored, from `video,timestamp` rows.

    Raises:
        DataError: the file cannot be read, or a row is not of this form.
    """
    seconds: dict[str, set[int]] = defaultdict(set)
    for number, row in enumerate(_read_csv(path), 1):
        if len(row) != 2 or not row[1].isdecimal():
            raise DataError(f"{path}, line {number}: expected film,second")
        seconds[row[0]].add(int(row[1]))
    return {film: frozenset(values) for film, values in seconds.items()}


def _check_row(key: BoxKey, label: int, where: str) -> None:
    second, box, _ = key
    if not FIRST_SECOND <= second <= LAST_SECOND:
        raise DataError(f"{where}: second {second} is outside {FIRST_SECOND} to {LAST_SECOND}")
    if not all(0 <= edge <= 1 for edge in box) or box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(f"{where}: {box} is no box in fractions of the frame")
    if not 0 <= label < facts.AVA.num_classes:
        raise DataError(f"{where}: action {label + 1} is outside 1 to {facts.AVA.num_classes}")


def _read_csv(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [row for row in csv.reader(stream) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
