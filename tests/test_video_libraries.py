"""Branches of pytorchvideo and torchvision: form, features, public weights, and what is refused."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

import ssldet
from ssldet.cli import main
from ssldet.contracts import DatasetFacts
from ssldet.errors import ConfigError, UnknownName, WeightsError
from ssldet.nn import Conv3d
from ssldet.testing.tiny import SINGLE_LABEL, tiny_targets
from ssldet_backbones import yowo
from ssldet_backbones.branches import catalogue, video_libraries
from ssldet_backbones.branches.branch import Branch, BranchKind
from ssldet_backbones.branches.catalogue import KINDS_3D, branch_2d, branch_3d
from ssldet_backbones.yowo import YOWO, YOWOFeatures, YOWOOptions

KINDS = {kind.name: kind for kind in video_libraries.KINDS}
QUICK = ("x3d_xs", "slow_r50", "r2plus1d_r50", "i3d_r50", "mc3_18", "s3d")
"""One of each form."""

PARAMETERS = {
    "x3d_xs": (3_794_274, 432 * 2048 + 2048 * 400 + 400),
    "x3d_s": (3_794_274, 432 * 2048 + 2048 * 400 + 400),
    "x3d_m": (3_794_274, 432 * 2048 + 2048 * 400 + 400),
    "x3d_l": (6_153_384, 432 * 2048 + 2048 * 400 + 400),
    "slow_r50": (32_454_096, 2048 * 400 + 400),
    "c2d_r50": (24_327_632, 2048 * 400 + 400),
    "i3d_r50": (28_043_472, 2048 * 400 + 400),
    "csn_r101": (22_213_776, 2048 * 400 + 400),
    "r2plus1d_r50": (28_107_600, 2048 * 400 + 400),
    "r3d_18": (33_371_472, 512 * 400 + 400),
    "mc3_18": (11_695_440, 512 * 400 + 400),
    "r2plus1d_18": (31_505_325, 512 * 400 + 400),
    "s3d": (8_320_048, 1024 * 400 + 400),
}
"""Published parameters of the whole network, and those of its classifier."""


@cache
def on_meta(name: str) -> Branch:
    with torch.device("meta"):
        return KINDS[name].build().eval()


def library_network(name: str) -> Any:
    """The whole network, as its library builds it."""
    module = "pytorchvideo.models.hub" if name in video_libraries.PYTORCHVIDEO_FILES else "torchvision.models.video"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(module), name)().eval()


def give_statistics(network: nn.Module) -> None:
    """Fill those of batch normalisation, so that features neither vanish nor are as if they were not there."""
    generator = torch.Generator().manual_seed(1)
    for entry, value in network.state_dict().items():
        if entry.endswith("running_mean"):
            value.copy_(0.05 * torch.randn(value.shape, generator=generator))
        elif entry.endswith("running_var"):
            value.copy_(0.15 + 0.1 * torch.rand(value.shape, generator=generator))


@pytest.mark.parametrize("name", KINDS)
def test_each_has_the_published_parameters_without_the_classifier(name: str) -> None:
    whole, classifier = PARAMETERS[name]
    assert sum(value.numel() for value in on_meta(name).parameters()) == whole - classifier


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("frames", [8, 16, 32])
def test_each_gives_a_7_x_7_grid_of_its_channels(name: str, frames: int) -> None:
    branch = on_meta(name)
    with torch.no_grad():
        features = branch(torch.empty(2, 3, frames, 224, 224, device="meta"))
    assert features.shape == (2, branch.channels, 7, 7)


@pytest.mark.parametrize("name", KINDS)
def test_the_shortest_clips_are_what_its_kind_says(name: str) -> None:
    least = KINDS[name].least_frames
    with torch.no_grad():
        on_meta(name)(torch.empty(1, 3, least, 64, 64, device="meta"))
        if least > 1:
            with pytest.raises(RuntimeError):
                on_meta(name)(torch.empty(1, 3, least - 1, 64, 64, device="meta"))


@pytest.mark.parametrize("name", KINDS)
def test_its_stages_are_all_of_it_each_once(name: str) -> None:
    branch = on_meta(name)
    staged = [id(value) for stage in branch.stages() for module in stage for value in module.parameters()]
    assert sorted(staged) == sorted(id(value) for value in branch.parameters())
    assert len(branch.stages()) == (6 if name.startswith("x3d") else 5)
    assert all(any(True for module in stage for _ in module.parameters()) for stage in branch.stages())


@pytest.mark.parametrize("name", KINDS)
def test_its_convolutions_have_gradients_that_can_be_trusted(name: str) -> None:
    convolutions = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv3d)]
    assert convolutions and all(isinstance(module, Conv3d) for module in convolutions)


# ---------------------------------------------------------------------------------------------- public weights


def published_file(name: str, state: dict[str, Tensor], folder: Path) -> Path:
    """A file of the form in which the library publishes its weights."""
    path = folder / KINDS[name].files["ucf24"]
    wrapped = name in video_libraries.PYTORCHVIDEO_FILES
    torch.save({"model_state": state, "epoch": 196} if wrapped else state, path)
    return path


def last_map(name: str, network: Any, clips_bcthw: Tensor) -> Tensor:
    """What the library's network computes just before its classifier, by a hook, averaged over time."""
    if name in video_libraries.PYTORCHVIDEO_FILES:
        head = network.blocks[-1]
        watched = head.pool.pre_act if name.startswith("x3d") else network.blocks[-2]
        (head.pool if name.startswith("x3d") else head).pool = nn.AdaptiveAvgPool3d(1)
        mean, std = 0.45, 0.225
    else:
        watched = network.features if name == "s3d" else network.layer4
        network.avgpool = nn.AdaptiveAvgPool3d(1)
        mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1, 1)
        std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1, 1)
        if name != "s3d":
            clips_bcthw = F.interpolate(clips_bcthw, scale_factor=(1, 0.5, 0.5), mode="area")
    seen: list[Tensor] = []
    watched.register_forward_hook(lambda _module, _input, output: seen.append(output.clone()))
    with torch.no_grad():
        network((clips_bcthw - mean) / std)
    return seen[0].mean(2)


@pytest.mark.parametrize("name", QUICK)
def test_a_public_checkpoint_gives_the_features_of_the_whole_network(name: str, tmp_path: Path) -> None:
    network = library_network(name)
    give_statistics(network)
    path = published_file(name, network.state_dict(), tmp_path)
    features = YOWOFeatures(KINDS[name].build(), branch_2d("darknet19").build())
    detector = nn.Module()
    detector.features = features
    report = YOWO(YOWOOptions(branch_3d=name)).load_pretrained(detector, {"3d": path})  # type: ignore[arg-type]
    branch = features.backbone_3d.eval()
    assert report["3d"]["loaded"] == len(branch.state_dict())
    clips = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        own = branch(clips)
    expected = last_map(name, network, clips)
    assert own.shape == expected.shape and expected.abs().max() > 0
    assert (own - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_each_reads_the_file_of_the_whole_network(tmp_path: Path) -> None:
    """All of a branch's entries, and none but them."""
    for name, kind in KINDS.items():
        with torch.device("meta"):
            state = library_network(name).state_dict()
        values = {entry: torch.zeros(()).expand(value.shape) for entry, value in state.items()}
        read = kind.read(published_file(name, values, tmp_path))
        assert {entry: value.shape for entry, value in read.items()} == {
            entry: value.shape for entry, value in on_meta(name).state_dict().items()
        }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"blocks.5.extra": torch.zeros(1)}, r"1 unexpected \(blocks\.5\.extra\)"),
        (lambda state: {k: v for k, v in state.items() if "pre_conv" not in k}, r"1 missing .*pre_conv"),
        (
            lambda state: state | {"blocks.0.norm.weight": torch.zeros(7)},
            r"blocks\.0\.norm\.weight: \(7,\) for \(24,\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = change(library_network("x3d_xs").state_dict())
    detector = nn.Module()
    detector.features = YOWOFeatures(KINDS["x3d_xs"].build(), branch_2d("darknet19").build())
    backbone = YOWO(YOWOOptions(branch_3d="x3d_xs"))
    with pytest.raises(WeightsError, match=message):
        backbone.load_pretrained(detector, {"3d": published_file("x3d_xs", state, tmp_path)})  # type: ignore[arg-type]


def test_every_data_set_takes_the_same_file() -> None:
    for name, kind in KINDS.items():
        for dataset in ("ucf24", "jhmdb", "ava"):
            assert YOWO(YOWOOptions(branch_3d=name)).pretrained_files(dataset)["3d"] == kind.files["ucf24"]
        assert kind.licence and kind.files["ucf24"] in kind.weights


# ------------------------------------------------------------------------------------------------------ in yowo


def training_step(branch_3d_name: str, branch_2d_name: str, *, frames: int, size: int) -> None:
    """One on 2 clips: a finite gradient in every trained parameter, a cell each 32 pixels."""
    options = {"branch_3d": branch_3d_name, "branch_2d": branch_2d_name, "frame_hidden": 16}
    detector = ssldet.build_detector("yowo", dataset=SINGLE_LABEL, **options).train()
    predictions = detector(torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0)))
    assert predictions.grid.shape[-2:] == (size // 32, size // 32)
    torch.stack(list(detector.losses(predictions, tiny_targets(SINGLE_LABEL, 2)).values())).sum().backward()
    for name, value in detector.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and torch.isfinite(value.grad).all(), name


@pytest.mark.parametrize(("name", "frames"), [("x3d_xs", 8), ("mc3_18", 8), ("s3d", 16)])
def test_a_training_step_gives_finite_gradients(name: str, frames: int) -> None:
    training_step(name, "darknet19", frames=frames, size=64)


def cross() -> list[Any]:
    """Every 3D branch with one 2D branch of each family."""
    pairs = itertools.product(KINDS_3D, ("darknet19", "timm:resnet18", "timm:tf_efficientnet_lite0"))
    return [pytest.param(kind, name, id=f"{kind.name} {name}") for kind, name in pairs]


@pytest.mark.acceptance
@pytest.mark.parametrize("frames", [8, 16])
@pytest.mark.parametrize(("kind", "branch_2d_name"), cross())
def test_every_combination_can_be_trained(kind: BranchKind, branch_2d_name: str, frames: int) -> None:
    backbone = YOWO(YOWOOptions(branch_3d=kind.name, branch_2d=branch_2d_name))
    if frames < kind.least_frames:
        with pytest.raises(
            ConfigError, match=f"{kind.name} needs clips of {kind.least_frames} frames or more, not {frames}"
        ):
            backbone.check_clips(frames, 224)
        return
    backbone.check_clips(frames, 224)
    training_step(kind.name, branch_2d_name, frames=frames, size=64)


def test_the_check_of_clips_moves_no_initial_weight() -> None:
    yowo.grids_of.cache_clear()
    before = torch.get_rng_state()
    YOWO(YOWOOptions(branch_3d="x3d_xs")).check_clips(8, 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_clips_that_are_too_short_are_refused() -> None:
    backbone = YOWO(YOWOOptions(branch_3d="s3d"))
    backbone.check_clips(5, 64)
    with pytest.raises(ConfigError, match="s3d needs clips of 5 frames or more, not 4: its pools halve time"):
        backbone.check_clips(4, 64)


class Coarse(Branch):
    """A network of stride 64."""

    channels = 4

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        return F.avg_pool2d(clips_bcthw.mean(2), 64)[:, [0, 0, 0, 0]]

    def stages(self) -> list[list[nn.Module]]:
        return []


def test_a_branch_of_another_stride_is_refused_with_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = replace(branch_3d("x3d_xs"), name="coarse", build=Coarse)
    monkeypatch.setattr(catalogue, "KINDS_3D", (*KINDS_3D, coarse))
    message = "2 x 2 cells over clips of 64 pixels .stride 32., and branch_3d coarse gives 1 x 1, branch_2d darknet19 "
    with pytest.raises(ConfigError, match=message + "gives 2 x 2"):
        YOWO(YOWOOptions(branch_3d="coarse")).check_clips(8, 64)
    with pytest.raises(ConfigError, match="the 3D branch gives a grid of 1 x 1 cells, the 2D branch one of 2 x 2"):
        YOWOFeatures(Coarse(), branch_2d("darknet19").build())(torch.rand(2, 3, 8, 64, 64))


def test_a_run_refuses_clips_before_anything_is_prepared(tmp_path: Path) -> None:
    options = ("backbone.branch_3d=s3d", "clip.frames=4", "clip.size=64")
    asked = ["run", "--strategy", "supervised", "--dataset", "synthetic", "--preset", "smoke", "--backbone", "yowo"]
    asked += [*itertools.chain(*(("--set", option) for option in options)), "--results", str(tmp_path / "runs")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2 and "s3d needs clips of 5 frames or more, not 4" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_branch_is_refused_with_the_nearest_name() -> None:
    facts = DatasetFacts("made_up", ("one",), ((1.0, 2.0),))
    with pytest.raises(UnknownName, match=r"unknown 3D branch 'slow_r5'; did you mean 'slow_r50'.*r3d_18, .*x3d_xs"):
        ssldet.build_detector("yowo", dataset=facts, branch_3d="slow_r5")


def test_the_libraries_are_imported_only_where_a_branch_is_built() -> None:
    code = (
        "import sys, ssldet_backbones.yowo\nprint([name for name in ('pytorchvideo', 'fvcore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
