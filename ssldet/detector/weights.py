"""Weights files: read without executing anything, and loaded with a report of every entry that does not fit."""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssldet.contracts import Backbone, Detector
from ssldet.errors import WeightsError
from ssldet.util.files import begins_as_zip, replacing

SHOWN = 8
"""How many entry names an error message spells out per kind."""


_scalar = np.float64(0).__reduce__()[0]

NUMPY_SCALARS: list[Any] = [
    _scalar,
    (_scalar, "numpy.core.multiarray.scalar"),  # the name it has in older files
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]
"""Published checkpoints may hold a score as a NumPy number: plain data, but not on torch's own list."""

WRAPPERS = ("state_dict", "model", "model_state")
"""Under which names checkpoints keep their weights."""

COUNTER = "num_batches_tracked"
"""Entries of batch normalisation that older files lack and that change nothing: never counted as missing."""


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """How the entries of a file fit a network.

    Attributes:
        source: the file, or files.
        loaded: entries of the network that the file filled.
        missing: entries of the network that the file lacks.
        unexpected: entries of the file that the network lacks.
        shape_mismatch: entries of both whose shapes differ, as "name: (file shape) for (network shape)".
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatch: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.shape_mismatch)

    def as_dict(self) -> dict[str, Any]:
        """For records; `loaded` as a count."""
        return asdict(self) | {"loaded": len(self.loaded)}

    def __str__(self) -> str:
        faults = {"missing": self.missing, "unexpected": self.unexpected, "shape_mismatch": self.shape_mismatch}
        parts = [f"{len(names)} {kind} ({_shorten(names)})" for kind, names in faults.items() if names]
        return f"{self.source}: {len(self.loaded)} entries loaded" + "".join(f"; {part}" for part in parts)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        kind: of what form it is, in words.
        state: its tensors by name, on the CPU.
        metadata: the words and numbers beside them, such as epoch and score.
    """

    kind: str
    state: dict[str, Tensor]
    metadata: dict[str, str | int | float]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file or torch checkpoint by name, on the CPU; see `open_weights`."""
    return open_weights(path).state


def open_weights(path: Path) -> WeightsFile:
    """Read a safetensors file or torch checkpoint.

    A checkpoint's `state_dict` (`model`, `model_state`) is unwrapped and the prefix `module.` of data-parallel training
    removed, and from either kind of file the part `_orig_mod.` of names of compiled modules.
    Torch files are read with `weights_only`, which runs none of the code that a pickle may carry.

    Raises:
        WeightsError: the file is absent, damaged, needs code to be read, or holds no named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    content = _read_torch(path)
    form = "zip" if begins_as_zip(path) else "older"
    return WeightsFile(f"torch checkpoint, {form} form", _plain(_named_tensors(path, content)), _metadata(content))


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what torch.compile puts into the names of the modules that it wraps."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def _open_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return WeightsFile("safetensors", _plain(load_file(path)), metadata)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle's protocol before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: pickle, zip, runtime, end of file
        raise WeightsError(
            f"{path} is not a torch checkpoint that can be read without running code from it: {_reason(path, error)}"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Why torch refused a file: the names that its pickle asks for, where that is it. Torch's advice is left out."""
    if names := _unsafe_globals(path) or re.findall(r"GLOBAL (\S+)", str(error))[:1] or _first_global(path):
        return f"it asks for {_shorten(names)}, which is refused"
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return lines[0] if lines else type(error).__name__


def _unsafe_globals(path: Path) -> list[str]:
    """What a checkpoint in zip form asks for beyond what torch and we allow; torch reads no other form so."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it is of another form, or damaged in any way
        return []


def _first_global(path: Path) -> list[str]:
    """The first name that a bare pickle imports, from its instructions alone; none of what is no pickle."""
    texts: list[str] = []
    with suppress(Exception), warnings.catch_warnings():  # what is no pickle ends in any way
        warnings.simplefilter("ignore")
        for instruction, argument, _ in pickletools.genops(path.read_bytes()):
            if instruction.name in ("GLOBAL", "INST"):
                return [str(argument).replace(" ", ".")]
            if instruction.name == "STACK_GLOBAL":
                return [".".join(texts[-2:])]
            texts += [argument] if isinstance(argument, str) else []
    return []


def _metadata(content: Any) -> dict[str, str | int | float]:
    """The plain entries beside a checkpoint's weights."""
    if not any(isinstance(content.get(key), Mapping) for key in WRAPPERS):
        return {}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in content.items()}
    return {str(name): value for name, value in plain.items() if isinstance(value, str | int | float)}


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no named tensors, but a {type(content).__name__}")
    strangers = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strangers:
        raise WeightsError(f"{path} holds entries that are no tensors: {_shorten(list(map(str, strangers)))}")
    return {name.removeprefix("module."): value for name, value in content.items()}


@dataclass(frozen=True, slots=True)
class DarknetHeader:
    """The beginning of a Darknet weights file; `size` in bytes is 16, or 20 from version 0.2 on."""

    version: str
    seen: int
    size: int


def darknet_header(path: Path) -> DarknetHeader:
    """Version (3 x int32) and number of images seen (int32; int64 from version 0.2 on). Then float32 values follow.

    Raises:
        WeightsError: the file is absent or does not begin so.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    with path.open("rb") as file:
        start = file.read(20)
    if len(start) < 16:
        raise WeightsError(f"{path} is no Darknet weights file: it is shorter than its header")
    major, minor, revision = np.frombuffer(start, dtype="<i4", count=3).tolist()
    size = 20 if major * 10 + minor >= 2 else 16
    if not (0 <= major < 1000 and 0 <= minor < 1000) or len(start) < size:
        raise WeightsError(f"{path} is no Darknet weights file: it begins with version {major}.{minor}")
    return DarknetHeader(f"{major}.{minor}.{revision}", int.from_bytes(start[12:size], "little"), size)


def apply_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, partial: bool = False
) -> WeightsReport:
    """Fill a module's entries by name. Nothing is written unless all of it will be.

    Args:
        module: what is filled, in place.
        state: tensors by the module's entry names.
        source: named in messages.
        partial: whether a file that fits only in part is welcome.

    Returns:
        What was loaded and what did not fit.

    Raises:
        WeightsError: entries are missing, unexpected or of another shape, and not `partial`; or nothing fits at all.
    """
    own = module.state_dict()
    report = compare_weights(own, state, source=source)
    if not report.complete and not partial:
        raise WeightsError(f"the weights do not fit the network. {report}")
    if not report.loaded:
        raise WeightsError(f"no entry of the weights fits the network. {report}")
    module.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def load_parts(backbone: Backbone, detector: Detector, files: Mapping[str, Path]) -> dict[str, Any]:
    """Fill the modules of a backbone's `parts`: what most backbones do in `load_pretrained`.

    Args:
        backbone: reads the files.
        detector: of this backbone, filled in place.
        files: part -> its file. All are read before anything is written.

    Returns:
        Part -> the report of `apply_weights` as plain values.

    Raises:
        WeightsError: there is no such part, or a file is not what it should be.
    """
    states = {part: backbone.read_part(part, file) for part, file in files.items()}
    modules = {part: detector.get_submodule(backbone.parts[part]) for part in states}
    return {
        part: apply_weights(module, states[part], source=f"{files[part]}, part {part}").as_dict()
        for part, module in modules.items()
    }


def compare_weights(own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str) -> WeightsReport:
    """How a file's tensors fit a network's, without loading them."""
    shared = [name for name in own if name in state]
    fitting = tuple(name for name in shared if own[name].shape == state[name].shape)
    shape_mismatch = (name for name in shared if own[name].shape != state[name].shape)
    return WeightsReport(
        source=source,
        loaded=fitting,
        missing=tuple(name for name in own if name not in state and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in state if name not in own),
        shape_mismatch=tuple(
            f"{name}: {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in shape_mismatch
        ),
    )


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all, and read them back. Those that share memory are written apart.

    Raises:
        WeightsError: what was read back differs; nothing is left at `path` that was not there.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, dict(metadata) if metadata else None)
        written = load_file(temporary)
        if written.keys() != tensors.keys() or not all(_same(written[name], tensors[name]) for name in tensors):
            raise WeightsError(f"{path} could not be written: what was read back differs; is the disk sound?")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    same_kind = one.dtype == other.dtype and one.shape == other.shape
    return same_kind and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
