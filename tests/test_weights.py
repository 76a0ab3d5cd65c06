"""Weights files: what is read, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssldet.detector.weights import apply_weights, compare_weights, open_weights, read_weights, write_weights
from ssldet.errors import WeightsError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state", None])
def test_checkpoints_are_unwrapped(wrap: str | None, tmp_path: Path) -> None:
    state = network().state_dict()
    prefixed = {f"module.{name}": value for name, value in state.items()}
    torch.save({wrap: prefixed, "epoch": 3} if wrap else prefixed, tmp_path / "checkpoint.pth")
    read = read_weights(tmp_path / "checkpoint.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("score", [np.float64(0.8), np.float32(0.8), np.int64(3)])
def test_numpy_numbers_beside_the_weights_are_no_obstacle(score: object, tmp_path: Path) -> None:
    path = tmp_path / "yowo_ucf24_16f_best.pth"
    content = {"epoch": 5, "state_dict": network().state_dict(), "score": score}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert read_weights(path).keys() == network().state_dict().keys()
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))  # as NumPy 1 wrote it
    assert read_weights(path).keys() == network().state_dict().keys()


def test_safetensors_round_trip(tmp_path: Path) -> None:
    state = network().to(memory_format=torch.channels_last).state_dict()
    state["again"] = state["0.weight"]
    write_weights(tmp_path / "weights.safetensors", state)
    read = read_weights(tmp_path / "weights.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_weights_of_compiled_modules_have_plain_names(file: str, tmp_path: Path) -> None:
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in network().state_dict().items()}
    write = write_weights if file.endswith("safetensors") else lambda path, state: torch.save(state, path)
    write(tmp_path / file, wrapped)
    assert read_weights(tmp_path / file).keys() == network().state_dict().keys()


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_checkpoint_is_not_executed(legacy: bool, tmp_path: Path) -> None:
    path, sprung = tmp_path / "checkpoint.pth", tmp_path / "sprung"
    content = {"state_dict": {"weight": torch.zeros(2)}, "args": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"without running code from it: it asks for [\w., ]+, which is refused"):
        read_weights(path)
    assert not sprung.exists()


def test_all_that_a_checkpoint_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"score": np.float64(1), "args": Trap(tmp_path), "date": datetime.date(2026, 1, 1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"asks for [\w., ]+, which is refused") as caught:
        read_weights(tmp_path / "a.pth")
    assert "scalar" not in str(caught.value)  # NumPy's numbers are allowed


def test_plain_pickles_and_garbage_are_refused(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Trap(sprung)))
    (tmp_path / "b.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "c.pth").write_bytes(b"")
    (tmp_path / "d.safetensors").write_bytes(b"\xff" * 40)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(WeightsError, match=path.name):
            read_weights(path)
    assert not sprung.exists()


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        read_weights(tmp_path / "cut.pth")


def test_files_without_named_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="holds no named tensors, but a list"):
        read_weights(path)
    torch.save({"weight": torch.zeros(1), "epoch": 3}, path)
    with pytest.raises(WeightsError, match="no tensors: epoch"):
        read_weights(path)
    with pytest.raises(WeightsError, match="no weights file at"):
        read_weights(tmp_path / "absent.pth")


def test_every_entry_that_does_not_fit_is_named() -> None:
    own = network()
    state = {name: torch.full_like(value, 7) for name, value in network().state_dict().items()}
    del state["0.bias"]
    state |= {"1.weight": torch.zeros(9), "2.extra": torch.zeros(1)}
    report = compare_weights(own.state_dict(), state, source="file")
    assert (report.missing, report.unexpected) == (("0.bias",), ("2.extra",))
    assert report.shape_mismatch == ("1.weight: (9,) for (4,)",)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing \(0\.bias\); 1 unexpected \(2\.extra\); 1 shape_mismatch"):
        apply_weights(own, state, source="file")
    assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())


def test_a_partial_load_happens_only_when_asked_for() -> None:
    own, state = network(), {"0.bias": torch.full((4,), 7.0), "other": torch.zeros(1)}
    report = apply_weights(own, state, source="file", partial=True)
    assert report.loaded == ("0.bias",) and not report.complete
    assert own[0].bias.tolist() == [7] * 4
    with pytest.raises(WeightsError, match="no entry"):
        apply_weights(own, {"other": torch.zeros(1)}, source="file", partial=True)


def test_batch_counters_that_old_files_lack_are_not_missed() -> None:
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    assert apply_weights(network(), state, source="file").complete


def test_long_lists_are_shortened_in_messages() -> None:
    state = {f"entry{index}": torch.zeros(1) for index in range(20)}
    message = str(compare_weights({}, state, source="file"))
    assert "20 unexpected" in message and "entry7 and 12 more" in message and "entry8" not in message


@pytest.mark.parametrize("content", [b"S'\\z'\n.", b"PK\x03\x04" + bytes(60) + b"PK\x06\x07" + b"\xff" * 40])
def test_what_is_neither_pickle_nor_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="not a torch checkpoint"):
        open_weights(tmp_path / "w.pth")
