"""What a step's numbers are on the host: read from the device in one go, when all of the step is under way.

Every value that is read makes the host wait until the device has computed it, and then the device wait for the host's
next call. So a step keeps its terms as tensors, and they are read once, before the optimiser moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ssldet.contracts import PseudoLabels, StepLosses, Targets
from ssldet.data.sampling import ClipRefs


@dataclass(slots=True)
class GroupOutcome:
    """What one group of a step's clips gave, on the device and without its graph.

    Attributes:
        terms, details: as in `StepLosses`.
        pseudo_labels: what was taken for true.
        refs: the key frames of the unlabelled clips; None where there are none.
        gradient_clips, teacher_clips: clips that went through the student with, and a teacher without gradients.
    """

    terms: dict[str, Tensor]
    details: dict[str, Tensor]
    pseudo_labels: PseudoLabels | None
    refs: ClipRefs | None
    gradient_clips: int
    teacher_clips: int

    @classmethod
    def of(cls, result: StepLosses, batch_clips: int, refs: ClipRefs | None) -> GroupOutcome:
        """What the losses of a group leave behind, of which `batch_clips` went through the student as they came."""
        terms, details = (
            {name: value.detach() for name, value in values.items()} for values in (result.terms, result.details)
        )
        clips = batch_clips + result.extra_clips
        return cls(terms, details, result.pseudo_labels, refs, clips, result.teacher_clips)


@dataclass(slots=True)
class StepReadings:
    """The numbers of a step: means over its groups.

    Attributes:
        terms, details: by name; see `StepLosses`.
        gradient_norm: before it was cut.
        pseudo_labels: of each group that has some, on the CPU, with the key frames that they speak of.
        gradient_clips, teacher_clips: of all groups.
    """

    terms: dict[str, float]
    details: dict[str, float]
    gradient_norm: float
    pseudo_labels: list[tuple[PseudoLabels, ClipRefs]]
    gradient_clips: int
    teacher_clips: int


def read_step(groups: Sequence[GroupOutcome], gradient_norm: Tensor, of: int | None = None) -> StepReadings:
    """Read all numbers of a step, waiting for the device once.

    `of`: how many groups the step has, where these are some of them: each gives its share of the mean.
    """
    labels = [(_copy(group.pseudo_labels), group.refs) for group in groups if group.pseudo_labels and group.refs]
    values = [value for group in groups for part in (group.terms, group.details) for value in part.values()]
    stacked = torch.cat([value.to(gradient_norm.device).reshape(1) for value in values])
    shares = stacked.double() / (of or len(groups))
    *numbers, norm = torch.cat([shares, gradient_norm.double().reshape(1)]).tolist()  # copies are done by then
    read = iter(numbers)
    terms, details = defaultdict[str, float](float), defaultdict[str, float](float)
    for group in groups:
        for sums, part in ((terms, group.terms), (details, group.details)):
            _add(sums, part, read)
    clips = sum(group.gradient_clips for group in groups), sum(group.teacher_clips for group in groups)
    return StepReadings(dict(terms), dict(details), norm, labels, *clips)


def _add(sums: defaultdict[str, float], part: Mapping[str, Tensor], read: Iterator[float]) -> None:
    for name in part:
        sums[name] += next(read)


def _copy(labels: PseudoLabels) -> PseudoLabels:
    """Pseudo-labels on the CPU, once the device has come so far: nothing waits for the copies here."""
    on_device: dict[str, Tensor | None] = {field.name: getattr(labels.targets, field.name) for field in fields(Targets)}
    copies = {name: t.to("cpu", non_blocking=True) for name, t in on_device.items() if t is not None}
    return replace(labels, targets=replace(labels.targets, **copies))
