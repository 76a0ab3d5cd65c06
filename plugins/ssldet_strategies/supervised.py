"""Supervised: the labelled clips alone, for as many steps as every other strategy takes.

Its options make the controls of a comparison (docs/comparisons.md). `frame_head` adds L_frame and L_tmp on labelled
clips, which tells what the auxiliary head does without any guidance; `equal_clips` takes as many clips with gradients
as a semi-supervised strategy that needs the same heads.

    L = L_bou, with `frame_head` + beta L_frame + L_tmp (arXiv 2507.21247, Eqs. 1-6, 10)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from ssldet.contracts import Batch, Detector, Needs, Progress, StepLosses, Strategy
from ssldet.training.objectives import TemporalOptions, supervised_group_terms


class Supervised(Strategy):
    """L_sup of labelled clips (Eqs. 1-6)."""

    class Config(TemporalOptions):
        """Options of `supervised`, beside those of L_tmp."""

        frame_head: bool = False
        """Train F too, with L_frame, and with L_tmp unless `temporal` is off."""
        temporal: bool = True
        """Use L_tmp (Eq. 10), in both stages; without a frame head there is none."""
        equal_clips: bool = False
        """After the first stage take as many labelled clips a step as semi-supervised strategies take labelled and
        unlabelled ones, partners of the temporal term included: the control for the number of clips with gradients.
        """
        beta: float = Field(1.0, ge=0)
        """Weight of L_frame."""

        @model_validator(mode="after")
        def _frame_options_need_the_head(self) -> Self:
            """Runs that differ in options which do nothing would be one training under several names."""
            of_head = {*TemporalOptions.model_fields, "temporal", "beta"}
            given = sorted(n for n in of_head if getattr(self, n) != type(self).model_fields[n].default)
            if given and not self.frame_head:
                raise ValueError(f"{', '.join(given)} do nothing without frame_head=true")
            return self

    config: Config

    @property
    def needs(self) -> Needs:
        with_frame = self.config.frame_head
        return Needs(
            frame_head=with_frame,
            temporal=with_frame and self.config.temporal,
            unlabelled=False,
            extra_labelled=self.config.equal_clips,
            beta=self.config.beta,
            temporal_weight=self.config.temporal_weight,
            temporal_reduction=self.config.temporal_reduction,
        )

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        return Supervised.group_losses(self, [batch], student, progress)[0]

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        details = [dict[str, Tensor]() for _ in batches]
        terms = supervised_group_terms(student, [batch.labelled for batch in batches], self.needs, details=details)
        return [StepLosses(of_group, details=parts) for of_group, parts in zip(terms, details, strict=True)]
