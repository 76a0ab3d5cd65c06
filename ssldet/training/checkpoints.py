"""Checkpoints: named tensors and JSON beside them in one safetensors file, written whole and read without code.

The one before is kept beside the newest (`before`), and `load_newest` falls back on it where the newest is damaged.
Where both are, `set_aside` renames them, so that training can begin anew and nobody loses what may be looked at.
A checkpoint is flat: "student/...", "teacher/...", "optimizer/3/exp_avg" (`prefixed`, `part`). The header holds
a format name, its version, a checksum and the caller's `meta`, which names the run and the step.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from ssldet.errors import CheckpointError, DamagedCheckpoint
from ssldet.util.files import plain, replacing

FORMAT = "ssldet-checkpoint"
VERSION = "1"

GO_ON = "training goes on from the checkpoint before it"


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all; the one that lay there is kept as `before(path)`.

    Tensors may lie on any device, share memory or be views; each is stored contiguous and by itself.
    `meta` is anything JSON holds; `load` looks for "run_id" in it.
    """
    stored = _separate(tensors)
    text = json.dumps(plain(meta), sort_keys=True)
    header = {"format": FORMAT, "version": VERSION, "meta": text, "checksum": _checksum(stored, text)}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata=header)
        _keep(path)


def before(path: Path) -> Path:
    """Where the checkpoint before the newest lies."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _keep(path: Path) -> None:
    """Give a checkpoint a second name, under which it outlives the next one; at no time is there none."""
    if not path.is_file():
        return
    second = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        second.hardlink_to(path)
    except OSError:  # a file system without hard links
        path.replace(before(path))
        return
    second.replace(before(path))
    second.unlink(missing_ok=True)  # two names of one file: that replaces nothing


def any_of(path: Path) -> bool:
    """Whether there is a checkpoint, or the one before it."""
    return path.exists() or before(path).exists()


def remove(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    before(path).unlink(missing_ok=True)


def load_newest(path: Path, run_id: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """As `load`, of the newest checkpoint that is whole; and what was wrong with a newer one, "" where nothing was.

    Raises:
        DamagedCheckpoint: no file that is there can be read; says what is wrong with the newest.
        CheckpointError: one can be read, and is not this run's or this version's.
    """
    faults: dict[Path, CheckpointError] = {}
    for file in (path, before(path)):
        try:
            tensors, meta = load(file, run_id)
        except CheckpointError as error:
            faults[file] = error
        else:
            return tensors, meta, f"{path} cannot be read; {GO_ON}" if faults else ""
    raise _why_none(faults)


def _why_none(faults: Mapping[Path, CheckpointError]) -> CheckpointError:
    """Of what is wrong with all checkpoints, what speaks against beginning anew; else what is wrong with the newest."""
    present = [fault for file, fault in faults.items() if file.exists()] or list(faults.values())
    readable = [fault for fault in present if not isinstance(fault, DamagedCheckpoint)]
    return (readable or present)[0]


def aside(path: Path) -> Path:
    """Where a checkpoint is kept that is damaged."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def set_aside(path: Path) -> list[Path]:
    """Rename a damaged checkpoint and the damaged one before it; gives their new places. Raises OSError."""
    present = [file for file in (path, before(path)) if file.exists()]
    return [file.replace(aside(file)) for file in present]


def load(path: Path, run_id: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors on the CPU, and its meta.

    Raises:
        DamagedCheckpoint: it cannot be read, or its content is not what was written.
        CheckpointError: it is absent, of another format or version, or (with `run_id`) of another run.
    """
    header, tensors = _read(Path(path))
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not an ssldet checkpoint")
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {header.get('version')!r}, and this ssldet reads {VERSION!r}; "
            "resume with the ssldet that wrote it, or delete the run's folder and start again"
        )
    if _checksum(tensors, header.get("meta", "")) != header.get("checksum"):
        raise DamagedCheckpoint(f"{path} is damaged: its content does not match its checksum; delete it to start again")
    meta = json.loads(header["meta"])
    if run_id is not None and meta.get("run_id") != run_id:
        raise CheckpointError(f"{path} belongs to run {meta.get('run_id')!r}, expected {run_id!r}")
    return tensors, meta


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # cloned, so that nothing stays mapped to a file that the next save replaces
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is damaged or not a checkpoint ({error}); delete it to start again") from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, no two sharing memory and none a part of a larger one: safetensors asks for it."""
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != own.nbytes:
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        stored[name] = own
    return stored


def _checksum(tensors: Mapping[str, Tensor], meta: str) -> str:
    """CRC-32 over names, types, shapes and bytes: safetensors itself only notices a wrong length."""
    total = zlib.crc32(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


# ------------------------------------------------------------------------------------------ flat names


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as "prefix/name"."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below "prefix/", without it: the inverse of `prefixed`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


# -------------------------------------------------------------------------------------------- optimiser


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as flat tensors ("3/exp_avg", "group/0/lr") and the rest as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {"kind": type(optimizer).__name__, "state": {}, "groups": []}
    for index, values in state["state"].items():
        meta["state"][str(index)] = _take_tensors(f"{index}", values, tensors)
    for number, group in enumerate(state["param_groups"]):
        meta["groups"].append(_take_tensors(f"group/{number}", group, tensors))
    return tensors, meta


def _take_tensors(prefix: str, values: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors of one dictionary into `tensors`; what is left, for JSON."""
    tensors.update(prefixed(prefix, {key: value for key, value in values.items() if isinstance(value, Tensor)}))
    return {key: value for key, value in values.items() if not isinstance(value, Tensor)}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Put back what `flatten_optimizer` gave, exactly: state tensors, and the groups' learning rates and flags.

    Raises:
        CheckpointError: the optimiser is of another kind or has other parameters.
    """
    kind, groups = type(optimizer).__name__, meta["groups"]
    sizes = [len(group["params"]) for group in groups]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if (meta["kind"], sizes) != (kind, expected):
        raise CheckpointError(
            f"expected the state of {kind} over {expected} parameters by group, the checkpoint has {meta['kind']} "
            f"over {sizes}; the network or the optimiser changed since it was written"
        )
    restored = [
        _like(current, {**group, **part(tensors, f"group/{number}")})
        for number, (current, group) in enumerate(zip(optimizer.param_groups, groups, strict=True))
    ]
    state = {int(index): {**values, **part(tensors, index)} for index, values in meta["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": restored})


def _like(current: Mapping[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    """JSON made lists of tuples (Adam's betas); make them tuples again."""
    return {key: tuple(value) if isinstance(current.get(key), tuple) else value for key, value in group.items()}
