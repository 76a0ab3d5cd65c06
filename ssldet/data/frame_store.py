"""Decoded frames at the training size, kept on disk and shared by all runs on the same data.

One file per video below `<cache>/frames/<data set>-<size>[-jpeg<quality>]-<fingerprint>/`, in one of the forms of
`stored_frames`, memory-mapped when read, so that a clip costs the bytes it touches and several processes share one copy
in memory. Frames are stored square: a video of another shape is squeezed, as YOWO does.

Many processes read, one writes: who holds `decoding.lock` decodes what is missing, video by video, each file whole or
not at all, and `decoding.json` says who that is. A store that is stopped half-way goes on with the videos it lacks.
The lock saves work and nothing hangs on it: on a network file system that does not honour it, or has none, two
processes may decode the same video, and the later of two equal files takes the place of the earlier.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ssldet.contracts import Dataset, Video, VideoSource
from ssldet.data.batches import ClipOptions
from ssldet.data.decode_pool import Job, run_jobs
from ssldet.data.stored_frames import DEFAULT_QUALITY, Form, PackedForm, RawForm, StoredFrames
from ssldet.errors import DataError, DecodeError
from ssldet.util.cache import cache_root, safe_name
from ssldet.util.files import write_json

Progress = Callable[[int, int], None]
"""Called with (videos ready, videos wanted)."""

POLL_SECONDS = 0.5
"""How often a run looks whether another run has decoded what both need."""

STALL_SECONDS = 1800.0
"""A run that waits for another one gives up when this long no video was added; a film takes minutes."""


LEFTOVER_SECONDS = 3600.0
"""Halves of files are left by killed runs when nobody has touched them for so long; no video takes so long to write."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems without locks say."""


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
        form: how they are stored; None means raw.
    """

    def __init__(self, dataset: Dataset, size: int, folder: Path | None = None, form: Form | None = None) -> None:
        self.dataset, self.size, self.form = dataset, size, form or RawForm(size)
        words = [dataset.facts.name, str(size), self.form.name, dataset.fingerprint()[:16]]
        self.folder = (folder or cache_root() / "frames") / "-".join(filter(None, words))

    @classmethod
    def for_clips(cls, dataset: Dataset, clip: ClipOptions, folder: Path | None = None) -> Self:
        """The store that a run with these clips reads: raw, or packed where `clip.jpeg_quality` says so."""
        if clip.jpeg_quality is None:
            return cls(dataset, clip.size, folder)
        step, offsets = dataset.facts.numbering.step, clip.offsets.tolist()
        return cls(dataset, clip.size, folder, PackedForm(clip.size, clip.jpeg_quality, step, tuple(offsets)))

    def __getstate__(self) -> dict[str, Any]:
        """What reading needs: a process that reads clips gets no data set, which need not be picklable."""
        return vars(self) | {"dataset": None}

    def missing(self, videos: Sequence[Video]) -> list[Video]:
        """The videos whose frames are not here, or not whole."""
        return [video for video in videos if not self.form.is_whole(self._path(video.id), video)]

    def bytes_needed(self, videos: Sequence[Video]) -> int:
        """Disk that `prepare(videos)` would take, beyond what is taken already; for JPEGs an estimate."""
        return sum(self.form.bytes_expected(video) for video in self.missing(videos))

    def bytes_taken(self) -> int:
        """Disk that the store takes."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*{self.form.suffix}"))

    def bytes_free(self) -> int:
        """Room on the disk that the store is on, or will be."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return shutil.disk_usage(there).free

    def damaged(self, videos: Sequence[Video]) -> dict[str, list[int]]:
        """Video id -> frames whose checksum is not that of their bytes; reads all of the store. Raw ones have none."""
        present = [video for video in videos if self.form.is_whole(self._path(video.id), video)]
        frames = {video.id: self.form.damaged(self._path(video.id)) for video in present}
        return {video_id: damaged for video_id, damaged in frames.items() if damaged}

    def discard(self, video_ids: Sequence[str]) -> None:
        """Remove the frames of some videos, so that `prepare` makes them anew.

        Raises:
            DataError: the store cannot be written.
        """
        for video_id in video_ids:
            try:
                self._path(video_id).unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(self.folder, error) from error

    def prepare(
        self,
        videos: Sequence[Video],
        workers: int = 1,
        progress: Progress | None = None,
        skip_damaged: bool = False,
        lock_timeout: float = STALL_SECONDS,
    ) -> PrepareReport:
        """Decode what is missing, in `workers` processes (1: in this one).

        Of several runs that need the same videos one decodes; the others wait, showing its progress, and take over
        should it stop. Each video that does not decode is tried again by the next call.

        Args:
            lock_timeout: seconds that this run waits for another one which adds no video.

        Raises:
            DecodeError: naming every video that does not decode, after all others are done, unless `skip_damaged`.
            DataError: the store cannot be written, or the disk has no room for it, which is said before any video is
                decoded; or another run holds it and does nothing.
        """
        report = progress or (lambda done, total: None)
        decoded, damaged = 0, dict[str, DataError]()
        with self._turn(videos, report, lock_timeout) as missing:
            self._check_room(missing)
            for video_id, error in self._decode(missing, workers):
                decoded += error is None
                if error is not None:
                    damaged[video_id] = error
                report(len(videos) - len(missing) + decoded + len(damaged), len(videos))
        if damaged and not skip_damaged:
            raise _damage(damaged)
        return PrepareReport(decoded, self._short(videos), tuple(sorted(damaged)))

    def frames(self, video_id: str) -> StoredFrames:
        """The frames of one video, (t, size, size, 3) uint8: memory-mapped and read-only, or decoded when indexed.

        Raises:
            DataError: they are not in the store.
        """
        try:
            return self.form.open(self._path(video_id))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"no frames of {video_id} in the store ({error}); prepare() puts them there") from error

    def _path(self, video_id: str) -> Path:
        return self.folder / f"{safe_name(video_id)}{self.form.suffix}"

    def _short(self, videos: Sequence[Video]) -> dict[str, tuple[int, int]]:
        decoded = {video.id: self.form.decoded(self._path(video.id), video) for video in videos}
        return {v.id: (decoded[v.id], int(v.num_frames)) for v in videos if decoded[v.id] < v.num_frames}

    def _check_room(self, missing: Sequence[Video]) -> None:
        """Refuse what the disk cannot take, with the advice that would help; nothing is decoded yet."""
        needed, free = self.bytes_needed(missing), self.bytes_free()
        if needed <= free:
            return
        advice = "make room, or set SSLDET_CACHE to a folder that has more"
        if isinstance(self.form, RawForm):
            packed = PackedForm(self.size, DEFAULT_QUALITY, self.dataset.facts.numbering.step, tuple(range(-15, 1)))
            packed_bytes = sum(map(packed.bytes_expected, missing))
            advice += (
                f"; or store JPEGs, which take about {_size(packed_bytes)} and change a run's numbers a little, "
                f"so that it is another run: --set clip.jpeg_quality={DEFAULT_QUALITY}"
            )
        raise DataError(
            f"the frames of {len(missing)} videos take {_size(needed)} at {self.size} pixels, and {self.folder} "
            f"has {_size(free)} free; {advice}"
        )

    @contextmanager
    def _turn(self, videos: Sequence[Video], report: Progress, lock_timeout: float) -> Iterator[list[Video]]:
        """Wait until nothing is missing or it is this run's turn to decode; gives what is still missing then."""
        missing = self.missing(videos)
        if not missing:
            yield []
            return
        lock = self._lock()
        missing = self._wait(lock, missing, len(videos), report, lock_timeout)
        try:
            if lock.is_locked:
                self._sweep()
                self._say_who_decodes()
            yield self.missing(missing)
        finally:
            if lock.is_locked:
                self._holder.unlink(missing_ok=True)
            lock.release()

    def _wait(
        self, lock: FileLock, missing: list[Video], total: int, report: Progress, lock_timeout: float
    ) -> list[Video]:
        """Until the lock is this run's, or nothing is missing. Gives what was missing when it last looked."""
        moved = time.monotonic()
        while missing and not _acquired(lock):
            report(total - len(missing), total)
            if time.monotonic() - moved > lock_timeout:
                raise DataError(
                    f"{self._who_decodes()} holds {lock.lock_file} and has added no video for {lock_timeout:g} s; "
                    f"{len(missing)} are missing: end that process, or wait for it, and give the same command again"
                )
            time.sleep(POLL_SECONDS)
            left = self.missing(missing)
            moved = time.monotonic() if len(left) < len(missing) else moved
            missing = left
        return missing

    @property
    def _holder(self) -> Path:
        return self.folder / "decoding.json"

    def _say_who_decodes(self) -> None:
        holder = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # nobody's decoding depends on it
            write_json(self._holder, holder)

    def _who_decodes(self) -> str:
        try:
            holder: Mapping[str, object] = json.loads(self._holder.read_text(encoding="utf-8"))
            return "process {process} on {machine}, since {since},".format(**holder)
        except (OSError, ValueError, KeyError):
            return "another process"

    def _sweep(self) -> None:
        """Remove what killed runs left, and nothing that another process may be writing: a lock may not be honoured."""
        for leftover in self.folder.glob(".*.tmp"):
            with suppress(OSError):  # it is done, or removed by another process
                if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                    leftover.unlink()

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
            jobs.append((video.id, (self.form, source, video, self._path(video.id))))
        yield from run_jobs(store_video, jobs, min(workers, len(jobs)))


def store_video(form: Form, source: VideoSource, video: Video, path: Path) -> DataError | None:
    """Decode one video into `path`; gives the error of a video that does not decode.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        form.write(path, source, video)
    except DecodeError as error:
        return error
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return None


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:  # is an OSError too
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        raise _unwritable(Path(lock.lock_file).parent, error) from error
    return True


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write decoded frames to {folder} ({error.strerror}); "
        "make room, or set SSLDET_CACHE to a folder that can be written; the videos that are there stay"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _damage(damaged: dict[str, DataError], shown: int = 5) -> DecodeError:
    lines = [f"  {video_id}: {error}" for video_id, error in sorted(damaged.items())[:shown]]
    more = [f"  and {len(damaged) - shown} more"] if len(damaged) > shown else []
    return DecodeError("\n".join([f"{len(damaged)} videos do not decode (skip them, or mend them):", *lines, *more]))
