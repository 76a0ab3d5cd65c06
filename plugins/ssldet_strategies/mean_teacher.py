"""Mean Teacher (Tarvainen & Valpola, arXiv 1703.01780) carried to boxes, as the paper's baseline.

The teacher is the moving average of the student; its boxes above one confidence threshold are pseudo-labels. There
is no frame head unless `guidance` or `frame_head` asks for it.

    L       = L_bou + L_bou(strong view, boxes of the weak view with confidence > O_th)
    teacher = d teacher + (1 - d) student, after each step

Deviations. The published method asks for the same class scores of both networks; boxes and thresholds are the baseline
of arXiv 2507.21247, whose paper gives no decay: 0.999, with a warm-up that keeps it low while the average is young.
"""

from __future__ import annotations

from ssldet.contracts import Needs, Predictions, PseudoLabels
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.teachers import AveragedTeacher, AverageOptions


class MeanTeacher(AveragedTeacher):
    """L_bou on labelled clips, and on unlabelled ones against the boxes of an averaged teacher."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `mean_teacher`: those of an averaged teacher, and of guidance."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        candidates, facts = self.candidates(predictions), self.teacher.network.facts
        return guided_boxes(candidates, predictions, facts, self.config)[1]
