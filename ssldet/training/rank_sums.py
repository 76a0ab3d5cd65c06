"""What the processes of one run have to agree on in every step: gradients, numbers for the log, weights.

Gradients are summed by a plain all-reduce, once a step. `DistributedDataParallel` would be wrong here, or slow: a step
calls the network several times before it goes backwards (labelled clips, strong views, partners; group after group),
which its reducer takes for parameters that are used twice, or would have to be told of with `no_sync` in all but the
last pass; it wants to know beforehand which parameters get no gradient; and it sends the buffers of batch
normalisation from rank 0 before each call, while here every rank's batches belong into them, in the order of the
groups (`ssldet.nn.batch_norm.StatisticsRecord`). What it wins, sums that overlap with the backward pass, is
little where a step goes backwards many times and sums but once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssldet.contracts import PseudoLabels
from ssldet.data.sampling import ClipRefs
from ssldet.errors import TrainingError
from ssldet.training.diagnostics import TermGradients
from ssldet.training.readings import StepReadings
from ssldet.util.ranks import Ranks


def sum_gradients(ranks: Ranks, parameters: Sequence[nn.Parameter]) -> None:
    """Every gradient becomes the sum over ranks. One that no rank has stays None: an optimiser leaves it alone."""
    if ranks.size == 1:
        return
    present = torch.tensor([[parameter.grad is not None for parameter in parameters]])
    somewhere = ranks.gather(present).any(dim=0).tolist()
    summed = [parameter for parameter, there in zip(parameters, somewhere, strict=True) if there]
    for parameter in summed:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    ranks.sum_in_place([parameter.grad for parameter in summed if parameter.grad is not None])


def sum_term_gradients(ranks: Ranks, gradients: TermGradients) -> None:
    """The same for the gradients of each loss term."""
    if ranks.size == 1:
        return
    for name in sorted({name for names in ranks.gather_objects(list(gradients.sums)) for name in names}):
        sums = gradients.sums.setdefault(name, [None] * len(gradients.parameters))
        present = ranks.gather(torch.tensor([[value is not None for value in sums]])).any(dim=0).tolist()
        gradients.sums[name] = [
            torch.zeros_like(parameter) if value is None and there else value
            for parameter, value, there in zip(gradients.parameters, sums, present, strict=True)
        ]
        ranks.sum_in_place([value for value in gradients.sums[name] if value is not None])


def readings_of_all(ranks: Ranks, readings: StepReadings) -> StepReadings:
    """The numbers of a step from those of each rank's groups: sums, since each has its share of the mean."""
    if ranks.size == 1:
        return readings
    parts = ranks.gather_objects(readings)
    labels: list[tuple[PseudoLabels, ClipRefs]] = [pair for part in parts for pair in part.pseudo_labels]
    return replace(
        readings,
        terms=_sums([part.terms for part in parts]),
        details=_sums([part.details for part in parts]),
        pseudo_labels=labels,
        gradient_clips=sum(part.gradient_clips for part in parts),
        teacher_clips=sum(part.teacher_clips for part in parts),
    )


def _sums(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums = Counter[str]()
    for part in parts:
        sums.update(part)  # adds
    return dict(sums)


def check_same(ranks: Ranks, tensors: Mapping[str, Tensor]) -> None:
    """Refuse to go on with tensors that ranks do not share: they would train networks of their own.

    Raises:
        TrainingError: names the first such tensor.
    """
    if ranks.size == 1 or not tensors:
        return
    mine = torch.stack([tensor.detach().double().sum().cpu() for tensor in tensors.values()])
    sums_rn = ranks.gather(mine[None])
    differs = ~((sums_rn == sums_rn[0]) | (sums_rn.isnan() & sums_rn[0].isnan())).all(dim=0)
    if differs.any():
        name = list(tensors)[int(differs.nonzero()[0])]
        raise TrainingError(
            f"{name} is not the same in all {ranks.size} processes; a strategy whose state follows from the clips that "
            "it saw must take in those of all processes (`Progress.gather`), or is to be trained with --devices 1"
        )
