"""A detector over videos: what clips share, and that every clip gets what it would get alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anchor_free import CentreDetector
from helpers import FACTS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ssldet
from ssldet.config import DetectOptions
from ssldet.contracts import Detector, Video, VideoDetections
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.detector.detector import GridDetector
from ssldet.evaluation.inference import detect_videos
from ssldet.nn.overlap import consecutive_clips, convolve_runs, runs_of, shares_frames
from ssldet_backbones.branches.resnet3d import ResNet3D

SIZE = 32
LENGTHS = {"long": 9, "short": 2, "empty": 4, "gaps": 7}
KEY_FRAMES = {"long": range(9), "short": range(2), "empty": (), "gaps": (0, 2, 3, 4, 6)}
VIDEOS = [Video(name, length, 64, 48, ("left",)) for name, length in LENGTHS.items()]


class Frames:
    """Videos in memory, and how often a frame of each was read."""

    def __init__(self) -> None:
        draws = np.random.default_rng(0)
        self.stored = {n: draws.integers(0, 256, (t, SIZE, SIZE, 3), dtype=np.uint8) for n, t in LENGTHS.items()}
        self.reads: Counter[str] = Counter()

    def of(self, video: str) -> Frames._Video:
        return Frames._Video(self, video)

    class _Video:
        def __init__(self, frames: Frames, video: str) -> None:
            self.frames, self.video = frames, video

        def __len__(self) -> int:
            return LENGTHS[self.video]

        def __getitem__(self, index: np.ndarray) -> np.ndarray:
            self.frames.reads[self.video] += index.size
            return self.frames.stored[self.video][index]


def settled(detector: Detector) -> Detector:
    """Weights that no layer leaves as they come: statistics of batches that it has seen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            detector.train()(torch.rand(4, 3, 8, SIZE, SIZE))
    return detector.eval()


def detect(
    detector: Detector, *, batch: int, share: bool, frames: Frames | None = None, stride: int = 1
) -> list[tuple[Video, VideoDetections]]:
    reader = ClipReader((frames or Frames()).of, ClipOptions(frames=8, size=SIZE, stride=stride))
    found = detect_videos(
        detector,
        VIDEOS,
        lambda video: np.array(KEY_FRAMES[video], np.int64),
        reader,
        DetectOptions(batch=batch, score_threshold=0, nms_iou=1.0),
        device=torch.device("cpu"),
        share=share,
    )
    return list(found)


def assert_same(one: Sequence[tuple[Video, VideoDetections]], other: Sequence[tuple[Video, VideoDetections]]) -> None:
    """The same boxes of the same frames but for rounding; those of equal confidence may stand in another order."""
    assert [video.id for video, _ in one] == [video.id for video, _ in other] == list(LENGTHS)
    for (_, first), (_, second) in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.frames_n, second.frames_n)
        for field in ("boxes_n4", "confidence_n", "scores_nk"):
            rows = [_in_order(each, field) for each in (first, second)]
            np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-4)


def _in_order(detections: VideoDetections, field: str) -> np.ndarray:
    """Rows of each frame by where boxes lie, in pixels of which rounding is a small part."""
    boxes = np.round(detections.boxes_n4, 1)
    return getattr(detections, field)[np.lexsort((*boxes.T, detections.frames_n))]


DETECTORS = {
    "yowo": lambda: ssldet.build_detector("yowo", dataset=FACTS, frame_head=False, branch_3d="resnet18"),
    "yowo_nano": lambda: ssldet.build_detector("yowo_nano", dataset=FACTS),
    "anchor_free": lambda: CentreDetector(FACTS, frame_head=False),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_every_clip_gets_what_it_gets_alone(name: str) -> None:
    detector = settled(DETECTORS[name]())
    alone = detect(detector, batch=1, share=False)
    assert [len(np.unique(found.frames_n)) for _, found in alone] == [9, 2, 0, 5]
    names = list(detector.state_dict())
    for batch in (3, 64):
        assert_same(detect(detector, batch=batch, share=True), alone)
    assert list(detector.state_dict()) == names


def test_clips_of_another_stride_share_nothing_but_frames() -> None:
    detector = settled(DETECTORS["yowo"]())
    plain = detect(detector, batch=1, share=False, stride=2)
    assert_same(detect(detector, batch=64, share=True, stride=2), plain)


def test_a_frame_is_read_once_a_batch() -> None:
    frames = Frames()
    detect(settled(DETECTORS["yowo_nano"]()), batch=64, share=True, frames=frames)
    assert frames.reads == {"long": 9, "short": 2, "gaps": 7}


def test_batches_go_on_over_the_ends_of_videos() -> None:
    detector, sizes = settled(DETECTORS["yowo_nano"]()), []
    detector.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))  # type: ignore[attr-defined]
    detect(detector, batch=5, share=False)
    assert sizes == [5, 5, 5, 1]


def test_videos_come_as_soon_as_they_are_done() -> None:
    detector, calls = settled(DETECTORS["yowo_nano"]()), []
    detector.register_forward_pre_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    reader = ClipReader(Frames().of, ClipOptions(frames=8, size=SIZE))
    found = detect_videos(
        detector,
        VIDEOS,
        lambda video: np.array(KEY_FRAMES[video], np.int64),
        reader,
        DetectOptions(batch=4),
        device=torch.device("cpu"),
        share=False,
    )
    assert [(video.id, len(calls)) for video, _ in found] == [("long", 3), ("short", 3), ("empty", 3), ("gaps", 4)]


class NormalisedBeside(nn.Module):
    """Features in which what is normalised is used once more as it came, so that folding would change them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 12, 16, 16), nn.BatchNorm2d(12)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        x = self.conv(clips_bcthw[:, :, -1])
        out: Tensor = self.bn(x) + x
        return out


def test_normalisation_is_not_folded_where_boxes_would_move() -> None:
    head = nn.Conv2d(12, len(FACTS.anchors) * (5 + FACTS.num_classes), 1)
    detector = settled(GridDetector(NormalisedBeside(), head, None, facts=FACTS, stride=16))
    assert_same(detect(detector, batch=64, share=True), detect(detector, batch=1, share=False))


# ------------------------------------------------------------------------------------------------------ overlap


def overlapping(runs: Sequence[int], frames: int) -> Tensor:
    """Clips of so many runs, one frame apart in each."""
    streams = [torch.rand(3, frames + run - 1, 12, 12) for run in runs]
    return torch.stack([s[:, i : i + frames] for s, run in zip(streams, runs, strict=True) for i in range(run)])


@pytest.mark.parametrize("frames", [7, 8, 16])
@pytest.mark.parametrize("runs", [(1,), (4,), (1, 3, 2)])
def test_runs_of_clips_are_convolved_as_each_clip_is(runs: tuple[int, ...], frames: int) -> None:
    convolution = nn.Conv3d(3, 5, (7, 3, 3), (1, 2, 2), (3, 1, 1))
    clips = overlapping(runs, frames)
    with torch.no_grad():
        torch.testing.assert_close(convolve_runs(convolution, clips, runs, F.relu), F.relu(convolution(clips)))


def test_the_first_layers_of_a_published_branch_run_once_a_frame() -> None:
    branch = ssldet.build_detector("yowo", dataset=FACTS, branch_3d="resnet18").features.backbone_3d.eval()
    assert isinstance(branch, ResNet3D)
    clips = overlapping((6,), 8).repeat_interleave(3, -1).repeat_interleave(3, -2)
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        expected = branch(clips)
    with torch.no_grad(), consecutive_clips((6,)), FlopCounterMode(display=False) as shared:
        torch.testing.assert_close(branch(clips), expected, rtol=1e-4, atol=1e-4)
    assert shared.get_total_flops() < 0.95 * plain.get_total_flops()


def test_of_sixteen_frames_most_steps_are_shared() -> None:
    convolution = nn.Conv3d(3, 4, (7, 3, 3), (1, 2, 2), (3, 1, 1))
    clips = overlapping((8,), 16)
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        convolution(clips)
    with torch.no_grad(), FlopCounterMode(display=False) as shared:
        convolve_runs(convolution, clips, (8,), F.relu)
    assert shared.get_total_flops() < 0.45 * plain.get_total_flops()


def test_runs_are_told_only_where_they_are_worth_it_and_no_gradient_is_wanted() -> None:
    clips = torch.rand(3, 3, 8, 4, 4)
    with consecutive_clips((2, 1)):
        assert runs_of(clips) == ()
        with torch.no_grad():
            assert runs_of(clips) == (2, 1)
            assert runs_of(clips[:2]) == ()  # another batch
    with torch.no_grad(), consecutive_clips((1, 1, 1)):
        assert runs_of(clips) == ()
    assert runs_of(clips) == ()


@pytest.mark.parametrize(
    ("convolution", "frames", "shares"),
    [
        (nn.Conv3d(3, 4, 7, (1, 2, 2), 3), 16, True),
        (nn.Conv3d(3, 4, 7, (1, 2, 2), 3), 6, False),
        (nn.Conv3d(3, 4, 3, 2, 1), 16, False),
        (nn.Conv3d(3, 4, 3, 1, 0), 16, False),
        (nn.Conv3d(3, 4, 3, 1, 1, padding_mode="replicate"), 16, False),
    ],
)
def test_which_convolutions_can_share_frames(convolution: nn.Conv3d, frames: int, shares: bool) -> None:
    assert shares_frames(convolution, frames) is shares


def test_detections_are_whole() -> None:
    (_, found), *_ = detect(settled(DETECTORS["yowo_nano"]()), batch=64, share=True)
    assert {getattr(found, field.name).dtype for field in fields(VideoDetections)} == {
        np.dtype("int64"),
        np.dtype("float32"),
    }
