"""From an experiment and its parts to its training: key frames, batches, diagnostics and the loop, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ssldet.config import Experiment
from ssldet.contracts import DatasetFacts, Detector, Strategy, Truth, Video
from ssldet.data.batches import BatchSource, ClipReader
from ssldet.data.sampling import KeyFrames, Sampling, action_extent, key_frames, sampled_frames
from ssldet.data.targets import TruthTable
from ssldet.training.diagnostics import PseudoLabelMeter
from ssldet.training.loop import Parts, Training, Validate
from ssldet.util.ranks import ALONE, Ranks


def assemble_training(
    experiment: Experiment,
    strategy: Strategy,
    student: Detector,
    *,
    facts: DatasetFacts,
    videos: Mapping[str, Video],
    truth_of: Callable[[str], Truth],
    reader: ClipReader,
    labelled: Sequence[str],
    unlabelled: Sequence[str] = (),
    steps: int | None = None,
    device: torch.device | None = None,
    run_id: str = "",
    log: Callable[[dict[str, Any]], None] = lambda line: None,
    validate: Validate | None = None,
    parts: Parts | None = None,
    loader_workers: int = 0,
    switches: Mapping[str, str] | None = None,
    ranks: Ranks = ALONE,
) -> Training:
    """Fresh training of a student by a strategy; `.run()` carries it out.

    Args:
        experiment: schedule, views, sampling and seed; nothing else of it is read.
        strategy: supplies the losses of the second stage, and says what it needs.
        student: the network, on the device.
        facts: the data set's facts.
        videos: the training videos by id.
        truth_of: the annotation of a video. That of unlabelled ones is read by the log's diagnostics alone, and by the
            ablation whose strategy needs `unlabelled_extent="action"`.
        reader: clips from decoded frames.
        labelled: ids of videos whose annotation is trained on.
        unlabelled: ids of the others; left alone where the strategy needs none.
        steps: optimiser steps; None means `experiment.train.steps`.
        device: where the student is; None means the CPU.
        run_id: ties checkpoints to a run.
        log: takes one dictionary a line of the log.
        validate: scores networks, every `train.eval_every` steps of the second stage.
        parts: the student's parameters by part (`Backbone.parameter_parts`), which `train.lr_scale` names.
        loader_workers: processes that make batches ahead; 0: none.
        switches: how a step is computed, "auto", "on" or "off" by option (`Machine.switches`); None: all "auto".
        ranks: the processes that train together.

    Raises:
        ConfigError: `train.lr_scale` names a part that there is not, or one that is not trained.
        DataError: no video has a key frame to train on.
        ValueError: neither `steps` nor `experiment.train.steps` is given.
    """
    options, needs, device = experiment.train, strategy.needs, device or torch.device("cpu")
    steps = steps or options.steps
    if steps is None:
        raise ValueError("the number of steps is needed: give steps, or train.steps of the experiment")
    table = TruthTable(facts, videos, truth_of, experiment.clip.size)
    batches = BatchSource(
        reader,
        key_frames(labelled, lambda video: table.truth(video).key_frames_m),
        _unlabelled_key_frames(strategy, facts, videos, truth_of, unlabelled) if needs.unlabelled else None,
        table,
        sampling=Sampling(options.batch, options.unlabelled, options.pair_share),
        views=experiment.views,
        needs=needs,
        seed=experiment.seed,
        device=device,
    )
    hidden = TruthTable(facts, videos, truth_of, experiment.clip.size)  # for the log's diagnostics alone
    return Training(
        student,
        strategy,
        batches,
        options,
        steps=steps,
        seed=experiment.seed,
        device=device,
        run_id=run_id,
        meter=PseudoLabelMeter(hidden) if needs.unlabelled else None,
        log=log,
        validate=validate,
        parts=parts,
        loader_workers=loader_workers,
        switches=switches,
        ranks=ranks,
    )


def _unlabelled_key_frames(
    strategy: Strategy,
    facts: DatasetFacts,
    videos: Mapping[str, Video],
    truth_of: Callable[[str], Truth],
    unlabelled: Sequence[str],
) -> KeyFrames:
    if strategy.needs.unlabelled_extent == "action":  # the ablation that reads hidden extents; the record says so
        return key_frames(unlabelled, lambda video: action_extent(truth_of(video)), clips_inside=True)
    return key_frames(unlabelled, lambda video: sampled_frames(facts, videos[video]))
