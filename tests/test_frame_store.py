"""The frame store: what it keeps, what it finds missing, and several runs at once."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from made_videos import MadeVideos, write_video

from ssldet.contracts import Video
from ssldet.data import frame_store
from ssldet.data.frame_store import FrameStore
from ssldet.errors import DataError, DecodeError

LEVELS = [10, 50, 90, 130, 170, 210]


@pytest.fixture
def dataset(tmp_path: Path) -> MadeVideos:
    for name in ("a", "b & (c)!#'@+", "d"):
        write_video(tmp_path / f"data/{name}.avi", LEVELS)
    return MadeVideos(tmp_path / "data")


@pytest.fixture
def store(dataset: MadeVideos, tmp_path: Path) -> FrameStore:
    return FrameStore(dataset, 16, tmp_path / "cache")


def test_prepare_decodes_once(store: FrameStore) -> None:
    videos = store.dataset.videos("train")
    assert store.missing(videos) == videos
    assert store.bytes_needed(videos) == 3 * 6 * 16 * 16 * 3
    assert store.prepare(videos).decoded == 3
    assert store.missing(videos) == []
    assert store.bytes_needed(videos) == 0
    assert store.prepare(videos).decoded == 0


def test_frames_are_mapped_and_read_only(store: FrameStore) -> None:
    videos = store.dataset.videos("train")
    store.prepare(videos)
    frames = store.frames(videos[1].id)
    assert isinstance(frames, np.memmap)
    assert frames.shape == (6, 16, 16, 3)
    assert np.allclose(frames.mean((1, 2, 3)), LEVELS, atol=4)
    assert not frames.flags.writeable
    assert pickle.loads(pickle.dumps(store)).frames(videos[1].id).shape == frames.shape


def test_worker_processes_give_the_same_frames(store: FrameStore, tmp_path: Path) -> None:
    videos = store.dataset.videos("train")
    other = FrameStore(store.dataset, 16, tmp_path / "other")
    seen: list[tuple[int, int]] = []
    assert other.prepare(videos, workers=2, progress=lambda done, total: seen.append((done, total))).decoded == 3
    store.prepare(videos)
    assert seen[-1] == (3, 3)
    assert all(np.array_equal(store.frames(video.id), other.frames(video.id)) for video in videos)


def test_short_videos_are_counted_from_the_cache_too(store: FrameStore) -> None:
    videos = [Video("a", 8, 64, 48, (0,))]
    assert store.prepare(videos).short == {"a": (6, 8)}
    again = store.prepare(videos)
    assert again.decoded == 0
    assert again.short == {"a": (6, 8)}
    assert len(store.frames("a")) == 8


def test_damaged_videos_are_all_named_or_skipped(store: FrameStore) -> None:
    for name in ("a", "d"):
        store.dataset.source(name).file.write_bytes(b"damaged")  # type: ignore[union-attr]
    videos = store.dataset.videos("train")
    with pytest.raises(DecodeError, match=r"(?s)2 videos do not decode.*a:.*d:"):
        store.prepare(videos)
    report = store.prepare(videos, skip_damaged=True)
    assert report.skipped == ("a", "d")
    assert store.missing(videos) == [videos[0], videos[2]]
    with pytest.raises(DataError, match="no frames of d"):
        store.frames("d")


def test_a_file_cut_short_is_missing(store: FrameStore) -> None:
    videos = store.dataset.videos("train")
    store.prepare(videos)
    path = next(store.folder.glob("d-*.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    left, being_written = store.folder / ".d.npy.0123.tmp", store.folder / ".d.npy.4567.tmp"
    for half in (left, being_written):
        half.write_bytes(b"half a file")
    os.utime(left, (1000, 1000))  # by a killed run, long ago
    assert store.missing(videos) == [videos[2]]
    assert store.prepare(videos).decoded == 1
    assert list(store.folder.glob(".*.tmp")) == [being_written]


@pytest.mark.parametrize("number", frame_store.NO_LOCKS)
def test_a_file_system_without_locks_holds_nothing_up(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    videos = store.dataset.videos("train")
    assert store.prepare(videos).decoded == len(videos) and store.missing(videos) == []


def test_two_that_decode_at_once_do_not_disturb_each_other(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system where a lock holds nobody off: the second begins and ends while the first is at a video."""
    monkeypatch.setattr(frame_store, "_acquired", lambda lock: True)
    videos, decode, reports = store.dataset.videos("train"), frame_store.store_video, list[int]()

    def interrupted(*arguments: Any) -> DataError | None:
        monkeypatch.setattr(frame_store, "store_video", decode)
        reports.append(store.prepare(videos).decoded)
        return decode(*arguments)

    monkeypatch.setattr(frame_store, "store_video", interrupted)
    assert store.prepare(videos).decoded == len(videos) == reports[0]
    assert store.missing(videos) == [] and not list(store.folder.glob(".*.tmp"))


def test_nothing_half_written_stays(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(DataError, match=r"No space left on device.*SSLDET_CACHE"):
        store.prepare(store.dataset.videos("train"))
    assert [path.name for path in store.folder.iterdir()] == ["decoding.lock"]


def test_a_second_run_waits_and_finds_the_frames(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_store, "POLL_SECONDS", 0.01)
    videos = store.dataset.videos("train")
    store.folder.mkdir(parents=True)
    waiting, reports = threading.Event(), []

    def progress(done: int, total: int) -> None:
        waiting.set()

    def run() -> None:
        reports.append(store.prepare(videos, progress=progress))

    being_written = store.folder / ".x.npy.0123.tmp"
    being_written.touch()
    with FileLock(store.folder / "decoding.lock"):  # another run has its turn
        second = threading.Thread(target=run)
        second.start()
        assert waiting.wait(5)
        for video in videos:
            frame_store.store_video(store.form, store.dataset.source(video.id), video, store._path(video.id))
        second.join(5)
    assert not second.is_alive()
    assert reports[0].decoded == 0
    assert being_written.exists()


def test_stores_are_told_apart_by_size_and_data(dataset: MadeVideos, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {FrameStore(dataset, 16).folder, FrameStore(dataset, 32).folder}
    monkeypatch.setattr(MadeVideos, "fingerprint", lambda self: "another")
    assert len({*folders, FrameStore(dataset, 16).folder}) == 3


def test_the_cache_folder_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, dataset: MadeVideos) -> None:
    monkeypatch.setenv("SSLDET_CACHE", "/somewhere")
    assert FrameStore(dataset, 16).folder.parent == Path("/somewhere/frames")
    monkeypatch.delenv("SSLDET_CACHE")
    assert "ssldet" in FrameStore(dataset, 16).folder.parts
