"""The small backbone: shapes, size, and gradients that half precision does not spoil."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssldet
from ssldet.contracts import DatasetFacts, Targets
from ssldet.detector import Detector
from ssldet.errors import ConfigError
from ssldet.region import RegionOptions
from ssldet_backbones.convolution import Conv3d

FACTS = DatasetFacts(
    "made_up", tuple(map(str, range(21))), ((0.9, 3.1), (1.7, 4.0), (1.8, 5.6), (3.1, 5.8), (4.9, 6.3))
)


def nano(**options: object) -> Detector:
    torch.manual_seed(0)
    return ssldet.build_detector("yowo_nano", dataset=FACTS, region=RegionOptions(form="giou"), **options)  # type: ignore[arg-type]


def test_it_is_small_and_sees_a_grid_of_seven() -> None:
    detector = nano().eval()
    predictions = detector(torch.rand(2, 3, 8, 112, 112))
    assert predictions.grid.shape == (2, 130, 7, 7)
    assert predictions.frame_logits.shape == (2, 22)
    assert 0.5e6 < sum(p.numel() for p in detector.parameters()) < 0.9e6


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 64, 96), (16, 112, 112), (3, 32, 32)])
def test_other_clip_lengths_and_sizes_fit(frames: int, height: int, width: int) -> None:
    grid = nano().eval()(torch.rand(1, 3, frames, height, width)).grid
    assert grid.shape == (1, 130, height // 16, width // 16)


def test_nearly_nothing_is_an_object_at_first() -> None:
    detector = nano().eval()
    confidence = detector.decode(detector(torch.rand(2, 3, 8, 112, 112))).confidence_bn
    assert 0.01 < confidence.mean().item() < 0.03


def test_the_key_frame_is_the_last() -> None:
    detector, clip = nano().eval(), torch.rand(1, 3, 8, 112, 112)
    seen: list[Tensor] = []
    detector.features.branch_2d.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    detector(clip)
    assert torch.equal(seen[0], clip[:, :, -1])


def test_a_bad_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="width"):
        nano(width=7)


def scenes(clips: int, frames: int = 8) -> tuple[Tensor, Targets]:
    """Clips of a bright rectangle that moves over a smooth background, and where it ends."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(clips, 3, frames, 7, 7, generator=generator) * 0.5
    clips_bcthw = F.interpolate(coarse, (frames, 112, 112), mode="trilinear")
    boxes = torch.zeros(clips, 4)
    for index in range(clips):
        left, top = torch.randint(0, 50, (2,), generator=generator).tolist()
        for time in range(frames):
            clips_bcthw[index, index % 3, time, top : top + 50, left + 2 * time : left + 2 * time + 25] = 1
        left += 2 * (frames - 1)
        boxes[index] = torch.tensor([left, top, left + 25, top + 50])
    labels = torch.arange(clips) % FACTS.num_classes
    mask = torch.ones(clips, dtype=torch.bool)
    labels_nk = torch.eye(FACTS.num_classes)[labels]
    return clips_bcthw, Targets(torch.arange(clips), boxes, labels_nk, mask, labels, mask)


def gradients(detector: Detector, clips_bcthw: Tensor, targets: Targets, *, half: bool) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        predictions = detector(clips_bcthw)
    sum(detector.losses(predictions, targets).values()).backward()
    return {name: p.grad.double().flatten() for name, p in detector.named_parameters()}


def test_gradients_agree_with_float64() -> None:
    """Rounding activations to bfloat16, with exact arithmetic between, already turns the first layers' by 0.84."""
    clips_bcthw, targets = scenes(4)
    detector = nano(dropout=0.0)
    nn.init.constant_(detector.features.cfam.sc.gamma, 0.3)
    exact = gradients(copy.deepcopy(detector).double(), clips_bcthw.double(), targets, half=False)
    single = gradients(copy.deepcopy(detector), clips_bcthw, targets, half=False)
    half = gradients(detector, clips_bcthw, targets, half=True)
    for name, gradient in exact.items():
        assert F.cosine_similarity(single[name], gradient, dim=0) > 0.9999, name
        assert F.cosine_similarity(half[name], gradient, dim=0) > 0.7, name


@pytest.mark.parametrize("frames", [8, 4])
def test_weight_gradients_of_every_convolution_are_right_in_half_precision(frames: int) -> None:
    """Against float64 with the same inputs: torch's own are not, at two time steps with a temporal kernel of 3."""
    detector, (clips_bcthw, targets) = nano(), scenes(4, frames)
    inputs, outputs = dict[str, Tensor](), dict[str, Tensor]()
    layers = {name: layer for name, layer in detector.named_modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)}

    def record(name: str, given: Tensor, came: Tensor) -> None:
        inputs[name] = given.detach()
        came.register_hook(lambda gradient: outputs.update({name: gradient}))

    for name, layer in layers.items():
        layer.register_forward_hook(lambda layer, given, came, name=name: record(name, given[0], came))
    got = gradients(detector, clips_bcthw, targets, half=True)
    assert len(layers) >= 15
    for name, layer in layers.items():
        exact_layer = copy.deepcopy(layer).double()
        exact_layer.zero_grad()
        exact_layer(inputs[name].double()).backward(outputs[name].double())
        exact = exact_layer.weight.grad.flatten()
        assert F.cosine_similarity(got[f"{name}.weight"], exact, dim=0) > 0.999, name
        assert got[f"{name}.weight"].norm() / exact.norm() == pytest.approx(1, abs=0.02), name


@pytest.mark.parametrize("autocast", [True, False])
def test_grouped_convolutions_are_right_at_two_time_steps(autocast: bool) -> None:
    """YOWO's third stage has them for clips of 16 frames."""
    torch.manual_seed(0)
    exact, x, gradient = Conv3d(64, 64, 3, 1, 1, groups=4, bias=False).double(), *torch.randn(2, 2, 64, 2, 7, 7)
    layer = copy.deepcopy(exact).to(torch.float32 if autocast else torch.bfloat16)
    exact(x.double()).backward(gradient.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = layer(x.to(layer.weight.dtype))
    assert out.dtype == torch.bfloat16
    out.backward(gradient.bfloat16())
    assert F.cosine_similarity(layer.weight.grad.double().flatten(), exact.weight.grad.flatten(), dim=0) > 0.999
