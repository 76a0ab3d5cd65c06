"""One run, start to record: the only room that knows all the others.

plan(config)       everything that is decided, and everything that can be refused, before any work
execute(plan)      frames -> training -> detections file -> metrics -> record; resumes what was interrupted
run(config)        both
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from ssldet import records, scoring, splits
from ssldet.clips import (
    BatchSource,
    ClipReader,
    KeyFrames,
    Sampling,
    TruthTable,
    action_extent,
    key_frames,
    stream_seed,
)
from ssldet.config import Experiment, RunConfig, resolve
from ssldet.contracts import Backbone, Dataset, Needs, Problem, Strategy, Subset, Video
from ssldet.datasets import load_dataset
from ssldet.detections import DetectionsWriter, read_detections
from ssldet.detector import Detector
from ssldet.diagnostics import PseudoLabelMeter
from ssldet.errors import ConfigError, DataError, RequestError, TrainingError, WeightsError
from ssldet.files import content_hash, file_hash, replacing, write_text
from ssldet.frame_store import FrameStore, PrepareReport
from ssldet.inference import detect_videos
from ssldet.splits import LabelSplit
from ssldet.training import StepReport, Training

RECORD, CONFIG, SPLIT, LOG = "record.json", "config.yaml", "split.json", "log.jsonl"
CHECKPOINT, WEIGHTS, DETECTIONS = "checkpoint.safetensors", "weights.safetensors", "detections.parquet"


class Interrupted(Exception):
    """The run was asked to stop and can be resumed by the same request."""


class Reporter:
    """Hears how a run goes. This one says nothing; the command line draws progress bars."""

    def phase(self, name: str, total: int, unit: str) -> None:
        """A phase begins: "decode", "train", "detect", "score"."""

    def advance(self, done: int, note: str = "") -> None:
        """So much of the phase is done."""

    def step(self, report: StepReport) -> None:
        """A training step is done."""

    def stop(self) -> bool:
        """Whether the run should stop after this step, leaving a checkpoint."""
        return False


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
    def used(self) -> list[Video]:
        """Videos whose frames the run reads."""
        ids = [*self.split.labelled, *(self.split.unlabelled if self.needs.unlabelled else ())]
        return [self.train[i] for i in ids] + self.evaluated

    @property
    def record_path(self) -> Path:
        return self.folder / RECORD


# --------------------------------------------------------------------------------------------------- plan


def plan(config: RunConfig) -> Plan:
    """Open the data, draw the split, name the run.

    Raises:
        RequestError: whatever makes the run impossible, before anything is trained.
    """
    experiment, machine = config.experiment, config.machine
    device = choose_device(machine.device)
    strategy, backbone = config.build_strategy(), config.build_backbone()
    _check_clip(config, backbone)
    dataset = load_dataset(experiment.dataset, machine.data_root, **experiment.dataset_options)
    damaged = _damaged(dataset, experiment, skip=machine.skip_damaged)
    if experiment.videos is not None:
        _refuse_unknown_videos(dataset, experiment)
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
    if strategy.needs.unlabelled and not split.unlabelled:
        raise RequestError(f"ratio {experiment.ratio} leaves no unlabelled video, and {experiment.strategy} needs some")
    weights = _weight_files(config, backbone)
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


def _check_clip(config: RunConfig, backbone: Backbone) -> None:
    size = config.experiment.clip.size
    if size % backbone.stride:
        raise ConfigError(
            f"clip.size = {size} is no multiple of {config.experiment.backbone}'s stride {backbone.stride}"
        )


def _listed(dataset: Dataset, subset: Subset, experiment: Experiment) -> list[Video]:
    """The videos of a subset, or those of them that `experiment.videos` lists."""
    videos = dataset.videos(subset, experiment.split)
    if experiment.videos is None:
        return list(videos)
    wanted = set(experiment.videos)
    found = [video for video in videos if video.id in wanted]
    if not found:
        raise RequestError(f"none of the {len(wanted)} listed videos is a {subset} video of {experiment.dataset}")
    return found


def _refuse_unknown_videos(dataset: Dataset, experiment: Experiment) -> None:
    subsets: tuple[Subset, ...] = get_args(Subset)
    known = {video.id for subset in subsets for video in dataset.videos(subset, experiment.split)}
    if unknown := sorted(set(experiment.videos or ()) - known):
        raise RequestError(
            f"{len(unknown)} listed videos are not in {experiment.dataset}, such as {unknown[0]!r}; "
            f"its ids look like {min(known)!r}"
        )


def _damaged(dataset: Dataset, experiment: Experiment, *, skip: bool, shown: int = 10) -> tuple[str, ...]:
    """The videos that `verify` finds wanting, when told to skip them. Raises DataError otherwise."""
    problems = [p for p in dataset.verify(experiment.split) if _concerns(p, experiment.videos)]
    if not problems or skip:
        return tuple(sorted({problem.video for problem in problems if problem.video}))
    lines = [f"  {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  and {len(problems) - shown} more")
    raise DataError("\n".join([f"data set {dataset.facts.name!r} is incomplete ({len(problems)} problems):", *lines]))


def _concerns(problem: Problem, videos: tuple[str, ...] | None) -> bool:
    return videos is None or not problem.video or problem.video in videos


def _weight_files(config: RunConfig, backbone: Backbone) -> dict[str, Path]:
    experiment = config.experiment
    if not experiment.pretrained:
        return {}
    wanted = backbone.pretrained_files(experiment.dataset)
    if not wanted:
        raise ConfigError(f"{experiment.backbone} has no pretrained weights for {experiment.dataset}; use --scratch")
    root = config.machine.weights_root or Path(os.environ.get("SSLDET_WEIGHTS", "weights"))
    files = {part: root / name for part, name in wanted.items()}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        raise WeightsError(
            f"--pretrained needs {', '.join(missing)}; put the files there, name their folder with "
            "--weights-root or SSLDET_WEIGHTS, or train with --scratch"
        )
    return files


def _run_id(
    config: RunConfig, dataset: Dataset, split: LabelSplit, weights: Mapping[str, Path], damaged: Sequence[str]
) -> str:
    identity: dict[str, Any] = {
        "experiment": config.experiment.identity(),
        "data": dataset.fingerprint(),
        "split": split.hash,
        "weights": {part: file_hash(path) for part, path in weights.items()},
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
    frames = sum(len(sampled_frames(dataset, train[video])) for video in counted)
    return max(1, options.epochs * frames // options.unlabelled)


def sampled_frames(dataset: Dataset, video: Video) -> np.ndarray:
    """The key frames of a whole video, without its annotation: every frame, or AVA's one a second."""
    return np.arange(0, video.num_frames, dataset.facts.numbering.step)


# ------------------------------------------------------------------------------------------------ execute


def run(config: RunConfig | Mapping[str, Any], reporter: Reporter | None = None) -> records.Record:
    """One run from its configuration to its record; a finished one is read, an interrupted one goes on.

    Args:
        config: a resolved configuration, or the fields of one, such as
            `{"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2, "preset": "nano"}`.
        reporter: hears how it goes.

    Raises:
        RequestError: the request cannot be carried out. TrainingError: training cannot go on.
        Interrupted: the reporter asked to stop.
    """
    if not isinstance(config, RunConfig):
        config = resolve(config, preset=config.get("preset"))
    return execute(plan(config), reporter or Reporter())


def execute(plan: Plan, reporter: Reporter) -> records.Record:
    """Carry out a plan. Raises as `run` does."""
    if plan.record_path.exists():
        return records.Record.read(plan.record_path)
    with _alone(plan.folder):
        if plan.record_path.exists():  # another process finished it meanwhile
            return records.Record.read(plan.record_path)
        if plan.config.machine.threads:
            torch.set_num_threads(plan.config.machine.threads)
        return _Run(plan, reporter).carry_out()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder against a second process with the same request."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(f"another process is carrying out this run in {folder}") from error
    except OSError as error:
        raise RequestError(
            f"cannot write results to {folder} ({error.strerror}); choose a folder with --results"
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class _Run:
    """A run under way: the plan, who listens, the seconds of each phase, and what weights were loaded."""

    plan: Plan
    reporter: Reporter
    seconds: dict[str, float] = field(default_factory=dict)
    initial_weights: Mapping[str, Any] = field(default_factory=dict)

    def carry_out(self) -> records.Record:
        plan = self.plan
        write_text(plan.folder / CONFIG, plan.config.to_yaml())
        splits.write(plan.split, plan.folder / SPLIT)
        store = FrameStore(plan.dataset, plan.config.experiment.clip.size)
        with self._timed("decode"):
            prepared = self._prepare(store)
        reader = ClipReader(store.frames, plan.config.experiment.clip)
        training = self._training(reader, set(prepared.skipped))
        with records.RunLog(plan.folder / LOG, keep_until=training.counts.step) as log:
            training.log = lambda line: log.append(**line)
            self._train(training)
        evaluated = [video for video in plan.evaluated if video.id not in prepared.skipped]
        with self._timed("detect"):
            detector = plan.strategy.evaluated(training.student)
            self._detect(detector, evaluated, reader)
        with self._timed("score"):
            metrics, unscored = self._score(evaluated)
        return self._finish(training, detector, prepared, metrics, unscored)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - began, 3)

    def _advance(self, done: int) -> None:
        self.reporter.advance(done)
        if self.reporter.stop():
            raise Interrupted("stopped; the same command goes on from here")

    def _prepare(self, store: FrameStore) -> PrepareReport:
        machine, videos = self.plan.config.machine, self.plan.used
        self.reporter.phase("decode", len(videos), "videos")
        return store.prepare(
            videos,
            workers=machine.workers,
            progress=lambda done, total: self._advance(done),
            skip_damaged=machine.skip_damaged,
        )

    def _training(self, reader: ClipReader, skipped: set[str]) -> Training:
        """The training of this run, resumed where it was left."""
        plan, experiment = self.plan, self.plan.config.experiment
        facts, size = plan.dataset.facts, experiment.clip.size
        student, self.initial_weights = build_student(plan)
        labelled = [video for video in plan.split.labelled if video not in skipped]
        table = TruthTable(facts, plan.train, plan.dataset.truth, size)
        options = experiment.train
        source = BatchSource(
            reader,
            key_frames(labelled, lambda video: table.truth(video).key_frames_m),
            self._unlabelled(skipped),
            table,
            sampling=Sampling(options.batch, options.unlabelled, options.pair_share),
            views=experiment.views,
            needs=plan.needs,
            seed=experiment.seed,
            device=plan.device,
        )
        hidden = TruthTable(facts, plan.train, plan.dataset.truth, size)  # for the log's diagnostics alone
        training = Training(
            student,
            plan.strategy,
            source,
            options,
            steps=plan.steps,
            seed=experiment.seed,
            device=plan.device,
            run_id=plan.id,
            meter=PseudoLabelMeter(hidden) if plan.needs.unlabelled else None,
        )
        if (checkpoint := plan.folder / CHECKPOINT).exists():
            training.resume(checkpoint)
        return training

    def _unlabelled(self, skipped: set[str]) -> KeyFrames | None:
        plan = self.plan
        if not plan.needs.unlabelled:
            return None
        videos = [video for video in plan.split.unlabelled if video not in skipped]
        if plan.needs.unlabelled_extent == "action":  # the ablation that reads hidden extents; the record says so
            return key_frames(videos, lambda video: action_extent(plan.dataset.truth(video)))
        return key_frames(videos, lambda video: sampled_frames(plan.dataset, plan.train[video]))

    def _train(self, training: Training) -> None:
        self.reporter.phase("train", self.plan.steps, "steps")
        self.reporter.advance(training.counts.step)
        done = training.run(self.plan.folder / CHECKPOINT, on_step=self.reporter.step, stop=self.reporter.stop)
        self.seconds["train"] = round(training.counts.seconds, 3)
        if not done or self.reporter.stop():
            raise Interrupted(
                f"stopped after step {training.counts.step} of {self.plan.steps}; the same command resumes it"
            )

    def _detect(self, detector: Detector, videos: Sequence[Video], reader: ClipReader) -> None:
        plan, experiment = self.plan, self.plan.config.experiment
        self.reporter.phase("detect", len(videos), "videos")
        found = detect_videos(
            detector,
            videos,
            lambda video: plan.dataset.truth(video).key_frames_m,
            reader,
            experiment.detect,
            device=plan.device,
            autocast=experiment.train.precision == "bfloat16",
        )
        with DetectionsWriter(plan.folder / DETECTIONS, plan.dataset.facts) as writer:
            for done, (video, detections) in enumerate(found, start=1):
                writer.add(video.id, detections)
                self._advance(done)

    def _score(self, videos: Sequence[Video]) -> tuple[dict[str, Any], dict[str, str]]:
        """All metrics that apply, under all their protocols, from the file just written; and why others do not."""
        plan = self.plan
        wanted, reasons = scoring.applicable(plan.dataset.facts)
        self.reporter.phase("score", len(wanted), "metrics")
        detections = read_detections(plan.folder / DETECTIONS, plan.dataset.facts, videos)
        results = scoring.score(plan.dataset.facts, videos, plan.dataset.truth, detections, wanted)
        return scoring.as_json(results), reasons

    def _finish(
        self,
        training: Training,
        detector: Detector,
        prepared: PrepareReport,
        metrics: dict[str, Any],
        unscored: dict[str, str],
    ) -> records.Record:
        """Keep inference weights only, then write the record, last."""
        plan, counts = self.plan, training.counts
        with replacing(plan.folder / WEIGHTS) as temporary:
            weights = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
            save_file(weights, temporary)
        split, skipped = plan.split, set(prepared.skipped)
        record = records.Record(
            id=plan.id,
            status="done",
            config=plan.config.model_dump(mode="json"),
            split=records.SplitSummary(
                hash=split.hash,
                labelled=len(set(split.labelled) - skipped),
                unlabelled=len(set(split.unlabelled) - skipped),
                evaluated=len({video.id for video in plan.evaluated} - skipped),
            ),
            data_fingerprint=plan.dataset.fingerprint(),
            metrics=metrics,
            training=records.Training(
                steps=counts.step,
                gradient_clips=counts.gradient_clips,
                teacher_clips=counts.teacher_clips,
                seconds=self.seconds,
            ),
            hardware={**records.hardware(str(plan.device)), "threads": torch.get_num_threads()},
            provenance=records.provenance(),
            peak_memory_bytes=records.peak_memory_bytes(),
            files={name: file_hash(plan.folder / name) for name in (CONFIG, SPLIT, LOG, DETECTIONS, WEIGHTS)},
            notes=self._notes(prepared, unscored),
        )
        record.write(plan.record_path)
        if not plan.config.machine.keep_checkpoints:
            (plan.folder / CHECKPOINT).unlink(missing_ok=True)
        return record

    def _notes(self, prepared: PrepareReport, unscored: dict[str, str]) -> dict[str, Any]:
        notes: dict[str, Any] = {"initial_weights": self.initial_weights or "random"}
        if listed := self.plan.config.experiment.videos:
            sizes = {"train": len(self.plan.train), "evaluated": len(self.plan.evaluated)}
            notes["subset"] = {"listed": len(listed), **sizes}
        if self.plan.needs.unlabelled:
            notes["hidden_truth"] = "read by the pseudo-label diagnostics in the log; never by training"
        if self.plan.needs.unlabelled and self.plan.needs.unlabelled_extent == "action":
            notes["hidden_extents"] = "unlabelled videos were trimmed to their hidden action extent (ablation)"
        if prepared.short:
            notes["short_videos"] = prepared.short
        if skipped := sorted({*prepared.skipped, *self.plan.damaged}):
            notes["skipped_videos"] = skipped
        if unscored:
            notes["metrics_left_out"] = unscored
        return notes


def build_student(plan: Plan) -> tuple[Detector, Mapping[str, Any]]:
    """The network with its initial weights on the plan's device, and what was loaded, part by part."""
    experiment, facts = plan.config.experiment, plan.dataset.facts
    torch.manual_seed(stream_seed(experiment.seed, "initial weights"))
    parts = plan.backbone.build(facts, frame_head=plan.needs.frame_head)
    student = Detector(parts, facts=facts, stride=plan.backbone.stride, region=experiment.loss)
    loaded = plan.backbone.load_pretrained(student, plan.weights) if plan.weights else {}
    if not any(p.requires_grad for p in student.parameters()):
        raise TrainingError("every part of the network is frozen; nothing would be trained")
    return student.to(plan.device), loaded
