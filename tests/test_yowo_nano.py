"""The small backbone: shapes, size, gradients that half precision does not spoil, and weights to start from."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from helpers import QUICK
from safetensors.torch import load_file
from torch import Tensor, nn

import ssldet
from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import DatasetFacts, Targets
from ssldet.detector.detector import GridDetector
from ssldet.detector.region import RegionOptions
from ssldet.detector.weights import write_weights
from ssldet.errors import ConfigError, WeightsError
from ssldet.nn import Conv3d
from ssldet.runs import runner
from ssldet.runs.record import Record
from ssldet_backbones.yowo_nano import YOWONano

FACTS = DatasetFacts(
    "made_up", tuple(map(str, range(21))), ((0.9, 3.1), (1.7, 4.0), (1.8, 5.6), (3.1, 5.8), (4.9, 6.3))
)


def nano(**options: object) -> GridDetector:
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


def gradients(detector: GridDetector, clips_bcthw: Tensor, targets: Targets, *, half: bool) -> dict[str, Tensor]:
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


# ------------------------------------------------------------------------------------------ pretrained weights


def small_run(results: Path, fields: Mapping[str, Any]) -> Record:
    """A run at smoke scale over the data of `fields`, on few videos."""
    options = {"train_per_class": 2, "test_per_class": 1, **fields.get("dataset_options", {})}
    wanted = {**fields, "dataset_options": options, "results": results, "workers": 1}
    return runner.run(resolve(wanted, preset="smoke", assignments=[*QUICK, "train.steps=2", "train.warmup=1"]))


@pytest.fixture(scope="module")
def weights_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights made as the backbone says, under the name that it expects."""
    results = tmp_path_factory.mktemp("pretraining")
    record = small_run(results, backbone().pretraining("synthetic") or {})
    shutil.copy(next(results.glob(f"*{record.id}")) / "weights.safetensors", results / published())
    return results


def backbone(**options: Any) -> YOWONano:
    return YOWONano(YOWONano.Config(**options))


def published() -> str:
    (name,) = backbone().pretrained_files("synthetic").values()
    return name


def synthetic(**options: object) -> GridDetector:
    torch.manual_seed(0)
    return ssldet.build_detector("yowo_nano", dataset="synthetic", **options)  # type: ignore[arg-type]


def load(detector: GridDetector, file: Path) -> Mapping[str, Any]:
    return backbone().load_pretrained(detector, {"features": file})


def test_features_come_from_the_file_and_heads_stay_as_drawn(weights_root: Path) -> None:
    drawn, loaded = synthetic(), synthetic()
    file = load_file(weights_root / published())
    report = load(loaded, weights_root / published())
    features = {name for name in file if name.startswith("features.")}
    assert report["features"]["loaded"] == len(features) == len(loaded.features.state_dict())
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, file[name] if name in features else drawn.state_dict()[name]), name
    assert not torch.equal(loaded.box_head.weight, file["box_head.weight"])


def test_a_run_starts_from_what_its_pretraining_left(weights_root: Path, tmp_path: Path) -> None:
    data = {"dataset": "synthetic", "dataset_options": {"train_per_class": 2}, "strategy": "supervised", "ratio": 1.0}
    record = small_run(tmp_path, {**data, "pretrained": True, "weights_root": weights_root})
    report = record.notes["initial_weights"]["features"]
    assert report["loaded"] > 50 and not (report["missing"] or report["unexpected"] or report["shape_mismatch"])
    assert record.id != small_run(tmp_path, data).id


def test_pretraining_shows_other_classes_than_those_it_is_for() -> None:
    made = backbone().pretraining("synthetic") or {}
    other = ssldet.load_dataset(made["dataset"], **made["dataset_options"]).facts
    assert not set(other.classes) & set(ssldet.load_dataset("synthetic").facts.classes)


def test_there_are_no_weights_for_other_data() -> None:
    assert backbone().pretrained_files("jhmdb") == {} and backbone().pretraining("jhmdb") is None


def test_weights_of_another_width_are_refused(weights_root: Path) -> None:
    narrow = synthetic(width=8)
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    with pytest.raises(WeightsError, match=r"shape_mismatch \(branch_3d\.0\.0\.weight: \(16, 3.*\) for \(8, 3"):
        load(narrow, weights_root / published())
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"neck.weight": torch.ones(1)}, r"1 unexpected \(neck.weight\)"),
        (lambda state: {n: v for n, v in state.items() if "cfam" not in n}, r"missing \(cfam"),
        (lambda state: {n: v for n, v in state.items() if "features" not in n}, "0 entries loaded"),
    ],
)
def test_entries_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    write_weights(tmp_path / "changed.safetensors", change(synthetic().state_dict()))
    with pytest.raises(WeightsError, match=message):
        load(synthetic(), tmp_path / "changed.safetensors")


def test_the_command_line_knows_such_a_file(weights_root: Path) -> None:
    def weights(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["weights", *map(str, arguments)])

    file = weights_root / published()
    verified = weights("verify", file, "--backbone", "yowo_nano", "--dataset", "ava", "--part", "features")
    assert verified.exit_code == 0, verified.output
    assert "network: yowo_nano, " in weights("inspect", file).stdout
    assert weights("verify", file, "--backbone", "yowo_nano", "--dataset", "ava").exit_code == 1
