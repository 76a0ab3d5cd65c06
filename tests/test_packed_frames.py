"""Frames stored as JPEGs: what they lose, what is found damaged, who may read and write, and which run it makes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock
from helpers import QUICK
from made_videos import MadeVideos
from PIL import Image

from ssldet import cli
from ssldet.config import Experiment, RunConfig, resolve
from ssldet.contracts import DatasetFacts, FrameNumbering, Video, VideoSource
from ssldet.data import frame_store
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.data.stored_frames import PackedFrames, default_quality
from ssldet.data.video import align, read_frames, read_spans
from ssldet.errors import DataError, DecodeError
from ssldet.runs import first_stage, runner
from ssldet.util import files
from ssldet_datasets import facts

FRAMES, SIZE = 12, 32
CLIP = ClipOptions(frames=4, size=SIZE, jpeg_quality=95)


class Pictures(MadeVideos):
    """Three videos of smooth moving patterns, as folders of images."""

    def __init__(self, root: Path | None = None, step: int = 1) -> None:
        super().__init__(root)
        self.facts = DatasetFacts("made", ("a",), ((1.0, 1.0),), numbering=FrameNumbering(0, step))

    def videos(self, subset: str = "train", split: int = 1) -> list[Video]:
        return [Video(name, FRAMES, 48, 40, (0,)) for name in "abc"]

    def source(self, video_id: str) -> VideoSource:
        return VideoSource(images=tuple(self.root / f"{video_id}{i}.png" for i in range(FRAMES)))


def write_pictures(root: Path) -> None:
    y, x = np.mgrid[:40, :48]
    for video, name in enumerate("abc"):
        for i in range(FRAMES):
            channels = [np.sin(x / (5 + video) + i / 3), np.cos(y / 6 - i / 4), np.sin((x + y) / 9 + i)]
            pixels_hwc = (127 + 120 * np.stack(channels, axis=-1)).astype(np.uint8)
            Image.fromarray(pixels_hwc).save(root / f"{name}{i}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    return folder


@pytest.fixture
def dataset(root: Path) -> Pictures:
    return Pictures(root)


@pytest.fixture
def store(dataset: Pictures, tmp_path: Path) -> FrameStore:
    return FrameStore.for_clips(dataset, CLIP, tmp_path / "cache")


def flip_a_byte(store: FrameStore, video: str, at: int = 200) -> Path:
    path = next(store.folder.glob(f"{video}-*.jpegs"))
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    return path


# ---------------------------------------------------------------------------------------------- what is stored


@pytest.mark.parametrize(("quality", "mean_error", "most"), [(90, 2.5, 25), (95, 1.5, 15)])
def test_packed_clips_are_the_raw_ones_within_the_error_of_jpeg(
    dataset: Pictures, tmp_path: Path, quality: int, mean_error: float, most: int
) -> None:
    clips = {}
    for jpeg_quality in (None, quality):
        clip = CLIP.model_copy(update={"jpeg_quality": jpeg_quality})
        store = FrameStore.for_clips(dataset, clip, tmp_path)
        store.prepare(dataset.videos())
        reader = ClipReader(store.frames, clip)
        clips[jpeg_quality] = reader.read(["a", "b", "c", "a"], [0, 5, 11, 2], [(0, 11), (4, 8), (0, 11), (1, 3)])
    error = (clips[quality].int() - clips[None].int()).abs()
    assert clips[quality].shape == clips[None].shape == (4, 4, SIZE, SIZE, 3)
    assert 0 < error.float().mean() < mean_error
    assert error.max() <= most


def test_a_lower_quality_takes_less(dataset: Pictures, tmp_path: Path) -> None:
    taken = []
    for quality in (50, 90, 95):
        store = FrameStore.for_clips(dataset, CLIP.model_copy(update={"jpeg_quality": quality}), tmp_path)
        store.prepare(dataset.videos())
        taken.append(store.bytes_taken())
    assert taken == sorted(set(taken))
    assert len(list(tmp_path.iterdir())) == 3  # stores of other qualities are other stores


def test_frames_are_decoded_once_and_only_those_of_the_clip(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.prepare(store.dataset.videos("train"))
    decoded: list[int] = []
    picture = PackedFrames._picture

    def counted(self: PackedFrames, row: int) -> np.ndarray:
        decoded.append(row)
        return picture(self, row)

    monkeypatch.setattr(PackedFrames, "_picture", counted)
    frames = pickle.loads(pickle.dumps(store)).frames("b")
    assert frames[np.array([[0, 0, 0, 1], [0, 0, 1, 2]])].shape == (2, 4, SIZE, SIZE, 3)
    assert decoded == [0, 1, 2]
    assert (frames[3] == frames[np.array([3])][0]).all()
    assert len(frames) == FRAMES


def test_only_what_clips_can_touch_is_kept(root: Path, tmp_path: Path) -> None:
    dataset = Pictures(root, step=5)
    short = FrameStore.for_clips(dataset, CLIP.model_copy(update={"frames": 2}), tmp_path)
    short.prepare(dataset.videos())
    assert short.frames("a").index_n["frame"].tolist() == [0, 4, 5, 9, 10]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="has not frame 3 of a"):
        short.frames("a")[np.array([3, 4])]
    longer = FrameStore.for_clips(dataset, CLIP.model_copy(update={"frames": 2, "stride": 3}), tmp_path)
    assert longer.folder == short.folder
    assert len(longer.missing(dataset.videos())) == 3
    assert longer.prepare(dataset.videos()).decoded == 3
    assert short.missing(dataset.videos()) == longer.missing(dataset.videos()) == []  # nobody's frames are lost
    reader = ClipReader(longer.frames, ClipOptions(frames=2, stride=3, size=SIZE))
    assert reader.read(["a"] * 3, [0, 5, 10]).shape == (3, 2, SIZE, SIZE, 3)
    whole = FrameStore.for_clips(Pictures(root), CLIP, tmp_path / "whole")
    whole.prepare(dataset.videos())
    assert (longer.frames("a")[np.array([2, 5, 9])] == whole.frames("a")[np.array([2, 5, 9])]).all()


def test_the_estimate_is_of_the_right_size(store: FrameStore, root: Path) -> None:
    videos = store.dataset.videos("train")
    expected = store.bytes_needed(videos)
    store.prepare(videos)
    assert 0.3 < store.bytes_taken() / expected < 3
    assert store.bytes_needed(videos) == 0
    sparse = FrameStore.for_clips(Pictures(root, step=6), CLIP.model_copy(update={"frames": 1}), store.folder)
    assert sparse.bytes_needed(videos) == pytest.approx(expected / 6, rel=0.01)


def test_spans_are_the_frames_of_read_frames(root: Path, tmp_path: Path) -> None:
    import av

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for position in (0, 1, 2, 5, 6, 9):
            frame = av.VideoFrame.from_ndarray(np.full((40, 48, 3), 20 * position, np.uint8), "rgb24")
            frame.pts = position
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    images = tuple(root / f"a{i}.png" for i in range(5))
    sources = [VideoSource(file=path, rate=rate) for rate in (7, 10, 30, None)] + [VideoSource(images=images)]
    for source in sources:
        for frames in (1, 4, 7, 40):
            expected = read_frames(source, frames, (16, 16))
            spans = list(read_spans(source, frames, (16, 16)))
            assert [span.first for span in spans[1:]] == [span.end for span in spans[:-1]]
            assert (spans[0].first, spans[-1].end) == (0, frames)
            shown = align([span.first for span in spans], frames)
            assert (np.stack([spans[i].pixels() for i in shown]) == expected.frames_thwc).all()
            assert min(spans[-1].known, frames) == min(expected.decoded, frames)
    with pytest.raises(DecodeError):
        list(read_spans(VideoSource(), 3, (16, 16)))


# ------------------------------------------------------------------------------------------- damage and mending


def test_a_flipped_byte_is_found_named_and_mended(store: FrameStore) -> None:
    videos = store.dataset.videos("train")
    store.prepare(videos)
    whole = store.frames("b")[np.arange(FRAMES)]
    assert store.damaged(videos) == {}
    flip_a_byte(store, "b")
    assert store.missing(videos) == []  # its index is whole
    assert store.damaged(videos) == {"b": [0]}
    assert store.frames("b")[1].shape == (SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"(?s)frame 0 of b is damaged.*the same command makes it anew"):
        store.frames("b")[np.array([0, 1])]
    assert store.missing(videos) == [videos[1]]
    assert store.prepare(videos).decoded == 1
    assert (store.frames("b")[np.arange(FRAMES)] == whole).all()
    assert store.damaged(videos) == {}


def test_a_damaged_index_and_a_file_cut_short_are_missing(store: FrameStore) -> None:
    videos = store.dataset.videos("train")
    store.prepare(videos)
    flip_a_byte(store, "a", -50)
    path = next(store.folder.glob("c-*.jpegs"))
    path.write_bytes(path.read_bytes()[:-1])
    assert [video.id for video in store.missing(videos)] == ["a", "c"]
    with pytest.raises(DataError, match=r"no frames of a .*damaged"):
        store.frames("a")
    with pytest.raises(DataError, match="no whole file"):
        store.frames("c")
    assert store.prepare(videos).decoded == 2


def test_files_of_another_quality_are_never_read(dataset: Pictures, store: FrameStore, tmp_path: Path) -> None:
    videos = dataset.videos()
    other = FrameStore.for_clips(dataset, CLIP.model_copy(update={"jpeg_quality": 60}), tmp_path)
    other.prepare(videos)
    store.folder.mkdir(parents=True)
    for path in other.folder.glob("*.jpegs"):
        (store.folder / path.name).write_bytes(path.read_bytes())
    assert store.missing(videos) == videos
    with pytest.raises(DataError, match=r"quality\) \(32, 60\), and \(32, 95\) are asked for"):
        store.frames("a")
    assert store.prepare(videos).decoded == 3
    assert store.frames("a").header["quality"] == 95  # type: ignore[attr-defined]


def test_short_videos_are_counted_from_the_store_too(store: FrameStore) -> None:
    videos = [Video("a", FRAMES + 3, 48, 40, (0,))]
    assert store.prepare(videos).short == {"a": (FRAMES, FRAMES + 3)}
    again = store.prepare(videos)
    assert (again.decoded, again.short) == (0, {"a": (FRAMES, FRAMES + 3)})
    assert (store.frames("a")[FRAMES + 2] == store.frames("a")[FRAMES - 1]).all()


# ------------------------------------------------------------------------------------------ disks and processes


def full_disk_after(files_written: int) -> Callable[[int], None]:
    left = [files_written]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


def test_a_disk_that_fills_up_keeps_what_is_done_and_nothing_half(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = store.dataset.videos("train")
    monkeypatch.setattr(frame_store.FrameStore, "_say_who_decodes", lambda self: None)
    with monkeypatch.context() as full:
        full.setattr(files.os, "fsync", full_disk_after(1))
        with pytest.raises(DataError, match=r"No space left on device.*SSLDET_CACHE.*stay"):
            store.prepare(videos)
    names = sorted(path.name for path in store.folder.iterdir())
    assert [name.split("-")[0].split(".")[0] for name in names] == ["a", "decoding"]
    done: list[tuple[int, int]] = []
    assert store.prepare(videos, progress=lambda *at: done.append(at)).decoded == 2  # goes on where it stopped
    assert done == [(2, 3), (3, 3)]


@pytest.mark.parametrize("quality", [None, 95])
def test_a_disk_without_room_is_said_before_anything_is_decoded(
    dataset: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quality: int | None
) -> None:
    store = FrameStore.for_clips(dataset, CLIP.model_copy(update={"jpeg_quality": quality}), tmp_path)
    monkeypatch.setattr(FrameStore, "bytes_free", lambda self: 1000)
    with pytest.raises(DataError, match=r"frames of 3 videos take .* MB at 32 pixels.*SSLDET_CACHE") as refusal:
        store.prepare(dataset.videos())
    assert ("--set clip.jpeg_quality=95" in str(refusal.value)) == (quality is None)
    assert [path.name for path in store.folder.iterdir()] == ["decoding.lock"]


def test_a_read_only_store_is_read_and_says_what_it_cannot_take(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = store.dataset.videos("train")
    store.prepare(videos[:2])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert store.prepare(videos[:2]).decoded == 0
    assert store.frames("b")[0].shape == (SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"Read-only file system.*SSLDET_CACHE"):
        store.prepare(videos)
    flip_a_byte(store, "b")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"cannot be removed \(Read-only"):
        store.frames("b")[0]


def test_who_holds_a_store_that_does_not_move_is_said(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_store, "POLL_SECONDS", 0.01)
    store.folder.mkdir(parents=True)
    videos = store.dataset.videos("train")
    with FileLock(store.folder / "decoding.lock"):
        with pytest.raises(DataError, match="another process holds"):
            store.prepare(videos, lock_timeout=0.05)
        holder = {"process": 12, "machine": "there", "since": "noon"}
        (store.folder / "decoding.json").write_text(json.dumps(holder))
        with pytest.raises(DataError, match=r"process 12 on there, since noon, holds .*decoding.lock.*3 are missing"):
            store.prepare(videos, lock_timeout=0.05)
    assert store.prepare(videos).decoded == 3
    assert not (store.folder / "decoding.json").exists()


def _prepare(root: Path, cache: Path) -> int:
    dataset = Pictures(root)
    return FrameStore.for_clips(dataset, CLIP, cache).prepare(dataset.videos()).decoded


def test_two_processes_build_one_store(root: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        decoded = pool.starmap(_prepare, [(root, tmp_path)] * 2, chunksize=1)
    assert sum(decoded) == 3
    store = FrameStore.for_clips(Pictures(root), CLIP, tmp_path)
    assert store.missing(store.dataset.videos("train")) == []
    assert not list(store.folder.glob(".*"))


# ----------------------------------------------------------------------------------------------- runs and verbs


def experiment(dataset: str, *sets: str, preset: str = "paper") -> Experiment:
    return resolve({"strategy": "supervised", "dataset": dataset}, preset=preset, assignments=sets).experiment


def test_the_data_set_says_from_which_size_on_frames_are_packed() -> None:
    assert [default_quality(facts.UCF24, size) for size in (112, 224, 320)] == [None, 95, 95]
    assert [default_quality(facts.AVA, size) for size in (112, 224)] == [95, 95]
    assert default_quality(facts.JHMDB, 448) is None
    assert experiment("ucf24").clip.jpeg_quality == 95
    assert experiment("ucf24", preset="nano").clip.jpeg_quality is None
    assert experiment("ucf24", "clip.jpeg_quality=null").clip.jpeg_quality is None
    assert experiment("ucf24", "clip.size=112").clip.jpeg_quality is None
    assert experiment("jhmdb", "clip.jpeg_quality=90").clip.jpeg_quality == 90


def test_quality_is_part_of_a_runs_id_and_raw_runs_keep_theirs() -> None:
    raw, packed, other = (
        experiment("jhmdb", f"clip.jpeg_quality={quality}").identity() for quality in ("null", 95, 90)
    )
    assert raw == experiment("jhmdb").identity()
    assert raw["clip"] == {"frames": 16, "stride": 1, "size": 224}
    assert packed["clip"] == {**raw["clip"], "jpeg_quality": 95} != other["clip"]


def test_the_configuration_of_an_older_run_stays_raw(tmp_path: Path) -> None:
    config = resolve({"strategy": "supervised", "dataset": "ucf24"}, preset="paper").model_dump(mode="json")
    del config["experiment"]["clip"]["jpeg_quality"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert resolve({}, file=tmp_path / "config.yaml").experiment.clip.jpeg_quality is None


def small(results: Path, *sets: str) -> RunConfig:
    fields = {
        "strategy": "supervised",
        "dataset": "synthetic",
        "dataset_options": {"train_per_class": 5, "test_per_class": 1},
        "ratio": 0.4,
        "results": results,
        "workers": 1,
    }
    return resolve(fields, preset="smoke", assignments=[*QUICK, "train.steps=4", *sets])


def test_a_run_on_packed_frames_is_another_run_with_nearly_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    sets = ("train.log_every=1", "train.burn_in=1.0")
    raw, packed = (
        runner.plan(small(tmp_path / "runs", *sets, f"clip.jpeg_quality={quality}")) for quality in ("null", 95)
    )
    stages = [first_stage.first_stage(planned) for planned in (raw, packed)]
    assert raw.id != packed.id
    assert stages[0].key != stages[1].key  # type: ignore[union-attr]
    losses = []
    for planned in (raw, packed):
        assert runner.execute(planned, runner.Reporter()).status == "done"
        lines = (planned.folder / "log.jsonl").read_text().splitlines()
        losses.append([sum(json.loads(line)["losses"].values()) for line in lines])
    assert len(losses[0]) == 4
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def test_prepare_says_what_it_will_take_and_took_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    ssldet("data", "synth", tmp_path / "data", "--like", "jhmdb")
    arguments = ("data", "prepare", "jhmdb", "--data-root", tmp_path / "data", "--size", 32, "--workers", 1)
    packed = (*arguments, "--jpeg-quality", 90)
    raw_plan, plan = (json.loads(ssldet(*a, "--dry-run", "--json").stdout) for a in (arguments, packed))
    assert 0 < plan["bytes_needed"] < raw_plan["bytes_needed"]
    assert plan["missing"] == plan["videos"] > 0
    assert not (tmp_path / "cache/frames").exists()
    text = ssldet(*packed, "--dry-run")
    assert "JPEG, quality 90, about" in text.stderr and "MB free" in text.stderr
    done = json.loads(ssldet(*packed, "--json").stdout)
    assert 0.3 < done["bytes_taken"] / plan["bytes_needed"] < 3
    assert "no stored frame is damaged" in ssldet(*packed, "--check").stderr
    path = min(Path(done["folder"]).glob("*.jpegs"))
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)
    look = ssldet(*packed, "--check", "--dry-run")
    assert "damaged: " in look.stderr and "would be decoded anew" in look.stderr and path.exists()
    mended = ssldet(*packed, "--check")
    assert "is decoded anew" in mended.stderr and "1 videos decoded" in mended.stdout
    assert "no stored frame is damaged" in ssldet(*packed, "--check").stderr
