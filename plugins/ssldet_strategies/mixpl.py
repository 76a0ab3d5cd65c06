"""MixPL (Chen et al., "Mixed Pseudo Labels for Semi-Supervised Object Detection", arXiv 2312.07006) carried to clips:
the student sees mixtures of unlabelled clips with the pseudo-boxes of all of them.

    L      = L_bou + lambda_u (L_bou(mixup) + 1/2 L_bou(mosaic))
    mixup  = (u_i + u'_j) / 2, u' mirrored, boxes of both      mosaic = four clips at half size in one, boxes of all

u are the strong views with erased patches: up to 19 a clip, each of up to a tenth of the sides; a box of which
patches cover 0.7 or more is dropped. Pseudo-boxes are those of an averaged teacher above tau (`o_th`).

Deviations. The published code mixes with images of earlier steps (a cache of 8), ours with other clips of the same
group, so that a step needs nothing of the last one; a group of b has b // 4 mosaics, at least one (published:
one of four cached images, of random size). All frames of a clip have the same patches, of grey (published: the mean
colour). A mixture in which no clip has a pseudo-box adds nothing (published: it is background). The average is of
constant decay 0.9998 in the published code; here the decay's warm-up bounds it. With a frame head a mixture has a
frame label where all its clips have the same accepted one.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, Detector, Needs, Predictions, PseudoLabels
from ssldet.data.targets import concat_targets
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.objectives import PredictionPair, unlabelled_pair_terms
from ssldet.training.pseudo_labels import Confidence
from ssldet.training.teachers import AveragedTeacher, AverageOptions, StrongView
from ssldet_strategies.mixing import Shown, count_mosaics, erased, mixed_up, mosaic, shuffled, taken


class MixPL(AveragedTeacher):
    """L_bou on labelled clips, and on mixtures of unlabelled ones against the boxes of an averaged teacher."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `mixpl`, beside those of an averaged teacher and of guidance."""

        o_th: float = Field(0.3, ge=0, le=1)
        """tau; a box of the teacher is a pseudo-box when its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        unlabelled_weight: float = Field(2.0, ge=0)
        """lambda_u: weight of all terms of unlabelled clips."""
        ema_decay: float = Field(0.9998, ge=0, lt=1)
        """Decay of the average: teacher = decay * teacher + (1 - decay) * student after each step."""
        mosaic_weight: float = Field(0.5, ge=0)
        """Weight of the terms of mosaics beside those of mixup."""
        erase_patches: tuple[int, int] = (1, 19)
        """The least and the greatest number of patches that are erased of a clip; [0, 0]: none."""
        erase_ratio: tuple[float, float] = (0.0, 0.1)
        """The range of a patch's sides, as a share of the view's."""
        erase_dropped: float = Field(0.7, ge=0)
        """A pseudo-box is dropped when patches cover this share of it or more."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        return guided_boxes(self.candidates(predictions), predictions, self.teacher.network.facts, self.config)[1]

    def extra_clips(self, labelled: int, unlabelled: int) -> int:
        """Mosaics stand beside the mixtures, one for four of them."""
        return max(1, unlabelled // 4)

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """Mixtures of a group's strong views, mosaics after mixup, with the boxes of all clips in them."""
        strong = super().strong_view(pseudo, predictions, batch)
        mixup, mosaics = self.mixtures(Shown(strong.clips_bcthw, strong.targets), batch.generator)
        clips_bcthw = torch.cat((mixup.clips_bcthw, mosaics.clips_bcthw))
        return StrongView(clips_bcthw, concat_targets(mixup.targets, mosaics.targets))

    def unlabelled_terms(
        self, student: Detector, pair: PredictionPair, view: StrongView, details: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Those of mixup, and `mosaic_u`, each a mean over its own clips."""
        of_mosaics = count_mosaics(of=len(pair[0]))
        sizes = [len(pair[0]) - of_mosaics, of_mosaics]
        mixup, mosaics = pair[0].split(sizes)
        first, second = torch.arange(len(pair[0]), device=view.clips_bcthw.device).split(sizes)
        terms = unlabelled_pair_terms(student, (mixup, None), taken(view.targets, first), self.needs, details=details)
        others = unlabelled_pair_terms(student, (mosaics, None), taken(view.targets, second), self.needs)
        return terms | {"mosaic_u": self.config.mosaic_weight * torch.stack(list(others.values())).sum()}

    def mixtures(self, strong: Shown, generator: torch.Generator) -> tuple[Shown, Shown]:
        """Mixup and mosaics of a group's strong views; the generator gives the patches and the order."""
        order_b = shuffled(len(strong.clips_bcthw), generator).to(strong.clips_bcthw.device)
        first, second, third = (self._erased(strong, generator) for _ in range(3))
        return mixed_up(first, second.take(order_b).mirrored()), mosaic(third.mirrored(), order_b)

    def _erased(self, shown: Shown, generator: torch.Generator) -> Shown:
        config = self.config
        return erased(
            shown,
            generator,
            patches=config.erase_patches,
            ratio=config.erase_ratio,
            dropped=config.erase_dropped,
        )
