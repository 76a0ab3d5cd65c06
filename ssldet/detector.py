"""The detector: features G, box head P and frame head F behind one face, and how one is built from names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet import plugins
from ssldet.boxes import suppress
from ssldet.contracts import Backbone, Dataset, DatasetFacts, Decoded, DetectorParts, Predictions, Targets
from ssldet.errors import ConfigError
from ssldet.region import RegionOptions, decode_grid, region_loss
from ssldet.weights import apply_weights, read_weights


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


# ------------------------------------------------------------------------------------------------- frame head


FramePool = Literal["mean", "max"]


class FrameHead(nn.Module):
    """F: features of G pooled over the grid -> linear -> ReLU -> classifier.

    On single-label data the classifier is a cosine one over k + 1 classes, background last: logits are
    `scale` * cos(hidden, class weight). On multi-label data it is linear over k classes.

    Args:
        channels: of G's output.
        facts: classes and label kind.
        hidden: width between the two layers.
        scale: inverse temperature of the cosine classifier.
        learn_scale: whether training moves it.
        pool: over the grid, "mean" or "max".
    """

    def __init__(
        self,
        channels: int,
        facts: DatasetFacts,
        *,
        hidden: int = 512,
        scale: float = 10.0,
        learn_scale: bool = True,
        pool: FramePool = "mean",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.hidden = nn.Linear(channels, hidden)
        self.classifier: nn.Module
        if facts.multilabel:
            self.classifier = nn.Linear(hidden, facts.num_classes)
        else:
            self.classifier = CosineLinear(hidden, facts.num_classes + 1, scale=scale, learn_scale=learn_scale)

    def forward(self, features_bchw: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, k + 1) logits, or (b, k) on multi-label data."""
        pooled_bc = features_bchw.mean(dim=(2, 3)) if self.pool == "mean" else features_bchw.amax(dim=(2, 3))
        logits: Tensor = self.classifier(F.relu(self.hidden(pooled_bc)))
        return logits


class CosineLinear(nn.Module):
    """Logits are `scale` times the cosine between the input and each class's weight, in float32."""

    def __init__(self, inputs: int, outputs: int, *, scale: float, learn_scale: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learn_scale)

    def forward(self, hidden_bc: Tensor) -> Tensor:
        # bfloat16 would shift a logit by up to scale / 256, as much as the temporal term measures
        with torch.autocast(hidden_bc.device.type, enabled=False):
            directions_bc = F.normalize(hidden_bc.to(self.weight.dtype), dim=1)
            return self.scale * F.linear(directions_bc, F.normalize(self.weight, dim=1))


def frame_loss(logits: Tensor, targets: Targets, facts: DatasetFacts) -> Tensor:
    """L_frame: cross-entropy of the accepted clips, divided by the number of all clips.

    Multi-label data: binary cross-entropy, mean over classes, with the weights exp(1 - ratio) of present and
    exp(ratio) of absent classes that the published region loss uses (the paper gives none).
    """
    logits, clips = logits.float(), logits.shape[0]
    if facts.multilabel:
        wanted = targets.frame_labels_b.to(logits)
        weight = _presence_weights(wanted, facts.class_ratios)
        loss_b = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none").mean(dim=1)
    else:
        loss_b = F.cross_entropy(logits, targets.frame_labels_b, reduction="none")
    return (loss_b * targets.frame_mask_b.to(loss_b)).sum() / clips


def _presence_weights(wanted_bk: Tensor, ratios: tuple[float, ...] | None) -> Tensor | None:
    if ratios is None:
        return None
    ratio = wanted_bk.new_tensor(ratios)
    return torch.where(wanted_bk > 0, (1 - ratio).exp(), ratio.exp())


# -------------------------------------------------------------------------------------------------- detections


@dataclass(slots=True)
class Detections:
    """Boxes that survived filter and suppression, as flat rows ordered by clip, then falling confidence.

    Attributes:
        clip_n: int64, the clip of the batch.
        boxes_n4: xyxy in pixels of the view.
        confidence_n: objectness in [0, 1].
        scores_nk: class probabilities.
    """

    clip_n: Tensor
    boxes_n4: Tensor
    confidence_n: Tensor
    scores_nk: Tensor


def detections(
    decoded: Decoded,
    *,
    score_threshold: float = 0.005,
    nms_iou: float = 0.4,
    filter_by: Literal["score", "confidence"] = "score",
) -> Detections:
    """Filter and suppress a batch at once.

    Keeps boxes whose score is above (not at) the threshold, then class-agnostic greedy suppression in order of
    confidence. The published settings: `score` 0.005 and IoU 0.4; on AVA `confidence` 0.005 and IoU 0.5.

    Args:
        decoded: boxes of b clips.
        score_threshold: in [0, 1].
        nms_iou: boxes overlapping a better one by more are dropped.
        filter_by: `score` is confidence times the best class probability.
    """
    confidence_bn = decoded.confidence_bn
    score_bn = confidence_bn if filter_by == "confidence" else confidence_bn * decoded.scores_bnk.amax(dim=-1)
    kept_bn = suppress(decoded.boxes_bn4, confidence_bn, score_bn > score_threshold, nms_iou)
    order_bn = confidence_bn.argsort(dim=1, descending=True, stable=True)
    clip_n, place_n = kept_bn.gather(1, order_bn).nonzero(as_tuple=True)
    at = (clip_n, order_bn[clip_n, place_n])
    return Detections(at[0], decoded.boxes_bn4[at], confidence_bn[at], decoded.scores_bnk[at])


# -------------------------------------------------------------------------------------------------- from names


def build_detector(
    backbone: str | Backbone,
    *,
    dataset: str | Dataset | DatasetFacts,
    weights: str | Path | None = None,
    frame_head: bool | None = None,
    region: RegionOptions | None = None,
    **options: Any,
) -> Detector:
    """Build a detector, with random or with loaded weights.

    Args:
        backbone: a plugin name such as "yowo", or a Backbone.
        dataset: a plugin name such as "ucf24" (no data is read), a Dataset, or facts.
        weights: a safetensors file or checkpoint that fits the network entirely, ours or one that the backbone knows.
        frame_head: whether F is built; None builds it unless `weights` has none. Where F is not wanted, that of
            the weights is left out.
        region: settings of the box loss; None means the backbone-independent defaults.
        options: fields of the backbone's Config, if it is given by name.

    Raises:
        UnknownName: no such backbone or data set.
        ConfigError: options that the backbone does not know.
        WeightsError: weights that are absent or do not fit.
    """
    facts = _facts_of(dataset)
    chosen = _backbone_of(backbone, options)
    state = None if weights is None else chosen.translate_weights(read_weights(Path(weights)))
    if frame_head is None:
        frame_head = state is None or any(name.startswith("frame_head.") for name in state)
    parts = chosen.build(facts, frame_head=frame_head)
    detector = Detector(parts, facts=facts, stride=chosen.stride, region=region or RegionOptions())
    if state is not None:
        wanted = {name: value for name, value in state.items() if frame_head or not name.startswith("frame_head.")}
        apply_weights(detector, wanted, source=str(weights))
    return detector


def _facts_of(dataset: str | Dataset | DatasetFacts) -> DatasetFacts:
    if isinstance(dataset, DatasetFacts):
        return dataset
    facts: DatasetFacts = plugins.load("dataset", dataset).facts if isinstance(dataset, str) else dataset.facts
    return facts


def _backbone_of(backbone: str | Backbone, options: dict[str, Any]) -> Backbone:
    if isinstance(backbone, str):
        kind = plugins.load("backbone", backbone)
        try:
            chosen: Backbone = kind(kind.Config(**options))
        except ValueError as error:  # pydantic's ValidationError is one
            raise ConfigError(f"options of backbone {backbone!r}: {error}") from error
        return chosen
    if options:
        raise ConfigError(f"options {sorted(options)} go into the backbone's Config, since an object was given")
    return backbone
