"""What a trained detector finds in videos of any kind: annotated videos, a detections file and a list of tubes.

inputs_of(paths)                       the videos that files and folders stand for
predict(trained, inputs, options)      all of it in one call, on one device or on several
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import shutil
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssldet.contracts import DatasetFacts, FrameNumbering, VideoSource
from ssldet.data.video import SUFFIXES, frame_rate, frame_size, probe
from ssldet.errors import DataError, RequestError, SsldetError
from ssldet.evaluation.detection_rows import empty
from ssldet.evaluation.detections import DetectionsWriter, join_detections
from ssldet.evaluation.prediction import TubeLinker, TubeOptions, detect_in
from ssldet.ops.tubes import Tube
from ssldet.report.annotated_video import USUAL_RATE, annotate_video
from ssldet.runs.network import TrainedDetector
from ssldet.util.files import write_text
from ssldet.util.interrupts import leave_signals_to_parent
from ssldet.util.temporary import keep_sockets_apart

DETECTIONS, TUBES = "detections.parquet", "tubes.csv"
TUBE_COLUMNS = ("video", "tube", "class", "score", "first", "last", "from_second", "to_second")

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and the id of the video at hand; a frame is a step of each pass over it."""


@dataclass(frozen=True, slots=True)
class VideoInput:
    """A file to look at, and the id of its video: its path below the folder that was named, without the suffix."""

    id: str
    file: Path

    @property
    def source(self) -> VideoSource:
        """Where its frames lie."""
        return VideoSource(file=self.file)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What is written.

    Attributes:
        out: the folder that results go to.
        tubes: which tubes are kept and drawn.
        annotate: whether annotated videos are written.
    """

    out: Path
    tubes: TubeOptions = field(default_factory=TubeOptions)
    annotate: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class PredictedVideo:
    """What was found in one video.

    Attributes:
        id, file: which one.
        frames, rate: how many it has, and how many a second.
        size: (width, height) of its upright frames.
        boxes: rows in the detections file.
        tubes: by falling score.
        annotated: the video with its tubes drawn; None where none was asked for.
        seconds: how long it took.
    """

    id: str
    file: Path
    frames: int
    rate: float
    size: tuple[int, int]
    boxes: int
    tubes: tuple[Tube, ...]
    annotated: Path | None
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was found in all videos.

    Attributes:
        facts: names of the classes.
        videos: those that were looked at, in the order asked for.
        failed: id -> why a video could not be looked at.
        detections, tubes: the files that were written.
    """

    facts: DatasetFacts
    videos: tuple[PredictedVideo, ...]
    failed: Mapping[str, str]
    detections: Path
    tubes: Path


# ---------------------------------------------------------------------------------------------------- inputs


def inputs_of(paths: Sequence[Path], out: Path) -> list[VideoInput]:
    """The videos that files and folders stand for; folders are gone through to any depth, but for `out`.

    Raises:
        DataError: a path does not exist, or a folder holds no video.
        RequestError: two videos have one id, or results would replace a video.
    """
    inputs = [found for path in paths for found in _below(path, out)]
    files: dict[str, Path] = {}
    for found in inputs:
        if files.setdefault(found.id, found.file) != found.file:
            raise RequestError(
                f"{files[found.id]} and {found.file} are both the video {found.id!r}: name the folder that holds both, "
                "or give each a call and an --out of its own"
            )
        if annotated_path(out, found.id).resolve() == found.file.resolve():
            raise RequestError(f"{found.file} would be replaced by its annotated video; name another folder with --out")
    return [VideoInput(video_id, file) for video_id, file in files.items()]


def _below(path: Path, out: Path) -> Iterator[VideoInput]:
    if path.is_file():
        yield VideoInput(_id_of(Path(path.name)), path)
        return
    if not path.is_dir():
        raise DataError(f"{path}: no such video or folder")
    left_out = out.resolve()
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    files = [file for file in files if not file.resolve().is_relative_to(left_out)]
    if not files:
        raise DataError(f"{path}: no video in this folder or below it; their names end in {', '.join(SUFFIXES)}")
    yield from (VideoInput(_id_of(file.relative_to(path)), file) for file in files)


def _id_of(path: Path) -> str:
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def annotated_path(out: Path, video_id: str) -> Path:
    """Where the annotated video lies."""
    return out / f"{video_id}.mp4"


# --------------------------------------------------------------------------------------------------- one video


class Predictor:
    """A trained detector on its device, applied to one video after another."""

    def __init__(self, trained: TrainedDetector, options: PredictOptions, device: torch.device) -> None:
        self.network, self.options, self.device = trained.network, options, device
        self.facts = replace(trained.network.facts, numbering=FrameNumbering())  # of any video, not of AVA's films
        self.detector = trained.detector.to(device)

    def predict(self, video: VideoInput, part: Path, on_step: Callable[[int], None]) -> PredictedVideo:
        """Look at one video: detections into `part`, its tubes into the annotated video.

        Args:
            video: the file.
            part: the detections file of this video alone.
            on_step: hears how many steps are done: frames detected in and frames drawn.

        Raises:
            DecodeError: it does not decode. RequestError: the annotated video cannot be written.
        """
        began = time.perf_counter()
        linker, frames, boxes = TubeLinker(self.facts, self.options.tubes), 0, 0
        with DetectionsWriter(part, self.facts) as writer:
            writer.add(video.id, empty(self.facts))
            for frames, detected in self._detect(video):
                writer.extend(video.id, detected)
                linker.add(detected)
                boxes += len(detected)
                on_step(frames)
        tubes = linker.tubes(frames)
        annotated = None
        if self.options.annotate:
            annotated = annotated_path(self.options.out, video.id)
            annotate_video(video.source, tubes, self.facts, annotated, lambda done: on_step(frames + done))
        return PredictedVideo(
            id=video.id,
            file=video.file,
            frames=frames,
            rate=float(frame_rate(video.source) or USUAL_RATE),
            size=frame_size(video.source),
            boxes=boxes,
            tubes=tuple(tubes),
            annotated=annotated,
            seconds=time.perf_counter() - began,
        )

    def _detect(self, video: VideoInput) -> Iterator[tuple[int, Any]]:
        network = self.network
        return detect_in(
            self.detector,
            video.source,
            network.clip,
            network.detect,
            device=self.device,
            autocast=network.precision == "bfloat16",
        )


# -------------------------------------------------------------------------------------------------- all videos


def predict(
    trained: TrainedDetector,
    inputs: Sequence[VideoInput],
    options: PredictOptions,
    devices: Sequence[torch.device],
    progress: Progress = lambda done, total, video: None,
) -> Predictions:
    """Look at videos, and write what was found. A video that does not decode is named, and the others go on.

    Args:
        trained: the detector.
        inputs: the videos.
        options: what is written, and where.
        devices: with several, each has a process of its own and takes the next video when it is done with one.
        progress: hears how far it is; with several devices whenever a video is done.

    Raises:
        RequestError: nothing can be written to the folder.
    """
    work = _Work(inputs, 2 if options.annotate else 1, progress)
    facts = replace(trained.network.facts, numbering=FrameNumbering())
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".predict-", dir=options.out))
    try:
        outcomes = _here if len(devices) == 1 else _in_processes
        for place, outcome in outcomes(trained, options, devices, work, folder):
            work.outcomes[place] = outcome
        parts = [
            _part(folder, place) for place in range(len(inputs)) if isinstance(work.outcomes[place], PredictedVideo)
        ]
        join_detections(parts, options.out / DETECTIONS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    videos = tuple(done for _, done in sorted(work.outcomes.items()) if isinstance(done, PredictedVideo))
    write_text(options.out / TUBES, tubes_as_csv(videos, facts))
    failed = {inputs[place].id: why for place, why in sorted(work.outcomes.items()) if isinstance(why, str)}
    return Predictions(facts, videos, failed, options.out / DETECTIONS, options.out / TUBES)


Outcome = PredictedVideo | str
"""What was found in a video, or why it could not be looked at."""


@dataclass(slots=True)
class _Work:
    """The videos, how many steps each is, and what became of those that are done."""

    inputs: Sequence[VideoInput]
    passes: int
    progress: Progress
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    steps: list[int] = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.steps = [self.passes * _frames(video) for video in self.inputs]

    def at(self, place: int, step: int) -> None:
        """So many steps of a video are done."""
        self.progress(min(self.done + step, sum(self.steps)), sum(self.steps), self.inputs[place].id)

    def finished(self, place: int) -> None:
        """A video is done, as far as it goes."""
        self.done += self.steps[place]
        self.at(place, 0)


def _frames(video: VideoInput) -> int:
    try:
        return probe(video.source).frames
    except DataError:  # which is said when its turn comes
        return 0


def _part(folder: Path, place: int) -> Path:
    return folder / f"{place}.parquet"


def _here(
    trained: TrainedDetector, options: PredictOptions, devices: Sequence[torch.device], work: _Work, folder: Path
) -> Iterator[tuple[int, Outcome]]:
    """One video after another in this process."""
    predictor = Predictor(trained, options, devices[0])
    for place, video in enumerate(work.inputs):
        try:
            yield place, predictor.predict(video, _part(folder, place), partial(work.at, place))
        except DataError as error:
            yield place, str(error)
        work.finished(place)


# ------------------------------------------------------------------------------------------- on several devices

_predictors: list[Predictor] = []
"""In a process of a device: the one that it has."""


def _in_processes(
    trained: TrainedDetector, options: PredictOptions, devices: Sequence[torch.device], work: _Work, folder: Path
) -> Iterator[tuple[int, Outcome]]:
    """A process a device; each takes the next video when it is done with one."""
    keep_sockets_apart()
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for device in devices:
        free.put(str(device))
    threads = max(1, torch.get_num_threads() // len(devices))
    with ProcessPoolExecutor(
        len(devices), mp_context=context, initializer=_start, initargs=(trained, options, free, threads)
    ) as pool:
        places = {
            pool.submit(_predict_there, video, _part(folder, place)): place for place, video in enumerate(work.inputs)
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
                work.finished(places[future])
        except BrokenProcessPool as error:
            raise SsldetError("a process of a device died, perhaps for memory; use fewer --devices") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(trained: TrainedDetector, options: PredictOptions, free: Any, threads: int) -> None:
    leave_signals_to_parent()
    torch.set_num_threads(threads)
    _predictors.append(Predictor(trained, options, torch.device(free.get())))


def _predict_there(video: VideoInput, part: Path) -> Outcome:
    try:
        return _predictors[0].predict(video, part, lambda step: None)
    except DataError as error:
        return str(error)


# ------------------------------------------------------------------------------------------------------- tubes


def tube_rows(video: PredictedVideo, facts: DatasetFacts) -> list[dict[str, Any]]:
    """The tubes of a video as plain data: frames count from 1, seconds from 0, to the end of a tube's last frame."""
    return [
        dict(zip(TUBE_COLUMNS, (video.id, number, facts.classes[tube.label], *_times(tube, video.rate)), strict=True))
        for number, tube in enumerate(video.tubes)
    ]


def _times(tube: Tube, rate: float) -> tuple[float, int, int, float, float]:
    """Score, first and last frame, and the seconds that they last from and to."""
    first, last = int(tube.frames_t[0]), int(tube.frames_t[-1])
    return round(tube.score, 4), first + 1, last + 1, round(first / rate, 3), round((last + 1) / rate, 3)


def tubes_as_csv(videos: Sequence[PredictedVideo], facts: DatasetFacts) -> str:
    """The rows of `tube_rows` of all videos, under a heading."""
    text = io.StringIO()
    table = csv.DictWriter(text, TUBE_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(row for video in videos for row in tube_rows(video, facts))
    return text.getvalue()


def class_counts(video: PredictedVideo, facts: DatasetFacts) -> dict[str, int]:
    """Class -> how many tubes a video has, the most frequent class first."""
    return dict(Counter(facts.classes[tube.label] for tube in video.tubes).most_common())
