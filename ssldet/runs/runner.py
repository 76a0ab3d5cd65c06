"""One run, start to record: the only module that knows all the others.

execute(plan)               frames -> training -> detections file -> metrics -> record; resumes what was interrupted
train_first_stage(plan)     the part of it that runs share
profile(plan, steps)        what its training steps spend their time on; leaves no run
run(config)                 plan and execute
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from ssldet.config import RunConfig, resolve
from ssldet.contracts import Detector, Video
from ssldet.data import splits
from ssldet.data.batches import ClipReader
from ssldet.data.frame_store import FrameStore, PrepareReport
from ssldet.detector.feature_cache import use_feature_cache
from ssldet.errors import RequestError
from ssldet.evaluation import scoring
from ssldet.evaluation.detections import DetectionsWriter, read_detections
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.evaluation.results import Results
from ssldet.runs import first_stage, layout
from ssldet.runs.claims import Claim, ClaimHeld, ClaimLost, Owner, claimed
from ssldet.runs.first_stage import FirstStage
from ssldet.runs.log import RunLog, read_log
from ssldet.runs.network import network_of_plan, write_network
from ssldet.runs.planning import Plan, build_student, choose_convolutions, plan, rank_device, weights_hashes
from ssldet.runs.plugin_code import plugin_code
from ssldet.runs.provenance import hardware, peak_memory_bytes, provenance, reset_peak_memory
from ssldet.runs.record import Record, SplitSummary, TrainingSummary
from ssldet.runs.tracking import Tracking, tracked
from ssldet.runs.validation import detections_of, shared_out, validation_scores
from ssldet.training import checkpoints
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import Counts, StepReport, Training
from ssldet.training.profiling import StepProfile, profile_steps
from ssldet.util.files import file_hash, replacing, write_text
from ssldet.util.rank_processes import Line, RankStopped, run_on_ranks
from ssldet.util.ranks import ALONE, Ranks, joined, of_environment

__all__ = ["Interrupted", "Plan", "Reporter", "execute", "plan", "profile", "run", "train_first_stage"]


class Interrupted(RankStopped):
    """The run was asked to stop and can be resumed by the same request."""


class Reporter:
    """Hears how a run goes. This one says nothing; the command line draws progress bars."""

    def phase(self, name: str, total: int, unit: str) -> None:
        """A phase begins: "decode", "train", "detect", "score"."""

    def advance(self, done: int, note: str = "") -> None:
        """So much of the phase is done."""

    def step(self, report: StepReport) -> None:
        """A training step is done."""

    def warn(self, text: str) -> None:
        """Training goes on, and somebody should look at it."""

    def stop(self) -> bool:
        """Whether the run should stop after this step, leaving a checkpoint."""
        return False


# ------------------------------------------------------------------------------------------------ execute


def run(config: RunConfig | Mapping[str, Any], reporter: Reporter | None = None) -> Record:
    """One run from its configuration to its record; a finished one is read, an interrupted one goes on.

    Args:
        config: a resolved configuration, or the fields of one, such as
            `{"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2, "preset": "nano"}`.
        reporter: hears how it goes.

    Raises:
        RequestError: the request cannot be carried out.
        TrainingError: training cannot go on.
        Interrupted: the reporter asked to stop.
    """
    if not isinstance(config, RunConfig):
        config = resolve(config, preset=config.get("preset"))
    return execute(plan(config), reporter or Reporter())


def execute(plan: Plan, reporter: Reporter, *, patience: float = 0.0) -> Record:
    """Carry out a plan. Raises as `run` does; what fails leaves a record that says so, and can be tried again.

    Args:
        patience: seconds to wait for another process that does the same run.

    Raises:
        ClaimHeld: another process does it. ClaimLost: another one took it over from this one, which was silent.
    """
    with _ranks_of_torchrun(plan.device) as ranks:
        heard = reporter if ranks.is_first else _Quiet(reporter)
        if record := ranks.from_first(lambda: _finished(plan)):
            return record
        with _alone(plan.folder, reporter, ranks, patience) if ranks.is_first else nullcontext() as claim:
            if record := ranks.from_first(lambda: _finished(plan)):  # another process finished it meanwhile
                return record
            return _carry_out(_Run(plan, heard, ranks, claim))


def _carry_out(run: _Run) -> Record:
    try:
        if run.in_more_processes:
            _start_ranks(run.plan, run.reporter, run.stop)
            return Record.read(run.plan.record_path)
        _set_up(run.plan)
        return run.run()
    except Exception as error:
        if run.ranks.is_first and not isinstance(error, Interrupted | ClaimLost):
            run.leave_failure(error)
        raise


def train_first_stage(plan: Plan, reporter: Reporter, *, patience: float = math.inf) -> None:
    """Train the part of a run that others share, unless it is there. Raises as `execute` does."""
    if plan.config.machine.devices > 1:
        _start_ranks(plan, reporter, reporter.stop, only_first_stage=True)
        return
    _set_up(plan)
    _Run(plan, reporter).train_first_stage(patience)


def profile(plan: Plan, steps: int, reporter: Reporter) -> StepProfile:
    """What steps of a run's second stage spend their time on: so many are measured, and as many traced.

    Frames are decoded as for the run. Of the training nothing is left but the trace, below the results folder.

    Raises:
        RequestError: frames cannot be read, the run has too few steps, or it is one of several processes.
        TrainingError: training cannot go on.
    """
    if plan.config.machine.devices > 1:
        raise RequestError("--profile shows what one process spends its time on; leave --devices and torchrun out")
    _set_up(plan)
    run = _Run(plan, reporter)
    training = run.fresh_training()
    trace = plan.config.machine.results / layout.PROFILES / f"{plan.folder.name}.json.gz"
    reporter.phase("train", plan.steps, "steps")
    return profile_steps(training, steps, trace, on_step=reporter.step)


# ------------------------------------------------------------------------------------- in several processes


def _start_ranks(plan: Plan, reporter: Reporter, stop: Callable[[], bool], *, only_first_stage: bool = False) -> None:
    """The run in as many processes as the machine's settings say; this one listens, and passes on a request to stop."""
    devices = [rank_device(plan.device, rank) for rank in range(plan.config.machine.devices)]

    def heard(message: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = message
        getattr(reporter, name)(*arguments)

    try:
        run_on_ranks(_as_rank, [plan.config, only_first_stage], devices, on_message=heard, stop=stop)
    except RankStopped as stopped:
        raise Interrupted(str(stopped)) from stopped


def _as_rank(line: Line, config: RunConfig, only_first_stage: bool) -> None:
    """What each of these processes does; its run's folder is held by the one that started it."""
    planned = plan(config)
    planned.device = rank_device(planned.device, line.ranks.rank)
    _set_up(planned)
    run = _Run(planned, _ToParent(line), line.ranks)
    if only_first_stage:
        run.train_first_stage()
    else:
        run.run()


class _ToParent(Reporter):
    """Hands on what the first rank reports; asks the process that started the ranks whether to stop."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def phase(self, name: str, total: int, unit: str) -> None:
        self._say("phase", name, total, unit)

    def advance(self, done: int, note: str = "") -> None:
        self._say("advance", done, note)

    def step(self, report: StepReport) -> None:
        self._say("step", report)

    def warn(self, text: str) -> None:
        self._say("warn", text)

    def stop(self) -> bool:
        return self.line.stop()

    def _say(self, name: str, *arguments: Any) -> None:
        if self.line.ranks.is_first:
            self.line.say((name, arguments))


class _Quiet(Reporter):
    """Says nothing, and heeds a request to stop."""

    def __init__(self, reporter: Reporter) -> None:
        self.stop = reporter.stop  # type: ignore[method-assign]


@contextmanager
def _ranks_of_torchrun(device: torch.device) -> Iterator[Ranks]:
    place = of_environment()
    if place is None:
        yield ALONE
        return
    with joined(device, place) as ranks:
        yield ranks


def _finished(plan: Plan) -> Record | None:
    """The record of a run that is done. Raises RequestError when there is one that cannot be read."""
    if not plan.record_path.exists():
        return None
    record = Record.read(plan.record_path)
    return record if record.status == "done" else None


def _set_up(plan: Plan) -> None:
    reset_peak_memory()  # of earlier runs in this process
    machine = plan.config.machine
    use_feature_cache(machine.feature_cache_gb)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    elif machine.devices > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // machine.devices))


@contextmanager
def _alone(folder: Path, reporter: Reporter, ranks: Ranks, patience: float) -> Iterator[Claim]:
    """Hold the run's folder against a second process with the same request."""

    def wait(owner: Owner) -> None:
        ranks.beat()
        reporter.advance(0, f"waits for {owner}, which does the same run")

    with ExitStack() as held:
        try:
            claim = held.enter_context(claimed(folder, patience=patience, stop=reporter.stop, waiting=wait))
        except ClaimHeld as error:
            raise ClaimHeld(f"this run is being carried out: {error}") from error
        except OSError as error:
            raise RequestError(
                f"cannot write results to {folder} ({error.strerror}); choose a folder with --results"
            ) from error
        if claim is None:
            raise Interrupted("stopped while another process carried out this run")
        yield claim


@dataclass(slots=True)
class _Run:
    """A run under way: the plan, who listens, and what is known of it so far."""

    plan: Plan
    reporter: Reporter
    ranks: Ranks = ALONE
    claim: Claim | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    training: Training | None = None
    skipped: tuple[str, ...] = ()
    convolutions: Mapping[str, Any] = field(default_factory=lambda: {"layout": "as it is"})
    tracking: Tracking = field(default_factory=Tracking)

    def run(self) -> Record:
        """Carry it out. The first rank alone tells the tracker."""
        with (
            tracked(self.plan, self.reporter.warn) if self.ranks.is_first else nullcontext(Tracking()) as self.tracking
        ):
            return self._run()

    def _run(self) -> Record:
        plan = self.plan
        self._plugin_code({})  # as it is now, not after hours of training
        if self.ranks.is_first:
            write_text(plan.folder / layout.CONFIG, plan.config.to_yaml())
            splits.write(plan.split, plan.folder / layout.SPLIT)
        reader = self._prepare()
        training = self._training(reader)
        self.reporter.phase("train", plan.steps, "steps")
        checkpoint = plan.folder / layout.CHECKPOINT
        resumed = checkpoints.any_of(checkpoint) and training.resume(checkpoint)
        if not resumed and (stage := self._first_stage()):
            self._load_or_train(stage, training)
            if self.ranks.is_first:
                write_text(plan.folder / layout.LOG, stage.log.read_text(encoding="utf-8"))
        with ExitStack() as open_files:
            if self.ranks.is_first:
                log = open_files.enter_context(RunLog(plan.folder / layout.LOG, keep_until=training.counts.step))
                for line in read_log(plan.folder / layout.LOG):
                    self.tracking.log(line)
                training.log = partial(self._log, log)
            self._train(training)
        evaluated = [video for video in plan.evaluated if video.id not in self.skipped]
        with self._timed("detect"):
            detector = plan.strategy.evaluated(training.student)
            self._detect(detector, evaluated, reader)
        return self.ranks.from_first(partial(self._score_and_finish, detector, evaluated))

    @property
    def in_more_processes(self) -> bool:
        """Whether the run is for processes that are yet to be started."""
        return self.plan.config.machine.devices > self.ranks.size

    def _score_and_finish(self, detector: Detector, evaluated: Sequence[Video]) -> Record:
        with self._timed("score"):
            metrics = self._score(evaluated)
        return self._finish(detector, metrics)

    def train_first_stage(self, patience: float = math.inf) -> None:
        training = self.fresh_training()
        if stage := self._first_stage():
            self.reporter.phase("train", training.burn_in, "steps")
            self._load_or_train(stage, training, patience)

    def stop(self) -> bool:
        """Whether it should stop after this step. Raises ClaimLost where the folder is another's by now."""
        if self.claim:
            self.claim.check()
        return self.reporter.stop()

    def fresh_training(self) -> Training:
        """Training at its first step, over decoded frames."""
        return self._training(self._prepare())

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = round(time.perf_counter() - began, 3)

    def _advance(self, done: int) -> None:
        self.reporter.advance(done)
        self.ranks.beat()
        if self.stop():
            raise Interrupted("stopped; the same command goes on from here")

    def _prepare(self) -> ClipReader:
        """Clips of all videos that the run reads, decoded if need be."""
        machine, clip, videos = self.plan.config.machine, self.plan.config.experiment.clip, self.plan.used
        store = FrameStore.for_clips(self.plan.dataset, clip)
        self.reporter.phase("decode", len(videos), "videos")
        prepare = partial(
            store.prepare,
            videos,
            workers=machine.workers,
            progress=lambda done, total: self._advance(done),
            skip_damaged=machine.skip_damaged,
        )
        with self._timed("decode"):
            prepared = self.ranks.from_first(prepare)
        self._note_prepared(prepared)
        return ClipReader(store.frames, clip)

    def _note_prepared(self, prepared: PrepareReport) -> None:
        self.skipped = prepared.skipped
        if prepared.short:
            self.notes["short_videos"] = prepared.short
        if skipped := sorted({*prepared.skipped, *self.plan.damaged}):
            self.notes["skipped_videos"] = skipped

    def _training(self, reader: ClipReader) -> Training:
        """Fresh training of this run."""
        plan, experiment = self.plan, self.plan.config.experiment
        student, loaded = build_student(plan)
        self.notes["initial_weights"] = loaded or "random"
        self.convolutions = choose_convolutions(plan, student)
        training = assemble_training(
            experiment,
            plan.strategy,
            student,
            facts=plan.dataset.facts,
            videos=plan.train,
            truth_of=plan.dataset.truth,
            reader=reader,
            labelled=[video for video in plan.split.labelled if video not in self.skipped],
            unlabelled=[video for video in plan.split.unlabelled if video not in self.skipped],
            steps=plan.steps,
            device=plan.device,
            run_id=plan.id,
            validate=partial(self._validate, reader) if plan.validation else None,
            parts=plan.backbone.parameter_parts(student),
            loader_workers=plan.config.machine.loader_workers,
            switches=plan.config.machine.switches(),
            ranks=self.ranks,
        )
        self.training = training
        return training

    def _first_stage(self) -> FirstStage | None:
        stage = first_stage.first_stage(self.plan, self.skipped)
        if stage:
            self.notes["first_stage"] = stage.key
        return stage

    def _load_or_train(self, stage: FirstStage, training: Training, patience: float = math.inf) -> None:
        """Bring fresh training to the end of its first stage."""
        listener = self.reporter
        reached = first_stage.load_or_train(
            training,
            stage,
            on_step=listener.step,
            stop=self.stop,
            waiting=lambda: listener.advance(0, "waits for a run that trains the same first stage"),
            patience=patience,
        )
        if not reached or listener.stop():
            raise Interrupted(self._stopped(training))
        if others := stage.made_by_others():
            self.notes["first_stage_versions"] = others

    def _train(self, training: Training) -> None:
        self.reporter.advance(training.counts.step)
        done = training.run(self.plan.folder / layout.CHECKPOINT, on_step=self.reporter.step, stop=self.stop)
        self.seconds["train"] = round(training.counts.seconds, 3)
        if not done or self.reporter.stop():
            raise Interrupted(self._stopped(training))

    def _validate(self, reader: ClipReader, networks: Mapping[str, Detector]) -> dict[str, dict[str, float | None]]:
        """Scores while the run trains. Raises Interrupted when asked to stop: the last checkpoint comes before them."""
        return validation_scores(
            self.plan, networks, reader, skipped=self.skipped, after_video=self._heed, ranks=self.ranks
        )

    def _heed(self) -> None:
        if self.reporter.stop():
            raise Interrupted("stopped while it was scored; the same command resumes it from the last checkpoint")

    def _log(self, log: RunLog, line: dict[str, Any]) -> None:
        self.tracking.log(line)
        line = {**line, "warnings": [*line["warnings"], *self.tracking.news()]}
        log.append(**line)
        for warning in line["warnings"]:
            self.reporter.warn(f"step {line['step']}: {warning}")

    def _stopped(self, training: Training) -> str:
        return f"stopped after step {training.counts.step} of {self.plan.steps}; the same command resumes it"

    def _detect(self, detector: Detector, videos: Sequence[Video], reader: ClipReader) -> None:
        plan = self.plan
        self.reporter.phase("detect", len(videos), "videos")
        found = shared_out(self.ranks, videos, lambda some: detections_of(plan, detector, some, reader))
        writing = DetectionsWriter(plan.folder / layout.DETECTIONS, plan.dataset.facts) if self.ranks.is_first else None
        with writing or nullcontext() as writer:
            for done, (video, detections) in enumerate(found, start=1):
                if writer:
                    writer.add(video.id, detections)
                self._advance(done)

    def _score(self, videos: Sequence[Video]) -> Results:
        """All metrics that apply, under all their protocols, from the file just written; keeps their matches."""
        plan = self.plan
        wanted, left_out = scoring.applicable(plan.dataset.facts)
        if left_out:
            self.notes["metrics_left_out"] = left_out
        self.reporter.phase("score", len(wanted), "metrics")
        detections = read_detections(plan.folder / layout.DETECTIONS, plan.dataset.facts, videos)
        scored = scoring.score_videos(plan.dataset.facts, videos, plan.dataset.truth, detections, wanted)
        if scored.matches:
            kept = per_video(plan.dataset.facts, plan.config.experiment.split, videos, scored.matches)
            if tolerance := write_per_video(plan.folder / layout.PER_VIDEO, kept):
                self.notes["per_video_tolerance"] = tolerance  # what any AP of the file may have lost by its cut
        return scored.results

    def _finish(self, detector: Detector, metrics: Results) -> Record:
        """Keep inference weights only, then write the record, last."""
        plan = self.plan
        if self.claim:
            self.claim.check()
        with replacing(plan.folder / layout.WEIGHTS) as temporary:
            weights = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
            save_file(weights, temporary)
        write_network(plan.folder / layout.NETWORK, network_of_plan(plan))
        self.tracking.settle()
        record = self._record("done", metrics)
        record.write(plan.record_path)
        self.tracking.finish("done", metrics)
        if not plan.config.machine.keep_checkpoints:
            checkpoints.remove(plan.folder / layout.CHECKPOINT)
        return record

    def leave_failure(self, error: Exception) -> None:
        """A record that says what went wrong, where the folder is still this process's. Raises ClaimLost."""
        if self.claim:
            self.claim.check()
        self.notes["error"] = f"{type(error).__name__}: {error}"
        self._record("failed", {}).write(self.plan.record_path)

    def _record(self, status: Literal["done", "failed"], metrics: Results) -> Record:
        plan, split = self.plan, self.plan.split
        counts = self.training.counts if self.training else Counts()
        files = (plan.folder / name for name in layout.KEPT)
        return Record(
            id=plan.id,
            status=status,
            config=plan.config.model_dump(mode="json"),
            split=SplitSummary(
                hash=split.hash,
                labelled=len(set(split.labelled) - set(self.skipped)),
                unlabelled=len(set(split.unlabelled) - set(self.skipped)),
                evaluated=len({video.id for video in plan.evaluated} - set(self.skipped)),
            ),
            data_fingerprint=plan.dataset.fingerprint(),
            metrics=metrics,
            training=TrainingSummary(
                steps=counts.step,
                gradient_clips=counts.gradient_clips,
                teacher_clips=counts.teacher_clips,
                seconds=self.seconds,
            ),
            hardware=hardware(str(plan.device)) | self._as_it_ran(),
            provenance={**provenance(), "plugins": self._plugin_code(metrics)},
            peak_memory_bytes=peak_memory_bytes(),
            files={path.name: file_hash(path) for path in files if path.is_file()},
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            notes={**self.notes, **self._notes_of_the_plan()},
        ).sealed()

    def _as_it_ran(self) -> dict[str, Any]:
        """What was chosen on this machine, and moves numbers by rounding alone."""
        chosen: dict[str, Any] = {}
        if self.training:
            chosen = {"micro_batch": self.training.micro_batch, "step": self.training.accelerator.as_record()}
        devices, threads = self.plan.config.machine.devices, torch.get_num_threads()
        return {"devices": devices, "threads": threads, **chosen, "convolutions": self.convolutions}

    def _plugin_code(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        experiment = self.plan.config.experiment
        used = [(kind, getattr(experiment, kind)) for kind in ("dataset", "backbone", "strategy")]
        return plugin_code([*used, *(("metric", name) for name in metrics)])

    def _notes_of_the_plan(self) -> dict[str, Any]:
        plan, notes = self.plan, dict[str, Any]()
        if plan.weights:
            notes["weights"] = weights_hashes(plan.weights)
        if listed := plan.config.experiment.videos:
            sizes = {"train": len(plan.train), "evaluated": len(plan.evaluated)}
            notes["subset"] = {"listed": len(listed), **sizes}
        if self.tracking.fault:
            notes["tracker"] = self.tracking.fault
        if warnings := training_warnings(plan.folder / layout.LOG):
            notes["warnings"] = warnings
        if plan.needs.unlabelled:
            notes["hidden_truth"] = "read by the pseudo-label diagnostics in the log; never by training"
            notes["pseudo_labels"] = pseudo_label_totals(plan.folder / layout.LOG)
        if plan.needs.unlabelled and plan.needs.unlabelled_extent == "action":
            notes["hidden_extents"] = "unlabelled videos were trimmed to their hidden action extent (ablation)"
        return notes


def training_warnings(log: Path) -> list[str]:
    """What the log of a run warns of, with the step."""
    lines = read_log(log) if log.exists() else []
    return [f"step {line['step']}: {warning}" for line in lines for warning in line.get("warnings", ())]


def pseudo_label_totals(log: Path) -> dict[str, int]:
    """How many clips were labelled by the teacher in the whole second stage, and what it accepted in them."""
    lines = read_log(log) if log.exists() else []
    found = [line["pseudo_labels"] for line in lines if line.get("pseudo_labels")]
    return {key: sum(line[key] for line in found) for key in ("clips", "frame_labels", "candidates", "boxes")}
