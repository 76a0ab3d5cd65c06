"""FixMatch (Sohn et al., arXiv 2001.07685) carried to boxes, as the paper's baseline.

The student labels the weak view itself; its boxes above one confidence threshold are pseudo-labels of the strong
view. There is no frame head unless `guidance` or `frame_head` asks for it.

    L = L_bou + L_bou(strong view, boxes of the student's own weak view with confidence > O_th)

Deviations. The published method is for one label an image, above 0.95, and strong views of colours and cutout; boxes,
the threshold and geometric views are the baseline of arXiv 2507.21247. Weak views are labelled in evaluation mode.
"""

from __future__ import annotations

from ssldet.contracts import Detector, Needs, Predictions, PseudoLabels
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.teachers import Teacher, TeacherOptions, TeacherStudent


class FixMatch(TeacherStudent):
    """L_bou on labelled clips, and on the strong view of unlabelled ones against the student's own weak boxes."""

    class Config(TeacherOptions, GuidanceOptions):
        """Options of `fixmatch`: those of every teacher, and of guidance."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "shared")

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        candidates, facts = self.candidates(predictions), self.teacher.network.facts
        return guided_boxes(candidates, predictions, facts, self.config)[1]
