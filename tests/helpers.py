"""A tiny data set and network for tests of the training side: seconds, not minutes; and the weights of the oracles."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssldet.contracts import (
    Backbone,
    Dataset,
    DatasetFacts,
    Options,
    Problem,
    Subset,
    Truth,
    Video,
    VideoSource,
)
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.detector.heads import FrameHead
from ssldet.detector.region import RegionOptions
from ssldet.testing.tiny import CHANNELS, TinyFeatures

QUICK = (
    "train.steps=16",
    "train.batch=4",
    "train.unlabelled_batch=4",
    "train.bn_batch=4",
    "train.warmup=4",
    "train.pair_share=0.5",
    "train.checkpoint_every=8",
)
"""Settings under which a run of the smoke preset takes seconds: enough to see that everything happens."""

EASY = {
    "supervised": (),
    "mean_teacher": ("strategy.o_th=0.02",),
    "fixmatch": ("strategy.o_th=0.02",),
    "dual_guidance": ("strategy.o_th=0.02", "strategy.f_th=0.1"),
}
"""Thresholds that a hardly trained network passes."""

ANCHORS = ((0.7, 1.2), (1.3, 2.6), (1.6, 4.1), (2.3, 4.9), (3.5, 5.9))
FACTS = DatasetFacts("tiny", ("left", "right", "still"), ANCHORS)
MULTILABEL = DatasetFacts("tiny_multi", ("left", "right", "still"), ANCHORS, multilabel=True)


class TinyBackbone(Backbone):
    stride = 16

    Config = GridOptions
    config: GridOptions

    def __init__(self, config: GridOptions | None = None):
        super().__init__(config or GridOptions(region=RegionOptions(form="giou")))

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        box_head = nn.Conv2d(CHANNELS, len(facts.anchors) * (5 + facts.num_classes), 1)
        head = FrameHead(CHANNELS, facts, hidden=16) if frame_head else None
        return GridDetector(TinyFeatures(), box_head, head, facts=facts, stride=16, options=self.config)


def tiny_detector(
    facts: DatasetFacts = FACTS, *, frame_head: bool = True, seed: int = 0, form: str = "giou"
) -> GridDetector:
    torch.manual_seed(seed)
    return TinyBackbone(GridOptions(region=RegionOptions(form=form))).build(facts, frame_head=frame_head)


class TinyDataset(Dataset):
    """Eight training and four test videos of a bright block; frames are made on the spot, not decoded."""

    facts = FACTS

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        self._videos = {f"v{i}": Video(f"v{i}", 6, 64, 64, (i % 3,)) for i in range(12)}

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        every = list(self._videos.values())
        return every[:8] if subset == "train" else every[8:]

    def truth(self, video_id: str) -> Truth:
        video = self._videos[video_id]
        frames = np.arange(1, video.num_frames)  # frame 0 is background
        labels = np.zeros((len(frames), 3), bool)
        labels[:, video.classes[0]] = True
        boxes = np.tile(np.array([[10, 10, 40, 50]], np.float32), (len(frames), 1))
        tubes = np.zeros(len(frames), np.int64)
        return Truth(frames, boxes, labels, tubes, np.arange(video.num_frames))

    def source(self, video_id: str) -> VideoSource:
        raise AssertionError("tests give frames to the reader themselves")

    def verify(self, split: int = 1) -> list[Problem]:
        return []

    def fingerprint(self) -> str:
        return "tiny"

    def frames(self, video_id: str, size: int = 32) -> np.ndarray:
        """(t, size, size, 3) uint8 noise, the same for an id every time."""
        seed = int(video_id.removeprefix("v"))
        return np.random.default_rng(seed).integers(0, 256, (6, size, size, 3), dtype=np.uint8)


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    """An entry of the networks of tests/oracles, as its README says."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name == "cfam.sc.gamma":
        n = np.full(shape, 0.5, np.float32)
    elif len(shape) == 1:
        n = 0.1 * n + (1 if name.endswith("weight") else 0)
    else:
        n = n * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(n.astype(np.float32))
