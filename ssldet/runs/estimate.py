"""What a run will take, measured on the device it will run on: a forward pass and a training step are timed, with views
and the optimiser, on frames that are made up, and where frames are stored as JPEGs also these; the rest follows.

On a CPU the seconds are processor time, which other work on the machine does not lengthen; elsewhere wall time. Memory
follows from what a clip of the timed step keeps for its backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ssldet.config import Experiment
from ssldet.contracts import Detector
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.data.sampling import sampled_frames
from ssldet.data.stored_frames import decode_jpeg, encode_jpeg
from ssldet.runs.planning import Plan, build_student
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import Training

STEP_SECONDS = 2.0
"""A measured step has as many clips as this leaves time for, and no more than a step of the run has at a time."""

BACKWARD = 2.0
"""How much longer than its forward pass a backward pass is taken to last where none is measured."""

GRAIN = 14
"""Cells along each side of a made-up frame: as JPEG it takes what frames of videos do (`bytes_per_pixel`)."""

LABELLED_VIDEOS = 8
"""Of so many the annotation is read."""

DECODED_FRAMES_PER_SECOND = 1200.0
"""One process, J-HMDB's 320x240 .avi files; measured."""

WEIGHT_BYTES = 4
"""float32."""

PROCESS_BYTES = 800 << 20
"""Of a process before it has a network: Python, torch and the rest of what is imported; measured."""

WORKING_MEMORY = 3.0
"""How much memory a step takes for each byte that it keeps for its backward pass, with gradients, workspaces of layers
and what the allocator does not give back; two were measured, in a fresh process.
"""

BYTES_PER_WEIGHT = 4 * WEIGHT_BYTES
"""Of what is trained: weights, gradients and Adam's two moments."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds by phase, of the processor on a CPU; bytes of disk for decoded frames, and of memory for weights and
    optimiser state alone.
    """

    seconds: dict[str, float]
    disk_bytes: int
    memory_bytes: int
    parameters: int
    trained: int
    """Those of the parameters that training moves; the others are frozen."""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured of a network, in seconds and bytes.

    Attributes:
        forward: of a clip through the network without gradients.
        step: of a clip as a part of a training step, its view included, but for the reading of its frames.
        read: of reading a stored frame; 0 where frames are mapped into memory as they are.
        pack: of making the JPEG of a frame, likewise.
        kept_bytes: what a clip of a training step keeps for its backward pass.
        state_bytes: weights, those of a teacher, and the optimiser's state.
    """

    forward: float
    step: float
    read: float = 0.0
    pack: float = 0.0
    kept_bytes: float = 0.0
    state_bytes: int = 0


def estimate(plan: Plan, *, quick: bool = False) -> Estimate:
    """Time, disk and memory of a plan. Takes some seconds: it builds the network and trains it for two steps.

    Args:
        quick: time no training step, but take it as a forward pass and a backward pass over all of the network.
    """
    student, _ = build_student(plan)
    parameters = sum(p.numel() for p in student.parameters())
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    store = FrameStore.for_clips(plan.dataset, plan.config.experiment.clip)
    return Estimate(
        seconds=seconds_by_phase(plan, _pace(student, plan, quick)),
        disk_bytes=store.bytes_needed(plan.used),
        memory_bytes=_state_bytes(student) + (_weight_bytes(student) if plan.needs.unlabelled else 0),
        parameters=parameters,
        trained=trained,
    )


def pace(plan: Plan) -> Pace:
    """How quickly a plan's network goes through clips on its device, measured; of the processor on a CPU."""
    return _pace(build_student(plan)[0], plan)


def _pace(student: Detector, plan: Plan, quick: bool = False) -> Pace:
    with _threads(plan.config.machine.threads):
        forward = _seconds_per_clip(student, plan)
        step, kept = (forward * (1 + BACKWARD), 0.0) if quick else _measured_step(student, plan, forward)
        jpeg = _seconds_per_jpeg(plan.config.experiment.clip)
        return Pace(forward, step, *jpeg, kept, _state_bytes(student) + _weight_bytes(student))


def memory_needed(plan: Plan, measured: Pace) -> int:
    """Bytes of main memory that the processes of a run hold at most, about; 0, for unknown, where it trains elsewhere.

    Frames that are mapped into memory are not counted: the system drops them when it needs the room.
    """
    options, machine = plan.config.experiment.train, plan.config.machine
    if plan.device.type != "cpu":
        return 0
    clips = clips_per_step(plan)
    clips_at_once = max(clips["first"], clips["second"]) * options.groups_at_once / options.groups
    training = PROCESS_BYTES + measured.state_bytes + WORKING_MEMORY * measured.kept_bytes * clips_at_once
    return int(machine.devices * training + machine.loader_workers * PROCESS_BYTES)


def seconds_by_phase(plan: Plan, measured: Pace) -> dict[str, float]:
    """What the phases of a run take. Of several GPUs each takes its share; what processes on a CPU take adds up."""
    options, clips = plan.config.experiment.train, clips_per_step(plan)
    share = 1 if plan.device.type == "cpu" else 1 / plan.config.machine.devices
    first, second = options.burn_in * plan.steps, (1 - options.burn_in) * plan.steps
    teacher = clips["teacher"] * measured.forward
    return {
        "decode": _decode_seconds(plan, measured),
        "first_stage": share * first * _step_seconds(plan, clips["first"], clips["first"] * measured.step, measured),
        "train": share
        * second
        * _step_seconds(plan, clips["second"], clips["second"] * measured.step + teacher, measured),
        "detect": share * _detect_seconds(plan, measured),
    }


def _decode_seconds(plan: Plan, measured: Pace) -> float:
    store = FrameStore.for_clips(plan.dataset, plan.config.experiment.clip)
    missing = store.missing(plan.used)
    decoding = sum(video.num_frames for video in missing) / DECODED_FRAMES_PER_SECOND
    packing = sum(len(store.form.wanted(video)) for video in missing) * measured.pack
    return (decoding + packing) / plan.config.machine.workers


def _step_seconds(plan: Plan, clips: float, computing: float, measured: Pace) -> float:
    """Of a step that computes for so long; workers read the clips of later steps meanwhile."""
    workers, reading = plan.config.machine.loader_workers, clips * plan.config.experiment.clip.frames * measured.read
    return max(computing, reading / workers) if workers else computing + reading


def _detect_seconds(plan: Plan, measured: Pace) -> float:
    """Every key frame of the videos that are scored; a batch of clips of one video reads each of its frames once."""
    clip, batch = plan.config.experiment.clip, plan.config.experiment.detect.batch
    step, reach = plan.dataset.facts.numbering.step, 1 - int(clip.offsets[0])
    frames = min(clip.frames, step + reach / batch)
    tested = sum(len(sampled_frames(plan.dataset.facts, video)) for video in plan.evaluated)
    return tested * (measured.forward + frames * measured.read)


def _seconds_per_jpeg(clip: ClipOptions) -> tuple[float, float]:
    """Seconds of reading and of making a stored frame, which is made up and about as many bytes as those of videos."""
    if (quality := clip.jpeg_quality) is None:
        return 0.0, 0.0
    coarse_hwc = np.random.default_rng(0).integers(0, 256, (GRAIN, GRAIN, 3), np.uint8)
    frame_hwc = np.asarray(Image.fromarray(coarse_hwc).resize((clip.size, clip.size), Image.Resampling.BICUBIC))
    jpeg = encode_jpeg(frame_hwc, quality)
    return _quickest(lambda: decode_jpeg(jpeg)), _quickest(lambda: encode_jpeg(frame_hwc, quality))


def _quickest(call: Callable[[], object], repeats: int = 10) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        seconds.append(time.thread_time() - began)
    return min(seconds)


def clips_per_step(plan: Plan) -> dict[str, float]:
    """Clips with gradients in a step of the first and of the second stage, and clips of the teacher."""
    options, needs = plan.config.experiment.train, plan.needs
    paired = 1 + (options.pair_share if needs.temporal else 0)
    paired_u = 1 + (options.pair_share if needs.has_partners else 0)
    unlabelled = options.unlabelled if needs.unlabelled else 0
    extra = options.unlabelled if needs.extra_labelled else 0
    groups = options.groups
    return {
        "first": options.batch * paired,
        "second": (options.batch + extra) * paired
        + unlabelled * paired_u
        + groups * plan.strategy.extra_clips(options.batch // groups, unlabelled // groups),
        "teacher": unlabelled,
    }


@torch.inference_mode()
def _seconds_per_clip(student: Detector, plan: Plan, budget: float = 1.0) -> float:
    """Seconds of one clip's forward pass, at a batch size that the device fills in about `budget` seconds."""
    student.eval()
    _forward_seconds(student, plan, 1)  # the first pass sets things up
    seconds = _forward_seconds(student, plan, 1)
    batch = min(plan.config.experiment.detect.batch, int(budget / max(seconds, 1e-3)))
    return _forward_seconds(student, plan, batch) / batch if batch > 1 else seconds


def _state_bytes(student: Detector) -> int:
    """Of weights, gradients and Adam's moments; what is frozen has only the first."""
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return _weight_bytes(student) + (BYTES_PER_WEIGHT - WEIGHT_BYTES) * trained


def _weight_bytes(student: Detector) -> int:
    return WEIGHT_BYTES * sum(p.numel() for p in student.parameters())


def _measured_step(student: Detector, plan: Plan, forward: float) -> tuple[float, float]:
    """Of one clip in a step of the first stage: seconds, its view and its share of the optimiser's work included, and
    bytes that it keeps for the backward pass.
    """
    train = plan.config.experiment.train
    room = max(1, int(STEP_SECONDS / (forward * (1 + BACKWARD))))
    clips = min(train.batch, train.bn_batch, room)
    options = train.model_copy(
        update={"batch": clips, "unlabelled_batch": clips, "bn_batch": clips, "micro_batch": "auto", "burn_in": 1.0}
    )
    training = _short_training(student, plan, plan.config.experiment.model_copy(update={"train": options}))
    with _kept_bytes(student) as kept:
        _, counted = training.step_once()  # sets things up
    kept_bytes = sum(kept.values()) / counted
    clock = _clock(plan.device)
    began = clock()
    _, counted = training.step_once()
    return (clock() - began) / counted, kept_bytes


@contextmanager
def _kept_bytes(student: Detector) -> Iterator[dict[int, int]]:
    """Notes what forward passes keep for the backward pass, beside weights: address of a storage -> its bytes."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _short_training(student: Detector, plan: Plan, experiment: Experiment) -> Training:
    """Two steps over some labelled videos of the plan, whose frames are all grey, so that none need be decoded."""
    truths = ((video, plan.dataset.truth(video)) for video in plan.split.labelled)
    labelled = [video for video, truth in islice(truths, LABELLED_VIDEOS) if len(truth.key_frames_m)]
    size = experiment.clip.size
    grey = np.full((1, size, size, 3), 128, np.uint8)

    def frames_of(video: str) -> np.ndarray:
        return np.broadcast_to(grey, (plan.train[video].num_frames, size, size, 3))

    return assemble_training(
        experiment,
        plan.strategy,
        student.train(),
        facts=plan.dataset.facts,
        videos=plan.train,
        truth_of=plan.dataset.truth,
        reader=ClipReader(frames_of, experiment.clip),
        labelled=labelled or plan.split.labelled,
        unlabelled=plan.split.unlabelled[:LABELLED_VIDEOS],
        steps=2,
        device=plan.device,
    )


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
