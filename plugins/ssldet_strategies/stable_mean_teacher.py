"""Stable Mean Teacher (Kumar et al., "Stable Mean Teacher for Semi-supervised Video Action Detection", arXiv
2412.07072) carried to boxes: a mean teacher whose mistakes a second network mends, and agreement over time.

    L      = L_bou + L_rec + w r(t) (L_map + L_dop + L_bou_u)
    L_rec  = BCE(R(s), y) + Dice(R(s), y)                                   labelled clips; trains R alone
    L_map  = mean (s - t)^2 + mean (s - R'(t))^2                            unlabelled clips
    L_dop  = mean (ds - dt)^2 + mean (ds - dR'(t))^2,  dx = x(next key frame) - x

s and t are the student's and the teacher's maps of where somebody acts, t carried to the strong view; R (error
recovery) is the student's own network, from its map to a better one, R' the teacher's moving average of it; y is the
truth. L_dop is the published difference of pixels. w is `unlabelled_weight`, r(t) its ramp.

Deviations. The published network segments eight frames, pixel by pixel; ours is the key frame's grid, so that a map
is the highest objectness of a cell's anchors, y is 1 in the cell of a box's centre and unknown in the rest of the
box, and dx is between consecutive key frames. Maps are probabilities (published: logits), so that nothing is what the
strong view shows beyond the frame. R is three convolutions that begin as the identity (published: a U-Net from random
weights). A mask has no boxes to regress: here Mean Teacher's pseudo-boxes teach them (L_bou_u), of the teacher's
boxes with their objectness scaled to R'(t). Consistency is of unlabelled clips alone. The published code multiplies
by its ramp twice and averages parameters without the buffers of batch normalisation; here the ramp counts once, and
buffers are averaged. Its ramp lasts 16 of 50 epochs on UCF101-24; on J-HMDB-21 there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssldet.contracts import (
    Batch,
    Decoded,
    Detector,
    Geometry,
    Needs,
    Predictions,
    Progress,
    PseudoLabels,
    StepLosses,
    Targets,
    TrainingInfo,
    UnlabelledBatch,
)
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.objectives import PredictionPair, forward_groups, supervised_group_terms, unlabelled_group_terms
from ssldet.training.pseudo_labels import candidate_boxes, carry_to_strong
from ssldet.training.teachers import AveragedTeacher, AverageOptions
from ssldet_strategies.cell_maps import cells_of, centre_maps, confidence_levels, difference, distance, objectness_maps
from ssldet_strategies.error_recovery import ErrorRecovery, recovery_loss

Maps = list[Tensor]
"""One map a level, (b, 1, height, width)."""


class StableMeanTeacher(AveragedTeacher):
    """Mean Teacher with error recovery and consistency of maps, in space and over time."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `stable_mean_teacher`: those of an averaged teacher, and of guidance."""

        ema_decay: float = Field(0.99, ge=0, lt=1)
        """Decay of the averages, of the student and of its error recovery."""
        unlabelled_weight: float = Field(0.1, ge=0)
        """w: weight of all terms of unlabelled clips."""
        unlabelled_ramp: float = Field(0.32, ge=0, le=1)
        """Share of the second stage over which this weight rises from nearly 0."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs(weak_following=True)

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        self.recovery = ErrorRecovery().to(next(student.parameters()).device)
        self.teacher_recovery = copy.deepcopy(self.recovery).requires_grad_(False)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"error_recovery": self.recovery}

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        return StableMeanTeacher.group_losses(self, [batch], student, progress)[0]

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        groups = [batch.unlabelled for batch in batches if batch.unlabelled is not None]
        labelled = [batch.labelled for batch in batches]
        assert len(groups) == len(batches), "the second stage needs unlabelled clips"
        teachers = list(zip(*self._teachers(groups), strict=True))
        pseudo = [self.pseudo_labels(now) for now, _ in teachers]
        strong = [
            carry_to_strong(labels.targets, group.geometry, self.config.min_visible)
            for labels, group in zip(pseudo, groups, strict=True)
        ]
        details, parts = ([dict[str, Tensor]() for _ in batches] for _ in range(2))
        pairs = forward_groups(student, [group.clips_bcthw for group in labelled], [None for _ in labelled])
        terms = supervised_group_terms(student, labelled, self.needs, details=details, pairs=pairs)
        views, partners = [group.strong_bcthw for group in groups], [group.following for group in groups]
        pairs_u = forward_groups(student, views, partners)
        terms_u = unlabelled_group_terms(student, views, partners, strong, self.needs, details=parts, pairs=pairs_u)
        return [
            StepLosses(
                terms[i]
                | {"recovery": self._recovery_term(student, pairs[i][0], labelled[i].targets, group.geometry.size)}
                | self._weighted(terms_u[i] | self._map_terms(student, pairs_u[i], teachers[i], group), progress),
                pseudo[i],
                teacher_clips=sum(map(len, filter(None, teachers[i]))),
                details=details[i] | self._weighted(parts[i], progress),
            )
            for i, group in enumerate(groups)
        ]

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """The teacher's boxes, their objectness scaled to what error recovery makes of the map."""
        network, config = self.teacher.network, self.config
        decoded = self._recovered(network, predictions)
        found = candidate_boxes(decoded, threshold=config.o_th, nms_iou=config.nms_iou, confidence=config.confidence)
        return guided_boxes(found, predictions, network.facts, config)[1]

    def after_step(self, student: Detector, progress: Progress) -> None:
        young = (1 + self.teacher.updates) / (10 + self.teacher.updates) if self.config.ema_warmup else 1.0
        share = 1 - min(self.config.ema_decay, young)
        super().after_step(student, progress)
        for mine, theirs in zip(self.teacher_recovery.parameters(), self.recovery.parameters(), strict=True):
            mine.lerp_(theirs.detach(), share)

    def state_dict(self) -> dict[str, Tensor]:
        recovery = {f"recovery.{name}": tensor for name, tensor in self.teacher_recovery.state_dict().items()}
        return super().state_dict() | recovery

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        mine = {name: tensor for name, tensor in state.items() if name.startswith("recovery.")}
        super().load_state_dict({name: tensor for name, tensor in state.items() if name not in mine})
        self.teacher_recovery.load_state_dict({name.removeprefix("recovery."): mine[name] for name in mine})

    def _teachers(self, groups: Sequence[UnlabelledBatch]) -> tuple[list[Predictions], list[Predictions | None]]:
        """The teacher's predictions of the weak views of all groups, and of their partners."""
        now = self.teacher.predict_groups([group.weak_bcthw for group in groups])
        weak = [group.weak_following for group in groups if group.weak_following is not None]
        return now, list(self.teacher.predict_groups(weak)) if weak else [None for _ in groups]

    @torch.no_grad()
    def _recovered(self, network: Detector, predictions: Predictions) -> Decoded:
        decoded, maps = network.decode(predictions), self._maps(network, predictions)
        shapes = cells_of(network, predictions, "stable_mean_teacher").shapes
        levels = confidence_levels(decoded.confidence_bn, shapes)
        scaled = [
            level * self.teacher_recovery(of_level).sigmoid() / of_level.clamp_min(1e-6)
            for level, of_level in zip(levels, maps, strict=True)
        ]
        return replace(decoded, confidence_bn=torch.cat([level.flatten(1) for level in scaled], dim=1).clamp(0, 1))

    @staticmethod
    def _maps(network: Detector, predictions: Predictions) -> Maps:
        return objectness_maps(cells_of(network, predictions, "stable_mean_teacher"))

    def _recovery_term(self, student: Detector, predictions: Predictions, targets: Targets, size: int) -> Tensor:
        maps = [level.detach() for level in self._maps(student, predictions)]
        losses = [recovery_loss(self.recovery(level), *centre_maps(targets, level, size)) for level in maps]
        return torch.stack(losses).mean()

    def _map_terms(
        self,
        student: Detector,
        pair: PredictionPair,
        teachers: tuple[Predictions, Predictions | None],
        group: UnlabelledBatch,
    ) -> dict[str, Tensor]:
        """L_map, and L_dop where there are partners."""
        mine, theirs = self._maps(student, pair[0]), self._carried(teachers[0], group.geometry, len(group.weak_bcthw))
        terms = {"map_u": torch.stack([distance(mine, maps) for maps in theirs]).sum()}
        if pair[1] is None or teachers[1] is None:
            return terms
        after = self._carried(teachers[1], group.geometry, len(group.weak_bcthw))
        moved = difference(self._maps(student, pair[1]), mine)
        apart = [distance(moved, difference(*maps)) for maps in zip(after, theirs, strict=True)]
        return terms | {"difference_u": torch.stack(apart).sum()}

    @torch.no_grad()
    def _carried(self, predictions: Predictions, geometry: Geometry, clips: int) -> tuple[Maps, Maps]:
        """The teacher's maps of the first of `clips` clips, and what error recovery makes of them, as strong views."""
        maps = self._maps(self.teacher.network, predictions)
        recovered = [self.teacher_recovery(level).sigmoid() for level in maps]
        return [_warped(level, geometry, clips) for level in maps], [_warped(m, geometry, clips) for m in recovered]


def _warped(map_p1hw: Tensor, geometry: Geometry, clips: int) -> Tensor:
    """The maps of the first p clips in the strong view; the geometry is of all clips."""
    return geometry.warp(F.pad(map_p1hw, (0, 0, 0, 0, 0, 0, 0, clips - len(map_p1hw))))[: len(map_p1hw)]
