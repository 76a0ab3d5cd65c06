"""A trained detector on any video: windows, tubes, annotated videos, files, and what is said of bad input."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from made_networks import FACTS, FRAMES, NANO, SIZE, nano_weights, tiny_trained, write_trained_run
from made_videos import write_turned, write_video

from ssldet.cli import main
from ssldet.config import DetectOptions
from ssldet.contracts import Video, VideoDetections, VideoSource
from ssldet.data import encoding
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.data.encoding import writing_video
from ssldet.data.video import frame_rate, frame_size, stream_frames
from ssldet.errors import DataError, DecodeError, RequestError, WeightsError
from ssldet.evaluation.detections import read_detections
from ssldet.evaluation.inference import detect_videos
from ssldet.evaluation.prediction import TubeLinker, TubeOptions, detect_in, windows
from ssldet.ops.tubes import Tube
from ssldet.report.annotated_video import annotate_video
from ssldet.report.prediction import PredictOptions, inputs_of, predict
from ssldet.runs.network import network_of, read_network, trained_file, trained_run
from ssldet.runs.store import find_run
from ssldet.testing.tiny import MULTI_LABEL, tiny_detector

CPU = torch.device("cpu")


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def entry_of(folder: Path) -> Any:
    return find_run(f"{folder}/", ())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve grey frames, one brighter than the other."""
    return write_video(tmp_path / "clips" / "a.mp4", list(range(40, 160, 10)))


# ---------------------------------------------------------------------------------------------------- streaming


def test_a_stream_has_the_frames_of_a_file(video: Path) -> None:
    frames = list(stream_frames(VideoSource(file=video)))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 12
    assert [round(float(frame.mean()), -1) for frame in frames] == list(range(40, 160, 10))
    assert next(stream_frames(VideoSource(file=video), (8, 6))).shape == (6, 8, 3)


def test_windows_hold_what_their_clips_reach_and_no_more() -> None:
    read = list[int]()

    def stream() -> Iterator[np.ndarray]:
        for frame in range(50):
            read.append(frame)
            yield np.full((16, 16, 3), frame, np.uint8)

    clip, keys = ClipOptions(frames=4, size=16, stride=2), list[int]()
    for window, key_frames in windows(stream(), clip, length=8):
        assert len(read) == key_frames[-1] + 1  # nothing is read ahead
        assert len(window.frames_thwc) <= 8 + 6
        shown = ClipReader({"": window}.__getitem__, clip).read([""] * len(key_frames), key_frames)
        wanted = np.clip(key_frames[:, None] + clip.offsets, 0, None)
        assert np.array_equal(shown[:, :, 0, 0, 0].numpy(), wanted)
        keys += key_frames.tolist()
    assert keys == list(range(50))


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_change_no_detection(video: Path, stride: int) -> None:
    detector, source = tiny_detector(FACTS, frame_head=False).eval(), VideoSource(file=video)
    clip, options = ClipOptions(frames=FRAMES, size=SIZE, stride=stride), DetectOptions(score_threshold=0.0, batch=4)
    stored = np.stack(list(stream_frames(source, (SIZE, SIZE))))
    whole = Video("", 12, 64, 48, ())
    ((_, expected),) = detect_videos(
        detector, [whole], lambda _: np.arange(12), ClipReader(lambda _: stored, clip), options, device=CPU
    )
    found = list(detect_in(detector, source, clip, options, device=CPU, window=5))
    assert [frames for frames, _ in found] == [5, 10, 12]
    detected = VideoDetections.concat([part for _, part in found])
    assert np.array_equal(detected.frames_n, expected.frames_n) and len(detected)
    np.testing.assert_allclose(detected.boxes_n4, expected.boxes_n4, rtol=1e-4, atol=1e-3)


# -------------------------------------------------------------------------------------------------------- tubes


def seen(frames: range, box: tuple[int, ...], scores: tuple[float, ...], confidence: float = 1.0) -> VideoDetections:
    count = len(frames)
    boxes_n4, scores_nk = np.tile(np.float32(box), (count, 1)), np.tile(np.float32(scores), (count, 1))
    return VideoDetections(np.array(frames), boxes_n4, np.full(count, confidence, np.float32), scores_nk)


def test_tubes_go_on_over_windows_and_end_with_the_action() -> None:
    linker = TubeLinker(FACTS)
    linker.add(seen(range(4, 10), (0, 0, 20, 20), (0.8, 0.1, 0.1)))
    linker.add(seen(range(10, 20), (1, 0, 21, 20), (0.6, 0.3, 0.1)))
    linker.add(seen(range(30, 40), (0, 0, 20, 20), (0.1, 0.2, 0.7), confidence=0.5))
    first, second = linker.tubes(50)
    assert (first.label, first.frames_t[0], first.frames_t[-1]) == (0, 4, 19)
    assert first.score == pytest.approx((6 * 0.8 + 10 * 0.6) / 16)
    assert (second.label, second.frames_t[0], second.frames_t[-1]) == (2, 30, 39)
    assert second.score == pytest.approx(0.35)


def test_weak_and_short_tubes_are_left_out() -> None:
    linker = TubeLinker(FACTS, TubeOptions(least_score=0.5, least_frames=8))
    linker.add(seen(range(20), (0, 0, 20, 20), (0.4, 0.1, 0.1)))
    linker.add(seen(range(30, 36), (0, 0, 20, 20), (0.9, 0.1, 0.0)))
    assert linker.tubes(50) == []
    short = TubeLinker(FACTS, TubeOptions(least_frames=8))
    short.add(seen(range(3), (0, 0, 20, 20), (0.9, 0.1, 0.0)))
    assert len(short.tubes(3)) == 1 and short.tubes(4) == []  # all of a video of three frames


def test_a_box_of_several_labels_is_in_a_tube_of_each() -> None:
    both = seen(range(10), (0, 0, 20, 20), (0.8, 0.7, 0.05))
    multi, single = TubeLinker(replace(FACTS, multilabel=True)), TubeLinker(FACTS)
    multi.add(both)
    single.add(both)
    assert [tube.label for tube in multi.tubes(10)] == [0, 1]
    assert [tube.label for tube in single.tubes(10)] == [0]


# --------------------------------------------------------------------------------------------- annotated videos


def test_boxes_are_drawn_on_the_frames_of_their_tube(video: Path, tmp_path: Path) -> None:
    boxes_t4 = np.float32([[10 + t, 20, 40 + t, 44] for t in range(8)])
    tube = Tube(1, 0.9, np.arange(4, 12), boxes_t4)
    annotate_video(VideoSource(file=video), [tube], FACTS, tmp_path / "out.mp4")
    source = VideoSource(file=tmp_path / "out.mp4")
    before, after = list(stream_frames(VideoSource(file=video))), list(stream_frames(source))
    assert len(after) == 12 and frame_size(source) == (64, 48) and frame_rate(source) == 30
    changed = [np.abs(a.astype(int) - b).max(axis=-1) > 40 for a, b in zip(after, before, strict=True)]
    assert not any(map(np.any, changed[:4])) and all(map(np.any, changed[4:]))
    for frame, drawn_hw in zip((4, 11), (changed[4], changed[11]), strict=True):
        left = 10 + frame - 4
        assert drawn_hw[30:40, left - 1 : left + 3].any(axis=1).all()  # the left edge
        assert not drawn_hw[28:40, left + 5 : left + 25].any()  # and what is within


def test_an_annotated_video_is_upright(tmp_path: Path) -> None:
    frame_hwc = np.zeros((48, 64, 3), np.uint8)
    frame_hwc[:, 32:] = 200
    lying = write_turned(tmp_path / "lying.mp4", frame_hwc, 90)
    annotate_video(VideoSource(file=lying), [], FACTS, tmp_path / "out.mp4")
    assert frame_size(VideoSource(file=tmp_path / "out.mp4")) == (48, 64)
    first = next(stream_frames(VideoSource(file=tmp_path / "out.mp4")))
    assert np.abs(first.astype(int) - next(stream_frames(VideoSource(file=lying)))).mean() < 5


def test_an_odd_size_gets_one_pixel_more(tmp_path: Path) -> None:
    with writing_video(tmp_path / "odd.mp4", (33, 17), Fraction(30000, 1001)) as write:
        for level in (50, 100):
            write(np.full((17, 33, 3), level, np.uint8))
    frames = list(stream_frames(VideoSource(file=tmp_path / "odd.mp4")))
    assert [frame.shape for frame in frames] == [(18, 34, 3)] * 2


def test_an_encoder_that_there_is_not_is_said(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ENCODERS", ("no_such_codec",))
    with pytest.raises(RequestError, match=r"writes none of no_such_codec; install .* --no-video"):
        annotate_video(VideoSource(file=video), [], FACTS, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


# -------------------------------------------------------------------------------------------------- all of it


def test_videos_become_files(video: Path, tmp_path: Path) -> None:
    (tmp_path / "clips" / "broken.mp4").write_bytes(video.read_bytes()[:900])
    write_video(tmp_path / "clips" / "deeper" / "b.avi", [90] * 5)
    out, heard = tmp_path / "out", list[tuple[int, int]]()
    inputs = inputs_of([tmp_path / "clips"], out)
    assert [found.id for found in inputs] == ["a", "broken", "deeper/b"]
    found = predict(
        tiny_trained(), inputs, PredictOptions(out), [CPU], lambda done, total, video: heard.append((done, total))
    )
    assert [video.id for video in found.videos] == ["a", "deeper/b"] and found.failed.keys() == {"broken"}
    assert heard[-1] == (34, 34)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == [
        "a.mp4",
        "deeper/b.mp4",
        "detections.parquet",
        "tubes.csv",
    ]
    videos = [Video(video.id, video.frames, *video.size, ()) for video in found.videos]
    read = read_detections(found.detections, FACTS, videos)
    for video in found.videos:
        assert len(read[video.id]) == video.boxes and set(read[video.id].frames_n) == set(range(video.frames))
        assert {tube.label for tube in video.tubes} == {0} and video.tubes[0].score > 0.9
        assert all(tube.frames_t[-1] == video.frames - 1 for tube in video.tubes)
    rows = list(csv.DictReader(found.tubes.read_text().splitlines()))
    assert (rows[0]["video"], rows[0]["class"], rows[0]["first"], rows[0]["last"]) == ("a", "left", "1", "12")
    assert float(rows[0]["to_second"]) == pytest.approx(12 / 30, abs=1e-3)


@pytest.mark.acceptance
def test_several_devices_write_the_same(video: Path, tmp_path: Path) -> None:
    for name in ("b", "c"):
        shutil.copy(video, video.with_stem(name))
    trained = tiny_trained()
    found = []
    for devices in ([CPU], [CPU, CPU]):
        options = PredictOptions(tmp_path / f"out{len(devices)}", annotate=False)
        found.append(predict(trained, inputs_of([video.parent], options.out), options, devices))
    assert found[0].tubes.read_text() == found[1].tubes.read_text()
    assert found[0].detections.read_bytes() == found[1].detections.read_bytes()


def test_several_labels_need_no_other_way(video: Path, tmp_path: Path) -> None:
    found = predict(tiny_trained(MULTI_LABEL), inputs_of([video], tmp_path), PredictOptions(tmp_path), [CPU])
    assert found.videos[0].tubes


def test_inputs_that_would_get_in_each_others_way_are_refused(video: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other" / "a.avi", [50])
    with pytest.raises(RequestError, match=r"both the video 'a'"):
        inputs_of([video, other], tmp_path / "out")
    with pytest.raises(RequestError, match=r"would be replaced .*--out"):
        inputs_of([video], video.parent)
    with pytest.raises(DataError, match=r"nowhere: no such video"):
        inputs_of([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no video in this folder"):
        inputs_of([tmp_path / "empty"], tmp_path / "out")


def test_results_are_no_videos_of_the_next_call(video: Path) -> None:
    out = video.parent / "predictions"
    shutil.copytree(video.parent, out)
    assert [found.id for found in inputs_of([video.parent], out)] == ["a"]


# -------------------------------------------------------------------------------------------- whose weights


def test_a_run_says_what_its_network_is(tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path)
    trained = trained_run(entry_of(folder))
    assert trained.network == NANO == read_network(folder / "network.json")
    assert trained.network.facts.classes == ("left", "right", "still") and not trained.detector.training
    assert trained_file(folder / "weights.safetensors", {}).network == NANO


def test_a_run_of_an_earlier_version_is_known_by_its_settings(tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path)
    (folder / "network.json").unlink()
    network = network_of(entry_of(folder))
    assert (network.facts.name, len(network.facts.classes), network.backbone) == ("jhmdb", 21, "yowo_nano")
    with pytest.raises(WeightsError, match=r"do not fit yowo_nano for 21 classes .*another version of it"):
        trained_run(entry_of(folder))


def test_weights_that_are_not_the_runs_are_refused(tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path)
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RequestError, match=r"is not the file that run .* left"):
        trained_run(entry_of(folder))
    weights.unlink()
    with pytest.raises(RequestError, match=r"has no weights.safetensors .*make the run, and all its files, again"):
        trained_run(entry_of(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"form": 99}, "a later version of ssldet wrote"),
        ({"facts": {"name": "x"}}, "does not describe a network: facts"),
        ({"backbone_options": {"width": 100000}}, None),  # is refused before such a network is built
    ],
)
def test_a_network_that_is_not_of_this_version_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str | None
) -> None:
    folder = write_trained_run(tmp_path)
    path = folder / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RequestError if said else WeightsError, match=said or "do not fit"):
        trained_run(entry_of(folder))


def test_the_command_predicts(video: Path, tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path / "runs")
    words = ("predict", video, "--run", folder, "--out", tmp_path / "out", "--device", "cpu")
    done = ssldet(*words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["classes"] == list(FACTS.classes) and told["videos"][0]["tubes"][0]["class"] == "right"
    assert Path(told["videos"][0]["annotated"]).is_file() and Path(told["detections"]).is_file()
    (video.parent / "broken.mp4").write_bytes(b"no video")
    table = ssldet(*words, video.parent / "broken.mp4", "--tubes", "--no-video")
    assert table.exit_code == 1 and "not looked at: broken" in table.stderr
    assert " ".join(table.stdout.splitlines()[0].split()) == "video tube class score first last from second to second"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "whose weights?"),
        (("--run", "abcd", "--weights", "w.pth"), "whose weights?"),
        (("--run", "abcd", "--dataset", "jhmdb"), "--dataset belongs to --weights"),
        (("--run", "abcd"), "no run begins with 'abcd'"),
        (("--weights", "w.pth"), "nothing says whose classes"),
        (("--weights", "w.pth", "--dataset", "jhmdb", "--preset", "nano"), "no weights file at w.pth"),
        (("--run", "abcd", "--device", "gpu"), "expected auto, cpu, cuda"),
    ],
)
def test_weights_that_nobody_can_find_are_said(video: Path, words: tuple[str, ...], said: str) -> None:
    refused = ssldet("predict", video, *words)
    assert refused.exit_code == 2 and said in refused.stderr


def test_a_weights_file_is_enough_where_its_network_is_named(video: Path, tmp_path: Path) -> None:
    weights = nano_weights(tmp_path / "nano.safetensors")
    sets = ("backbone.width=4", "backbone.frame_hidden=8", "clip.frames=4", "clip.size=32", "clip.stride=1")
    named = {"dataset": "synthetic:ucf24", "preset": "nano"}
    with pytest.raises(WeightsError, match=r"do not fit yowo_nano for \d+ classes"):
        trained_file(weights, named, sets)


def test_a_video_that_does_not_decode_is_said(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="cannot be opened as a video"):
        list(stream_frames(VideoSource(file=tmp_path / "absent.mp4")))
