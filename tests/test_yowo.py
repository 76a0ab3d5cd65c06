"""The published network: structure, numbers, freezing, and its weights files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import ssldet
from ssldet.contracts import DatasetFacts
from ssldet.detector import Detector
from ssldet_backbones.yowo import YOWO, YOWOFeatures, YOWOOptions, detector_name

ANCHORS = ((1.0, 2.0), (1.5, 3.0), (2.0, 4.0), (3.0, 5.0), (4.0, 6.0))


def facts_of(classes: int, **other: object) -> DatasetFacts:
    return DatasetFacts("made_up", tuple(f"class {index}" for index in range(classes)), ANCHORS, **other)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return ssldet.build_detector("yowo", dataset=facts_of(24), frame_head=False).eval()


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    """An entry of the oracle's network, as its description says."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name == "cfam.sc.gamma":
        n = np.full(shape, 0.5, np.float32)
    elif len(shape) == 1:
        n = 0.1 * n + (1 if name.endswith("weight") else 0)
    else:
        n = n * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(n.astype(np.float32))


def count(detector: Detector) -> int:
    return sum(parameter.numel() for parameter in detector.parameters())


def test_it_has_the_published_entries(detector: Detector, shared: Path) -> None:
    published = json.loads((shared / "oracles" / "yowo_state_dict_ucf24.json").read_text())
    own = {name: list(value.shape) for name, value in detector.state_dict().items()}
    assert len(own) == 780
    assert own == {detector_name(name): shape for name, shape in published.items()}
    assert count(detector) == 121_095_050


@pytest.mark.slow
def test_it_computes_what_the_published_network_computes(detector: Detector, shared: Path, tmp_path: Path) -> None:
    published = json.loads((shared / "oracles" / "yowo_state_dict_ucf24.json").read_text())
    state = {f"module.{name}": drawn(name, shape) for name, shape in published.items()}
    checkpoint = tmp_path / "yowo_ucf24_16f_best.pth"
    torch.save({"epoch": 5, "state_dict": state, "optimizer": {"state": {}}, "score": 0.8}, checkpoint)
    loaded = ssldet.build_detector("yowo", dataset=facts_of(24), weights=checkpoint).eval()
    assert not loaded.has_frame_head  # the checkpoint has none
    clip = torch.from_numpy(np.random.RandomState(7).rand(1, 3, 16, 224, 224).astype(np.float32))
    with torch.no_grad():
        grid = loaded(clip).grid
    expected = torch.from_numpy(np.load(shared / "oracles" / "yowo_forward_ucf24.npz")["output"])
    assert (grid - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_any_clip_length_gives_one_grid(detector: Detector, frames: int) -> None:
    with torch.no_grad():
        predictions = detector(torch.rand(1, 3, frames, 64, 96))
    assert predictions.grid.shape == (1, 5 * 29, 2, 3)
    assert predictions.frame_logits is None
