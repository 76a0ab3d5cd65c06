"""AVA v2.1 and v2.2: films of which seconds 902 to 1798 are annotated once a second, with several labels a box.

Time counts from second 900 at 30 frames a second, which is how frame folders are cut: frame index = 30 (second - 900).
Films are the 15-minute clips from second 900; of another frame rate they are sampled by presentation time. A film ends
with its last second that is scored.
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
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Options, Problem, Subset, Truth, Video, VideoSource
from ssldet.data.video import frame_size
from ssldet.errors import DataError
from ssldet_datasets import facts
from ssldet_datasets.layouts import (
    ImageFolders,
    LayoutRow,
    VideoFiles,
    checked_id,
    describe,
    find_source,
    inside,
    source_bytes,
)
from ssldet_datasets.published import PublishedDataset
from ssldet_datasets.tube_files import read_lines

FIRST_SECOND, LAST_SECOND = 902, 1798
FPS = 30
MAX_FRAME_ROWS = 20_000_000
MAX_ROWS = 5_000_000
"""A csv of more rows is refused: the training films have 0.9 million."""
VERSIONS = ("v2.2", "v2.1")


@dataclass(frozen=True)
class ListedFrames:
    """frame_lists/{train,val}.csv: rows `film number frame path labels`, paths below frames/."""

    folder: Path
    words: ClassVar[str] = "frames"

    def source(self, video_id: str) -> VideoSource | None:
        paths = _frame_lists(self.folder).get(video_id, [])
        frames = self.folder.parent / "frames"
        images = tuple(inside(frames / checked_id(path, self.folder), frames) for path in paths)
        return VideoSource(images=images) if images and images[0].is_file() else None

    def expected(self, video_id: str) -> Path:
        return self.folder.parent / "frames" / video_id


def _film_files(folder: Path) -> VideoFiles:
    return VideoFiles(folder, (".mkv", ".mp4", ".webm", ".avi"), rate=FPS)


FRAMES: tuple[LayoutRow, ...] = (
    ("frames", ImageFolders),
    ("rawframes", ImageFolders),
    ("videos_15min", _film_files),
    ("videos", _film_files),
    ("films", _film_files),
    ("frame_lists", ListedFrames),
)

GUIDE = """\
How to get AVA: the annotation (ava_v2.2.zip, CC BY 4.0) from research.google.com/ava; the 299 films from its list of
mirrors (their rights are their owners'), cut to the 15 minutes from second 900 or to frames of these at 30 a second
(500 GB at full size, 100 GB at 340 x 256); put them into one folder ava/:
    ava/frames/<film>/<film>_000001.jpg            (or rawframes/<film>/img_00001.jpg, or videos/<film>.mkv or .mp4)
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

    @property
    def scored_seconds(self) -> np.ndarray:
        return np.setdiff1d(np.arange(FIRST_SECOND, LAST_SECOND + 1), sorted(self.excluded))

    @property
    def num_frames(self) -> int:
        """Up to the last second that is scored, at 30 a second from second 900."""
        return facts.AVA.numbering.to_index(int(max(self.scored_seconds, default=FIRST_SECOND))) + 1


KINDS = ("train", "val", "train_excluded_timestamps", "val_excluded_timestamps")
MARKS = tuple(
    f"{folder}ava_{kind}_{version}.csv" for folder in ("", "annotations/") for kind in KINDS for version in VERSIONS
)


class AVA(PublishedDataset):
    """AVA below `root` (or `root`/ava). Ids are the films' YouTube ids. Truth needs the annotation only.

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.AVA
    reported: ClassVar[Mapping[str, str]] = {
        "annotated actions per frame": "multiple",
        "actions per frame": "multiple",
        "background people": "no",
        "densely annotated": "yes",
    }

    root_names = ("ava", "AVA")
    marks = MARKS
    frames = FRAMES
    video_name = "AVA film"
    guide_text = GUIDE

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self._parts: dict[str, Mapping[str, Film]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        from ssldet_datasets.stand_ins import write_ava

        write_ava(folder, seed)

    def layout(self) -> str:
        csv_names = [path.name for part in PARTS.values() if (path := self._find_csv(part)) is not None]
        return f"annotation: {', '.join(csv_names) or 'none'}\n{describe(self.layouts, self.root)}"

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
        seconds = film.scored_seconds
        to_index = self.facts.numbering.to_index
        return Truth(
            frames_n=np.array([to_index(second) for second, _, _ in boxes], np.int64),
            boxes_n4=(fractions_n4 * (width, height, width, height)).astype(np.float32),
            labels_nk=labels_nk,
            tubes_n=np.full(len(boxes), -1, np.int64),
            key_frames_m=np.array([to_index(int(second)) for second in seconds], np.int64),
        )

    # ------------------------------------------------------------------------------------------------ reading

    def _csv(self, part: str) -> Path:
        """The annotation of a part, newest version first; a file cut short may say so behind its version."""
        path = self._find_csv(part)
        if path is None:
            raise DataError(f"no AVA annotation ava_{part}_v2.2.csv or v2.1; looked in {self.root}.\n{GUIDE}")
        return path

    def _find_csv(self, part: str) -> Path | None:
        folders = (self.root, self.root / "annotations")
        csv_paths = (path for v in VERSIONS for f in folders for path in sorted(f.glob(f"ava_{part}_{v}*.csv")))
        return next(csv_paths, None)

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
        return Video(video_id, film.num_frames, *self._size(video_id), tuple(classes), group=video_id)

    def _size(self, video_id: str) -> tuple[int, int]:
        """Width and height of a film's frames; (1, 1) without them."""
        if video_id not in self._sizes:
            source = find_source(self.layouts, checked_id(video_id, self.root))
            self._sizes[video_id] = frame_size(source) if source is not None else (1, 1)
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
                yield from self._problems_of(film, films[film].num_frames)

    def _problems_of(self, film: str, num_frames: int) -> Iterator[Problem]:
        if not self.layouts:
            return
        expected = f"{self.layouts[0].expected(film)}"
        try:
            source = find_source(self.layouts, film)
            if source is not None:
                frame_size(source)
        except DataError as error:
            yield Problem(str(error), expected, "cut the film again", film)
            return
        if source is None:
            yield Problem(f"no frames of {film}", expected, "cut the film to frames, 30 a second from second 900", film)
        elif source.images and len(source.images) < num_frames:
            what = f"{film} has {len(source.images)} frames; its last key frame is number {num_frames}"
            yield Problem(what, expected, "cut it again", film)


@lru_cache(maxsize=2)
def _frame_lists(folder: Path) -> dict[str, list[str]]:
    """Film -> its frames' paths, from the lists of both parts. Raises DataError."""
    frames: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("*.csv")):
        for number, line in enumerate(read_lines(path, most=MAX_FRAME_ROWS), 1):
            fields = line.split(" ")
            if len(fields) < 4:
                raise DataError(f"{path}, line {number}: expected film, number, frame, path and labels between spaces")
            if fields[2].isdecimal():  # else the heading
                frames[fields[0]].append(fields[3].strip('"'))
    return frames


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
        if not FIRST_SECOND - 2 <= int(row[1][:6]) <= LAST_SECOND + 2:
            raise DataError(f"{path}, line {number}: second {row[1][:20]} is outside {FIRST_SECOND} to {LAST_SECOND}")
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
            rows = [row for row in islice(csv.reader(stream), MAX_ROWS + 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(rows) > MAX_ROWS:
        raise DataError(f"{path}: more than {MAX_ROWS} rows")
    return rows
