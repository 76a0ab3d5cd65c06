"""Any network of timm as the 2D branch of yowo: its numbers, its parts, and where its weights come from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ssldet
from ssldet.config import RunConfig, resolve
from ssldet.errors import ConfigError, WeightsError
from ssldet.runs.planning import _weights, weights_hashes
from ssldet_backbones.branches import timm_images
from ssldet_backbones.branches.catalogue import branch_2d
from ssldet_backbones.branches.timm_images import (
    TimmFeatures,
    TimmImages,
    cached_timm,
    features_state,
    fetch_timm,
    read_timm,
)
from ssldet_backbones.yowo import YOWO, YOWOOptions

SMALL = ("resnet10t", "tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto")
"""One of each way in which timm makes a network of features: a list, blocks, blocks that are cut, flattened names."""


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def whole(name: str, **options: Any) -> nn.Module:
    """A complete network with weights and statistics of its own."""
    torch.manual_seed(3)
    made = timm.create_model(name, **options).eval()
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                0.5 + torch.rand(value.shape) if "running_var" in key else value + 0.02 * torch.randn(value.shape)
            )
    return made


def filled(name: str, state: dict[str, Tensor]) -> TimmImages:
    branch = TimmImages(name).eval()
    branch.features.load_state_dict(features_state(name, state))
    return branch


@torch.inference_mode()
def test_it_computes_what_the_whole_network_computes(network: str) -> None:
    """The last map of the features is what the whole network makes, of images normalized by timm's own numbers."""
    source = whole(network)
    images = torch.rand(2, 3, 64, 96)
    settings = timm.get_pretrained_cfg(network)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (settings.mean, settings.std))
    expected = source.forward_intermediates((images - mean) / std, indices=1, intermediates_only=True)[-1]
    out = filled(network, source.state_dict())(images)
    assert out.shape == (2, TimmImages(network).channels, 2, 3)
    torch.testing.assert_close(out, expected)


def test_every_parameter_that_it_has_is_trained(network: str) -> None:
    branch = TimmImages(network)
    branch(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())


def test_what_lies_behind_a_finer_map_is_cut() -> None:
    """timm's features of tf_efficientnet_lite0 at stride 16 keep the blocks behind it."""
    kept = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3,))
    features = TimmFeatures("tf_efficientnet_lite0", (16,))
    assert any(name.startswith("blocks.6.") for name, _ in kept.named_parameters())
    assert not any(name.startswith(("network.blocks.5.", "network.blocks.6.")) for name in features.state_dict())
    (out,) = features(torch.rand(1, 3, 64, 64))
    assert out.shape == (1, 112, 4, 4)


def test_maps_of_several_strides_come_in_the_order_asked() -> None:
    features = TimmFeatures("tf_efficientnet_lite0", (16, 32))
    assert [tuple(out.shape) for out in features(torch.rand(1, 3, 64, 64))] == [(1, 112, 4, 4), (1, 320, 2, 2)]


def test_networks_with_channels_last_are_turned() -> None:
    out = TimmImages("swin_tiny_patch4_window7_224")(torch.rand(1, 3, 224, 224))
    assert out.shape == (1, 768, 7, 7)


def test_a_network_of_one_image_size_says_so() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=r"takes images of \(224, 224\) .*\(64, 64\) came"):
        TimmImages("swin_tiny_patch4_window7_224")(torch.empty(1, 3, 64, 64))


def test_mean_and_deviation_are_no_entries_of_a_weights_file(network: str) -> None:
    features = TimmFeatures(network)
    assert features.standardise.mean.tolist() == pytest.approx(timm.get_pretrained_cfg(network).mean)
    assert not [name for name in features.state_dict() if name.startswith("standardise.")]


# -------------------------------------------------------------------------------------------------------- in yowo


def test_yowo_takes_it_by_name() -> None:
    detector = ssldet.build_detector("yowo", dataset="ucf24", branch_2d="timm:resnet10t")
    assert isinstance(detector.features.backbone_2d, TimmImages)
    assert detector.features.backbone_2d.channels == 512


@pytest.mark.parametrize(
    ("stages", "trained"), [(1, {"layer1", "layer2", "layer3", "layer4"}), (3, {"layer3", "layer4"})]
)
def test_its_first_stages_can_be_frozen(stages: int, trained: set[str]) -> None:
    options = YOWOOptions(branch_2d="timm:resnet10t", freeze_2d=stages)
    detector = YOWO(options).build(ssldet.build_detector("yowo_nano", dataset="ucf24").facts, frame_head=False)
    parts = detector.get_submodule("features.backbone_2d.features.network")
    assert {name.split(".")[0] for name, p in parts.named_parameters() if p.requires_grad} == trained
    assert not parts.bn1[1].training if isinstance(parts.bn1, nn.Sequential) else not parts.bn1.training


def test_stages_hold_every_parameter_once(network: str) -> None:
    branch = TimmImages(network)
    held = [id(p) for stage in branch.stages() for module in stage for p in module.parameters()]
    assert len(branch.stages()) >= 4
    assert sorted(held) == sorted(id(p) for p in branch.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "unknown 2D branch 'resnet18'; did you mean 'timm:resnet18'"),
        ("darknet91", "did you mean 'darknet19'"),
        ("timm:resnett50", "has no network 'resnett50'; did you mean 'resnet50'"),
        (
            "timm:vit_tiny_patch16_224",
            "vit_tiny_patch16_224 cannot be a 2D branch: it has no map of stride 32, but of 16",
        ),
        ("timm:inception_v3", r"images of 224 x 224 should give maps of \[\(7, 7\)\], and gave \[\(2048, 5, 5\)\]"),
        ("timm:mlp_mixer", "has no network 'mlp_mixer'"),
        ("timm:resnet18.nonsense", "has no network 'resnet18.nonsense'; did you mean 'resnet18"),
    ],
)
def test_what_cannot_be_a_branch_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        branch_2d(name)


def test_the_help_does_not_import_timm() -> None:
    code = "import sys; from ssldet.cli import main\ntry: main(['--help'])\nfinally: print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Usage" in done.stdout and done.stdout.rstrip().endswith("False")


# -------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_local_file_of_the_whole_network_is_loaded(suffix: str, tmp_path: Path) -> None:
    source = whole("convnext_atto", num_classes=7)  # a classifier of other classes does not matter
    state = source.state_dict()
    path = tmp_path / f"convnext_atto{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = YOWO(YOWOOptions(branch_2d="timm:convnext_atto"))
    assert backbone.pretrained_files("jhmdb")["2d"] == "convnext_atto.safetensors"
    detector = backbone.build(ssldet.build_detector("yowo_nano", dataset="ucf24").facts, frame_head=False)
    report = backbone.load_pretrained(detector, {"2d": path})["2d"]
    loaded = detector.get_submodule("features.backbone_2d.features.network").state_dict()
    assert report["loaded"] == len(loaded) == len(state) - 4  # head.norm and head.fc
    assert torch.equal(loaded["stages_3.blocks.1.mlp.fc2.weight"], state["stages.3.blocks.1.mlp.fc2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.conv1.weight"), r"1 missing \(layer2\.0\.conv1\.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda state: state.update({"layer2.0.conv1.weight": torch.zeros(3, 3)}),
            r"1 shape_mismatch \(layer2\.0\.conv1\.weight: \(3, 3\) for \(128, 64, 3, 3\)\)",
        ),
    ],
)
def test_entries_that_do_not_fit_are_named(change: Any, message: str, tmp_path: Path) -> None:
    state = dict(whole("resnet10t").state_dict())
    change(state)
    save_file(state, tmp_path / "resnet10t.safetensors")
    with pytest.raises(WeightsError, match=rf"not the weights of timm's resnet10t.*{message}"):
        read_timm(tmp_path / "resnet10t.safetensors", "resnet10t")


def test_what_only_the_whole_network_needs_may_be_missing() -> None:
    state = dict(whole("tf_efficientnet_lite0").state_dict())
    for name in [name for name in state if name.startswith(("conv_head.", "bn2.", "classifier."))]:
        del state[name]
    assert len(features_state("tf_efficientnet_lite0", state)) == 288


@pytest.mark.parametrize("prefix", ["", "features.backbone_2d."])
def test_a_file_of_our_own_conversion_is_read(prefix: str, tmp_path: Path) -> None:
    branch = TimmImages("resnet10t")
    save_file({prefix + name: value for name, value in branch.state_dict().items()}, tmp_path / "a.safetensors")
    state = YOWO(YOWOOptions(branch_2d="timm:resnet10t")).read_part("2d", tmp_path / "a.safetensors")
    assert state.keys() == branch.state_dict().keys()


def hub_cache(folder: Path, repository: str, content: bytes) -> Path:
    """A cache as the Hugging Face hub's client leaves it."""
    base = folder / f"models--{repository.replace('/', '--')}"
    file = base / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("abc")
    return file


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and nobody who answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries several times
    return tmp_path


def test_a_filled_cache_is_used_and_nothing_is_fetched(caches: Path) -> None:
    backbone = YOWO(YOWOOptions(branch_2d="timm:resnet18"))
    assert cached_timm("resnet18") is None and "2d" not in backbone.installed_weights("jhmdb")
    file = hub_cache(caches / "hub", timm.get_pretrained_cfg("resnet18").hf_hub_id, b"weights")
    assert backbone.installed_weights("jhmdb")["2d"].samefile(file)


def test_without_a_network_a_download_says_so(caches: Path) -> None:
    with pytest.raises(WeightsError, match=r"could not be fetched from huggingface.co/timm/resnet18.*weights root as"):
        fetch_timm("resnet18")


@pytest.mark.parametrize("right", [True, False])
def test_what_is_fetched_must_have_the_hash_in_its_name(
    right: bool, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"weights" if right else b"other").hexdigest()[:8]
    source = caches / f"net-{digest}.pth"
    source.write_bytes(b"weights")
    monkeypatch.setattr(timm_images, "_settings", lambda name: {"url": source.as_uri()})
    if not right:
        with pytest.raises(WeightsError, match=r"could not be fetched.*hash"):
            fetch_timm("resnet18")
        return
    fetched = fetch_timm("resnet18")
    assert fetched.parent == caches / "torch" / "checkpoints" and fetched.read_bytes() == b"weights"
    assert cached_timm("resnet18") == fetched


# ----------------------------------------------------------------------------------------------------- of a run


def weight_files(asked: RunConfig) -> dict[str, Path]:
    return _weights(asked, asked.build_backbone())


def config(root: Path, **fields: Any) -> RunConfig:
    flags = {"strategy": "supervised", "dataset": "synthetic", "backbone": "yowo", "pretrained": True} | fields
    options = {"branch_2d": "timm:resnet10t"}
    return resolve({**flags, "weights_root": root, "backbone_options": options}, preset="smoke")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_run_takes_a_file_of_any_form_below_the_weights_root(suffix: str, caches: Path) -> None:
    path = caches / f"resnet10t{suffix}"
    path.write_bytes(b"weights")
    assert weight_files(config(caches)) == {"2d": path}


def test_a_run_downloads_only_when_told_to(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = caches / "net.pth"
    source.write_bytes(b"weights")
    monkeypatch.setattr(timm_images, "_place", lambda settings: "example.org/net.pth")
    known = timm_images._settings
    monkeypatch.setattr(
        timm_images, "_settings", lambda name: known(name) | {"hf_hub_id": None, "url": source.as_uri()}
    )
    with pytest.raises(WeightsError, match=r"resnet10t\.safetensors.*example\.org/net\.pth \(--download fetches it\)"):
        weight_files(config(caches))
    assert not (caches / "torch").exists()
    fetched = weight_files(config(caches, download=True))
    assert weights_hashes(fetched) == {"2d": hashlib.sha256(b"weights").hexdigest()}
    assert weight_files(config(caches)) == fetched  # it is in the cache now
