"""The published 3D branches of `yowo`: entries, numbers, clips' lengths, freezing, and their weights files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers import drawn
from torch import Tensor

import ssldet
from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import DatasetFacts
from ssldet.errors import ConfigError, UnknownName, WeightsError
from ssldet.runs import planning
from ssldet_backbones.branches.branch import Branch, first_stages
from ssldet_backbones.branches.catalogue import KINDS_3D, branch_3d
from ssldet_backbones.yowo import YOWO, YOWOOptions

CHANNELS = {
    "resnet18": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "mobilenet_2x": 2048,
    "mobilenetv2_1x": 1280,
    "shufflenet_2x": 1920,
    "shufflenetv2_2x": 2048,
}
"""Those whose numbers tests/oracles have."""

KINETICS = {
    "resnet18": "resnet-18-kinetics.pth",
    "resnet50": "resnet-50-kinetics.pth",
    "resnet101": "resnet-101-kinetics.pth",
    "mobilenet_2x": "kinetics_mobilenet_2.0x_RGB_16_best.pth",
    "mobilenetv2_1x": "kinetics_mobilenetv2_1.0x_RGB_16_best.pth",
    "shufflenet_2x": "kinetics_shufflenet_2.0x_G3_RGB_16_best.pth",
    "shufflenetv2_2x": "kinetics_shufflenetv2_2.0x_RGB_16_best.pth",
}

ANCHORS = ((1.0, 2.0), (1.5, 3.0), (2.0, 4.0), (3.0, 5.0), (4.0, 6.0))

DEEP = ("resnet50", "resnet101")

every_branch = pytest.mark.parametrize("name", CHANNELS)
quick_branches = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in CHANNELS],
)


@pytest.fixture(scope="module")
def published(oracles: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((oracles / "backbones_3d.json").read_text())
    return content


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return torch.from_numpy(np.random.RandomState(7).rand(1, 3, 16, 224, 224).astype(np.float32))


def on_meta(name: str) -> Branch:
    """A branch without memory for its values."""
    with torch.device("meta"):
        return branch_3d(name).build()


@every_branch
def test_it_has_the_published_entries(name: str, published: dict[str, Any]) -> None:
    branch = on_meta(name)
    own = {entry: list(value.shape) for entry, value in branch.state_dict().items()}
    assert own == published[name]["state_dict"]
    assert sum(parameter.numel() for parameter in branch.parameters()) == published[name]["parameters"]
    assert branch.channels == CHANNELS[name]


def test_the_oracles_are_of_all_published_branches(published: dict[str, Any]) -> None:
    assert published.keys() == CHANNELS.keys()
    assert {"resnext101", *CHANNELS} <= {kind.name for kind in KINDS_3D}


@pytest.mark.slow
@every_branch
def test_it_computes_what_the_published_branch_computes(
    name: str, published: dict[str, Any], clip: Tensor, oracles: Path
) -> None:
    branch = branch_3d(name).build().eval()
    branch.load_state_dict({entry: drawn(entry, shape) for entry, shape in published[name]["state_dict"].items()})
    with torch.no_grad():
        features = branch(clip)
    with np.load(oracles / "backbones_3d.npz") as outputs:
        expected = torch.from_numpy(outputs[f"{name}_16"])
    assert features.shape == (1, CHANNELS[name], 7, 7)
    assert (features[:, ::8] - expected).abs().max() / expected.abs().max() < 1e-4


def test_the_initial_weights_of_the_default_branch_do_not_move() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = branch_3d("resnext101").build().state_dict()
    first, last = state["conv1.weight"].flatten(), state["layer4.2.conv3.weight"].flatten()
    assert first[:2].tolist() == pytest.approx([-0.01467397, 0.00733226], abs=1e-7)
    assert last[:2].tolist() == pytest.approx([0.03869828, 0.03295847], abs=1e-7)


# ------------------------------------------------------------------------------------------------ clips


@quick_branches
@torch.no_grad()
def test_clips_of_every_length_give_one_grid(name: str) -> None:
    branch, least = branch_3d(name).build().eval(), branch_3d(name).least_frames
    for frames in (8, 16, 24, 32):
        if frames >= least:  # an odd number of steps is left of 24 frames
            assert branch(torch.rand(1, 3, frames, 32, 64)).shape == (1, CHANNELS[name], 1, 2), frames


def test_only_shufflenet_needs_longer_clips() -> None:
    assert {kind.name: kind.least_frames for kind in KINDS_3D if kind.least_frames > 8} == {"shufflenet_2x": 16}
    with pytest.raises(ConfigError, match="16 frames or more, not 8: its shortcuts average steps of time"):
        branch_3d("shufflenet_2x").build()(torch.rand(1, 3, 8, 32, 32))


def planned(branch: str) -> None:
    asked = {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2, "backbone": "yowo"}
    settings = [f"backbone.branch_3d={branch}", "clip.frames=8", "clip.size=32"]
    planning.plan(resolve(asked, preset="smoke", assignments=settings))


def test_clips_that_are_too_short_are_refused_before_training() -> None:
    message = r"shufflenet_2x needs clips of 16 frames or more, not 8: its shortcuts .* set clip\.frames"
    with pytest.raises(ConfigError, match=message):
        planned("shufflenet_2x")
    YOWO(YOWOOptions(branch_3d="shufflenet_2x")).check_clips(16, 224)
    YOWO(YOWOOptions(branch_3d="shufflenetv2_2x")).check_clips(8, 224)


def test_an_unknown_branch_is_refused_before_training() -> None:
    with pytest.raises(UnknownName, match="did you mean 'shufflenetv2_2x'"):
        planned("shufflenetv2_2")


# ------------------------------------------------------------------------------------------------ training


@quick_branches
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    branch = branch_3d(name).build().train()
    branch(torch.rand(2, 3, 16, 64, 64)).square().mean().backward()
    gradients = {entry: parameter.grad for entry, parameter in branch.named_parameters()}
    missing = [entry for entry, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert not missing
    convolved = [g for g in gradients.values() if g is not None and g.dim() == 5]
    assert all(gradient.any() for gradient in convolved)


@every_branch
def test_its_stages_are_all_of_it_from_the_input_on(name: str) -> None:
    branch = on_meta(name)
    parts = [parameter for stage in branch.stages() for module in stage for parameter in module.parameters()]
    assert [id(parameter) for parameter in parts] == [id(parameter) for parameter in branch.parameters()]
    assert len(branch.stages()) >= 4
    with pytest.raises(ConfigError, match=f"this branch has {len(branch.stages())}"):
        first_stages(branch, 6)


@every_branch
def test_frozen_stages_are_not_trained(name: str) -> None:
    with torch.device("meta"):
        detector = ssldet.build_detector("yowo", dataset="ucf24", frame_head=False, branch_3d=name, freeze_3d=2)
    branch = detector.train().get_submodule("features.backbone_3d")
    assert isinstance(branch, Branch)
    expected = [False, False, *[True] * (len(branch.stages()) - 2)]
    for stage, trained in zip(branch.stages(), expected, strict=True):
        assert {module.training for part in stage for module in part.modules()} == {trained}
        assert {parameter.requires_grad for part in stage for parameter in part.parameters()} == {trained}


# ------------------------------------------------------------------------------------------------ weights files


def kinetics_file(folder: Path, name: str, *, without: str = "", beside: str = "") -> Path:
    """Weights in the published form, without counters as old files are; views of one value each, so it is small."""
    entries = {entry: v for entry, v in on_meta(name).state_dict().items() if not entry.endswith("batches_tracked")}
    classifier = "fc" if name.startswith(("resn", "shufflenet_")) else "classifier.1"
    shapes = {entry: v.shape for entry, v in entries.items() if entry != without}
    shapes |= {f"{classifier}.weight": torch.Size((600, CHANNELS[name])), f"{classifier}.bias": torch.Size((600,))}
    shapes |= {beside: torch.Size((3,))} if beside else {}
    state = {f"module.{entry}": torch.full((), 0.5).expand(shape) for entry, shape in shapes.items()}
    path = folder / KINETICS[name]
    torch.save({"epoch": 45, "arch": name, "state_dict": state, "best_prec1": 0.5}, path)
    return path


def verify(file: Path, branch: str) -> Result:
    network = ("--backbone", "yowo", "--dataset", "ucf24", "--part", "3d", "--set", f"branch_3d={branch}")
    return CliRunner().invoke(main, ["weights", "verify", str(file), *network])


@every_branch
def test_published_weights_fit(name: str, tmp_path: Path) -> None:
    result = verify(kinetics_file(tmp_path, name), name)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["mobilenetv2_1x", "resnet101"])
def test_published_weights_are_recognised(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["weights", "inspect", str(kinetics_file(tmp_path, name)), "--json"])
    assert json.loads(result.stdout)["network"] == f"yowo, part 3d, branch_3d={name}"


def test_where_weights_are_to_be_found_is_said_before_training(tmp_path: Path) -> None:
    asked = {"strategy": "supervised", "dataset": "jhmdb", "ratio": 0.2, "backbone": "yowo", "pretrained": True}
    settings = ["backbone.branch_3d=mobilenet_2x", f"weights_root={tmp_path}", "clip.size=32"]
    with pytest.raises(WeightsError, match=r"kinetics_mobilenet_2.0x_RGB_16_best.pth; .*okankop/Efficient-3DCNNs"):
        planning.plan(resolve(asked, preset="smoke", assignments=settings))


def test_published_weights_are_loaded(tmp_path: Path) -> None:
    options = YOWOOptions(branch_3d="mobilenetv2_1x")
    detector = ssldet.build_detector(YOWO(options), dataset="ucf24", frame_head=False)
    report = YOWO(options).load_pretrained(detector, {"3d": kinetics_file(tmp_path, "mobilenetv2_1x")})
    assert report["3d"]["unexpected"] == report["3d"]["missing"] == ()
    branch = detector.get_submodule("features.backbone_3d")
    assert all((parameter == 0.5).all() for parameter in branch.parameters())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = kinetics_file(tmp_path, "resnet18", without="layer2.0.conv1.weight", beside="layer5.weight")
    result = verify(path, "resnet18")
    assert result.exit_code == 1
    assert "missing: 1\n  layer2.0.conv1.weight\nunexpected: 1\n  layer5.weight\n" in result.stdout


def test_weights_of_another_branch_are_refused(tmp_path: Path) -> None:
    backbone = YOWO(YOWOOptions(branch_3d="resnet18"))
    with torch.device("meta"):
        detector = backbone.build(DatasetFacts("made_up", ("a",), ANCHORS), frame_head=False)
    with pytest.raises(
        WeightsError, match=r"resnet-50-kinetics\.pth, part 3d: .*unexpected .*shape_mismatch \(layer1\.0\.conv1"
    ):
        backbone.load_pretrained(detector, {"3d": kinetics_file(tmp_path, "resnet50")})


@every_branch
def test_every_data_set_of_the_paper_has_initial_weights(name: str) -> None:
    for dataset in ("ucf24", "jhmdb", "ava"):
        files = YOWO(YOWOOptions(branch_3d=name)).pretrained_files(dataset)
        assert files == {"2d": "yolo.weights", "3d": KINETICS[name]}
    assert YOWO(YOWOOptions(branch_3d=name)).pretrained_files("mine") == {}
