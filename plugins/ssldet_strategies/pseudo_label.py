"""STAC (Sohn et al., "A Simple Semi-Supervised Learning Framework for Object Detection", arXiv 2005.04757) for clips.

The network that the first stage left labels the unlabelled clips and is never changed again; the student learns these
labels on views that are changed in colour, geometry and by cutout.

    L = L_bou + lambda_u L_bou(strong view, boxes with s > tau),    s = objectness x best class

Published: tau 0.9, lambda_u 2. Deviations. The detector is one-stage, so that one loss stands for those of two heads.
Pseudo-labels are made anew for each clip, which of a frozen teacher are the same labels. Colours change as those of
labelled clips can (brightness, contrast, saturation), geometry is the strong view's (flip, scale, crop; no rotation, no
shear), and cutout is one grey rectangle of up to half of each side, where the published code has up to five small ones.
The threshold is strict, as everywhere here.
"""

from __future__ import annotations

from pydantic import Field

from ssldet.contracts import Batch, Detector, Needs, Predictions, PseudoLabels
from ssldet.data.views import ViewOptions, draw_photometry
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.pseudo_labels import Confidence
from ssldet.training.teachers import StrongView, Teacher, TeacherOptions, TeacherStudent


class PseudoLabel(TeacherStudent):
    """L_bou on labelled clips, and on unlabelled ones against the boxes of the network that the first stage left."""

    class Config(TeacherOptions, GuidanceOptions):
        """Options of `pseudo_label`, beside those of every teacher and of guidance."""

        o_th: float = Field(0.9, ge=0, le=1)
        """tau; a box of the teacher is a pseudo-box when its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        unlabelled_weight: float = Field(2.0, ge=0)
        """lambda_u, the weight of all terms of unlabelled clips."""
        colour: float = Field(0.4, ge=0, lt=1)
        """How far colours of strong views are changed, as `views.strong_colour` has it, and beside it."""
        cutout: float = Field(1.0, ge=0, le=1)
        """Probability that a rectangle of a strong view is filled with grey, as `views.strong_cutout` has it."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "frozen")

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        candidates, facts = self.candidates(predictions), self.teacher.network.facts
        return guided_boxes(candidates, predictions, facts, self.config)[1]

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """The strong view with other colours and a piece cut out; both are drawn by the strategy."""
        view = super().strong_view(pseudo, predictions, batch)
        wanted = ViewOptions(strong_colour=self.config.colour, strong_cutout=self.config.cutout)
        if wanted.photometric:
            look = draw_photometry(len(view.clips_bcthw), wanted, batch.generator)
            view.clips_bcthw = look.apply(view.clips_bcthw)
        return view
