"""`ssldet weights`: files of every kind are recognised, verified and converted; nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import ssldet
from ssldet.cli import main
from ssldet.detector.weights import read_weights, write_weights
from ssldet_backbones.branches.darknet import Darknet19, _file_order
from ssldet_backbones.branches.resnext3d import ResNeXt3D

YOWO = ("--backbone", "yowo", "--dataset", "ucf24")
NANO = ("--backbone", "yowo_nano", "--dataset", "jhmdb", "--set", "width=4", "--set", "frame_hidden=8")


def weights(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["weights", *map(str, arguments)])


def in_json(*arguments: object) -> Any:
    result = weights(*arguments, "--json")
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def published(folder: Path) -> Path:
    """A checkpoint of YOWO for UCF101-24 in its published form; every value is zero."""
    with torch.device("meta"):
        detector = ssldet.build_detector("yowo", dataset="ucf24", frame_head=False)
    renamed = {name.replace("box_head.", "conv_final.").removeprefix("features."): v for name, v in _zeros(detector)}
    content = {"epoch": 5, "state_dict": {f"module.{name}": value for name, value in renamed.items()}}
    content |= {"optimizer": {"state": {}}, "score": np.float64(0.804)}
    torch.save(content, folder / "yowo_ucf24_16f_best.pth")
    return folder / "yowo_ucf24_16f_best.pth"


def _zeros(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Entries of a module as views of one value each, so that files of them would be as small as torch can make."""
    return [
        (name, torch.zeros((), dtype=value.dtype).expand(value.shape)) for name, value in module.state_dict().items()
    ]


@pytest.fixture(scope="module")
def resnext(folder: Path) -> Path:
    """The weights of the 3D branch with a classifier, as published."""
    with torch.device("meta"):
        state = {f"module.{name}": value for name, value in _zeros(ResNeXt3D())}
    torch.save({"arch": "resnext-101", "state_dict": state | {"module.fc.bias": torch.zeros(400)}}, folder / "rx.pth")
    return folder / "rx.pth"


@pytest.fixture(scope="module", params=[(0, 1), (0, 2)])
def darknet(folder: Path, request: pytest.FixtureRequest) -> Path:
    """`yolo.weights` in both header forms, with the values 0, 1, 2 ..."""
    with torch.device("meta"):
        network = Darknet19()
    count = sum(v.numel() for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked"))
    path = folder / f"yolo_{request.param[1]}.weights"
    seen = np.array([32_013_312], "<i8" if request.param == (0, 2) else "<i4").tobytes()
    header = np.array([*request.param, 0], "<i4").tobytes() + seen
    path.write_bytes(header + np.arange(count, dtype="<f4").tobytes())
    return path


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    """A small network of ours, with its frame head."""
    detector = ssldet.build_detector("yowo_nano", dataset="jhmdb", width=4, frame_hidden=8)
    write_weights(tmp_path / "nano.safetensors", detector.state_dict())
    return tmp_path / "nano.safetensors"


# --------------------------------------------------------------------------------------------------- inspect


def test_a_published_checkpoint_is_recognised(published: Path) -> None:
    content = in_json("inspect", published)
    assert content["kind"] == "torch checkpoint, zip form"
    assert content["network"] == "yowo, whole, classes of ucf24"
    assert content["metadata"] == {"epoch": 5, "score": 0.804}
    assert content["parameters"] == 121_095_050
    assert len(content["entries"]) == 780
    assert content["entries"][-1] == {"name": "conv_final.weight", "shape": [145, 1024, 1, 1], "dtype": "float32"}


def test_weights_of_the_3d_branch_are_recognised(resnext: Path) -> None:
    content = in_json("inspect", resnext)
    assert content["network"] == "yowo, part 3d"
    assert content["metadata"] == {"arch": "resnext-101"}
    assert content["parameters"] == 47_521_216 + 400


def test_both_forms_of_darknet_files_are_recognised(darknet: Path) -> None:
    content = in_json("inspect", darknet)
    older = darknet.name == "yolo_1.weights"
    assert content["kind"] == f"Darknet weights, header of {16 if older else 20} bytes"
    assert content["metadata"] == {"version": "0.1.0" if older else "0.2.0", "images seen": 32_013_312}
    assert content["network"] == "yowo, part 2d"
    assert content["parameters"] == 50_962_889


def test_a_darknet_file_of_another_network_is_described_without_names(tmp_path: Path) -> None:
    (tmp_path / "tiny.weights").write_bytes(np.array([0, 2, 0, 7, 0], "<i4").tobytes() + bytes(40))
    content = in_json("inspect", tmp_path / "tiny.weights")
    assert (content["values"], content["entries"], content["network"]) == (10, [], None)


def test_text_for_readers(nano: Path) -> None:
    lines = weights("inspect", nano).stdout.splitlines()
    assert lines[0] == "kind: safetensors"
    assert any(line.startswith("box_head.weight  (130, 24, 1, 1)  float32") for line in lines)


# ---------------------------------------------------------------------------------------------------- verify


def test_a_whole_file_fits(published: Path) -> None:
    result = weights("verify", published, *YOWO)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["loaded: 780", "missing: 0", "unexpected: 0", "shape_mismatch: 0"]


def test_weights_for_other_classes_do_not_fit(published: Path) -> None:
    result = weights("verify", published, "--backbone", "yowo", "--dataset", "jhmdb")
    assert result.exit_code == 1
    assert "shape_mismatch: 1\n  box_head.weight: (145, 1024, 1, 1) for (130, 1024, 1, 1)" in result.stdout


def test_parts_fit_their_module(resnext: Path, darknet: Path) -> None:
    assert weights("verify", resnext, *YOWO, "--part", "3d").exit_code == 0
    assert in_json("verify", darknet, *YOWO, "--part", "2d")["complete"]
    as_a_whole = in_json("verify", resnext, *YOWO)
    assert not as_a_whole["complete"] and not as_a_whole["loaded"]


def test_every_fault_is_named(nano: Path) -> None:
    state = read_weights(nano)
    del state["frame_head.hidden.bias"]
    write_weights(nano, state | {"extra": torch.zeros(1), "box_head.bias": torch.zeros(3)})
    result = weights("verify", nano, *NANO)
    assert result.exit_code == 1
    for line in ("  frame_head.hidden.bias\n", "  extra\n", "  box_head.bias: (3,) for (130,)\n"):
        assert line in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "yowo_nan", "--dataset", "jhmdb"), "did you mean 'yowo_nano'"),
        (("--backbone", "yowo_nano", "--dataset", "jhmdbs"), "did you mean 'jhmdb'"),
        ((*NANO, "--part", "2d"), "no part '2d'"),
        ((*NANO, "--set", "widht=3"), "widht"),
        ((*NANO, "--set", "width"), "KEY=VALUE"),
    ],
)
def test_requests_that_make_no_sense(nano: Path, arguments: tuple[str, ...], message: str) -> None:
    result = weights("verify", nano, *arguments)
    assert result.exit_code == 2 and message in result.stderr


# --------------------------------------------------------------------------------------------------- convert


def test_a_converted_part_equals_what_was_read_and_is_read_again(darknet: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "2d.safetensors"
    result = weights("convert", darknet, out, *YOWO, "--part", "2d")
    assert result.exit_code == 0, result.stderr
    state = read_weights(out)
    first = [f"models.0.{name}" for name in ("bn1.bias", "bn1.weight", "bn1.running_mean", "bn1.running_var")]
    for number, name in enumerate(first):  # the values of the file count up
        assert state[f"features.backbone_2d.{name}"].tolist() == list(range(32 * number, 32 * number + 32))
    with torch.device("meta"):
        names = [
            name for index, block in enumerate(Darknet19().models) for name in _file_order(f"models.{index}", block)
        ]
    flat = torch.cat([state[f"features.backbone_2d.{name}"].flatten() for name in names])
    assert np.array_equal(flat.numpy(), np.arange(len(flat), dtype=np.float32))
    assert weights("verify", out, *YOWO, "--part", "2d").exit_code == 0
    assert in_json("inspect", out)["metadata"]["source"] == darknet.name


def test_a_published_checkpoint_takes_our_names(nano: Path, tmp_path: Path) -> None:
    state, old = read_weights(nano), tmp_path / "checkpoint.pth"
    torch.save({"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}}, old)
    assert weights("convert", old, tmp_path / "out.safetensors", *NANO).exit_code == 0
    converted = read_weights(tmp_path / "out.safetensors")
    assert converted.keys() == state.keys() and all(torch.equal(converted[name], state[name]) for name in state)


def test_what_fits_in_part_is_written_only_when_asked_for(nano: Path, tmp_path: Path) -> None:
    state, out = read_weights(nano), tmp_path / "out.safetensors"
    del state["box_head.bias"]
    write_weights(nano, state | {"extra": torch.zeros(1)})
    refused = weights("convert", nano, out, *NANO)
    assert refused.exit_code == 2 and "1 missing (box_head.bias); 1 unexpected (extra)" in refused.stderr
    assert "--partial" in refused.stderr and not out.exists()
    assert weights("convert", nano, out, *NANO, "--partial").exit_code == 0
    assert read_weights(out).keys() == state.keys()
    write_weights(nano, {"extra": torch.zeros(1)})
    assert weights("convert", nano, out, *NANO, "--partial", "--force").exit_code == 2


def test_a_file_is_replaced_only_by_force(nano: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    result = weights("convert", nano, out, *NANO)
    assert result.exit_code == 2 and "--force" in result.stderr and out.read_bytes() == b"precious"
    assert weights("convert", nano, out, *NANO, "--force").exit_code == 0
    assert weights("convert", nano, nano, *NANO, "--force").exit_code == 0  # onto itself
    assert weights("convert", nano, tmp_path / "out.pth", *NANO).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano.safetensors", "out.safetensors"]


# ------------------------------------------------------------------------------------------- hostile files


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


FORMS: dict[str, Callable[[Any, Path], object]] = {
    "zip": lambda content, path: torch.save(content, path),
    "older": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "bare 2": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "bare 4": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "verb", [("inspect",), ("verify", *NANO), ("verify", *YOWO, "--part", "3d"), ("convert", *NANO)]
)
def test_a_malicious_pickle_is_refused_by_name(form: str, verb: tuple[str, ...], tmp_path: Path) -> None:
    sprung, path, out = tmp_path / "sprung", tmp_path / "best.pth", tmp_path / "out.safetensors"
    FORMS[form]({"state_dict": {}, "args": Trap(sprung)}, path)
    name, *options = verb
    result = weights(name, path, *([out] if name == "convert" else []), *options)
    assert result.exit_code == 2, result.output
    assert f"{os.mkdir.__module__}.mkdir" in result.stderr
    assert result.stderr.count("\n") == 1 and "weights_only" not in result.stderr
    assert not sprung.exists() and not out.exists()


def test_files_that_are_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    for path in (tmp_path / "absent.pth", tmp_path / "text.pth", tmp_path):
        result = weights("inspect", path)
        assert result.exit_code == 2 and str(path) in result.stderr
