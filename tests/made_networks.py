"""Small networks that are sure of what they see, and runs that left them: for what is done with trained detectors."""

from __future__ import annotations

from pathlib import Path

import torch
from made_records import config_of, record_of, write_record
from torch import nn

from ssldet.config import DetectOptions
from ssldet.contracts import DatasetFacts
from ssldet.data.batches import ClipOptions
from ssldet.detector.detector import GridDetector
from ssldet.detector.weights import write_weights
from ssldet.runs.network import Network, TrainedDetector, write_network
from ssldet.testing.tiny import tiny_detector
from ssldet.util.files import file_hash
from ssldet_backbones.yowo_nano import YOWONano

SIZE, FRAMES = 32, 4
FACTS = DatasetFacts("tiny", ("left", "right", "still"), ((2.0, 4.0), (4.0, 2.0)))

NANO = Network(
    backbone="yowo_nano",
    backbone_options={"width": 4, "frame_hidden": 8},
    facts=FACTS,
    clip=ClipOptions(frames=FRAMES, size=SIZE),
    detect=DetectOptions(batch=4),
)
"""A network that an installed backbone builds."""


def tiny_trained(facts: DatasetFacts = FACTS, stride: int = 1) -> TrainedDetector:
    """A network of two layers that sees class 0 in every cell, always."""
    clip = ClipOptions(frames=FRAMES, size=SIZE, stride=stride)
    network = NANO.model_copy(update={"facts": facts, "clip": clip})
    return TrainedDetector(tiny_detector(facts, frame_head=False, state="confident").eval(), network, "a tiny network")


@torch.no_grad()
def nano_weights(path: Path) -> Path:
    """Weights of `NANO`, by which class 1 is everywhere with a confidence near 1."""
    torch.manual_seed(0)
    detector = YOWONano(YOWONano.Config(**NANO.backbone_options)).build(FACTS, frame_head=True)
    assert isinstance(detector, GridDetector) and isinstance(detector.box_head, nn.Conv2d)
    assert detector.box_head.bias is not None
    bias_ad = detector.box_head.bias.view(len(FACTS.anchors), -1)
    bias_ad[:, 4], bias_ad[:, 5:] = 6.0, -6.0
    bias_ad[:, 6] = 6.0
    write_weights(path, detector.state_dict())
    return path


def write_trained_run(results: Path) -> Path:
    """The folder of a finished run that left `nano_weights`."""
    record = record_of(config_of())
    folder = write_record(results, record)
    write_network(folder / "network.json", NANO)
    nano_weights(folder / "weights.safetensors")
    for name in ("config.yaml", "split.json", "log.jsonl", "detections.parquet", "per_video.parquet"):
        (folder / name).write_text(f"what {name} holds is read by nobody here\n")
    files = {path.name: file_hash(path) for path in folder.iterdir() if path.name != "record.json"}
    record.model_copy(update={"files": files}).write(folder / "record.json")
    return folder
