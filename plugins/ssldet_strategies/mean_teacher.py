"""Mean Teacher (Tarvainen & Valpola, arXiv 1703.01780) carried to boxes, as the paper's baseline.

The teacher is the moving average of the student; its boxes above one confidence threshold are pseudo-labels. There
is no frame head.
"""

from __future__ import annotations

from ssldet.contracts import Detector, Needs, Predictions, PseudoLabels
from ssldet.training.pseudo_labels import confident_boxes
from ssldet.training.teachers import AverageOptions, Teacher, TeacherStudent


class MeanTeacher(TeacherStudent):
    """L_bou on labelled clips, and on unlabelled ones against the boxes of an averaged teacher."""

    class Config(AverageOptions):
        """Options of `mean_teacher`: those of an averaged teacher."""

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "ema", self.config.ema_decay, warmup=self.config.ema_warmup)

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        return confident_boxes(self.candidates(predictions), len(predictions), self.teacher.network.facts)
