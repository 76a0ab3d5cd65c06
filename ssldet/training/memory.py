"""How much of a step goes through the network at once: what the device's memory holds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ssldet.contracts import Batch, DatasetFacts, Detector, LabelledBatch, Needs, Targets
from ssldet.data.batches import concat_labelled
from ssldet.nn.batch_norm import statistics_kept
from ssldet.training.objectives import supervised_group_terms, unlabelled_group_terms
from ssldet.util.devices import tensors_in

SPARE = 0.05
"""Share of the device's memory that a part must leave: for what other steps need beyond the one that was tried."""


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, 1 taken for granted, in about 2 log2(most) tries.

    Args:
        fits: whether a number does; if one does, so do all below.
    """
    good, bad = 1, most + 1
    while bad - good > 1:
        tried = min(2 * good, most) if bad > most else (good + bad) // 2
        good, bad = (tried, bad) if fits(tried) else (good, tried)
    return good


def fits_in_memory(call: Callable[[], None]) -> bool:
    """Whether something can be computed; what it took is free again afterwards."""
    try:
        call()
    except torch.OutOfMemoryError:
        fitted = False
    else:
        fitted = True
    free_memory()  # not above: the error holds on to all that its frames do
    return fitted


def free_memory() -> None:
    """Give back what nobody holds any more, so that parts of another size find room in one piece."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rehearse(student: Detector, batch: Batch, groups: int, needs: Needs, *, reserve: int = 0) -> None:
    """Compute what a part of `groups` groups like this one would, backwards too; nothing of it remains.

    Args:
        student: in training mode.
        batch: the clips of one group.
        groups: how many such groups go through the network at once.
        needs: of the strategy.
        reserve: bytes that must be left.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    device = batch.labelled.clips_bcthw.device
    kept = torch.empty(reserve + (groups - 1) * size_in_bytes(batch), dtype=torch.uint8, device=device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), statistics_kept(student):
            terms = supervised_group_terms(student, [most_labelled(batch)] * groups, needs)
            if clips := batch.unlabelled:
                pseudo = nothing_in(len(clips.strong_bcthw), student.facts, device)
                views, partners = [clips.strong_bcthw] * groups, [clips.following] * groups
                terms += unlabelled_group_terms(student, views, partners, [pseudo] * groups, needs)
            torch.stack([term for of_group in terms for term in of_group.values()]).sum().backward()
    finally:
        student.zero_grad(set_to_none=True)
        del kept


def most_labelled(batch: Batch) -> LabelledBatch:
    """The labelled clips, and their weak view too where a strategy may train on it."""
    labelled = batch.labelled
    if labelled.weak_bcthw is None or labelled.weak_targets is None:
        return labelled
    both = concat_labelled(replace(labelled, following=None), LabelledBatch(labelled.weak_bcthw, labelled.weak_targets))
    return replace(both, following=labelled.following)


def size_in_bytes(value: Any) -> int:
    """The memory of the tensors in dataclasses within one another."""
    return sum(tensor.nbytes for tensor in tensors_in(value))


def nothing_in(clips: int, facts: DatasetFacts, device: torch.device) -> Targets:
    """Targets of clips that show no box, all of which count."""
    shape = (clips, facts.num_classes) if facts.multilabel else (clips,)
    counts = torch.ones(clips, dtype=torch.bool, device=device)
    return Targets(
        clip_n=torch.zeros(0, dtype=torch.int64, device=device),
        boxes_n4=torch.zeros(0, 4, device=device),
        labels_nk=torch.zeros(0, facts.num_classes, device=device),
        box_mask_b=counts,
        frame_labels_b=torch.zeros(shape, dtype=torch.float32 if facts.multilabel else torch.int64, device=device),
        frame_mask_b=counts,
    )
