"""Weights files: read without executing anything, and loaded with a report of every entry that does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssldet.errors import WeightsError
from ssldet.files import replacing

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
        misshapen: entries of both whose shapes differ, as "name: (file shape) for (network shape)".
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def as_dict(self) -> dict[str, Any]:
        """For records; `loaded` as a count."""
        return asdict(self) | {"loaded": len(self.loaded)}

    def __str__(self) -> str:
        faults = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        parts = [f"{len(names)} {kind} ({_shorten(names)})" for kind, names in faults.items() if names]
        return f"{self.source}: {len(self.loaded)} entries loaded" + "".join(f"; {part}" for part in parts)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file or torch checkpoint by name, on the CPU.

    A checkpoint's `state_dict` (or `model`) is unwrapped and the prefix `module.` of data-parallel training removed.
    Torch files are read with `weights_only`, which runs none of the code that a pickle may carry.

    Raises:
        WeightsError: the file is absent, damaged, needs code to be read, or holds no named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    return _named_tensors(path, _read_torch(path))


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: pickle, zip, runtime, end of file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path} is not a torch checkpoint that can be read without running code from it: {reason}"
        ) from error


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no named tensors, but a {type(content).__name__}")
    strangers = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strangers:
        raise WeightsError(f"{path} holds entries that are no tensors: {_shorten(list(map(str, strangers)))}")
    return {name.removeprefix("module."): value for name, value in content.items()}


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
        WeightsError: entries are missing, unexpected or misshapen, and `partial` is false; or nothing fits at all.
    """
    own = module.state_dict()
    report = compare_weights(own, state, source=source)
    if not report.complete and not partial:
        raise WeightsError(f"the weights do not fit the network. {report}")
    if not report.loaded:
        raise WeightsError(f"no entry of the weights fits the network. {report}")
    module.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def compare_weights(own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str) -> WeightsReport:
    """How a file's tensors fit a network's, without loading them."""
    shared = [name for name in own if name in state]
    fitting = tuple(name for name in shared if own[name].shape == state[name].shape)
    misshapen = (name for name in shared if own[name].shape != state[name].shape)
    return WeightsReport(
        source=source,
        loaded=fitting,
        missing=tuple(name for name in own if name not in state and not name.endswith(COUNTER)),
        unexpected=tuple(name for name in state if name not in own),
        misshapen=tuple(f"{name}: {tuple(state[name].shape)} for {tuple(own[name].shape)}" for name in misshapen),
    )


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all. Tensors that share memory are written apart."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, temporary)
