"""The detector: features G, box head P and frame head F behind one face."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssldet.contracts import DatasetFacts, Decoded, DetectorParts, Predictions, Targets
from ssldet.detector.heads import frame_loss
from ssldet.detector.region import RegionOptions, decode_grid, region_loss


class Detector(nn.Module):
    """G, P and, where built, F. Final: a backbone varies the parts, not this class.

    Attributes:
        facts: of the data set whose classes it predicts.
        stride: pixels of the view per cell of the grid.
        region: settings of its box loss.
    """

    def __init__(self, parts: DetectorParts, *, facts: DatasetFacts, stride: int, region: RegionOptions) -> None:
        super().__init__()
        self.features = parts.features
        self.box_head = parts.box_head
        self.frame_head = parts.frame_head
        self.facts, self.stride, self.region = facts, stride, region

    @property
    def has_frame_head(self) -> bool:
        return self.frame_head is not None

    def forward(self, clips_bcthw: Tensor) -> Predictions:
        """Clips of RGB float in [0, 1], the key frame last -> raw grid and, with a frame head, frame logits."""
        features_bchw = self.features(clips_bcthw)
        # the heads are cheap: under autocast they stay in full precision, so that boxes are not rounded
        with torch.autocast(features_bchw.device.type, enabled=False):
            features_bchw = features_bchw.to(next(self.box_head.parameters()).dtype)
            frame_logits = None if self.frame_head is None else self.frame_head(features_bchw)
            return Predictions(self.box_head(features_bchw), frame_logits)

    def losses(
        self, predictions: Predictions, targets: Targets, *, details: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Unweighted losses of a batch, averaged over its clips (masked ones included; form `yowo` sums).

        Args:
            predictions: what `forward` gave.
            targets: boxes in pixels of the view, and frame labels.
            details: if given, the detached terms that make up `box` are written here as `box/x`, `box/conf` ...

        Returns:
            `box`: L_bou; with a frame head also `frame`: L_frame. A clip that its mask excludes adds exactly 0.
        """
        terms = region_loss(predictions.grid, targets, facts=self.facts, stride=self.stride, options=self.region)
        losses = {"box": terms.pop("total")}
        if details is not None:
            details.update({f"box/{name}": term.detach() for name, term in terms.items()})
        if predictions.frame_logits is not None:
            losses["frame"] = frame_loss(predictions.frame_logits, targets, self.facts)
        return losses

    def decode(self, predictions: Predictions) -> Decoded:
        """All boxes in pixels of the view, nothing filtered."""
        return decode_grid(predictions.grid, facts=self.facts, stride=self.stride)
