"""What a run will take, measured on the device it will run on: one forward pass is timed, the rest follows.

On a CPU the seconds are processor time, which other work on the machine does not lengthen; elsewhere wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ssldet.contracts import Detector
from ssldet.data.frame_store import FrameStore
from ssldet.data.sampling import sampled_frames
from ssldet.runs.planning import Plan, build_student

BACKWARD = 2.0
"""A backward pass takes about twice the time of its forward pass."""

DECODED_FRAMES_PER_SECOND = 1200.0
"""One process, J-HMDB's 320x240 .avi files; measured."""

BYTES_PER_WEIGHT = 4 * 4
"""float32 weights, gradients and Adam's two moments."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds by phase, of the processor on a CPU; bytes of disk for decoded frames, and of memory for weights and
    optimiser state alone.
    """

    seconds: dict[str, float]
    disk_bytes: int
    memory_bytes: int
    parameters: int

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def estimate(plan: Plan) -> Estimate:
    """Time, disk and memory of a plan. Takes a few seconds: it builds the network and runs clips through it."""
    student, _ = build_student(plan)
    parameters = sum(p.numel() for p in student.parameters())
    store = FrameStore(plan.dataset, plan.config.experiment.clip.size)
    return Estimate(
        seconds=seconds_by_phase(plan, _seconds_per_clip(student, plan)),
        disk_bytes=store.bytes_needed(plan.used),
        memory_bytes=parameters * BYTES_PER_WEIGHT * (2 if plan.needs.unlabelled else 1),
        parameters=parameters,
    )


def seconds_per_clip(plan: Plan) -> float:
    """Measured seconds of one clip's forward pass through a plan's network on its device; of the processor on a CPU."""
    return _seconds_per_clip(build_student(plan)[0], plan)


def seconds_by_phase(plan: Plan, forward: float) -> dict[str, float]:
    """What the phases of a run take, given the seconds of one clip's forward pass."""
    options, step = plan.config.experiment.train, clips_per_step(plan)
    store = FrameStore(plan.dataset, plan.config.experiment.clip.size)
    first, second = options.burn_in * plan.steps, (1 - options.burn_in) * plan.steps
    missing = store.missing(plan.used)
    tested = sum(len(sampled_frames(plan.dataset.facts, video)) for video in plan.evaluated)
    return {
        "decode": sum(v.num_frames for v in missing) / DECODED_FRAMES_PER_SECOND / plan.config.machine.workers,
        "first_stage": first * step["first"] * (1 + BACKWARD) * forward,
        "train": second * (step["second"] * (1 + BACKWARD) + step["teacher"]) * forward,
        "detect": tested * forward,
    }


def clips_per_step(plan: Plan) -> dict[str, float]:
    """Clips with gradients in a step of the first and of the second stage, and clips of the teacher."""
    options, needs = plan.config.experiment.train, plan.needs
    paired = 1 + (options.pair_share if needs.temporal else 0)
    unlabelled = options.unlabelled if needs.unlabelled else 0
    extra = options.unlabelled if needs.extra_labelled else 0
    return {
        "first": options.batch * paired,
        "second": (options.batch + unlabelled + extra) * paired,
        "teacher": unlabelled,
    }


@torch.inference_mode()
def _seconds_per_clip(student: Detector, plan: Plan, budget: float = 1.0) -> float:
    """Seconds of one clip's forward pass, at a batch size that the device fills in about `budget` seconds."""
    student.eval()
    with _threads(plan.config.machine.threads):
        _forward_seconds(student, plan, 1)  # the first pass sets things up
        seconds = _forward_seconds(student, plan, 1)
        batch = min(16, int(budget / max(seconds, 1e-3)))
        return _forward_seconds(student, plan, batch) / batch if batch > 1 else seconds


def _forward_seconds(student: Detector, plan: Plan, batch: int) -> float:
    clip, precision = plan.config.experiment.clip, plan.config.experiment.train.precision
    clips = torch.rand(batch, 3, clip.frames, clip.size, clip.size, device=plan.device)
    clock = _clock(plan.device)
    began = clock()
    with torch.autocast(plan.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        float(student.decode(student(clips)).confidence_bn.float().sum())  # waits for the device
    return clock() - began


def _clock(device: torch.device) -> Callable[[], float]:
    """What passes while the device works on this, and not while others do: on a CPU the time of this thread, which
    takes a full share of what it hands to others.
    """
    if device.type == "cpu":
        return time.thread_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what was queued before is no part of it
    return time.perf_counter


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as the run will have."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
