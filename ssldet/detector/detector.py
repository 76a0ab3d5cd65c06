"""YOWO's form of a detector: features G, box head P and frame head F over one grid of anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ssldet.contracts import Cells, DatasetFacts, Decoded, Detector, Options, Predictions, Targets
from ssldet.detector.heads import frame_loss
from ssldet.detector.region import RegionOptions, decode_grid, open_grid, region_loss

Anchors = tuple[tuple[float, float], ...]


class GridOptions(Options):
    """Options of every backbone that builds a `GridDetector`, beside its own."""

    anchors: Anchors | None = Field(None, min_length=1)
    """Pairs (w, h) in cells of a 7 x 7 grid over the frame; None means the data set's."""
    region: RegionOptions = RegionOptions()
    """Settings of the box loss."""

    def anchors_for(self, facts: DatasetFacts) -> Anchors:
        """The anchors of a detector for a data set."""
        return self.anchors or facts.anchors


@dataclass(slots=True)
class GridPredictions(Predictions):
    """Raw output over one grid.

    Attributes:
        grid: (b, a * (5 + k), h, w): per anchor tx, ty, tw, th, confidence, class logits.
        frame_logits: (b, k + 1), background last; (b, k) on multi-label data; None without a frame head.
    """

    grid: Tensor
    frame_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.grid)

    def split(self, sizes: Sequence[int]) -> list[GridPredictions]:
        grids = self.grid.split(list(sizes))
        logits = [None] * len(sizes) if self.frame_logits is None else self.frame_logits.split(list(sizes))
        return [GridPredictions(*pair) for pair in zip(grids, logits, strict=True)]


class GridDetector(Detector, nn.Module):
    """G, P and, where built, F. Final: a backbone of this form varies the parts, not this class.

    Args:
        features: G, clips_bcthw -> features_bchw.
        box_head: P, features_bchw -> grid of a * (5 + k) channels.
        frame_head: F, features_bchw -> frame logits; None: without.
        facts: of the data set whose classes it predicts.
        stride: pixels of the view per cell of the grid.
        options: anchors and settings of the box loss.
    """

    def __init__(
        self,
        features: nn.Module,
        box_head: nn.Module,
        frame_head: nn.Module | None,
        *,
        facts: DatasetFacts,
        stride: int,
        options: GridOptions | None = None,
    ) -> None:
        super().__init__()
        self.features, self.box_head, self.frame_head = features, box_head, frame_head
        self.facts, self.stride = facts, stride
        options = options or GridOptions()
        self.anchors, self.region = options.anchors_for(facts), options.region

    def forward(self, clips_bcthw: Tensor) -> GridPredictions:
        features_bchw = self.features(clips_bcthw)
        # the heads are cheap: under autocast they stay in full precision, so that boxes are not rounded
        with torch.autocast(features_bchw.device.type, enabled=False):
            features_bchw = features_bchw.to(next(self.box_head.parameters()).dtype)
            frame_logits = None if self.frame_head is None else self.frame_head(features_bchw)
            return GridPredictions(self.box_head(features_bchw), frame_logits)

    def losses(
        self, predictions: Predictions, targets: Targets, *, details: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As the contract has it: every form of the box loss is a mean over clips."""
        terms = region_loss(
            _grid(predictions),
            targets,
            facts=self.facts,
            anchors=self.anchors,
            stride=self.stride,
            options=self.region,
            per_clip=True,
        )
        losses = {"box": terms.pop("total")}
        if details is not None:
            details.update({f"box/{name}": term.detach() for name, term in _in_pairs(terms).items()})
        if predictions.frame_logits is not None:
            losses["frame"] = frame_loss(predictions.frame_logits, targets, self.facts)
        return losses

    def decode(self, predictions: Predictions) -> Decoded:
        return decode_grid(_grid(predictions), facts=self.facts, anchors=self.anchors, stride=self.stride)

    def cells(self, predictions: Predictions) -> Cells:
        cells = open_grid(_grid(predictions), self.facts, self.anchors)
        shape = (len(self.anchors), cells.height, cells.width)
        return Cells(cells.confidence_bn, cells.classes_bnk, cells.boxes_bn4 * self.stride, (shape,))


def _in_pairs(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of the box loss as one looks at them: coordinates as centre (xy) and size (wh)."""
    if "x" not in terms:
        return terms
    pairs = {"xy": terms["x"] + terms["y"], "wh": terms["w"] + terms["h"]}
    return pairs | {name: term for name, term in terms.items() if name not in "xywh"}


def _grid(predictions: Predictions) -> Tensor:
    """The grid of this detector's own predictions, which is what it is handed."""
    return cast(GridPredictions, predictions).grid
