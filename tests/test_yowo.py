"""The published network: structure, numbers, freezing, and its weights files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import drawn

import ssldet
from ssldet import testing
from ssldet.cli import main
from ssldet.contracts import DatasetFacts
from ssldet.detector.detector import GridDetector
from ssldet.errors import WeightsError
from ssldet_backbones.branches.darknet import Darknet19, read_darknet
from ssldet_backbones.branches.resnext3d import ResNeXt3D
from ssldet_backbones.yowo import YOWO, YOWOFeatures, YOWOOptions, detector_name

ANCHORS = ((1.0, 2.0), (1.5, 3.0), (2.0, 4.0), (3.0, 5.0), (4.0, 6.0))


def facts_of(classes: int, **other: object) -> DatasetFacts:
    return DatasetFacts("made_up", tuple(f"class {index}" for index in range(classes)), ANCHORS, **other)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def detector() -> GridDetector:
    return ssldet.build_detector("yowo", dataset=facts_of(24), frame_head=False).eval()


def count(detector: GridDetector) -> int:
    return sum(parameter.numel() for parameter in detector.parameters())


def test_it_has_the_published_entries(detector: GridDetector, oracles: Path) -> None:
    published = json.loads((oracles / "yowo_state_dict_ucf24.json").read_text())
    own = {name: list(value.shape) for name, value in detector.state_dict().items()}
    assert len(own) == 780
    assert own == {detector_name(name): shape for name, shape in published.items()}
    assert count(detector) == 121_095_050


@pytest.mark.slow
def test_it_computes_what_the_published_network_computes(detector: GridDetector, oracles: Path, tmp_path: Path) -> None:
    published = json.loads((oracles / "yowo_state_dict_ucf24.json").read_text())
    state = {f"module.{name}": drawn(name, shape) for name, shape in published.items()}
    checkpoint = tmp_path / "yowo_ucf24_16f_best.pth"
    torch.save({"epoch": 5, "state_dict": state, "optimizer": {"state": {}}, "score": 0.8}, checkpoint)
    loaded = ssldet.build_detector("yowo", dataset=facts_of(24), weights=checkpoint).eval()
    assert not loaded.has_frame_head  # the checkpoint has none
    clip = torch.from_numpy(np.random.RandomState(7).rand(1, 3, 16, 224, 224).astype(np.float32))
    with torch.no_grad():
        grid = loaded(clip).grid
    expected = torch.from_numpy(np.load(oracles / "yowo_forward_ucf24.npz")["output"])
    assert (grid - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.parametrize("frames", [8, 32])
def test_any_clip_length_gives_one_grid(detector: GridDetector, frames: int) -> None:
    with torch.no_grad():
        predictions = detector(torch.rand(1, 3, frames, 32, 64))
    assert predictions.grid.shape == (1, 5 * 29, 1, 2)
    assert predictions.frame_logits is None


@pytest.mark.parametrize("classes", [21, 80])
def test_the_box_head_alone_depends_on_the_classes(classes: int) -> None:
    parts = YOWO(YOWOOptions()).build(facts_of(classes, multilabel=classes == 80), frame_head=False)
    assert sum(p.numel() for p in parts.box_head.parameters()) == 1024 * 5 * (5 + classes)
    assert parts.frame_head is None


def test_the_frame_head_reads_the_features_of_the_box_head() -> None:
    detector = ssldet.build_detector("yowo", dataset=facts_of(3), frame_hidden=16)
    predictions = detector.eval()(torch.rand(1, 3, 8, 32, 32))
    assert predictions.frame_logits is not None
    assert predictions.frame_logits.shape == (1, 4)
    assert count(detector) == 121_095_050 - 1024 * 5 * 21 + (1024 + 1) * 16 + 4 * 16 + 1


def test_frozen_branches_keep_weights_and_statistics() -> None:
    features = YOWOFeatures(ResNeXt3D(), Darknet19(), freeze_3d=True, freeze_2d=True).train()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    features(torch.rand(2, 3, 8, 32, 32)).sum().backward()
    assert {name.split(".")[0] for name, p in features.named_parameters() if p.grad is not None} == {"cfam"}
    moved = {name for name, value in features.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("cfam.") for name in moved)
    assert features.cfam.training and not features.backbone_3d.training


def test_only_the_frozen_branch_is_frozen() -> None:
    parts = YOWO(YOWOOptions(freeze_2d=True)).build(facts_of(3), frame_head=False)
    trainable = {name.split(".")[0] for name, p in parts.features.named_parameters() if p.requires_grad}
    assert trainable == {"backbone_3d", "cfam"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "test", ["frozen_parts_stay_as_they_are", "weights_of_a_part_come_back", "weights_that_do_not_fit_are_told_of"]
)
def test_a_partly_frozen_network_keeps_the_contract(test: str) -> None:
    frozen = {"branch_3d": "mobilenetv2_1x", "freeze_2d": True, "freeze_3d": 2}
    (found,) = testing.check(YOWO, only=f"test_{test}", clips=((8, 1),), option_sets=(frozen,))
    assert found.status == "passed", found.reason


@pytest.mark.parametrize(("option", "value", "part"), [("freeze_2d", "true", "2d"), ("freeze_3d", "1", "3d")])
def test_a_frozen_part_without_weights_is_refused_before_anything_is_trained(
    option: str, value: str, part: str, tmp_path: Path
) -> None:
    settings = ["--dataset", "synthetic", "--ratio", "0.5", "--preset", "smoke", "--results", str(tmp_path / "runs")]
    chosen = ["--backbone", "yowo", "--set", f"backbone.{option}={value}", "--set", "clip.size=64", "--scratch"]
    said = CliRunner().invoke(main, ["run", "--strategy", "supervised", *settings, *chosen])
    assert said.exit_code == 2
    assert f"the part {part} of yowo is frozen (backbone.{option}) and no weights are loaded into it" in said.stderr
    assert "use --pretrained, or train it" in said.stderr
    assert not (tmp_path / "runs").exists()


def test_no_stage_frozen_is_no_frozen_part() -> None:
    assert YOWO(YOWOOptions(freeze_2d=0, freeze_3d=False)).frozen_parts() == {}
    assert YOWO(YOWOOptions(freeze_2d=2)).frozen_parts() == {"2d": "freeze_2d"}


# ------------------------------------------------------------------------------------------------ weights files


@pytest.fixture(scope="module")
def darknet() -> Darknet19:
    network = Darknet19()
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator))
    return network


def darknet_bytes(network: Darknet19, version: tuple[int, int]) -> bytes:
    """A weights file of a network, written layer by layer as Darknet does."""
    seen = np.array([32_013_312], "<i8" if version >= (0, 2) else "<i4").tobytes()
    parts = [np.array([*version, 0], "<i4").tobytes(), seen]
    for block in network.models:
        layers = list(block.children())
        if not layers:
            continue
        if len(layers) == 3:
            norm = layers[1]
            tensors = [norm.bias, norm.weight, norm.running_mean, norm.running_var, layers[0].weight]
        else:
            tensors = [layers[0].bias, layers[0].weight]
        parts += [tensor.detach().numpy().astype("<f4").tobytes() for tensor in tensors]
    return b"".join(parts)


@pytest.mark.parametrize(("version", "size"), [((0, 1), 203_934_260), ((0, 2), 203_934_264)])
def test_both_forms_of_darknet_files_are_read(
    darknet: Darknet19, version: tuple[int, int], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "yolo.weights"
    path.write_bytes(darknet_bytes(darknet, version))
    assert path.stat().st_size == size  # the published file has the older form
    state = read_darknet(path)
    wanted = {name: value for name, value in darknet.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], "203,934,244 bytes of values are expected.*203,934,240 came"),
        (lambda content: content + b"\0" * 8, "203,934,252 came"),
        (lambda content: content[:10], "shorter than its header"),
        (lambda content: b"PK\3\4" + content[4:], "begins with version"),
    ],
)
def test_a_damaged_darknet_file_is_refused(darknet: Darknet19, change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "yolo.weights"
    path.write_bytes(change(darknet_bytes(darknet, (0, 1))))
    with pytest.raises(WeightsError, match=message):
        read_darknet(path)


def test_pretrained_branches_are_loaded_and_reported(
    detector: GridDetector, darknet: Darknet19, tmp_path: Path
) -> None:
    backbone = YOWO(YOWOOptions())
    source = ResNeXt3D().state_dict()
    old = {f"module.{name}": value for name, value in source.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": old | {"module.fc.weight": torch.zeros(400, 2048)}}, tmp_path / "resnext.pth")
    (tmp_path / "yolo.weights").write_bytes(darknet_bytes(darknet, (0, 2)))
    files = {"3d": tmp_path / "resnext.pth", "2d": tmp_path / "yolo.weights"}
    report = backbone.load_pretrained(detector, files)
    assert report["3d"]["loaded"] == len(old) and report["2d"]["missing"] == ()
    loaded = detector.features.state_dict()
    assert torch.equal(loaded["backbone_3d.layer4.2.conv2.weight"], source["layer4.2.conv2.weight"])
    assert torch.equal(loaded["backbone_2d.models.30.conv23.bias"], darknet.state_dict()["models.30.conv23.bias"])


def test_weights_of_another_network_are_refused(detector: GridDetector, tmp_path: Path) -> None:
    backbone = YOWO(YOWOOptions())
    state = detector.features.backbone_3d.state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save({"state_dict": state}, tmp_path / "resnext.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(layer2\.0\.conv1\.weight\)"):
        backbone.load_pretrained(detector, {"3d": tmp_path / "resnext.pth"})
    with pytest.raises(WeightsError, match="parts 2d and 3d"):
        backbone.load_pretrained(detector, {"4d": tmp_path / "resnext.pth"})


@pytest.mark.parametrize("dataset", ["ucf24", "jhmdb", "ava"])
def test_every_data_set_of_the_paper_has_initial_weights(dataset: str) -> None:
    files = YOWO(YOWOOptions()).pretrained_files(dataset)
    assert files["2d"] == "yolo.weights"
    assert files["3d"] == ("resnext-101-kinetics" + ("-hmdb51_split1" if dataset == "jhmdb" else "") + ".pth")
    assert YOWO(YOWOOptions()).pretrained_files("mine") == {}
