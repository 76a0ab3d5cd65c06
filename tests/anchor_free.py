"""A detector without anchors: one level, and a box answers to the cell of its centre. It proves the abstract contract.

A cell predicts objectness, classes, and the distances from its centre to the four sides of its box, in cells through
softplus: no anchors, no grid of G, P and F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.contracts import (
    Backbone,
    Cells,
    DatasetFacts,
    Decoded,
    Detector,
    Options,
    Predictions,
    Targets,
)
from ssldet.detector.heads import FrameHead, frame_loss
from ssldet.ops.boxes import aligned_giou, pairwise_iou
from ssldet.testing.tiny import TinyState, make_frame_head_confident

STRIDE, CHANNELS = 16, 12


@dataclass(slots=True)
class CentrePredictions(Predictions):
    """`map_bchw`: 4 distances, objectness, k class logits a cell."""

    map_bchw: Tensor
    frame_logits: Tensor | None

    def __len__(self) -> int:
        return len(self.map_bchw)

    def split(self, sizes: Sequence[int]) -> list[CentrePredictions]:
        maps = self.map_bchw.split(list(sizes))
        logits = [None] * len(sizes) if self.frame_logits is None else self.frame_logits.split(list(sizes))
        return [CentrePredictions(*pair) for pair in zip(maps, logits, strict=True)]


class CentreDetector(Detector, nn.Module):
    """Trunk and two heads; losses are GIoU, and cross-entropies of objectness and classes, a mean over clips."""

    def __init__(self, facts: DatasetFacts, *, frame_head: bool) -> None:
        super().__init__()
        self.facts = facts
        self.trunk = nn.Sequential(
            nn.Conv3d(3, CHANNELS, (1, 4, 4), (1, 4, 4)),
            nn.BatchNorm3d(CHANNELS),
            nn.ReLU(),
            nn.Conv3d(CHANNELS, CHANNELS, (1, 4, 4), (1, 4, 4)),
            nn.BatchNorm3d(CHANNELS),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(CHANNELS, 5 + facts.num_classes, 1)
        self.frame_head = FrameHead(CHANNELS, facts, hidden=16) if frame_head else None

    def forward(self, clips_bcthw: Tensor) -> CentrePredictions:
        shared = self.trunk(clips_bcthw).mean(dim=2)
        return CentrePredictions(self.head(shared), None if self.frame_head is None else self.frame_head(shared))

    def cells(self, predictions: Predictions) -> Cells:
        assert isinstance(predictions, CentrePredictions)
        map_bchw = predictions.map_bchw.float()
        height, width = map_bchw.shape[2:]
        flat_bnc = map_bchw.flatten(2).transpose(1, 2)
        distances_bn4 = F.softplus(flat_bnc[..., :4]) * STRIDE
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centres_n2 = torch.stack((x, y), dim=-1).view(-1, 2).to(map_bchw) * STRIDE
        boxes_bn4 = torch.cat((centres_n2 - distances_bn4[..., :2], centres_n2 + distances_bn4[..., 2:]), dim=-1)
        return Cells(flat_bnc[..., 4], flat_bnc[..., 5:], boxes_bn4, ((1, height, width),))

    def decode(self, predictions: Predictions) -> Decoded:
        cells = self.cells(predictions)
        scores = cells.classes_bnk.sigmoid() if self.facts.multilabel else cells.classes_bnk.softmax(dim=-1)
        return Decoded(cells.boxes_bn4, cells.confidence_bn.sigmoid(), scores)

    def losses(
        self, predictions: Predictions, targets: Targets, *, details: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        cells = self.cells(predictions)
        rows = targets.box_mask_b[targets.clip_n].nonzero()[:, 0]
        clip_m, cell_m = targets.clip_n[rows], self._cell(cells, targets.boxes_n4[rows])
        weights = torch.ones(len(targets.clip_n), 3) if targets.weights_n3 is None else targets.weights_n3
        weights_m3 = weights.to(cells.confidence_bn)[rows]
        boxes = 1 - aligned_giou(cells.boxes_bn4[clip_m, cell_m], targets.boxes_n4[rows])
        terms = {
            "box": (weights_m3[:, 0] * boxes).sum(),
            "conf": self._objectness(cells, targets, clip_m, cell_m, weights_m3[:, 1]),
            "cls": (weights_m3[:, 2] * self._class_entropy(cells.classes_bnk[clip_m, cell_m], targets, rows)).sum(),
        }
        terms = {name: term / len(predictions) for name, term in terms.items()}
        if details is not None:
            details.update({f"box/{name}": term.detach() for name, term in terms.items()})
        losses = {"box": torch.stack(list(terms.values())).sum()}
        if predictions.frame_logits is not None:
            losses["frame"] = frame_loss(predictions.frame_logits, targets, self.facts)
        return losses

    def _cell(self, cells: Cells, boxes_m4: Tensor) -> Tensor:
        _, height, width = cells.shapes[0]
        x, y = ((boxes_m4[:, :2] + boxes_m4[:, 2:]) / 2 / STRIDE).long().unbind(dim=1)
        return y.clamp(0, height - 1) * width + x.clamp(0, width - 1)

    def _class_entropy(self, logits_mk: Tensor, targets: Targets, rows: Tensor) -> Tensor:
        wanted_mk = targets.labels_nk[rows].to(logits_mk)
        if self.facts.multilabel:
            entropy_mk = F.binary_cross_entropy_with_logits(logits_mk, wanted_mk, reduction="none")
            if targets.label_mask_nk is not None:
                entropy_mk = entropy_mk * targets.label_mask_nk[rows]
            return entropy_mk.sum(dim=1)
        return F.cross_entropy(logits_mk, wanted_mk, reduction="none")

    def _objectness(self, cells: Cells, targets: Targets, clip_m: Tensor, cell_m: Tensor, weight_m: Tensor) -> Tensor:
        wanted_bn = torch.zeros_like(cells.confidence_bn)
        wanted_bn[clip_m, cell_m] = 1
        weight_bn = torch.ones_like(wanted_bn)
        if targets.background_weights_bn is not None:
            weight_bn = targets.background_weights_bn.to(weight_bn).clone()
        if targets.ignored_boxes_m4 is not None and targets.ignored_clip_m is not None:
            for clip, box in zip(targets.ignored_clip_m.tolist(), targets.ignored_boxes_m4, strict=True):
                weight_bn[clip, pairwise_iou(cells.boxes_bn4[clip].detach(), box[None])[:, 0] > 0.5] = 0
                weight_bn[clip, self._cell(cells, box[None])] = 0
        weight_bn[clip_m, cell_m] = weight_m
        weight_bn = weight_bn * targets.box_mask_b[:, None].to(weight_bn)
        return F.binary_cross_entropy_with_logits(cells.confidence_bn, wanted_bn, weight_bn, reduction="sum")


class CentreBackbone(Backbone):
    """A small anchor-free network."""

    stride = STRIDE

    def __init__(self, config: Options | None = None) -> None:
        super().__init__(config or Options())

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> CentreDetector:
        return CentreDetector(facts, frame_head=frame_head)


def centre_detector(
    facts: DatasetFacts, *, frame_head: bool, state: TinyState = "random", seed: int = 0
) -> CentreDetector:
    """As `tiny_detector`: confident of a box of class 0 in every cell, finding nothing, or as its weights have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = CentreBackbone().build(facts, frame_head=frame_head)
    if state != "random":
        with torch.no_grad():
            assert detector.head.bias is not None
            detector.head.weight.mul_(0.1)
            detector.head.bias.fill_(-6.0)
            detector.head.bias[:4] = 0.5
            detector.head.bias[4] = 6.0 if state == "confident" else -30.0
            detector.head.bias[5] = 6.0
    if state == "confident" and detector.frame_head is not None:
        make_frame_head_confident(detector.frame_head)
    return detector.train()
