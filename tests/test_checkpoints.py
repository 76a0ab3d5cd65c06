"""Checkpoints come back bit for bit, and a damaged or foreign one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ssldet.errors import CheckpointError, DamagedCheckpoint
from ssldet.training import checkpoints


def save_and_load(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    checkpoints.save(path, tensors, {"run_id": "a", "step": 3})
    loaded, _ = checkpoints.load(path, run_id="a")
    return loaded


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_every_kind_of_tensor_survives(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = {"student/x": torch.randn(shape).mul(5).to(dtype)}
    assert_same(save_and_load(tmp_path / "c.safetensors", tensors), tensors)


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    found = save_and_load(tmp_path / "c", {"x": torch.tensor([float("nan"), float("inf"), -0.0])})["x"]
    assert found[0].isnan() and found[1].isinf() and torch.signbit(found[2])


def test_shared_sliced_and_transposed_tensors_survive(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base, "row": base[1], "turned": base.T, "expanded": torch.ones(1).expand(5)}
    found = save_and_load(tmp_path / "c", tensors)
    assert_same(found, tensors)
    found["a"].zero_()
    assert found["b"].sum() == base.sum()


def test_meta_comes_back(tmp_path: Path) -> None:
    meta = {"run_id": "a", "step": 7, "groups": [{"lr": 0.1 + 0.2}], "none": None}
    checkpoints.save(tmp_path / "c", {"x": torch.zeros(1)}, meta)
    assert checkpoints.load(tmp_path / "c")[1] == meta


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoints.save(path, {"x": torch.ones(2)}, {"run_id": "a"})
    with pytest.raises(TypeError):
        checkpoints.save(path, {"x": torch.zeros(2)}, {"run_id": object()})
    assert checkpoints.load(path)[0]["x"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def write(path: Path, step: int, run_id: str = "a") -> None:
    checkpoints.save(path, {"x": torch.full((100,), float(step))}, {"run_id": run_id, "step": step})


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    assert not checkpoints.any_of(path)
    for step in (1, 2, 3):
        write(path, step)
    assert checkpoints.before(path) == tmp_path / "c.before.safetensors"
    assert [checkpoints.load(file)[1]["step"] for file in (path, checkpoints.before(path))] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.remove(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "bit", "absent"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    write(path, 1)
    write(path, 2)
    assert checkpoints.load_newest(path, "a")[1:] == ({"run_id": "a", "step": 2}, "")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content if damage == "bit" else content[:300])
    tensors, meta, fault = checkpoints.load_newest(path, "a")
    assert meta["step"] == 1 and tensors["x"].tolist() == [1.0] * 100
    assert fault == f"{path} cannot be read; training goes on from the checkpoint before it"
    assert checkpoints.any_of(path)
    with pytest.raises(CheckpointError, match=r"belongs to run|is damaged|no checkpoint"):
        checkpoints.load_newest(path, "another")
    checkpoints.before(path).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"c(\.before)?\.safetensors is damaged"):
        checkpoints.load_newest(path, "a")


def test_damaged_checkpoints_are_set_aside_and_what_can_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write(path, 1)
    write(path, 2)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="belongs to run 'a'") as refusal:
        checkpoints.load_newest(path, "another")
    assert not isinstance(refusal.value, DamagedCheckpoint)
    kept = [file.name for file in checkpoints.set_aside(path)]
    assert kept == ["c.damaged.safetensors", "c.before.damaged.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept) and not checkpoints.any_of(path)


def test_without_hard_links_the_last_two_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(link: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "c.safetensors"
    write(path, 1)
    write(path, 2)
    assert [checkpoints.load(file)[1]["step"] for file in (path, checkpoints.before(path))] == [2, 1]


def test_a_disk_that_fills_up_keeps_the_old_ones(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write ends in the midst of the file."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "c.safetensors"
    write(path, 1)
    write(path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises((OSError, SafetensorError)):
            checkpoints.save(path, {"x": torch.zeros(100_000)}, {"run_id": "a", "step": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [checkpoints.load(file)[1]["step"] for file in (path, checkpoints.before(path))] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "c", {}, {"run_id": "a"})
    with pytest.raises(CheckpointError, match="belongs to run 'a', expected 'b'"):
        checkpoints.load(tmp_path / "c", run_id="b")


def test_an_unknown_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", "99")
        checkpoints.save(tmp_path / "c", {}, {})
    with pytest.raises(CheckpointError, match="version '99'"):
        checkpoints.load(tmp_path / "c")


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "c")
    with pytest.raises(CheckpointError, match="not an ssldet checkpoint"):
        checkpoints.load(tmp_path / "c")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere"):
        checkpoints.load(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "c"
    checkpoints.save(path, {"x": torch.randn(64)}, {"run_id": "a"})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.999])
def test_a_flipped_bit_is_noticed(tmp_path: Path, where: float) -> None:
    path = tmp_path / "c"
    checkpoints.save(path, {"x": torch.randn(500)}, {"run_id": "a"})
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoints.load(path)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "c")
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / "c")


def test_prefixes_separate_the_parts() -> None:
    tensors = checkpoints.prefixed("student", {"w": torch.ones(1)}) | checkpoints.prefixed(
        "teacher", {"w": torch.zeros(1)}
    )
    assert sorted(tensors) == ["student/w", "teacher/w"]
    assert checkpoints.part(tensors, "teacher")["w"].item() == 0


OPTIMISERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.1),
    "adam": lambda groups: torch.optim.Adam(groups, lr=3e-3, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    "plain sgd": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "tensor rate": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(3e-3)),
}


class Toy:
    """A network, an optimiser with two groups and a schedule, trained on batches that the step determines."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        groups = [{"params": self.net[0].parameters(), "weight_decay": 0.0}, {"params": self.net[1:].parameters()}]
        self.optimizer = OPTIMISERS[kind](groups)

    def train(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            x_b4 = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * 0.97
            self.optimizer.zero_grad()
            self.net(x_b4).square().mean().backward()
            self.optimizer.step()


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_resumed_training_ends_bit_for_bit_the_same(tmp_path: Path, kind: str) -> None:
    whole = Toy(kind)
    whole.train(0, 20)

    first = Toy(kind)
    first.train(0, 8)
    tensors, meta = checkpoints.flatten_optimizer(first.optimizer)
    flat = checkpoints.prefixed("student", first.net.state_dict()) | checkpoints.prefixed("optimizer", tensors)
    checkpoints.save(tmp_path / "c", flat, {"run_id": "toy", "step": 8, "optimizer": meta})

    loaded, found = checkpoints.load(tmp_path / "c", run_id="toy")
    second = Toy(kind)
    second.net.load_state_dict(checkpoints.part(loaded, "student"))
    checkpoints.restore_optimizer(second.optimizer, checkpoints.part(loaded, "optimizer"), found["optimizer"])
    second.train(found["step"], 20)

    assert_same(second.net.state_dict(), whole.net.state_dict())
    assert second.optimizer.param_groups[0].get("betas") == whole.optimizer.param_groups[0].get("betas")


def test_a_fresh_optimiser_has_a_state_too() -> None:
    toy = Toy("adamw")
    tensors, meta = checkpoints.flatten_optimizer(toy.optimizer)
    checkpoints.restore_optimizer(toy.optimizer, tensors, meta)
    assert not tensors and toy.optimizer.param_groups[1]["weight_decay"] == 0.1


def test_the_state_of_another_optimiser_is_refused() -> None:
    tensors, meta = checkpoints.flatten_optimizer(Toy("sgd").optimizer)
    with pytest.raises(CheckpointError, match=r"expected the state of AdamW over \[2, 4\]"):
        checkpoints.restore_optimizer(Toy("adamw").optimizer, tensors, meta)
