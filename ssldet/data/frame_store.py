"""Decoded frames at the training size, kept on disk and shared by all runs on the same data.

One `.npy` per video below `<cache>/frames/<data set>-<size>-<fingerprint>/`, memory-mapped when read, so that a clip
costs the bytes it touches and several processes share one copy in memory. Frames are stored square: a video of another
shape is squeezed, as YOWO does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ssldet.contracts import Dataset, Video, VideoSource
from ssldet.data.decode_pool import Job, run_jobs
from ssldet.data.video import read_frames
from ssldet.errors import DataError, DecodeError
from ssldet.util.cache import cache_root, safe_name
from ssldet.util.files import replacing

Progress = Callable[[int, int], None]
"""Called with (videos ready, videos wanted)."""

HEADER_BYTES = 128
"""What a .npy file of four dimensions has before its numbers."""

POLL_SECONDS = 0.5
"""How often a run looks whether another run has decoded what both need."""


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What `prepare` found.

    Attributes:
        decoded: videos that this call decoded; the others were there.
        short: video id -> (decoded, annotated) frames, where the file has fewer and frames were repeated.
        skipped: ids of the videos that do not decode.
    """

    decoded: int = 0
    short: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class FrameStore:
    """The frames of a data set at `size` x `size` pixels.

    Args:
        dataset: gives name, fingerprint and where frames lie.
        size: side of a stored frame, pixels.
        folder: where all stores lie; None means the cache folder (`SSLDET_CACHE`, else the user's).
    """

    def __init__(self, dataset: Dataset, size: int, folder: Path | None = None) -> None:
        self.dataset, self.size = dataset, size
        key = f"{dataset.facts.name}-{size}-{dataset.fingerprint()[:16]}"
        self.folder = (folder or cache_root() / "frames") / key

    def missing(self, videos: Sequence[Video]) -> list[Video]:
        """The videos whose frames are not here, or not whole."""
        return [video for video in videos if not self._is_whole(video)]

    def bytes_needed(self, videos: Sequence[Video]) -> int:
        """Disk that `prepare(videos)` would take, beyond what is taken already."""
        return sum(self._frame_bytes(video) for video in self.missing(videos))

    def prepare(
        self,
        videos: Sequence[Video],
        workers: int = 1,
        progress: Progress | None = None,
        skip_damaged: bool = False,
    ) -> PrepareReport:
        """Decode what is missing, in `workers` processes (1: in this one).

        Of several runs that need the same videos one decodes; the others wait, showing its progress, and take over
        should it stop. Each video that does not decode is tried again by the next call.

        Raises:
            DecodeError: naming every video that does not decode, after all others are done, unless `skip_damaged`.
            DataError: the store cannot be written.
        """
        report = progress or (lambda done, total: None)
        decoded, damaged = 0, dict[str, DataError]()
        with self._turn(videos, report) as missing:
            for video_id, error in self._decode(missing, workers):
                decoded += error is None
                if error is not None:
                    damaged[video_id] = error
                report(len(videos) - len(missing) + decoded + len(damaged), len(videos))
        if damaged and not skip_damaged:
            raise _damage(damaged)
        return PrepareReport(decoded, self._short(videos), tuple(sorted(damaged)))

    def frames(self, video_id: str) -> np.ndarray:
        """The frames of one video, (t, size, size, 3) uint8, memory-mapped and read-only.

        Raises:
            DataError: they are not in the store.
        """
        path = self._path(video_id)
        try:
            return _open_frames(str(path))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"no frames of {video_id} in the store ({error}); prepare() puts them there") from error

    def _path(self, video_id: str) -> Path:
        return self.folder / f"{safe_name(video_id)}.npy"

    def _frame_bytes(self, video: Video) -> int:
        return int(video.num_frames) * self.size * self.size * 3

    def _is_whole(self, video: Video) -> bool:
        try:
            return self._path(video.id).stat().st_size == HEADER_BYTES + self._frame_bytes(video)
        except FileNotFoundError:
            return False

    def _short(self, videos: Sequence[Video]) -> dict[str, tuple[int, int]]:
        notes = {path.name for path in self.folder.glob("*.short.json")}
        paths = {video.id: _short_note(self._path(video.id)) for video in videos}
        return {key: tuple(json.loads(path.read_text())) for key, path in paths.items() if path.name in notes}

    @contextmanager
    def _turn(self, videos: Sequence[Video], report: Progress) -> Iterator[list[Video]]:
        """Wait until nothing is missing or it is this run's turn to decode; gives what is still missing then."""
        missing = self.missing(videos)
        if not missing:
            yield []
            return
        lock = self._lock()
        while missing and not _acquired(lock):
            report(len(videos) - len(missing), len(videos))
            time.sleep(POLL_SECONDS)
            missing = self.missing(missing)
        try:
            if lock.is_locked:
                self._sweep()
            yield self.missing(missing)
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what a killed run left; only the holder of the lock writes, so nothing else is there to be lost."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def _lock(self) -> FileLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return FileLock(self.folder / "decoding.lock")
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _decode(self, videos: Sequence[Video], workers: int) -> Iterator[tuple[str, DataError | None]]:
        """(id, what is wrong with it) of each video, as it is done."""
        jobs: list[Job] = []
        for video in videos:
            try:
                source = self.dataset.source(video.id)
            except DataError as error:
                yield video.id, error
                continue
            jobs.append((video.id, (source, video.num_frames, self.size, self._path(video.id))))
        yield from run_jobs(decode_to_file, jobs, min(workers, len(jobs)))


def decode_to_file(source: VideoSource, num_frames: int, size: int, path: Path) -> DataError | None:
    """Decode one video into `path`; gives the error of a video that does not decode.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        video = read_frames(source, num_frames, (size, size))
    except DecodeError as error:
        return error
    try:
        if video.decoded < num_frames:  # noted first: who sees the frames must see the note
            with replacing(_short_note(path)) as temporary:
                temporary.write_text(json.dumps([video.decoded, int(num_frames)]))
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, video.frames_thwc, allow_pickle=False)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return None


@lru_cache(maxsize=256)  # each open map holds a file descriptor, of which a process has about a thousand
def _open_frames(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _short_note(path: Path) -> Path:
    return path.with_suffix(".short.json")


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:  # is an OSError too
        return False
    except OSError as error:
        raise _unwritable(Path(lock.lock_file).parent, error) from error
    return True


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write decoded frames to {folder} ({error.strerror}); "
        "make room, or set SSLDET_CACHE to a folder that can be written"
    )


def _damage(damaged: dict[str, DataError], shown: int = 5) -> DecodeError:
    lines = [f"  {video_id}: {error}" for video_id, error in sorted(damaged.items())[:shown]]
    more = [f"  and {len(damaged) - shown} more"] if len(damaged) > shown else []
    return DecodeError("\n".join([f"{len(damaged)} videos do not decode (skip them, or mend them):", *lines, *more]))
