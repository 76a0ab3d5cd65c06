"""The box head's grid: encoding, decoding and its loss, as pure functions over whole batches.

A grid is (b, a * (5 + k), h, w): per anchor tx, ty, tw, th, confidence and k class logits. Its cells are flattened
anchor-major, n = a * h * w. Coordinates inside the loss are in cells; boxes that come in or go out are xyxy pixels.

    x = sigmoid(tx) + column        w = anchor_w * exp(tw)        confidence = sigmoid(tc)
    y = sigmoid(ty) + row           h = anchor_h * exp(th)        classes: softmax, or see `class_probabilities`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ssldet.contracts import DatasetFacts, Decoded, Options, Targets
from ssldet.ops.boxes import aligned_giou, aligned_iou, cxcywh_from_xyxy, xyxy_from_cxcywh

ANCHOR_GRID = 7
"""Anchors are stated in cells of a 7 x 7 grid over the frame; other grids scale them."""

MAX_LOG_SIZE = 10.0
"""tw, th are cut to +-10 before exp, so that boxes and their areas stay finite in float32."""


class RegionOptions(Options):
    """Settings of the region loss."""

    form: Literal["paper", "yowo", "giou"] = "paper"
    """`paper` (Eqs. 1-4), `yowo` (the published code's sums) or `giou` (quick to learn at small scale)."""
    alpha: float = Field(0.5, gt=0)
    """Weight of coordinates and confidence against the class term (`paper`, `yowo`)."""
    eta: float = Field(0.5, gt=0, lt=1)
    """Curvature of the smooth L1 of `paper`."""
    gamma: float | None = Field(None, ge=0)
    """Focal exponent of `paper` and `yowo`; None means 2, or 0.5 on multi-label data."""
    class_form: Literal["binary", "softmax"] = "binary"
    """`binary` or `softmax` focal loss in `paper` on single-label data."""
    object_scale: float = Field(5.0, ge=0)
    """Weight of the confidence of assigned cells (`paper`, `yowo`)."""
    ignore_iou: float = Field(0.6, ge=0, le=1)
    """An unassigned cell whose box overlaps a truth by more is no negative."""
    box_weight: float = Field(3.0, ge=0)
    """Weight of 1 - GIoU (`giou`)."""
    confidence_weight: float = Field(1.0, ge=0)
    """Weight of the objectness cross-entropy (`giou`)."""
    class_weight: float = Field(1.0, ge=0)
    """Weight of the class cross-entropy (`giou`)."""

    def is_focal(self, facts: DatasetFacts) -> bool:
        """Whether the class term weighs boxes less that are found already."""
        return self.form != "giou" and self.focal_gamma(facts.multilabel) > 0

    def focal_gamma(self, multilabel: bool) -> float:
        return self.gamma if self.gamma is not None else 0.5 if multilabel else 2.0


# ------------------------------------------------------------------------------------------------ the grid


@dataclass(slots=True)
class GridCells:
    """A grid taken apart, n = a * h * w cells a clip, in cell units.

    Attributes:
        raw_bn4: tx, ty, tw, th.
        boxes_bn4: xyxy in cells.
        confidence_bn, classes_bnk: logits.
        anchors_a2: (w, h) in cells of this grid.
        height, width: of the grid.
    """

    raw_bn4: Tensor
    boxes_bn4: Tensor
    confidence_bn: Tensor
    classes_bnk: Tensor
    anchors_a2: Tensor
    height: int
    width: int


def open_grid(grid: Tensor, facts: DatasetFacts, anchors: Sequence[tuple[float, float]]) -> GridCells:
    """Take a raw grid apart; `anchors` in cells of a 7 x 7 grid. Half-precision grids are computed in float32."""
    batch, channels, height, width = grid.shape
    count, depth = len(anchors), 5 + facts.num_classes
    assert channels == count * depth, f"a grid of {count} x {depth} channels is expected, not {channels}"
    grid = grid if grid.dtype == torch.float64 else grid.float()
    flat = grid.view(batch, count, depth, height, width).permute(0, 1, 3, 4, 2).reshape(batch, -1, depth)
    anchors_a2 = grid.new_tensor(anchors) * grid.new_tensor([width, height]) / ANCHOR_GRID
    raw_bn4 = flat[..., :4]
    size = anchors_a2.repeat_interleave(height * width, 0) * raw_bn4[..., 2:].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp()
    centre = raw_bn4[..., :2].sigmoid() + _corners(height, width, grid).repeat(count, 1)
    boxes = xyxy_from_cxcywh(torch.cat((centre, size), dim=-1))
    return GridCells(raw_bn4, boxes, flat[..., 4], flat[..., 5:], anchors_a2, height, width)


def _corners(height: int, width: int, like: Tensor) -> Tensor:
    """(h * w, 2): column and row of every cell."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=like.device), torch.arange(width, device=like.device), indexing="ij"
    )
    return torch.stack((columns, rows), dim=-1).view(-1, 2).to(like.dtype)


def class_probabilities(logits_nk: Tensor, facts: DatasetFacts) -> Tensor:
    """(..., k) probabilities: softmax on single-label data; else softmax over the poses and sigmoid over the rest."""
    if not facts.multilabel:
        return logits_nk.softmax(-1)
    poses, others = logits_nk[..., : facts.poses], logits_nk[..., facts.poses :]
    return torch.cat((poses.softmax(-1), others.sigmoid()), dim=-1)


def decode_grid(grid: Tensor, *, facts: DatasetFacts, anchors: Sequence[tuple[float, float]], stride: int) -> Decoded:
    """All boxes of a raw grid in pixels of the view (`stride` pixels a cell), anchor-major, nothing filtered."""
    cells = open_grid(grid, facts, anchors)
    scores_bnk = class_probabilities(cells.classes_bnk, facts)
    return Decoded(cells.boxes_bn4 * stride, cells.confidence_bn.sigmoid(), scores_bnk)


# -------------------------------------------------------------------------------------------------- assignment


@dataclass(slots=True)
class Assignment:
    """Which cell answers for which truth: m rows, each a different cell.

    Attributes:
        clip_m, cell_m: int64: the clip, and the cell among its n.
        row_m: int64: the row of `Targets`.
        offsets_m4: what raw output should be: sigmoid x, sigmoid y, raw w, raw h.
        boxes_m4: the truth, xyxy in cells.
        ignored_bn: bool: cells that are no negatives: their box overlaps a truth, or a box that `targets` ignores, by
            more than `ignore_iou`, or they would answer for such an ignored box.
    """

    clip_m: Tensor
    cell_m: Tensor
    row_m: Tensor
    offsets_m4: Tensor
    boxes_m4: Tensor
    ignored_bn: Tensor


@torch.no_grad()
def assign(cells: GridCells, targets: Targets, *, stride: int, ignore_iou: float) -> Assignment:
    """Give each truth the anchor of best shape IoU at the cell of its centre; a later truth overwrites an earlier one.

    Truths of clips outside `box_mask_b`, and truths without area, are not assigned. A centre outside the grid falls
    to the nearest cell.
    """
    boxes = targets.boxes_n4.to(cells.boxes_bn4) / stride
    usable = targets.box_mask_b[targets.clip_n] & _has_area(boxes)
    row_m = usable.nonzero()[:, 0]
    clip_m, boxes = targets.clip_n[row_m], boxes[row_m]
    ignored_bn = _overlapping(cells.boxes_bn4, clip_m, boxes, ignore_iou)
    if targets.ignored_boxes_m4 is not None:
        ignored_bn |= _ignored(cells, targets, stride, ignore_iou)

    cell_m, offsets = _responsible(cells, boxes)
    won = _last_of_each(clip_m * cells.boxes_bn4.shape[1] + cell_m, cells.confidence_bn.numel())
    return Assignment(clip_m[won], cell_m[won], row_m[won], offsets[won], boxes[won], ignored_bn)


def _has_area(boxes_n4: Tensor) -> Tensor:
    return (cxcywh_from_xyxy(boxes_n4)[:, 2:] > 0).all(dim=1)


def _responsible(cells: GridCells, boxes_m4: Tensor) -> tuple[Tensor, Tensor]:
    """The cell that answers for each box, and what its raw output should be: (cell_m, offsets_m4)."""
    centre_size = cxcywh_from_xyxy(boxes_m4)
    size = centre_size[:, 2:]
    anchor_m = _shape_iou(size, cells.anchors_a2).argmax(dim=1)
    last = boxes_m4.new_tensor([cells.width - 1, cells.height - 1])
    corner = torch.minimum(centre_size[:, :2].floor().clamp(min=0), last)
    column, row = corner.long().unbind(dim=1)
    cell_m = (anchor_m * cells.height + row) * cells.width + column
    return cell_m, torch.cat((centre_size[:, :2] - corner, (size / cells.anchors_a2[anchor_m]).log()), dim=1)


def _ignored(cells: GridCells, targets: Targets, stride: int, threshold: float) -> Tensor:
    """(b, n) bool: cells that the ignored boxes of `targets` keep from being negatives."""
    assert targets.ignored_boxes_m4 is not None and targets.ignored_clip_m is not None
    boxes = targets.ignored_boxes_m4.to(cells.boxes_bn4) / stride
    usable = _has_area(boxes)
    clip_m, boxes = targets.ignored_clip_m[usable], boxes[usable]
    ignored_bn = _overlapping(cells.boxes_bn4, clip_m, boxes, threshold)
    ignored_bn[clip_m, _responsible(cells, boxes)[0]] = True
    return ignored_bn


def _overlapping(boxes_bn4: Tensor, clip_m: Tensor, truth_m4: Tensor, threshold: float) -> Tensor:
    """(b, n) bool: boxes whose IoU with any truth of their clip is above the threshold."""
    over_mn = aligned_iou(boxes_bn4[clip_m], truth_m4[:, None]) > threshold
    count_bn = torch.zeros(boxes_bn4.shape[:2], dtype=torch.int32, device=boxes_bn4.device)
    return count_bn.index_add_(0, clip_m, over_mn.int()) > 0


def _shape_iou(size_m2: Tensor, anchors_a2: Tensor) -> Tensor:
    """(m, a) IoU of boxes and anchors laid on one centre."""
    overlap = torch.minimum(size_m2[:, None], anchors_a2[None]).prod(dim=-1)
    return overlap / (size_m2.prod(dim=-1)[:, None] + anchors_a2.prod(dim=-1)[None] - overlap)


def _last_of_each(key_m: Tensor, bound: int) -> Tensor:
    """Positions of the last row of every distinct key in [0, bound), ascending: later rows overwrite earlier ones."""
    position_m = torch.arange(len(key_m), device=key_m.device)
    last = torch.full((bound,), -1, device=key_m.device).scatter_reduce(0, key_m, position_m, "amax")
    return position_m[last[key_m] == position_m]


# ------------------------------------------------------------------------------------------------------ losses


def region_loss(
    grid: Tensor,
    targets: Targets,
    *,
    facts: DatasetFacts,
    anchors: Sequence[tuple[float, float]],
    stride: int,
    options: RegionOptions,
    per_clip: bool = False,
) -> dict[str, Tensor]:
    """The box loss L_bou of a batch, by named terms.

    Forms (`options.form`):

    `yowo`: the published code's sums over the batch, not divided by anything (on multi-label data the class term is a
    mean over assigned cells), so its scale grows with the batch; with `per_clip` the mean over clips of what it is for
    each clip alone. Terms x, y, w, h, conf, cls.

    `paper`: Eqs. 1-4, alpha * (L_x + L_y + L_w + L_h + L_conf) + L_focal, with these deviations from the print, which
    leaves much open (docs/paper-map.md has the same list):

    - it is summed over cells and **divided by the number of clips**, masked ones included, so that neither batch
      size nor accumulation changes the gradient's scale;
    - the focal term carries the minus that Eq. 3 lacks;
    - the focal term is a function of the decoded class probability (`class_probabilities`), cut to 1e-6 .. 1 - 1e-6;
      at assigned cells only, summed over classes; `class_form` offers the softmax form instead of the printed one;
    - coordinates count at assigned cells only, as sigmoid x, y and raw w, h, YOWO's parametrisation;
    - assignment is YOWO's: the anchor of best shape IoU at the cell of the centre, later truths over earlier ones;
    - the confidence target is the IoU of predicted box and truth at assigned cells, without gradient, 0 elsewhere;
    - confidence weighs `object_scale` = 5 at assigned cells and 0 where a box overlaps a truth by more than
      `ignore_iou` = 0.6, as in YOWO.

    `giou`: box_weight * (1 - GIoU) and the class cross-entropy (binary on multi-label data) of assigned cells, and the
    binary cross-entropy of objectness (1 at assigned cells, ignored where a box overlaps a truth by more than
    `ignore_iou`, else 0), summed over cells and divided by the number of clips. Terms box, conf, cls.

    A clip outside `targets.box_mask_b` contributes exactly 0, its no-object part included. A box's weights multiply its
    coordinates, the confidence of its cell, and its class term; background weights the confidence of all other cells.
    Classes outside `targets.label_mask_nk` add exactly 0 to the class term on multi-label data.

    Args:
        grid: (b, a * (5 + k), h, w) raw; half precision is computed in float32.
        targets: boxes in pixels of the view.
        facts: classes and label kind.
        anchors: pairs (w, h) in cells of a 7 x 7 grid over the frame.
        stride: pixels a cell.
        options: see `RegionOptions`.
        per_clip: whether `yowo` is a mean over clips, as the other forms always are.

    Returns:
        Weighted scalar terms, and `total`, their sum.
    """
    cells = open_grid(grid, facts, anchors)
    found = assign(cells, targets, stride=stride, ignore_iou=options.ignore_iou)
    labels_mk = targets.labels_nk[found.row_m].to(cells.classes_bnk)
    build = _giou_terms if options.form == "giou" else _squared_terms
    terms = build(cells, found, labels_mk, _Weights(targets, found, per_clip=per_clip), facts, options)
    if per_clip or options.form != "yowo":
        terms = {name: term / grid.shape[0] for name, term in terms.items()}
    return terms | {"total": torch.stack(tuple(terms.values())).sum()}


class _Weights:
    """The weights of targets at the m assigned cells; where there are none nothing is multiplied."""

    def __init__(self, targets: Targets, found: Assignment, *, per_clip: bool) -> None:
        self.mask_b, self.background_bn = targets.box_mask_b, targets.background_weights_bn
        self.parts_m3 = None if targets.weights_n3 is None else targets.weights_n3[found.row_m]
        self.labels_mk = None if targets.label_mask_nk is None else targets.label_mask_nk[found.row_m]
        self._clip_m, self._per_clip = found.clip_m, per_clip

    def box(self, terms_m: Tensor) -> Tensor:
        """(m, ...) coordinate terms, weighted."""
        return self._times(0, terms_m)

    def objectness(self, terms_m: Tensor) -> Tensor:
        """Weighted, without gradient into the weights: torch has no slope of a cross-entropy in them."""
        return self._times(1, terms_m).detach()

    def classes(self, terms_m: Tensor) -> Tensor:
        """(m,) class terms, weighted; (m, k) ones also masked by class."""
        if self.labels_mk is not None and terms_m.ndim == 2:
            terms_m = torch.where(self.labels_mk, terms_m, 0)
        return self._times(2, terms_m)

    def mean(self, terms_m: Tensor) -> Tensor:
        """The mean over all assigned cells; or the sum over clips of the mean over each one's cells."""
        clip_m = self._clip_m if self._per_clip else torch.zeros_like(self._clip_m)
        return (terms_m / clip_m.bincount()[clip_m]).sum()

    def _times(self, part: int, terms_m: Tensor) -> Tensor:
        if self.parts_m3 is None:
            return terms_m
        weight_m = self.parts_m3[:, part].to(terms_m)
        return terms_m * weight_m.view(-1, *[1] * (terms_m.ndim - 1))


def _squared_terms(
    cells: GridCells,
    found: Assignment,
    labels_mk: Tensor,
    weights: _Weights,
    facts: DatasetFacts,
    options: RegionOptions,
) -> dict[str, Tensor]:
    """Smooth-L1 coordinates, squared confidence, focal classes: forms `yowo` and `paper`."""
    at = (found.clip_m, found.cell_m)
    raw = cells.raw_bn4[at]
    got = torch.cat((raw[:, :2].sigmoid(), raw[:, 2:]), dim=1)
    eta = 0.5 if options.form == "yowo" else options.eta
    coordinates = options.alpha * weights.box(smooth_l1(got - found.offsets_m4, eta)).sum(dim=0)

    wanted_bn = torch.zeros_like(cells.confidence_bn)
    wanted_bn[at] = aligned_iou(cells.boxes_bn4[at], found.boxes_m4).detach()
    weight_bn = _confidence_weight(found, weights, wanted_bn, options.object_scale)
    confidence = options.alpha * (weight_bn * (cells.confidence_bn.sigmoid() - wanted_bn).square()).sum()

    classes = _focal(cells.classes_bnk[at], labels_mk, weights, facts, options)
    return dict(zip("xywh", coordinates, strict=True)) | {"conf": confidence, "cls": classes}


def _giou_terms(
    cells: GridCells,
    found: Assignment,
    labels_mk: Tensor,
    weights: _Weights,
    facts: DatasetFacts,
    options: RegionOptions,
) -> dict[str, Tensor]:
    at = (found.clip_m, found.cell_m)
    box = weights.box(1 - aligned_giou(cells.boxes_bn4[at], found.boxes_m4)).sum()
    wanted_bn = torch.zeros_like(cells.confidence_bn)
    wanted_bn[at] = 1
    weight_bn = _confidence_weight(found, weights, wanted_bn, 1.0)
    confidence = F.binary_cross_entropy_with_logits(cells.confidence_bn, wanted_bn, weight_bn, reduction="sum")
    logits_mk = cells.classes_bnk[at]
    classes = _class_entropy(logits_mk, labels_mk, weights, facts)
    weighted = (options.box_weight * box, options.confidence_weight * confidence, options.class_weight * classes)
    return dict(zip(("box", "conf", "cls"), weighted, strict=True))


def _class_entropy(logits_mk: Tensor, labels_mk: Tensor, weights: _Weights, facts: DatasetFacts) -> Tensor:
    """The summed cross-entropies of assigned cells, binary ones on multi-label data."""
    entropy = F.binary_cross_entropy_with_logits if facts.multilabel else F.cross_entropy
    if weights.parts_m3 is None and weights.labels_mk is None:
        return entropy(logits_mk, labels_mk, reduction="sum")
    return weights.classes(entropy(logits_mk, labels_mk, reduction="none")).sum()


def _confidence_weight(found: Assignment, weights: _Weights, like_bn: Tensor, object_scale: float) -> Tensor:
    """(b, n): `object_scale` at assigned cells, 0 at ignored ones and in masked clips, else 1; times the targets'."""
    weight_bn = (~found.ignored_bn).to(like_bn)
    if weights.background_bn is not None:
        weight_bn = weight_bn * weights.background_bn.to(like_bn)
    scale_m = like_bn.new_full((len(found.cell_m),), object_scale)
    weight_bn[found.clip_m, found.cell_m] = weights.objectness(scale_m)
    return weight_bn * weights.mask_b[:, None].to(like_bn)


def smooth_l1(difference: Tensor, eta: float) -> Tensor:
    """Eq. 1: eta * d^2 where |d| < 1, else |d| - eta. With eta = 0.5 the usual smooth L1."""
    size = difference.abs()
    return torch.where(size < 1, eta * size.square(), size - eta)


def _focal(
    logits_mk: Tensor, labels_mk: Tensor, weights: _Weights, facts: DatasetFacts, options: RegionOptions
) -> Tensor:
    """Class term of assigned cells; which focal form depends on the loss form and on the label kind."""
    gamma = options.focal_gamma(facts.multilabel)
    if options.form == "yowo" and facts.multilabel:
        probabilities_mk = class_probabilities(logits_mk, facts)
        terms_mk = _weighted_binary_focal(probabilities_mk, labels_mk, gamma, facts.class_ratios)
        return weights.mean(weights.classes(terms_mk).sum(dim=1))
    if not facts.multilabel and (options.form == "yowo" or options.class_form == "softmax"):
        log_p = logits_mk.log_softmax(-1)
        return -weights.classes(labels_mk * (1 - log_p.exp()).pow(gamma) * log_p).sum()
    p_mk = class_probabilities(logits_mk, facts).clamp(1e-6, 1 - 1e-6)
    return weights.classes(binary_focal(p_mk, labels_mk, gamma)).sum()


def binary_focal(p: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Eq. 3, elementwise: -(y (1-p)^g log p + (1-y) p^g log(1-p)), 0 < p < 1."""
    return -(y * (1 - p).pow(gamma) * p.log() + (1 - y) * p.pow(gamma) * (1 - p).log())


def _weighted_binary_focal(p_mk: Tensor, y_mk: Tensor, gamma: float, ratios: tuple[float, ...] | None) -> Tensor:
    """The published code's class term on AVA: rare classes weigh more when present, frequent ones when absent."""
    ratio = p_mk.new_tensor(ratios if ratios is not None else [0.5] * p_mk.shape[1])
    weight = torch.where(y_mk > 0, (1 - ratio).exp(), ratio.exp())
    return weight * binary_focal(p_mk.clamp(1e-4, 1 - 1e-4), y_mk, gamma)
