"""The loss terms that strategies share, as the paper names them. Each is a mean over clips.

supervised_terms   L_sup + L_tmp on labelled clips (Eqs. 4-6, 10): the whole first stage, and part of the second
unlabelled_terms   L_u + L_tmp on the strong view of unlabelled clips, against pseudo-labels (Eqs. 7-10)
temporal_term      L_tmp alone (Eq. 10); TemporalOptions: the options of every strategy that has it
ramp_up            the weight of a term that grows at the beginning of the second stage

Several groups of clips (`train.bn_batch`) go through the network in one call and have their losses apart, each from its
own predictions: so whatever a loss divides by, and whatever a strategy counts, is what it is where groups come alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Detector,
    LabelledBatch,
    Needs,
    Options,
    Predictions,
    Progress,
    Targets,
    TemporalReduction,
)
from ssldet.nn.batch_norm import normalised_in_groups

ViewPair = tuple[Tensor, Tensor | None]
"""Clips, and the partners of the first of them."""

PredictionPair = tuple[Predictions, Predictions | None]
"""Predictions of a group's clips, and of their partners."""


class TemporalOptions(Options):
    """Options of every strategy with L_tmp (Eq. 10), in both stages."""

    temporal_weight: float = Field(1.0, ge=0)
    """Weight of L_tmp."""
    temporal_reduction: TemporalReduction = "auto"
    """|.| of Eq. 10 over classes: "sum" (the L1 norm), "mean", or "auto": the sum over softmax classes, and the mean
    over the sigmoids of multi-label data, where a sum has no bound but the number of classes.
    """


def supervised_terms(
    student: Detector, labelled: LabelledBatch, needs: Needs, *, details: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The terms of labelled clips: "box" (L_bou), and with a frame head beta * "frame" and "temporal".

    `details`: if given, the parts of "box" are written here, as `Detector.losses` has it.
    """
    return supervised_group_terms(student, [labelled], needs, details=None if details is None else [details])[0]


def supervised_group_terms(
    student: Detector,
    labelled: Sequence[LabelledBatch],
    needs: Needs,
    *,
    details: Sequence[dict[str, Tensor]] | None = None,
    pairs: Sequence[PredictionPair] | None = None,
) -> list[dict[str, Tensor]]:
    """`supervised_terms` of each of several groups, which go through the network in one call.

    `pairs`: their predictions, where the network has been called already.
    """
    if pairs is None:
        views = [group.clips_bcthw for group in labelled], [group.following for group in labelled]
        pairs = forward_groups(student, *views)
    return [
        _supervised(student, pair, group, needs, None if details is None else details[place])
        for place, (pair, group) in enumerate(zip(pairs, labelled, strict=True))
    ]


def _supervised(
    student: Detector, pair: PredictionPair, labelled: LabelledBatch, needs: Needs, details: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    predictions, following = pair
    terms = _weighted(student.losses(predictions, labelled.targets, details=details), needs, needs.beta)
    if needs.temporal and following is not None:
        terms["temporal"] = _temporal(predictions, following, student.facts.multilabel, needs)
    return terms


def unlabelled_terms(
    student: Detector,
    strong_bcthw: Tensor,
    following: Tensor | None,
    pseudo: Targets,
    needs: Needs,
    *,
    details: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The terms of unlabelled clips in the strong view: "box_u", delta * "frame_u" and "temporal_u".

    `pseudo` holds pseudo-labels in the strong view. Clips outside its masks add exactly 0 to box_u and frame_u;
    the temporal term needs no pseudo-label. `details`: as in `supervised_terms`, with names such as "box_u/conf".
    """
    found = None if details is None else [details]
    return unlabelled_group_terms(student, [strong_bcthw], [following], [pseudo], needs, details=found)[0]


def unlabelled_group_terms(
    student: Detector,
    strong: Sequence[Tensor],
    following: Sequence[Tensor | None],
    pseudo: Sequence[Targets],
    needs: Needs,
    *,
    details: Sequence[dict[str, Tensor]] | None = None,
    pairs: Sequence[PredictionPair] | None = None,
) -> list[dict[str, Tensor]]:
    """`unlabelled_terms` of each of several groups, which go through the network in one call; `pairs` as there."""
    pairs = forward_groups(student, strong, following) if pairs is None else pairs
    return [
        unlabelled_pair_terms(student, pair, targets, needs, details=None if details is None else details[place])
        for place, (pair, targets) in enumerate(zip(pairs, pseudo, strict=True))
    ]


def unlabelled_pair_terms(
    student: Detector,
    pair: PredictionPair,
    pseudo: Targets,
    needs: Needs,
    *,
    details: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """`unlabelled_terms` of clips whose predictions, and those of their partners, are there already."""
    predictions, after = pair
    parts: dict[str, Tensor] | None = None if details is None else {}
    losses = student.losses(predictions, pseudo, details=parts)
    terms = {f"{name}_u": term for name, term in _weighted(losses, needs, needs.delta).items()}
    if details is not None and parts is not None:
        details.update({name.replace("/", "_u/", 1): part for name, part in parts.items()})
    if needs.temporal and after is not None:
        terms["temporal_u"] = _temporal(predictions, after, student.facts.multilabel, needs)
    return terms


def temporal_term(
    predictions: Predictions, following: Predictions, multilabel: bool, reduction: TemporalReduction = "auto"
) -> Tensor:
    """L_tmp = |F(G(V_s)) - F(G(V_s+1))| on probabilities, mean over pairs (Eq. 10), without its weight.

    Args:
        predictions: of b clips.
        following: of p <= b clips, the partners of the first p.
        multilabel: whether the probabilities are sigmoids.
        reduction: of the absolute differences over classes; see `TemporalOptions`.

    Raises:
        ValueError: there is no frame head.
    """
    if predictions.frame_logits is None or following.frame_logits is None:
        raise ValueError("the temporal term needs a frame head")
    after = frame_probabilities(following.frame_logits, multilabel)
    now = frame_probabilities(predictions.frame_logits[: len(after)], multilabel)
    by_class_pk = (now - after).abs()
    by_pair = by_class_pk.sum(dim=1) if over_classes(reduction, multilabel) == "sum" else by_class_pk.mean(dim=1)
    return by_pair.mean()


def over_classes(reduction: TemporalReduction, multilabel: bool) -> TemporalReduction:
    """What a reduction of L_tmp is on data of a label kind: "sum" or "mean"."""
    return reduction if reduction != "auto" else "mean" if multilabel else "sum"


def _temporal(predictions: Predictions, following: Predictions, multilabel: bool, needs: Needs) -> Tensor:
    return needs.temporal_weight * temporal_term(predictions, following, multilabel, needs.temporal_reduction)


def ramp_up(progress: Progress, share: float) -> float:
    """A weight that rises from exp(-5) to 1 over the first `share` of the second stage: exp(-5 (1 - t)^2).

    Source: Laine & Aila, arXiv 1610.02242. With a share of 0 it is 1 throughout.
    """
    length = share * (progress.steps - progress.burn_in)
    t = min(1.0, (progress.step - progress.burn_in) / length) if length else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def frame_probabilities(frame_logits: Tensor, multilabel: bool) -> Tensor:
    """F's probabilities: softmax over C + 1 classes, or a sigmoid a class on multi-label data."""
    return frame_logits.float().sigmoid() if multilabel else frame_logits.float().softmax(dim=1)


def forward_pair(
    student: Detector, clips_bcthw: Tensor, following: Tensor | None
) -> tuple[Predictions, Predictions | None]:
    """One forward pass over clips and their partners, so that both see the same batch statistics."""
    return forward_groups(student, [clips_bcthw], [following])[0]


def forward_groups(
    student: Detector, clips: Sequence[Tensor], following: Sequence[Tensor | None]
) -> list[PredictionPair]:
    """One forward pass over several groups of clips and their partners; batch statistics are those of each group.

    Args:
        student: the network.
        clips: (b, 3, t, h, w) of each group, all of one shape.
        following: the partners of each group's first clips; None where there are none.
    """
    return [pairs[0] for pairs in forward_views(student, [[pair] for pair in zip(clips, following, strict=True)])]


def forward_views(student: Detector, groups: Sequence[Sequence[ViewPair]]) -> list[list[PredictionPair]]:
    """One forward pass over all views of several groups: all that a group has is one batch of batch normalisation.

    Args:
        student: the network.
        groups: of each group pairs of clips and their partners, as in `forward_groups`; of all groups alike.
    """
    views = [view for pairs in groups for pair in pairs for view in pair if view is not None]
    with normalised_in_groups(student, len(groups)):
        together: Predictions = student(views[0] if len(views) == 1 else torch.cat(views))
    if len(views) == 1:
        return [[(together, None)]]
    parts = iter(together.split([len(view) for view in views]))
    return [[(next(parts), None if partners is None else next(parts)) for _, partners in pairs] for pairs in groups]


def _weighted(losses: dict[str, Tensor], needs: Needs, frame_weight: float) -> dict[str, Tensor]:
    terms = {"box": losses["box"]}
    if needs.frame_head:
        terms["frame"] = frame_weight * losses["frame"]
    return terms
