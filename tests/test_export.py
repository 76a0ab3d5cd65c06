"""A detector in a file: it gives what the detector gives, for any number of clips, or it is not kept."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from anchor_free import CentreDetector
from click.testing import CliRunner
from made_networks import FACTS, FRAMES, SIZE, tiny_trained, write_trained_run
from torch import Tensor, nn

from ssldet.cli import main
from ssldet.contracts import Detector
from ssldet.detector import export
from ssldet.detector.export import ABOUT, FORMS, OUTPUTS, export_detector
from ssldet.errors import RequestError, SsldetError

WITHOUT_ONNX = pytest.mark.skipif(
    not all(map(find_spec, export.ONNX_PACKAGES)), reason='ONNX is an extra: pip install "ssldet[onnx]"'
)


def written(detector: Detector, path: Path, form: str, **more: Any) -> export.Export:
    return export_detector(detector, path, form, frames=FRAMES, size=SIZE, **more)


@pytest.mark.parametrize("form", ["torchscript", pytest.param("onnx", marks=WITHOUT_ONNX)])
def test_a_file_gives_what_the_detector_gives(form: str, tmp_path: Path) -> None:
    detector = tiny_trained().detector
    exported = written(detector, tmp_path / "detector", form)
    assert set(exported.differences) == set(OUTPUTS) and max(exported.differences.values()) < 1e-3
    clips = torch.rand(5, 3, FRAMES, SIZE, SIZE)
    _, read = FORMS[form]
    with torch.no_grad():
        decoded = detector.decode(detector(clips))
        boxes, confidence, scores = read(tmp_path / "detector")(clips)
    torch.testing.assert_close(boxes, decoded.boxes_bn4, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(confidence, decoded.confidence_bn, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, decoded.scores_bnk, rtol=1e-4, atol=1e-5)


def test_a_detector_of_another_form_is_exported_too(tmp_path: Path) -> None:
    detector = CentreDetector(FACTS, frame_head=True).train()
    written(detector, tmp_path / "centre.pt", "torchscript")
    assert detector.training  # as it was


class _Moody(nn.Module):
    """What a trace cannot follow: it does another thing for a single clip."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        features: Tensor = self.features(clips_bcthw)
        return features if len(clips_bcthw) > 1 else -100 * features


class _InChunks(nn.Module):
    """What networks do where no gradient is wanted: two clips at a time."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        if torch.is_grad_enabled() and next(self.parameters()).requires_grad:
            whole: Tensor = self.features(clips_bcthw)
            return whole
        return torch.cat([self.features(chunk) for chunk in clips_bcthw.split(2)])


def test_shortcuts_of_inference_are_not_written_down(tmp_path: Path) -> None:
    detector: Any = tiny_trained().detector
    detector.features = _InChunks(detector.features).requires_grad_(False)
    written(detector, tmp_path / "detector.pt", "torchscript")
    assert not next(detector.features.parameters()).requires_grad  # as it was


def test_what_cannot_be_traced_is_said(tmp_path: Path) -> None:
    class Refuses(nn.Module):
        def forward(self, clips_bcthw: Tensor) -> Tensor:
            raise RuntimeError("not like this") from ValueError("no data pointer\nand more")

    detector: Any = tiny_trained().detector
    detector.features = Refuses()
    with pytest.raises(RequestError, match=r"cannot export this network as torchscript \(no data pointer\); try"):
        written(detector, tmp_path / "detector.pt", "torchscript")


def test_a_file_that_gives_something_else_is_not_kept(tmp_path: Path) -> None:
    detector: Any = tiny_trained().detector
    nn.init.normal_(detector.box_head.weight)  # so that features count
    detector.features = _Moody(detector.features)
    with pytest.raises(SsldetError, match=r"does not give what the detector gives \(.*boxes by .*not kept"):
        written(detector, tmp_path / "detector.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("no_such_package",))
    with pytest.raises(RequestError, match=r'ONNX needs no_such_package: pip install "ssldet\[onnx\]"'):
        written(tiny_trained().detector, tmp_path / "detector.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_and_says_what_is_in_the_file(tmp_path: Path) -> None:
    run, out = write_trained_run(tmp_path / "runs"), tmp_path / "detector.pt"
    done = CliRunner().invoke(
        main, ["export", "--run", str(run), "--format", "torchscript", "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == [3, FRAMES, SIZE, SIZE]
    files = {ABOUT: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(out), _extra_files=files)
    about = json.loads(files[ABOUT])
    assert about["facts"]["classes"] == list(FACTS.classes) and about["backbone"] == "yowo_nano"
