"""The tiny network and the made-up batches of the contract suites: milliseconds, on any machine.

The network is 32 x 32 pixels -> a grid of 2 x 2. Its weights can be set so that it is sure of a box in every cell or
finds nothing at all: what a strategy does with pseudo-labels, and without, can then be tested for certain.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssldet.contracts import (
    Backbone,
    Batch,
    DatasetFacts,
    Detector,
    LabelledBatch,
    Needs,
    Progress,
    Targets,
    TrainingInfo,
    UnlabelledBatch,
)
from ssldet.data.views import WindowGeometry
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.detector.region import RegionOptions
from ssldet.nn import CosineLinear, FrameHead

ANCHORS = ((0.5, 0.8), (1.0, 1.5), (1.5, 1.0))
SINGLE_LABEL = DatasetFacts("tiny", ("left", "right", "still"), ANCHORS)
"""Facts of tiny data, one class a box."""

MULTI_LABEL = DatasetFacts("tiny_multi", ("left", "right", "still"), ANCHORS, multilabel=True)
"""Facts of tiny data, several classes a box."""

SIZE, FRAMES, CHANNELS, STRIDE = 32, 4, 12, 16

TinyState = Literal["confident", "empty", "random"]
"""What a tiny network finds: a box of class 0 in every cell, nothing, or whatever its random weights say."""

TINY_INFO = TrainingInfo(class_counts=(4, 2, 2), labelled_clips=8, unlabelled_clips=16, steps=10, burn_in=2)
"""What a strategy is told before it starts over a tiny network."""

TINY_PROGRESS = Progress(step=5, steps=10, burn_in=2, epoch=0.5)
"""Where training over a tiny network stands."""


class TinyFeatures(nn.Module):
    """G: mean over time, then two strided convolutions with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 4, stride=4),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 4, stride=4),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
        )

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        features: Tensor = self.layers(clips_bcthw.mean(dim=2))
        return features


class TinyBackbone(Backbone):
    """A network of two layers, for tests."""

    stride = STRIDE

    Config = GridOptions
    config: GridOptions

    def __init__(self, config: GridOptions | None = None) -> None:
        super().__init__(config or GridOptions(region=RegionOptions(form="giou")))

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> GridDetector:
        box_head = nn.Conv2d(CHANNELS, len(self.config.anchors_for(facts)) * (5 + facts.num_classes), 1)
        features, head = TinyFeatures(), FrameHead(CHANNELS, facts, hidden=16) if frame_head else None
        return GridDetector(features, box_head, head, facts=facts, stride=STRIDE, options=self.config)


def tiny_detector(facts: DatasetFacts, *, frame_head: bool, state: TinyState = "random", seed: int = 0) -> Detector:
    """A tiny network in training mode, the same for a seed every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = TinyBackbone().build(facts, frame_head=frame_head)
    if state != "random":
        _set_box_head(detector, 6.0 if state == "confident" else -30.0)
    if state == "confident" and detector.frame_head is not None:
        make_frame_head_confident(detector.frame_head)
    return detector.train()


@torch.no_grad()
def _set_box_head(detector: GridDetector, confidence_logit: float) -> None:
    """Every cell has this confidence logit, nearly, and class 0."""
    assert isinstance(detector.box_head, nn.Conv2d) and detector.box_head.bias is not None
    detector.box_head.weight.mul_(0.1)
    bias_ad = detector.box_head.bias.view(len(detector.anchors), -1)
    bias_ad.zero_()
    bias_ad[:, 4] = confidence_logit
    bias_ad[:, 5:] = -6.0
    bias_ad[:, 5] = 6.0


@torch.no_grad()
def make_frame_head_confident(head: nn.Module) -> None:
    """The frame head says class 0 with a probability of about 0.99, whatever it sees."""
    assert isinstance(head, FrameHead)
    head.hidden.weight.mul_(0.1)
    head.hidden.bias.fill_(1.0)
    if isinstance(head.classifier, CosineLinear):
        head.classifier.weight[0] = 1.0
        head.classifier.weight[1:] = -1.0 + 0.1 * head.classifier.weight[1:]
        head.classifier.scale.fill_(3.0)
    else:
        assert isinstance(head.classifier, nn.Linear)
        head.classifier.weight.mul_(0.1)
        head.classifier.bias.fill_(-5.0)
        head.classifier.bias[0] = 5.0


# ------------------------------------------------------------------------------------------------------ batches


class SealedClips(UnlabelledBatch):
    """Unlabelled clips that betray who asks them for anything but the clips, the geometry and the partners."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AssertionError(f"the strategy asks unlabelled clips for {name!r}, which is hidden from it")


def tiny_batch(facts: DatasetFacts, needs: Needs, *, clips: int = 4, boxes: bool = True, seed: int = 0) -> Batch:
    """A step's clips as the core would hand them to a strategy with these needs.

    Without `boxes` no labelled clip has one: all of them are background.
    """
    generator = torch.Generator().manual_seed(seed)
    own = clips * (2 if needs.extra_labelled else 1)
    clips_bcthw, following = _clips(own, generator), _partners(own, needs.temporal, generator)
    labelled = LabelledBatch(clips_bcthw, tiny_targets(facts, own, boxes), following)
    if needs.labelled_weak:
        labelled.weak_bcthw, labelled.weak_targets = _clips(own, generator), tiny_targets(facts, own, boxes)
    if not needs.unlabelled:
        return Batch(labelled, None, generator)
    weak = _clips(clips, generator)
    flip_b = torch.arange(clips) % 2 == 1
    geometry = WindowGeometry(torch.tensor([[-2, 0, SIZE, SIZE + 2]]).repeat(clips, 1), flip_b, SIZE)
    sealed = SealedClips(
        weak_bcthw=weak,
        strong_bcthw=_clips(clips, generator),
        geometry=geometry,
        index_b=torch.arange(clips),
        following=_partners(clips, needs.has_partners, generator),
        weak_following=_partners(clips, needs.weak_following, generator),
    )
    return Batch(labelled, sealed, generator)


def tiny_targets(facts: DatasetFacts, clips: int, boxes: bool = True) -> Targets:
    """One box a clip, classes in turn; or none, which makes every clip background."""
    count = clips if boxes else 0
    labels = torch.arange(count) % facts.num_classes
    labels_nk = nn.functional.one_hot(labels, facts.num_classes).float()
    if facts.multilabel:
        frame_labels_b = labels_nk if boxes else torch.zeros(clips, facts.num_classes)
    else:
        frame_labels_b = labels if boxes else torch.full((clips,), facts.num_classes)
    every = torch.ones(clips, dtype=torch.bool)
    boxes_n4 = torch.tensor([[4.0, 6.0, 20.0, 28.0]]).repeat(count, 1)
    return Targets(torch.arange(count), boxes_n4, labels_nk, every, frame_labels_b, every)


def _clips(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 3, FRAMES, SIZE, SIZE, generator=generator)


def _partners(count: int, needed: bool, generator: torch.Generator) -> Tensor | None:
    return _clips(count, generator) if needed else None
