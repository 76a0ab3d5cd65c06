"""The training loop.

A step: draw its clips, sum the strategy's loss terms, back-propagate once, move the student, let the strategy move
its teacher. All that a step draws follows from (seed, step), and a checkpoint holds all that a step changes: so an
interrupted run that is resumed ends with exactly the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import Optimizer

from ssldet.config import TrainOptions
from ssldet.contracts import Batch, Detector, Progress, StepLosses, Strategy
from ssldet.data.batches import BatchSource
from ssldet.data.loader import Batches, BatchKeys, batch_source
from ssldet.data.sampling import stream_seed
from ssldet.errors import ConfigError, DamagedCheckpoint, TrainingError, did_you_mean
from ssldet.nn.batch_norm import StatisticsRecord, StatisticsSnapshot, running_statistics_of_groups
from ssldet.nn.joint_batch_norm import normalised_together
from ssldet.nn.recomputing import recompute_blocks
from ssldet.training import checkpoints
from ssldet.training.acceleration import Accelerator
from ssldet.training.diagnostics import PseudoLabelMeter, TermGradients, Watch, teaches, unlabelled_ratio
from ssldet.training.memory import SPARE, fits_in_memory, free_memory, largest_that_fits, rehearse
from ssldet.training.objectives import supervised_group_terms
from ssldet.training.rank_sums import check_same, readings_of_all, sum_gradients, sum_term_gradients
from ssldet.training.readings import GroupOutcome, StepReadings, read_step
from ssldet.util.ranks import ALONE, Ranks
from ssldet.util.sections import section

Validate = Callable[[Mapping[str, Detector]], Mapping[str, Any]]
"""Networks by name -> their scores by name. It must leave networks as they were."""


@dataclass(slots=True)
class Counts:
    """What training did so far: optimiser steps, clips with and without gradients, wall-clock seconds."""

    step: int = 0
    gradient_clips: int = 0
    teacher_clips: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class StepReport:
    """What a caller hears after every step: for progress bars."""

    step: int
    steps: int
    losses: dict[str, float]
    clips_per_second: float


@dataclass(slots=True)
class Meters:
    """Means over the steps since the last line of the log."""

    terms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, terms: Mapping[str, float]) -> None:
        for name, value in terms.items():
            self.terms[name] += value
            self.seen[name] += 1

    def flush(self) -> dict[str, float]:
        means = {name: total / self.seen[name] for name, total in self.terms.items()}
        self.terms.clear()
        self.seen.clear()
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the next line of a resumed run speaks of the same steps."""
        return {"terms": dict(self.terms), "seen": dict(self.seen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.terms = defaultdict(float, state["terms"])
        self.seen = Counter(state["seen"])


Parts = Mapping[str, Iterable[nn.Parameter]]
"""Parameters of a detector by the part that they belong to; see `Backbone.parameter_parts`."""


def build_optimizer(student: Detector, options: TrainOptions, parts: Parts | None = None) -> Optimizer:
    """Adam with L2 on everything (the paper's), or AdamW that spares BatchNorm and biases.

    Raises:
        ConfigError: `options.lr_scale` names a part that there is not, or one that is not trained.
    """
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    groups = scaled_groups(parameter_groups(student, options), rate_scales(options, parts or {}))
    return kind(groups, lr=options.lr)


def parameter_groups(module: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """The trainable parameters of a module as groups of an optimiser, each with its weight decay."""
    if options.optimizer == "adam":
        trainable = [p for p in module.parameters() if p.requires_grad]
        return [{"params": trainable, "weight_decay": options.weight_decay}]
    groups: list[dict[str, Any]] = param_groups_weight_decay(module, options.weight_decay)
    return groups


def rate_scales(options: TrainOptions, parts: Parts) -> dict[nn.Parameter, float]:
    """What the learning rate of each trained parameter of a part in `options.lr_scale` is multiplied by.

    Raises:
        ConfigError: there is no such part, or nothing of it is trained.
    """
    scales: dict[nn.Parameter, float] = {}
    for part, scale in options.lr_scale.items():
        if part not in parts:
            raise ConfigError(f"train.lr_scale: the backbone has no part {part!r}{did_you_mean(part, parts)}")
        trained = [parameter for parameter in parts[part] if parameter.requires_grad]
        if not trained:
            raise ConfigError(f"train.lr_scale: the part {part} is frozen, and has no learning rate; leave it out")
        scales |= dict.fromkeys(trained, scale)
    return scales


def scaled_groups(groups: list[dict[str, Any]], scales: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """The groups of an optimiser, each divided by the scale of its parameters' learning rate (`lr_scale`)."""
    if not scales:
        return groups
    divided = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            by_scale[scales.get(parameter, 1.0)].append(parameter)
        divided += [group | {"params": params, "lr_scale": scale} for scale, params in by_scale.items()]
    return divided


class Training:
    """One run's training.

    Args:
        student: the network, on its device.
        strategy: supplies the loss terms of the second stage.
        source: the batches.
        options: the schedule.
        steps: optimiser steps in all.
        seed: of everything drawn.
        device: where the forward pass happens.
        run_id: ties checkpoints to the run.
        meter: pseudo-label diagnostics; None where there are no unlabelled clips.
        log: takes one dictionary a line of the log.
        validate: scores networks, every `options.eval_every` steps of the second stage and at its end; not in the
            first stage, whose log other runs share. None means never.
        parts: the student's parameters by part, which `options.lr_scale` names.
        loader_workers: processes that make batches while the network trains; 0: each is made when it is needed.
        switches: how a step is computed, "auto", "on" or "off" by option (`Machine.switches`).
        ranks: the processes that train together, each on its share of every step's groups. All make the same steps; the
            first one writes.

    Raises:
        ConfigError: `options.lr_scale` names a part that there is not, or one that is not trained.
    """

    def __init__(
        self,
        student: Detector,
        strategy: Strategy,
        source: BatchSource,
        options: TrainOptions,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        run_id: str,
        meter: PseudoLabelMeter | None = None,
        log: Callable[[dict[str, Any]], None] = lambda line: None,
        validate: Validate | None = None,
        parts: Parts | None = None,
        loader_workers: int = 0,
        switches: Mapping[str, str] | None = None,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        self.student, self.strategy, self.source, self.options = student, strategy, source, options
        self.steps, self.seed, self.device, self.run_id = steps, seed, device, run_id
        self.meter, self.log, self.validate = meter, log, validate
        self.groups_at_once, self._chosen = options.groups_at_once, options.sync_bn
        self._rehearsed: Batch | None = None
        if options.checkpoint_activations:
            recompute_blocks(student)
        self.loader_workers = loader_workers
        self.batches: Batches = source
        self.notices: list[str] = []
        one_by_one = ranks.size == 1 and not options.sync_bn
        uncompiled = {} if one_by_one else {"compile": "off"}  # blocks would miss what happens to statistics
        self.accelerator = Accelerator({**(switches or {}), **uncompiled}, device, self.notices.append)
        self.burn_in = round(options.burn_in * steps)
        self.log_every = options.log_every or max(1, steps // options.epochs)
        self.optimizer = build_optimizer(student, options, parts)
        self.counts = Counts()
        self.meters, self.part_meters = Meters(), Meters()
        self.watch = Watch(epoch=max(1, steps // options.epochs))
        self.gradient_norms: dict[str, float] | None = None
        self.modules: dict[str, nn.Module] = {}
        self.started = False

    # ------------------------------------------------------------------------------------------ the loop

    def run(
        self,
        checkpoint: Path | None = None,
        *,
        until: int | None = None,
        run_id: str | None = None,
        on_step: Callable[[StepReport], None] = lambda report: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train from where the counts stand to the end. Returns whether the end was reached.

        Args:
            checkpoint: written every `checkpoint_every` steps, at the end, and when `stop` asks for it.
            until: the step that ends this call; None means the last one.
            run_id: whose the checkpoint is, if not this run's (a first stage's).
            on_step: called after every step.
            stop: asked after every step; True writes a checkpoint and returns.

        Raises:
            TrainingError: a loss or gradient is not finite, the device's memory is too small, or the checkpoint
                cannot be written. The last checkpoint stays as it is.
            DataError: clips cannot be read, or processes that make batches died twice.
        """
        end = self.steps if until is None else until
        self._check_same()
        self.prepare()
        keys = BatchKeys(range(self.counts.step, end), self.options.groups, self.burn_in, self._groups())
        try:
            with batch_source(self.source, keys, self.loader_workers, self.notices.append) as self.batches:
                self._steps_until(end, checkpoint, run_id, on_step, stop)
        finally:
            self.batches = self.source
        if not self.started and self.counts.step == self.steps:  # the first stage was all
            self._start()
        return self.counts.step == end

    def prepare(self) -> None:
        """Find out, once, how much of a step the device holds and how it is computed the quickest there."""
        self.student.train()
        self._choose_part()
        self._accelerate()

    def _steps_until(
        self,
        end: int,
        checkpoint: Path | None,
        run_id: str | None,
        on_step: Callable[[StepReport], None],
        stop: Callable[[], bool],
    ) -> None:
        while self.counts.step < end:
            began = time.perf_counter()
            losses, clips = self._step_in_memory()
            seconds = time.perf_counter() - began
            self.counts.seconds += seconds
            on_step(StepReport(self.counts.step, self.steps, losses, clips / seconds))
            if self._ends_line(self.counts.step):
                line = self._line()
                if self.ranks.is_first:
                    self.log(line)
            stopping = self.ranks.any(stop())
            due = self.counts.step % self.options.checkpoint_every == 0 or self.counts.step == end
            if checkpoint and (due or stopping):
                self.save(checkpoint, run_id)
            if stopping:
                break

    def _step_in_memory(self) -> tuple[dict[str, float], int]:
        try:
            return self.step_once()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the memory of {self.device} does not hold {self._least()} labelled clips "
                "and what goes with them, the least that is computed at once. A smaller clip.size, network or "
                "train.bn_batch needs less, train.precision=bfloat16 too: each is another run"
            ) from error

    def _least(self) -> str:
        """The labelled clips that cannot be computed in smaller parts."""
        if self.options.sync_bn:
            return f"the {self.micro_batch} of this process (train.sync_bn; more --devices have fewer each)"
        return f"train.bn_batch = {self.options.bn_batch}"

    def _choose_part(self) -> None:
        """Find out how much the device holds at once, where that is asked for; once, before the first step."""
        if self._chosen or self.options.micro_batch != "auto" or self.device.type == "cpu":
            return
        self._chosen = True
        self.groups_at_once = min(self.ranks.gather_objects(self._largest_part(self._reserve())))

    def _largest_part(self, reserve: int) -> int:
        """How many groups the device's memory holds at once, and `reserve` bytes beside them; found by trying."""
        rehearsal = partial(self._rehearse, reserve=reserve)
        return largest_that_fits(lambda at_once: fits_in_memory(partial(rehearsal, at_once)), len(self._groups()))

    def _rehearse(self, at_once: int, *, reserve: int = 0) -> None:
        """Compute so many groups of a step, without a trace."""
        if self._rehearsed is None:
            second_stage = self.burn_in < self.steps
            self._rehearsed, _ = self.source.batch(self.counts.step, 0, self.options.groups, unlabelled=second_stage)
        with self._autocast():
            rehearse(self.student, self._rehearsed, at_once, self.strategy.needs, reserve=reserve)

    def _accelerate(self) -> None:
        """Choose how a step is computed here, once, and let all networks that there are compute so.

        The first of several processes measures, and all compute as it says.
        """
        self.accelerator.taken, at_once = self.ranks.from_first(self._measured_options)
        self.groups_at_once = min(at_once, self.groups_at_once)
        self._rehearsed = None
        networks = self.strategy.networks(self.student) if self.started else {"student": self.student}
        self.accelerator.apply(networks.values(), self.optimizer)

    def _measured_options(self) -> tuple[frozenset[str] | None, int]:
        """The options that are on, and how many groups are computed at once with them."""
        at_once = self.accelerator.choose(
            self.student,
            self.optimizer,
            self._rehearse,
            self.groups_at_once,
            len(self._groups()),
            self.steps - self.counts.step,
        )
        return self.accelerator.taken, at_once

    def _reserve(self) -> int:
        """Bytes that a part must leave: a spare, the optimiser's moments, a teacher."""
        spare = SPARE * torch.cuda.get_device_properties(self.device).total_memory
        return int(spare) + 3 * sum(parameter.nbytes for parameter in self._trained())

    @property
    def micro_batch(self) -> int:
        """Labelled clips that go through the network at once."""
        groups = min(self.groups_at_once, len(self._groups()))
        return groups * (self.options.batch // self.options.groups)

    def step_once(self) -> tuple[dict[str, float], int]:
        """One optimiser step: its mean loss terms, and how many clips had gradients."""
        step = self.counts.step
        if step >= self.burn_in and not self.started:
            self._start()
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(step, self.steps) * group.get("lr_scale", 1.0)
        groups, gradients = self._taken(step)
        self._sum_over_ranks(gradients)
        self.gradient_norms = gradients.norms() if gradients else None
        with section("optimiser"):
            norm = nn.utils.clip_grad_norm_(self._trained(), self.options.clip_norm or math.inf)
        readings = readings_of_all(self.ranks, read_step(groups, norm, self.options.groups))
        self._check_finite(step, readings)
        with section("optimiser"):
            self.optimizer.step()
        if self.started:
            with section("teacher"):
                self.strategy.after_step(self.student, self._progress(step))
        self._take_in(readings)
        return readings.terms, readings.gradient_clips

    def _sum_over_ranks(self, gradients: TermGradients | None) -> None:
        """Gradients and running statistics of all groups of a step, in every process that trains on some of them."""
        if self.ranks.size == 1:
            return
        sum_gradients(self.ranks, self._trained())
        if gradients:
            sum_term_gradients(self.ranks, gradients)
        self._statistics.move(self.ranks.gather)

    def _start(self) -> None:
        """Let the strategy start, and take in the modules that it wants trained with the student."""
        if step := self.counts.step:  # whatever the last group of the step before drew
            torch.manual_seed(stream_seed(self.seed, "step", step - 1))
        known = self.source.info(self.steps, self.burn_in)
        self.strategy.start(self.student, replace(known, fused_forward=self.options.fused_forward))
        self.modules = {name: module.to(self.device) for name, module in self.strategy.trained_modules().items()}
        for module in self.modules.values():
            for group in parameter_groups(module, self.options):
                self.optimizer.add_param_group(group)
        self.started = True
        self.accelerator.apply(self.strategy.networks(self.student).values(), self.optimizer)

    def _progress(self, step: int) -> Progress:
        epoch = step * self.options.epochs / self.steps
        return Progress(step, self.steps, self.burn_in, epoch, self.ranks.gather)

    def _term_gradients(self, step: int) -> TermGradients | None:
        """What measures the terms' gradients in a step that ends a line, where that was asked for."""
        asked = self.options.gradient_norms and self._ends_line(step + 1)
        return TermGradients(self._trained()) if asked else None

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for module in self._modules() for parameter in module.parameters()]

    def _modules(self) -> tuple[nn.Module, ...]:
        return (self.student, *self.modules.values())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16")

    def _taken(self, step: int) -> tuple[list[GroupOutcome], TermGradients | None]:
        """All groups of a step, back-propagated; in smaller parts where the memory does not hold them.

        The whole step is taken again then: the same draws, statistics as they were, and no gradient of the attempt.

        Raises:
            torch.OutOfMemoryError: one group is too much.
        """
        refused = 0
        while True:
            began = [StatisticsSnapshot(module) for module in self._modules()] if self.groups_at_once > 1 else []
            self._statistics = StatisticsRecord(self._with_statistics() if self.ranks.size > 1 else ())
            self.optimizer.zero_grad(set_to_none=True)
            gradients = self._term_gradients(step)
            try:
                groups = [group for part in self._parts() for group in self._accumulate(step, part, gradients)]
            except torch.OutOfMemoryError:
                if self.groups_at_once == 1 or self.options.sync_bn:
                    raise
            else:
                if refused:
                    self.notices.append(self._said_of_memory(refused))
                return groups, gradients
            refused = refused or self.micro_batch
            self._make_room(began)

    def _make_room(self, began: Sequence[StatisticsSnapshot]) -> None:
        """Forget an attempt at a step, and halve what is computed at once."""
        self.optimizer.zero_grad(set_to_none=True)
        for snapshot in began:
            snapshot.restore()
        if self.started:
            self.strategy.forget_step()
        self.groups_at_once //= 2
        free_memory()

    def _said_of_memory(self, refused: int) -> str:
        return (
            f"the memory of {self.device} does not hold train.micro_batch = {refused}: {self.micro_batch} labelled "
            "clips at once from here on, which moves numbers by rounding alone"
        )

    def _parts(self) -> list[range]:
        """This rank's groups of a step, cut into parts of `groups_at_once` groups at most, as equal as can be."""
        mine = self._groups()
        parts = math.ceil(len(mine) / self.groups_at_once)
        return [mine[part * len(mine) // parts : (part + 1) * len(mine) // parts] for part in range(parts)]

    def _groups(self) -> range:
        """The groups of a step that this rank takes."""
        return self.ranks.share(self.options.groups)

    def _accumulate(self, step: int, part: range, gradients: TermGradients | None = None) -> list[GroupOutcome]:
        """Back-propagate some groups of the step's clips, together. Nothing here waits for the device."""
        groups, second_stage = self.options.groups, step >= self.burn_in
        with section("waiting for data"):
            drawn = [self.batches.batch(step, group, groups, unlabelled=second_stage) for group in part]
        self._seed(step, part)
        with section("loss"), self._running_statistics(part), self._autocast():
            results = self._losses([batch for batch, _ in drawn], step)
        terms = {name: sum_over(results, name) / groups for name in results[0].terms}
        total = torch.stack(list(terms.values())).sum()
        if gradients:
            gradients.add(terms)
        with section("backward"):
            total.backward()
        return [
            GroupOutcome.of(result, gradient_clips(batch), refs)
            for result, (batch, refs) in zip(results, drawn, strict=True)
        ]

    def _seed(self, step: int, part: range) -> None:
        """What networks draw (dropout) follows from the step and its group: not from what was computed before it."""
        group = (part.start,) if part.start else ()
        torch.manual_seed(stream_seed(self.seed, "step", step, *group))

    @contextmanager
    def _running_statistics(self, part: range) -> Iterator[None]:
        with ExitStack() as around:
            if self.ranks.size > 1:
                around.enter_context(self._statistics.of_part())
            if self.options.sync_bn:
                around.enter_context(normalised_together(self.student, self.ranks))
            elif self.ranks.size == 1 and len(part) > 1:
                around.enter_context(running_statistics_of_groups(self.student))
            yield

    def _with_statistics(self) -> tuple[nn.Module, ...]:
        """Modules whose running statistics move through the groups of all processes."""
        return tuple(self.modules.values()) if self.options.sync_bn else self._modules()

    def _losses(self, batches: Sequence[Batch], step: int) -> list[StepLosses]:
        if step < self.burn_in:  # the first stage: the same for all strategies with the same needs
            details = [dict[str, Tensor]() for _ in batches]
            labelled = [batch.labelled for batch in batches]
            terms = supervised_group_terms(self.student, labelled, self.strategy.needs, details=details)
            return [StepLosses(of_group, details=parts) for of_group, parts in zip(terms, details, strict=True)]
        take = self.strategy.group_losses if takes_groups(type(self.strategy)) else self._one_by_one
        return take(batches, self.student, self._progress(step))

    def _one_by_one(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        return Strategy.group_losses(self.strategy, batches, student, progress)

    def _check_finite(self, step: int, readings: StepReadings) -> None:
        """Refuse a step before it moves the student."""
        if not math.isfinite(sum(readings.terms.values())):
            values = ", ".join(f"{name} = {value:.4g}" for name, value in readings.terms.items())
            raise TrainingError(self._stopped(step, f"the loss is not finite ({values})"))
        if not math.isfinite(readings.gradient_norm):
            raise TrainingError(self._stopped(step, "a gradient is not finite"))

    def _take_in(self, readings: StepReadings) -> None:
        """Count a step that is done, and keep its numbers for the log."""
        self.counts.step += 1
        self.counts.gradient_clips += readings.gradient_clips
        self.counts.teacher_clips += readings.teacher_clips
        self.meters.add({"gradient_norm": readings.gradient_norm})
        self.meters.add(readings.terms)
        self.part_meters.add(readings.details)
        if self.meter and self.ranks.is_first:
            for pseudo_labels, refs in readings.pseudo_labels:
                self.meter.update(pseudo_labels, refs)

    def _stopped(self, step: int, why: str) -> str:
        return (
            f"training stopped at step {step + 1} of {self.steps}: {why}; the last checkpoint is kept. "
            "Try a lower train.lr, a train.clip_norm, or train.precision=float32"
        )

    def _ends_line(self, step: int) -> bool:
        """Whether a line of the log ends with this many steps: the log's own, or one with scores."""
        return step % self.log_every == 0 or step == self.steps or self._is_validated(step)

    def _is_validated(self, step: int) -> bool:
        every = self.options.eval_every
        if not every or self.validate is None or step <= self.burn_in:
            return False
        return step % every == 0 or step == self.steps

    def _scores(self) -> Mapping[str, Any] | None:
        """Scores on the validation part where they are due; they leave no trace in training."""
        if self.validate is None or not self._is_validated(self.counts.step):
            return None
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            return self.validate(self.strategy.networks(self.student))

    def _line(self) -> dict[str, Any]:
        second_stage_steps = max(0, min(self.meters.seen["gradient_norm"], self.counts.step - self.burn_in))
        means = self.meters.flush()
        norm = means.pop("gradient_norm")
        second_stage = self.counts.step > self.burn_in
        pseudo_labels = self.meter.compute() if self.meter and second_stage else None
        ratio = unlabelled_ratio(means)
        return {
            "step": self.counts.step,
            "epoch": self.counts.step * self.options.epochs / self.steps,
            "stage": 2 if second_stage else 1,
            "lr": self.options.rate(self.counts.step - 1, self.steps),
            "losses": means,
            "parts": self.part_meters.flush(),
            "unlabelled_ratio": ratio,
            "gradient_norm": norm,
            "gradient_norms": self.gradient_norms,
            "seconds": round(self.counts.seconds, 3),
            "pseudo_labels": pseudo_labels,
            "thresholds": dict(self.strategy.thresholds()) if second_stage else {},
            "warnings": self._taken_notices()
            + self.watch.look(second_stage_steps, ratio, pseudo_labels, taught=teaches(means)),
            "validation": self._scores(),
        }

    def _taken_notices(self) -> list[str]:
        """What happened since the last line in any process, once."""
        taken = list(dict.fromkeys(notice for notices in self.ranks.gather_objects(self.notices) for notice in notices))
        self.notices.clear()
        return taken

    # --------------------------------------------------------------------------------------- checkpoints

    def save(self, path: Path, run_id: str | None = None) -> None:
        """All that the next step depends on, for this run or the one that is named; the first rank writes it."""
        self._check_same()
        if not self.ranks.is_first:
            return
        moments, meta = checkpoints.flatten_optimizer(self.optimizer)
        tensors = self._state() | checkpoints.prefixed("optimizer", moments)
        counts = {name: getattr(self.counts, name) for name in Counts.__slots__}
        meters = self.meters.state() | {
            "parts": self.part_meters.state(),
            "pseudo_labels": dict(self.meter.counts) if self.meter else {},
            "watch": self.watch.state(),
        }
        about = {"run_id": run_id or self.run_id, "counts": counts, "optimizer": meta, "meters": meters}
        try:
            checkpoints.save(path, tensors, about)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(
                f"cannot write the checkpoint {path} ({reason}); the one before is kept: make room, and the same "
                "command goes on from it"
            ) from error

    def _state(self) -> dict[str, Tensor]:
        """Tensors of the student and of the strategy."""
        tensors = checkpoints.prefixed("student", self.student.state_dict())
        if self.started:
            tensors |= checkpoints.prefixed("strategy", self.strategy.state_dict())
            for name, module in self.modules.items():
                tensors |= checkpoints.prefixed(f"modules/{name}", module.state_dict())
        return tensors

    def _check_same(self) -> None:
        if self.ranks.size > 1:
            check_same(self.ranks, self._state())

    def resume(self, path: Path, run_id: str | None = None) -> bool:
        """Go on from a checkpoint of this run, or of the one that is named; from the one before where it is damaged.

        Returns:
            Whether there was one to go on from. Where all are damaged they are kept aside, which the log says, and
            training is as fresh as it was.

        Raises:
            CheckpointError: what is there is another run's or another version's.
        """
        newest = self._newest(path, run_id or self.run_id)
        if newest is None:
            return False
        tensors, meta, fault = newest
        if fault:
            self.notices.append(f"{fault}, of step {meta['counts']['step']}")
        self.student.load_state_dict(checkpoints.part(tensors, "student"))
        self.counts = Counts(**meta["counts"])
        if self.counts.step > self.burn_in:
            self._start()  # before the optimiser's state, which speaks of the strategy's modules too
            self.strategy.load_state_dict(checkpoints.part(tensors, "strategy"))
            for name, module in self.modules.items():
                module.load_state_dict(checkpoints.part(tensors, f"modules/{name}"))
        checkpoints.restore_optimizer(self.optimizer, checkpoints.part(tensors, "optimizer"), meta["optimizer"])
        if meters := meta.get("meters"):  # checkpoints of earlier versions have none
            self.meters.restore(meters)
            self.part_meters.restore(meters["parts"])
            self.watch.restore(meters["watch"])
            if self.meter:
                self.meter.counts = Counter(meters["pseudo_labels"])
        return True

    def _newest(self, path: Path, run_id: str) -> tuple[dict[str, Tensor], dict[str, Any], str] | None:
        """What `load_newest` gives, in all processes; None in all where no checkpoint can be read."""
        newest = None
        with suppress(DamagedCheckpoint):
            newest = checkpoints.load_newest(path, run_id)
        if not self.ranks.any(newest is None):  # none moves a file that another one is still reading
            return newest
        self.ranks.from_first(partial(self._begin_anew, path))
        return None

    def _begin_anew(self, path: Path) -> None:
        kept = " and ".join(file.name for file in checkpoints.set_aside(path))
        self.notices.append(f"no checkpoint in {path.parent} can be read: kept as {kept}; training begins anew")


def takes_groups(strategy: type[Strategy]) -> bool:
    """Whether its `group_losses` speaks for its `losses`: it does not where a subclass overrides `losses` alone."""
    return _depth(strategy, "group_losses") <= _depth(strategy, "losses")


def takes_one_forward(strategy: type[Strategy]) -> bool:
    """Whether it heeds `train.fused_forward`: a subclass that overrides losses says so itself."""
    losses = min(_depth(strategy, name) for name in ("losses", "group_losses"))
    return strategy.takes_one_forward and _depth(strategy, "takes_one_forward") <= losses


def _depth(strategy: type[Strategy], name: str) -> int:
    """How many classes above a strategy the one stands that defines a name."""
    return next(depth for depth, base in enumerate(strategy.__mro__) if name in vars(base))


def sum_over(results: Sequence[StepLosses], name: str) -> Tensor:
    """The sum of a term over groups."""
    first, *others = (result.terms[name] for result in results)
    return torch.stack([first, *others]).sum() if others else first


def gradient_clips(batch: Batch) -> int:
    """Clips of a batch that go through the student with gradients."""
    views: list[Tensor | None] = [batch.labelled.clips_bcthw, batch.labelled.following]
    if batch.unlabelled:
        views += [batch.unlabelled.strong_bcthw, batch.unlabelled.following]
    return sum(len(view) for view in views if view is not None)
