"""YOWO on a GPU: training with all options against a plain loop, hours of a UCF24-sized run, and what the card can do.

    python benchmarks/performance/bench_gpu.py --json FILE [--data-root UCF24 [--videos LIST]] [--seconds 240]

needs the card and installed packages, no network; without --data-root made-up videos in UCF24's layout are trained on,
with grain. The strategy is dual guidance, the network YOWO with 3D ResNeXt-101 and
random weights, the settings those of the preset `paper` but for what each part names.

plain        float32, eager, one group of clips at once; the loop's own thread reads raw frames and makes the views clip
             by clip, on the CPU; 32 + 32 clips a step
bfloat16     the same loop with train.precision=bfloat16; only where --parts names it
suite        bfloat16, views on the card, workers that read packed frames; layout, formulations, compilation and fused
             optimiser chosen by measurement, as in a run; 128 + 128 clips a step, as many steps as --seconds leaves;
             then some of the first stage, of 128 clips (here it moves a teacher after each step, too)
kernels      what the card computes in a step of `suite`, by kind of kernel; only where --parts names it
inference    clips of one video, float32, against clip by clip
ucf24        hours of a run on all of UCF24 at the pace of `suite` and of `inference`

Parts are written to FILE one by one, so that what was measured stays when time runs out. With --device cpu --small all
of it is computed on a CPU with fewer clips, to try the script; such figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from bench_networks import ceilings, time_inference
from common import flop_counter, machine
from torch._C._autograd import DeviceType

from ssldet.config import resolve
from ssldet.data.batches import ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.data.loader import BatchLoader
from ssldet.runs.planning import Plan, build_student, choose_convolutions, plan
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import Training
from ssldet_datasets import stand_ins

PLAIN = {"convolutions": "plain", "channels_last": "off", "compile": "off", "fused_optimizer": "off"}

UCF24 = {"first_stage_steps": 5580, "second_stage_steps": 22321, "test_frames": 159289}
"""Of `ssldet run --strategy dual_guidance --dataset ucf24 --ratio 0.1 --preset paper --dry-run`."""

GRAIN = 9.0
"""Noise on made-up frames, of 255 levels, so that stored frames are no smaller than real ones."""

FIRST_STAGE = 120
"""Seconds for the first stage, compilation included."""

PARTS = {"plain", "bfloat16", "suite", "kernels", "inference"}


@dataclass(slots=True)
class Report:
    """What was measured so far, on disk after every part."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, figures: Mapping[str, Any]) -> None:
        self.content[name] = figures
        self.path.write_text(json.dumps(self.content, indent=2) + "\n")
        say(f"{name}: {json.dumps(figures)}")


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


@dataclass(slots=True)
class Steps:
    """Seconds of the steps of a training, and what each waited for workers."""

    training: Training
    until: float
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    _before: tuple[float, float] | None = None

    def take(self, first: int, count: int, warm_up: int) -> dict[str, Any]:
        """Train from a step on, until `count` are done or time is up; `warm_up` more do not count. What was seen."""
        counts = self.training.counts
        counts.step, clips = first, counts.gradient_clips
        self.training.run(until=first + warm_up + count, on_step=self._note, stop=self._is_late)
        seconds, waited = self.seconds[warm_up - 1 :], self.waited[warm_up - 1 :]
        if not seconds:
            raise SystemExit(f"{counts.step - first} steps took all the time there was; give more --seconds")
        step, clips = statistics.mean(seconds), (counts.gradient_clips - clips) // (counts.step - first)
        return {
            "steps": len(seconds),
            "clips_a_step": clips,
            "seconds_a_step": round(step, 4),
            "deviation": round(statistics.pstdev(seconds), 4),
            "clips_a_second": round(clips / step, 1),
            "waiting_for_workers": round(sum(waited) / sum(seconds), 4),
        }

    def _note(self, _: object) -> None:
        """A step is done: the loop has read its numbers from the device."""
        now, batches = time.perf_counter(), self.training.batches
        waited = batches.waited if isinstance(batches, BatchLoader) else 0.0
        if self._before is not None:
            self.seconds.append(now - self._before[0])
            self.waited.append(waited - self._before[1])
            if len(self.seconds) % 10 == 1:
                say(f"a step of {self.seconds[-1]:.2f} s, {self.waited[-1]:.2f} s of them waiting for workers")
        self._before = now, waited

    def _is_late(self) -> bool:
        return time.perf_counter() > self.until


@dataclass(frozen=True, slots=True)
class Bench:
    """One call of the script."""

    device: torch.device
    data: Mapping[str, Any]
    folder: Path
    small: bool
    workers: int
    steps: int
    settings: Sequence[str]

    @property
    def precision(self) -> str:
        """Of `suite`; many CPUs emulate bfloat16."""
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def planned(self, batch: int, *assignments: str, **machine_options: Any) -> Plan:
        flags = {"strategy": "dual_guidance", "dataset": "ucf24", "ratio": 0.1, "device": str(self.device)}
        settings = [f"train.batch={batch}", "train.steps=100000", *assignments]
        if self.small:
            settings += ["clip.size=32", "train.bn_batch=2"]
        return plan(resolve({**flags, **self.data, **machine_options}, preset="paper", assignments=settings))

    def training(self, planned: Plan) -> tuple[Training, Mapping[str, Any]]:
        """Training as a run has it, and how its convolutions are computed."""
        experiment, machine_options = planned.config.experiment, planned.config.machine
        store = FrameStore.for_clips(planned.dataset, experiment.clip, self.folder / "frames")
        store.prepare(
            [planned.train[video] for video in (*planned.split.labelled, *planned.split.unlabelled)], workers=8
        )
        student, _ = build_student(planned)
        chosen = choose_convolutions(planned, student)
        training = assemble_training(
            experiment,
            planned.strategy,
            student,
            facts=planned.dataset.facts,
            videos=planned.train,
            truth_of=planned.dataset.truth,
            reader=ClipReader(store.frames, experiment.clip),
            labelled=planned.split.labelled,
            unlabelled=planned.split.unlabelled,
            steps=planned.steps,
            device=self.device,
            loader_workers=machine_options.loader_workers,
            switches=machine_options.switches(),
        )
        return training, chosen

    def plain(self, precision: str, until: float) -> dict[str, Any]:
        """The loop without what was done for speed."""
        batch, group = (4, 2) if self.small else (32, 8)
        settings = ("clip.jpeg_quality=null", f"train.precision={precision}", f"train.micro_batch={group}")
        training, _ = self.training(self.planned(batch, *settings, **PLAIN))
        training.source.views_on_device = False
        return Steps(training, until).take(training.burn_in, 4, warm_up=1)

    def suite(self, until: float, report: Report, *, kernels: bool = False) -> None:
        """The loop as a run has it on this device, in bfloat16; the second stage, then the first."""
        settings = (f"train.precision={self.precision}", *self.settings)
        planned = self.planned(4 if self.small else 128, *settings, loader_workers=self.workers)
        began = time.perf_counter()
        training, convolutions = self.training(planned)
        say(f"suite: frames are stored, convolutions chosen: {json.dumps(convolutions)}")
        training.prepare()
        say(f"suite: {training.micro_batch} clips at once, {json.dumps(training.accelerator.as_record())}")
        prepared = time.perf_counter() - began
        figures = Steps(training, until).take(training.burn_in, self.steps, warm_up=3)
        gflop = gflop_of_step(planned)
        report.add(
            "suite",
            figures
            | {
                "seconds_before_training": round(prepared, 1),
                "clips_at_once": training.micro_batch,
                "options": training.accelerator.as_record(),
                "convolutions": convolutions,
                "peak_memory_gib": round(peak_memory(self.device), 1),
                "gflop_a_step": round(gflop),
                "gflop_a_second": round(gflop / figures["seconds_a_step"]),
            },
        )
        if kernels:
            report.add("kernels", kernels_of_step(training))
        report.add("first stage", Steps(training, time.perf_counter() + FIRST_STAGE).take(0, 3, warm_up=3))


def gflop_of_step(planned: Plan) -> float:
    """Of the second stage, in convolutions and products of the network as it is written, however it is computed."""
    clip, options = planned.config.experiment.clip, planned.config.experiment.train
    with planned.device:
        network = planned.backbone.build(planned.dataset.facts, frame_head=True)
        clips = torch.empty(2, 3, clip.frames, clip.size, clip.size)
    with flop_counter() as forward, torch.no_grad():
        network(clips)
    with flop_counter() as step:
        network(clips).grid.sum().backward()
    trained, taught = 2 * (options.batch + options.unlabelled), options.unlabelled
    return 1e-9 * (trained * step.get_total_flops() + taught * forward.get_total_flops()) / len(clips)


KERNELS = {
    "compiled": ("triton",),
    "batch normalisation": ("batch_norm", "bn_fw", "bn_bw", "batchnorm"),
    "copies": ("copy", "memcpy", "catarray", "nchwtonhwc", "nhwctonchw", "memset"),
    "convolutions and products": ("conv", "gemm", "xmma", "cutlass", "cudnn", "wgrad", "dgrad", "nvjet", "implicit"),
}
"""Kinds of kernels of a card, by parts of their names; the first that fits counts."""


def kernels_of_step(training: Training) -> dict[str, float]:
    """Seconds of the card in one more step, by kind of kernel, and of the step; on a CPU those of torch's operators."""
    on_card = training.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_card else torch.profiler.ProfilerActivity.CPU
    training.run(until=training.counts.step + 1)  # starts the workers anew
    began = time.perf_counter()
    with torch.profiler.profile(activities=[activity]) as profile:
        training.run(until=training.counts.step + 1)
    seconds: dict[str, float] = dict.fromkeys((*KERNELS, "others"), 0.0) | {"step": time.perf_counter() - began}
    for event in profile.events():
        if on_card and event.device_type != DeviceType.CUDA:
            continue
        name = event.name.lower()
        kind = next((kind for kind, parts in KERNELS.items() if any(part in name for part in parts)), "others")
        seconds[kind] += 1e-6 * (event.time_range.elapsed_us() if on_card else event.self_cpu_time_total)
    return {name: round(each, 4) for name, each in seconds.items()}


def peak_memory(device: torch.device) -> float:
    """GiB of the card."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def hours_of_ucf24(content: Mapping[str, Any]) -> dict[str, float]:
    """What the parts of a run would take."""
    seconds = {
        "first stage": UCF24["first_stage_steps"] * content["first stage"]["seconds_a_step"],
        "second stage": UCF24["second_stage_steps"] * content["suite"]["seconds_a_step"],
        "detection": UCF24["test_frames"] / content["inference"]["clips_per_second"],
    }
    return {name: round(each / 3600, 2) for name, each in {**seconds, "all": sum(seconds.values())}.items()}


def made_up_ucf24(folder: Path) -> Path:
    """Stand-in videos with grain, so that their frames are as heavy to store and decode as real ones."""
    stand_ins.write_ucf24(folder)
    draws = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.avi")):
        with av.open(str(path)) as film:
            frames: np.ndarray = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
        grain = draws.normal(0, GRAIN, frames.shape)
        stand_ins.write_video(path, (frames + grain).clip(0, 255).astype(np.uint8))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file that is written")
    parser.add_argument("--data-root", type=Path, help="UCF24's folder; made-up videos without it")
    parser.add_argument("--videos", type=Path, help="a list of its videos, as --videos of a run")
    parser.add_argument(
        "--seconds", type=float, default=240, help="for the second stage of `suite` and what is before it"
    )
    parser.add_argument("--steps", type=int, default=300, help="of the second stage of `suite`, where time allows")
    parser.add_argument("--set", action="append", default=[], help="a setting of `suite`, such as compile=off")
    parser.add_argument("--workers", type=int, default=8, help="processes that make batches")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="few small clips")
    parser.add_argument("--parts", default="plain,suite,inference", help="what is measured, beside the card's ceilings")
    asked = parser.parse_args()
    del sys.modules["__main__"].__file__  # workers would import this script, and all that it does, once each
    parts = set(asked.parts.split(","))
    if unknown := parts - PARTS:
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; choose of {', '.join(sorted(PARTS))}")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --small tries the script without one")
    if "kernels" in parts and "suite" not in parts:
        parser.error("--parts: kernels are those of a step of suite, which must be named too")
    device, report = torch.device(asked.device), Report(asked.json)
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    report.add("machine", machine() | gpu)
    report.add("ceilings", ceilings(device))
    with tempfile.TemporaryDirectory() as folder:
        data = {
            "data_root": asked.data_root or made_up_ucf24(Path(folder) / "ucf24"),
            "videos": asked.videos and asked.videos.read_text().split(),
        }
        bench = Bench(device, data, Path(folder), asked.small, asked.workers, asked.steps, asked.set)
        for part, precision in (("plain", "float32"), ("bfloat16", "bfloat16")):
            if part in parts:
                report.add(f"plain, {precision}", bench.plain(precision, time.perf_counter() + 60))
        if "suite" in parts:
            bench.suite(time.perf_counter() + asked.seconds, report, kernels="kernels" in parts)
    if "inference" in parts:
        report.add("inference", time_inference(device, 24 if asked.small else 240))
    if {"suite", "inference"} <= parts:
        report.add("ucf24, hours", hours_of_ucf24(report.content))


if __name__ == "__main__":
    main()
