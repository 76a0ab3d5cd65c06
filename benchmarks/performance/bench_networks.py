"""YOWO with 3D ResNeXt-101 at 16 x 224 x 224: a training step and inference, against plain eager arithmetic.

    python benchmarks/performance/bench_networks.py                  both, on the CPU; figures go into results.json
    python benchmarks/performance/bench_networks.py --device cuda --json networks.json

The step is forward, backward and nothing else, of one clip on a CPU and 8 on a GPU (--clips). "Loops" are the same
network and weights as torch computes them by itself; "suite" is what `convolutions=measured` takes, and on a GPU with
bfloat16. Inference is over the clips of one made video, one frame apart; plain is clip by clip. What the device can do
at most, in products of matrices, in one large convolution and in copying, is measured in the same run, in a large loop
each. Nothing is downloaded; weights are random. With --json nothing but that file is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import flop_counter, machine, peak_memory_mb, record
from torch import nn

import ssldet
from ssldet.config import DetectOptions
from ssldet.contracts import DatasetFacts, Detector, Video, VideoDetections
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.evaluation.inference import detect_videos
from ssldet.nn import choose_formulations

FRAMES, SIZE, BATCH = 16, 224, 8
ANCHORS = ((0.70458, 1.18803), (1.26654, 2.55121), (1.59382, 4.08321), (2.30548, 4.94180), (3.52332, 5.91979))
FACTS = DatasetFacts("made up", tuple(f"class {index}" for index in range(24)), ANCHORS)


def seconds_of(once: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call on the wall, after one that is not counted; processor seconds on a CPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    for _ in range(repeats + 1):
        _wait(device)
        began = clock()
        once()
        _wait(device)
        taken.append(clock() - began)
    return statistics.median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------------------------------ what the device can do


def ceilings(device: torch.device) -> dict[str, float]:
    """GFLOP/s of products and of a large 2D convolution, GB/s of a copy; in float32, on a GPU in bfloat16 too."""
    types = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if device.type == "cuda" else {})
    side, maps = (8192, 64) if device.type == "cuda" else (1024, 2)
    found = {}
    with torch.no_grad():
        for name, dtype in types.items():
            one, other = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
            found[f"matrix product, {name}, GFLOP/s"] = 2e-9 * side**3 / seconds_of(lambda: one @ other, device, 5)  # noqa: B023 - called at once
            x = torch.rand(maps, 256, 56, 56, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
            layer = nn.Conv2d(256, 256, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
            flops = 2e-9 * x.numel() * 256 * 9
            found[f"convolution, {name}, GFLOP/s"] = flops / seconds_of(lambda: layer(x), device, 5)  # noqa: B023 - likewise
    block = torch.rand(1 << (28 if device.type == "cuda" else 25), device=device)
    found["copy, GB/s"] = 2e-9 * 4 * block.numel() / seconds_of(block.clone, device, 5)
    return {name: round(value, 1) for name, value in found.items()}


# ------------------------------------------------------------------------------------------ the step


def step_of(network: nn.Module, clips: torch.Tensor, autocast: bool) -> Callable[[], float]:
    """A forward and a backward pass; gives a sum of the output, for comparison."""

    def once() -> float:
        network.zero_grad(set_to_none=True)
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=autocast):
            out = network(clips).grid.float()
        out.square().mean().backward()
        return float(out.detach().square().mean())

    return once


def time_step(device: torch.device, clips: int, repeats: int) -> dict[str, Any]:
    network = yowo(device).train()
    batch = torch.rand(clips, 3, FRAMES, SIZE, SIZE, device=device)
    with flop_counter() as count:
        before = step_of(network, batch, False)()
    plain = seconds_of(step_of(network, batch, False), device, repeats)
    figures: dict[str, Any] = {"loops_seconds": plain, "clips": clips, "gflop_a_step": count.get_total_flops() / 1e9}
    autocast = device.type == "cuda"
    if autocast:
        figures["bfloat16 alone, seconds"] = seconds_of(step_of(network, batch, True), device, repeats)
    chosen = choose_formulations(network, batch, backward=True, autocast=autocast)
    after = step_of(network, batch, autocast)()
    assert abs(after - before) < (0.1 if autocast else 1e-2) * before, f"another loss: {after} instead of {before}"
    seconds = seconds_of(step_of(network, batch, autocast), device, repeats)
    rate = figures["gflop_a_step"] / seconds
    return {**figures, "seconds": seconds, "chosen": chosen.as_record(), "gflop_a_second": round(rate, 1)}


# ------------------------------------------------------------------------------------------ inference


def time_inference(device: torch.device, clips: int) -> dict[str, Any]:
    """Detections of one video, clip by clip and as the suite does, and how far they lie apart."""
    detector = yowo(device)
    with torch.no_grad():  # statistics of a few batches, so that normalisation is not that of a fresh network
        for _ in range(2):
            detector.train()(torch.rand(2, 3, FRAMES, SIZE, SIZE, device=device))
    detector.eval()
    draws = np.random.default_rng(0)
    frames = draws.integers(0, 256, (clips, SIZE, SIZE, 3), dtype=np.uint8)
    expected, plain = detected(detector, frames, device, batch=1, share=False)
    sample = torch.rand(BATCH, 3, FRAMES, SIZE, SIZE, device=device)
    chosen = choose_formulations(detector, sample, backward=False)
    found, seconds = detected(detector, frames, device, batch=BATCH, share=True)
    apart = largest_difference(expected, found)
    assert apart < 1e-3, f"other detections: they differ by {apart}"
    return {
        "loops_seconds": plain / clips,
        "seconds": seconds / clips,
        "clips_per_second": round(clips / seconds, 2),
        "clips": clips,
        "largest_difference": apart,
        "chosen": chosen.as_record(),
    }


def detected(
    detector: Detector, frames: np.ndarray, device: torch.device, *, batch: int, share: bool
) -> tuple[VideoDetections, float]:
    """All boxes of every frame, and the seconds that they took."""
    options = DetectOptions(batch=batch, score_threshold=0, nms_iou=1.0)
    reader = ClipReader(lambda video: frames, ClipOptions(frames=FRAMES, size=SIZE))
    found: list[VideoDetections] = []

    def once() -> None:
        videos = [Video("made", len(frames), SIZE, SIZE, (0,))]
        keys = np.arange(len(frames))
        runs = detect_videos(detector, videos, lambda _: keys, reader, options, device=device, share=share)
        found[:] = [rows for _, rows in runs]

    seconds = seconds_of(once, device, repeats=1)
    return found[0], seconds


def largest_difference(expected: VideoDetections, found: VideoDetections) -> float:
    """Of any detection from the nearest one of its frame, boxes in parts of the view; infinite if one is missing."""
    if not np.array_equal(expected.frames_n, found.frames_n):
        return float("inf")
    largest = 0.0
    for frame in np.unique(expected.frames_n):
        ours, theirs = (_columns(each[each.frames_n == frame]) for each in (found, expected))
        apart = np.abs(ours[:, None] - theirs[None]).max(axis=-1)
        largest = max(largest, float(apart.min(axis=0).max()), float(apart.min(axis=1).max()))
    return largest


def _columns(rows: VideoDetections) -> np.ndarray:
    return np.concatenate((rows.boxes_n4 / SIZE, rows.confidence_n[:, None], rows.scores_nk), axis=1)


def yowo(device: torch.device) -> Detector:
    torch.manual_seed(0)
    return ssldet.build_detector("yowo", dataset=FACTS, frame_head=False, dropout=0.0).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, help="of a step; 1 on a CPU, 8 on a GPU")
    parser.add_argument("--video", type=int, default=24, help="frames of the video of inference")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", default="step,inference", help="what is measured, beside the device's ceilings")
    asked = parser.parse_args()
    wanted = set(asked.parts.split(","))
    if unknown := wanted - {"step", "inference"}:
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; choose of inference, step")
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    clips = asked.clips or (1 if device.type == "cpu" else 8)
    limits = ceilings(device)
    parts: dict[str, dict[str, Any]] = {}
    if "step" in wanted:
        parts["step"] = time_step(device, clips, asked.repeats)
    if "inference" in wanted:
        parts["inference"] = time_inference(device, asked.video)
    common = {"threads": asked.threads, "ceilings": limits, "peak_memory_mb": peak_memory_mb()}
    if asked.json:
        place = machine() | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})
        asked.json.write_text(json.dumps({"machine": place, **common, **parts}, indent=2))
        return
    titles = {
        "step": (f"a step of {clips} clip(s); plain eager float32", "1.1x"),
        "inference": ("inference, a clip; plain eager, clip by clip", "1.8x"),
    }
    for part, figures in parts.items():
        title, aim = titles[part]
        name = f"YOWO with ResNeXt-101, 16 x 224 x 224, on {device.type}: {title}"
        record(name, figures | common | {"aim": aim})


if __name__ == "__main__":
    main()
