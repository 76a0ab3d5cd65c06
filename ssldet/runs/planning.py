"""What a run will be: its parts, checked against each other, and all that can be refused before any work.

plan(config)              the plan of one run
plan(config, datasets)    of one of many: data sets are opened and verified once
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssldet.config import Experiment, Machine, RunConfig, revision_problem
from ssldet.contracts import Backbone, Dataset, Detector, Needs, Problem, Strategy, Subset, Video
from ssldet.data import splits
from ssldet.data.datasets import check_ids, concerning, load_dataset
from ssldet.data.sampling import sampled_frames, stream_seed
from ssldet.data.splits import LabelSplit
from ssldet.detector.pretrained import pretrained_weights
from ssldet.errors import ConfigError, DataError, RequestError, TrainingError
from ssldet.nn import choose_formulations, frozen_layers
from ssldet.runs import layout
from ssldet.training.loop import rate_scales, takes_groups, takes_one_forward
from ssldet.training.memory import free_memory
from ssldet.util.files import content_hash, file_hash_once
from ssldet.util.ranks import of_environment


@dataclass(slots=True)
class Plan:
    """A run that can start: its parts, checked against each other.

    Attributes:
        split: which training videos are labelled; `train`, `evaluated`: all training videos, and those scored.
        damaged: videos that `verify` names and the run was told to leave out.
        weights: files that initial weights come from, by part.
        id: hash of what defines the experiment; `folder`: where the run lives.
    """

    config: RunConfig
    dataset: Dataset
    strategy: Strategy
    backbone: Backbone
    split: LabelSplit
    train: dict[str, Video]
    evaluated: list[Video]
    damaged: tuple[str, ...]
    weights: dict[str, Path]
    steps: int
    device: torch.device
    id: str
    folder: Path

    @property
    def needs(self) -> Needs:
        return self.strategy.needs

    @property
    def validation(self) -> list[Video]:
        """Videos that are scored while the run trains; none without `train.eval_every`."""
        return [self.train[i] for i in self.split.validation] if self.config.experiment.train.eval_every else []

    @property
    def used(self) -> list[Video]:
        """Videos whose frames the run reads."""
        ids = [*self.split.labelled, *(self.split.unlabelled if self.needs.unlabelled else ())]
        scored = {video.id: video for video in [*self.validation, *self.evaluated]}
        return [self.train[i] for i in ids] + list(scored.values())

    @property
    def record_path(self) -> Path:
        return self.folder / layout.RECORD


class DatasetCache:
    """Data sets opened once, and what `verify` found in them, for the plans of many runs."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._problems: dict[tuple[str, int], list[Problem]] = {}

    def dataset(self, experiment: Experiment, machine: Machine) -> Dataset:
        """The data set of a run."""
        key = self._key(experiment, machine)
        if key not in self._datasets:
            options = experiment.dataset_options
            self._datasets[key] = load_dataset(experiment.dataset, machine.data_root, **options)
        return self._datasets[key]

    def problems(self, experiment: Experiment, machine: Machine) -> list[Problem]:
        """The errors that `verify` finds in it; doubts stop no run."""
        key = (self._key(experiment, machine), experiment.split)
        if key not in self._problems:
            problems = self.dataset(experiment, machine).verify(experiment.split)
            self._problems[key] = [problem for problem in problems if problem.severity == "error"]
        return self._problems[key]

    @staticmethod
    def _key(experiment: Experiment, machine: Machine) -> str:
        return content_hash([experiment.dataset, experiment.dataset_options, machine.data_root])


def plan(config: RunConfig, datasets: DatasetCache | None = None) -> Plan:
    """Open the data, draw the split, name the run.

    Args:
        datasets: those opened so far; what this run opens is added, when many runs are planned.

    Raises:
        RequestError: whatever makes the run impossible, before anything is trained.
    """
    experiment, machine = config.experiment, config.machine
    if problem := revision_problem(experiment.revision):
        raise ConfigError(problem)
    machine, device = on_this_machine(machine, experiment)
    config = config.model_copy(update={"machine": machine})
    strategy, backbone = config.build_strategy(), config.build_backbone()
    _check_clip(config, backbone)
    _check_groups(config, strategy)
    _check_forward(config, strategy)
    _check_normalisation(config, strategy)
    _check_compiled(config)
    if tracker := config.build_tracker():
        tracker.check()
    weights = _weights(config, backbone)
    _check_frozen(config, backbone, weights)
    datasets = datasets or DatasetCache()
    dataset = datasets.dataset(experiment, machine)
    _check_rates(config, strategy, backbone, dataset)
    damaged = _damaged(datasets.problems(experiment, machine), experiment, skip=machine.skip_damaged)
    if experiment.videos is not None:
        check_ids(dataset, experiment.videos, experiment.split)
    train = {video.id: video for video in _listed(dataset, "train", experiment) if video.id not in damaged}
    split = splits.draw(
        experiment.dataset,
        list(train.values()),
        dataset.facts.classes,
        split=experiment.split,
        ratio=experiment.ratio,
        seed=experiment.seed,
        val_fraction=experiment.val_fraction,
    )
    _check_validation(experiment, split)
    if strategy.needs.unlabelled and not split.unlabelled:
        raise RequestError(
            f"ratio {experiment.ratio:g} leaves no unlabelled video, and {experiment.strategy} needs some; give a "
            "smaller --ratio, add training videos without annotation where the data set takes them (`folder` does), "
            "or use --strategy supervised"
        )
    run_id = _run_id(config, dataset, split, weights, damaged)
    return Plan(
        config=config,
        dataset=dataset,
        strategy=strategy,
        backbone=backbone,
        split=split,
        train=train,
        evaluated=[video for video in _evaluated(config, dataset, split, train) if video.id not in damaged],
        damaged=damaged,
        weights=weights,
        steps=_steps(config, dataset, split, train),
        device=device,
        id=run_id,
        folder=machine.results / _folder_name(config, run_id),
    )


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device where there is one, else the CPU. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device


def choose_devices(name: str, count: int) -> list[torch.device]:
    """The devices of so many processes: one as `choose_device` has it, several from the first one on.

    Raises:
        ConfigError: there is no such device, or there are fewer.
    """
    device = choose_device(name)
    if count > 1:
        _check_devices(Machine(device=name, devices=count), device, count)
    return [rank_device(device, rank) for rank in range(count)] if count > 1 else [device]


def on_this_machine(machine: Machine, experiment: Experiment) -> tuple[Machine, torch.device]:
    """The machine's settings with the number of processes that `torchrun` started, and the device of this one.

    Raises:
        ConfigError: there is no such device, there are fewer than asked for, or they cannot share a step equally.
    """
    place, device = of_environment(), choose_device(machine.device)
    if place is not None:
        if machine.devices not in (1, place.size):
            raise ConfigError(
                f"--devices {machine.devices}: torchrun started {place.size} processes; leave --devices out, or run "
                "`ssldet run` without torchrun"
            )
        machine = machine.model_copy(update={"devices": place.size})
    if machine.devices == 1:
        return machine, device
    _check_devices(machine, device, int(os.environ.get("LOCAL_WORLD_SIZE", machine.devices)))
    _check_shares(machine.devices, experiment)
    return machine, rank_device(device, 0 if place is None else place.local)


def rank_device(device: torch.device, rank: int) -> torch.device:
    """The device of one of several processes of a machine."""
    return device if device.type == "cpu" else torch.device(device.type, rank)


def _check_devices(machine: Machine, device: torch.device, here: int) -> None:
    if device.type == "cuda" and torch.device(machine.device if machine.device != "auto" else "cuda").index is not None:
        raise ConfigError(
            f"device {machine.device!r} is one device, and --devices {machine.devices} takes several, from cuda:0 on; "
            "give --device cuda"
        )
    present = torch.cuda.device_count()
    if machine.device != "cpu" and present < here:
        raise ConfigError(
            f"--devices {here}: this machine has {present} CUDA devices; ask for no more, or train in {here} processes "
            "on the CPU with --device cpu"
        )


def _check_shares(devices: int, experiment: Experiment) -> None:
    train = experiment.train
    if train.groups % devices:
        fitting = [str(n) for n in range(1, train.groups + 1) if train.groups % n == 0]
        raise ConfigError(
            f"--devices {devices}: a step has {train.groups} group{'s' * (train.groups > 1)} of clips (train.batch = "
            f"{train.batch}, train.bn_batch = {train.bn_batch}), which {devices} processes cannot share equally; give "
            f"--devices {' or '.join(fitting)}, or another train.batch or train.bn_batch, which is another run"
        )


def _check_clip(config: RunConfig, backbone: Backbone) -> None:
    clip = config.experiment.clip
    if clip.size % backbone.stride:
        raise ConfigError(
            f"clip.size = {clip.size} is no multiple of {config.experiment.backbone}'s stride {backbone.stride}"
        )
    backbone.check_clips(clip.frames, clip.size)


def _check_groups(config: RunConfig, strategy: Strategy) -> None:
    """A group with a single unlabelled clip would normalise it by its own statistics, and give it no partner."""
    train = config.experiment.train
    if strategy.needs.unlabelled and train.unlabelled // train.groups < 2:
        raise ConfigError(
            f"train.unlabelled_batch = {train.unlabelled} in {train.groups} groups (train.batch = {train.batch}, "
            f"train.bn_batch = {train.bn_batch}) leaves one unlabelled clip a group, and at least two are needed; "
            f"raise train.unlabelled_batch to {2 * train.groups} or train.bn_batch"
        )


def _check_forward(config: RunConfig, strategy: Strategy) -> None:
    """An option that does nothing would be one training under two names."""
    if config.experiment.train.fused_forward and not takes_one_forward(type(strategy)):
        raise ConfigError(
            f"train.fused_forward: {config.experiment.strategy} has no labelled and unlabelled clips that could go "
            "through the student in one call; leave it out"
        )


def _check_normalisation(config: RunConfig, strategy: Strategy) -> None:
    """Where clips go through group by group there is nothing to be normalised together."""
    if config.experiment.train.sync_bn and not takes_groups(type(strategy)):
        raise ConfigError(
            f"train.sync_bn: {config.experiment.strategy} takes one group of clips after another through the network "
            "(it has no `group_losses`); leave it out, or raise train.bn_batch"
        )


def _check_compiled(config: RunConfig) -> None:
    if config.machine.compile != "on":
        return
    if config.experiment.train.checkpoint_activations:
        raise ConfigError(
            "compile=on and train.checkpoint_activations=true do not go together: what is compiled cannot be computed "
            "again block by block; leave one of them out"
        )
    if config.experiment.train.sync_bn:
        raise ConfigError("compile=on takes one group of clips at once, and train.sync_bn all; leave one of them out")
    if config.machine.devices > 1:
        raise ConfigError(
            f"compile=on and {config.machine.devices} processes do not go together: batch statistics are written down "
            "for all of them, which compiled blocks do not do; leave one of them out"
        )


def _check_validation(experiment: Experiment, split: LabelSplit) -> None:
    """Whoever asks for scores on the validation part gets some."""
    asked = (
        "eval_on = val" if experiment.eval_on == "val" else "train.eval_every" if experiment.train.eval_every else ""
    )
    if asked and not split.validation:
        raise RequestError(
            f"{asked} needs a validation part, and val_fraction {experiment.val_fraction:g} of {len(split.labelled)} "
            "labelled videos is none; give a larger --val-fraction or --ratio"
        )


def _listed(dataset: Dataset, subset: Subset, experiment: Experiment) -> list[Video]:
    """The videos of a subset, or those of them that `experiment.videos` lists."""
    videos = dataset.videos(subset, experiment.split)
    if experiment.videos is None:
        return list(videos)
    wanted = set(experiment.videos)
    listed = [video for video in videos if video.id in wanted]
    if not listed:
        raise RequestError(f"none of the {len(wanted)} listed videos is a {subset} video of {experiment.dataset}")
    return listed


def _damaged(problems_found: list[Problem], experiment: Experiment, *, skip: bool, shown: int = 10) -> tuple[str, ...]:
    """The videos that `verify` finds wanting, when told to skip them. Raises DataError otherwise."""
    problems = concerning(problems_found, experiment.videos)
    if not problems or skip:
        return tuple(sorted({problem.video for problem in problems if problem.video}))
    lines = [f"  {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  and {len(problems) - shown} more")
    raise DataError("\n".join([f"data set {experiment.dataset!r} is incomplete ({len(problems)} problems):", *lines]))


def _weights(config: RunConfig, backbone: Backbone) -> dict[str, Path]:
    """What `--pretrained` loads, by part; nothing without it."""
    experiment, machine = config.experiment, config.machine
    if not experiment.pretrained:
        return {}
    weights_root, download = machine.weights_root, machine.download
    weights = pretrained_weights(backbone, experiment.dataset, weights_root=weights_root, download=download)
    if not weights:
        raise ConfigError(f"{experiment.backbone} has no pretrained weights for {experiment.dataset}; use --scratch")
    return weights


def _check_frozen(config: RunConfig, backbone: Backbone, weights: Mapping[str, Path]) -> None:
    """A frozen part without weights would stay random."""
    for part, option in backbone.frozen_parts().items():
        if part not in weights:
            raise ConfigError(_stays_random(config, part, f"backbone.{option}"))


def _stays_random(config: RunConfig, part: str, how: str) -> str:
    experiment = config.experiment
    if experiment.pretrained:
        lack, advice = f"--pretrained loads no weights for {experiment.dataset} into it", "train it"
    else:
        lack, advice = "no weights are loaded into it", "use --pretrained, or train it"
    return (
        f"the part {part} of {experiment.backbone} is frozen ({how}) and {lack}, so that it would stay random; {advice}"
    )


def _check_rates(config: RunConfig, strategy: Strategy, backbone: Backbone, dataset: Dataset) -> None:
    """Refuse `train.lr_scale` of a part that there is not or that is frozen, on a network without values."""
    train = config.experiment.train
    if not train.lr_scale:
        return
    with torch.device("meta"):
        detector = backbone.build(dataset.facts, frame_head=strategy.needs.frame_head)
    rate_scales(train, backbone.parameter_parts(detector))


def weights_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """The SHA-256 of weights files, by part."""
    return {part: file_hash_once(path) for part, path in files.items()}


def _run_id(
    config: RunConfig, dataset: Dataset, split: LabelSplit, weights: Mapping[str, Path], damaged: Sequence[str]
) -> str:
    identity: dict[str, Any] = {
        "experiment": config.experiment.identity(),
        "data": dataset.fingerprint(),
        "split": split.hash,
        "weights": weights_hashes(weights),
    }
    if damaged:
        identity["damaged"] = list(damaged)
    return content_hash(identity)[:12]


def _folder_name(config: RunConfig, run_id: str) -> str:
    e = config.experiment
    return f"{e.dataset}-{e.strategy}-{e.ratio:g}-split{e.split}-seed{e.seed}-{run_id}"


def _evaluated(config: RunConfig, dataset: Dataset, split: LabelSplit, train: Mapping[str, Video]) -> list[Video]:
    if config.experiment.eval_on == "val":
        return [train[video] for video in split.validation]
    return _listed(dataset, "test", config.experiment)


def _steps(config: RunConfig, dataset: Dataset, split: LabelSplit, train: Mapping[str, Video]) -> int:
    """Optimiser steps: given, or passes over the unlabelled key frames, the same for every strategy."""
    options = config.experiment.train
    if options.steps:
        return options.steps
    counted = split.unlabelled or split.labelled
    frames = sum(len(sampled_frames(dataset.facts, train[video])) for video in counted)
    return max(1, options.epochs * frames // options.unlabelled)


def build_student(plan: Plan) -> tuple[Detector, Mapping[str, Any]]:
    """The network with its initial weights on the plan's device, and what was loaded, part by part."""
    experiment, facts = plan.config.experiment, plan.dataset.facts
    torch.manual_seed(stream_seed(experiment.seed, "initial weights"))
    student = plan.backbone.build(facts, frame_head=plan.needs.frame_head)
    loaded = plan.backbone.load_pretrained(student, plan.weights) if plan.weights else {}
    _check_layers(plan, student)
    if not any(p.requires_grad for p in student.parameters()):
        raise TrainingError("every part of the network is frozen; nothing would be trained")
    return student.to(plan.device), loaded


def choose_convolutions(plan: Plan, student: Detector) -> Mapping[str, Any]:
    """Let the network compute its convolutions as the machine's setting says, and give what a record says of it."""
    machine, experiment = plan.config.machine, plan.config.experiment
    wanted = "plain" if plan.device.type == "cpu" else "measured"
    if (wanted if machine.convolutions == "auto" else machine.convolutions) == "plain":
        return {"layout": "as it is"}
    size = experiment.clip.frames, experiment.clip.size, experiment.clip.size
    autocast = experiment.train.precision == "bfloat16"
    for count in _clips_to_measure(plan):
        clips = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)).to(plan.device)
        try:
            return choose_formulations(student, clips, backward=True, autocast=autocast).as_record()
        except torch.OutOfMemoryError:
            del clips
        free_memory()  # not above: the error holds on to all that its frames do
    return {"layout": "as it is", "not_measured": "the memory of the device is too small"}


def _clips_to_measure(plan: Plan) -> Sequence[int]:
    """How many clips convolutions are measured over, and how many where the memory is too small for these.

    On a GPU as many as a group of the second stage has: labelled and unlabelled clips, and as many partners.
    """
    batch = plan.config.experiment.train.bn_batch
    counts = (1,) if plan.device.type == "cpu" else (4 * batch, batch)
    return [max(2, count) for count in counts]  # one has no variance


def _check_layers(plan: Plan, student: Detector) -> None:
    """The same as `_check_frozen`, for a backbone that does not say what it freezes."""
    for part, path in plan.backbone.parts.items():
        frozen = next(frozen_layers(student.get_submodule(path)), None)
        if frozen and part not in plan.weights:
            raise ConfigError(_stays_random(plan.config, part, f"its layer {frozen[0] or path}"))
