"""From decoded boxes to detections: boxes of a batch as rows, their filter and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssldet.contracts import Decoded
from ssldet.ops.boxes import nms


@dataclass(slots=True)
class BoxRecords:
    """Boxes of a batch of clips as rows: detections, or a teacher's candidates for pseudo-labels.

    Attributes:
        clip_n: int64, the clip of the batch.
        boxes_n4: xyxy in pixels of the view.
        confidence_n: in [0, 1]; objectness, unless whoever made the rows says otherwise.
        scores_nk: class probabilities.
    """

    clip_n: Tensor
    boxes_n4: Tensor
    confidence_n: Tensor
    scores_nk: Tensor

    @classmethod
    def of(cls, decoded: Decoded, kept_bn: Tensor, confidence_bn: Tensor | None = None) -> BoxRecords:
        """The decoded boxes that a mask keeps, clip by clip; `confidence_bn` None means their objectness."""
        at = kept_bn.nonzero(as_tuple=True)
        confidence_bn = decoded.confidence_bn if confidence_bn is None else confidence_bn
        return cls(at[0], decoded.boxes_bn4[at], confidence_bn[at], decoded.scores_bnk[at])

    def __len__(self) -> int:
        return len(self.clip_n)

    def __getitem__(self, rows: Tensor | slice) -> BoxRecords:
        """Some of the rows: a mask, indices or a slice."""
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]  # each use of a mask waits for the device, to count its rows
        return BoxRecords(self.clip_n[rows], self.boxes_n4[rows], self.confidence_n[rows], self.scores_nk[rows])

    @classmethod
    def concat(cls, parts: Sequence[BoxRecords]) -> BoxRecords:
        """The rows of all parts, in order; at least one part, and all speak of the same batch."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in BoxRecords.__slots__))

    def nms(self, iou_threshold: float) -> BoxRecords:
        """What class-agnostic greedy suppression leaves of each clip, by falling confidence over all clips."""
        return self[nms(self.boxes_n4, self.confidence_n, self.clip_n, iou_threshold)]

    def by_clip(self) -> BoxRecords:
        """The rows ordered by clip, those of one clip as they are."""
        return self[self.clip_n.argsort(stable=True)]


def detections(
    decoded: Decoded,
    *,
    score_threshold: float = 0.005,
    nms_iou: float = 0.4,
    filter_by: Literal["score", "confidence"] = "score",
) -> BoxRecords:
    """Filter and suppress a batch at once.

    Keeps boxes whose score is above (not at) the threshold, then class-agnostic greedy suppression in order of
    confidence. The published settings: `score` 0.005 and IoU 0.4; on AVA `confidence` 0.005 and IoU 0.5.

    Args:
        decoded: boxes of b clips.
        score_threshold: in [0, 1].
        nms_iou: boxes overlapping a better one by more are dropped.
        filter_by: `score` is confidence times the best class probability.

    Returns:
        Rows ordered by clip, then falling confidence (objectness).
    """
    confidence_bn = decoded.confidence_bn
    score_bn = confidence_bn if filter_by == "confidence" else confidence_bn * decoded.scores_bnk.amax(dim=-1)
    return BoxRecords.of(decoded, score_bn > score_threshold).nms(nms_iou).by_clip()
