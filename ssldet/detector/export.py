"""A detector in a file that runs without this package: TorchScript, or ONNX (`pip install "ssldet[onnx]"`).

What is exported takes clips and gives all boxes, nothing filtered or suppressed. Before the file gets its name it is
read back and applied to clips of several batch sizes, and its outputs are held against the detector's.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssldet.contracts import Detector
from ssldet.detector.modes import evaluation_mode
from ssldet.errors import RequestError, SsldetError
from ssldet.util.files import plain, replacing

INPUT, OUTPUTS = "clips", ("boxes", "confidence", "scores")
"""clips (b, 3, t, h, w) float32 in [0, 1]; boxes (b, n, 4) xyxy in pixels of the clip; confidence (b, n); class scores
(b, n, k).
"""

ABOUT = "ssldet.json"
"""Under this name a file says what it is of."""

TOLERANCE = 1e-3
"""Largest difference of a probability, and of a box as a share of the largest edge: far above rounding."""

EXAMPLE, CHECKED = 2, (1, 5)
"""Clips that an export is made with, and the batch sizes that it is checked with."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Apply = Callable[[Tensor], Sequence[Tensor]]
"""What was exported: clips -> outputs."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file that was written.

    Attributes:
        path: the file.
        form: "torchscript" or "onnx".
        clips: (3, t, h, w) of a clip; any number of them goes in at once.
        differences: output -> its largest difference from the detector's, over all checks.
    """

    path: Path
    form: str
    clips: tuple[int, int, int, int]
    differences: Mapping[str, float]


class _AllBoxes(nn.Module):
    """A detector as a function of tensors."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoded = self.detector.decode(self.detector(clips))
        return decoded.boxes_bn4, decoded.confidence_bn, decoded.scores_bnk


def export_detector(
    detector: Detector, path: Path, form: str, *, frames: int, size: int, about: Mapping[str, Any] | None = None
) -> Export:
    """Write a detector into one file, whole or not at all.

    Args:
        detector: on the CPU; left in the mode that it was in.
        path: of the file.
        form: "torchscript" or "onnx".
        frames, size: of the clips that it takes.
        about: what the file says of itself (classes, say), as plain data.

    Raises:
        RequestError: what the form needs is not installed, or the network cannot be exported so.
        SsldetError: the file does not give what the detector gives.
    """
    write, read = FORMS[form]
    shape = (3, frames, size, size)
    with evaluation_mode(detector), replacing(path) as temporary:
        with _explained(form):
            write(_without_shortcuts(detector), _clips(EXAMPLE, shape), temporary, json.dumps(plain(about or {})))
        differences = _compare(_AllBoxes(detector), read(temporary), shape)
        if wrong := {name: share for name, (share, _) in differences.items() if not share <= TOLERANCE}:
            words = ", ".join(f"{name} by {share:.1%}" for name, share in wrong.items())
            raise SsldetError(f"the {form} file does not give what the detector gives ({words}); it was not kept")
    return Export(path, form, shape, {name: largest for name, (_, largest) in differences.items()})


def _without_shortcuts(detector: Detector) -> _AllBoxes:
    """A copy that computes layer by layer, as it does where gradients are wanted.

    Without gradients networks take frames in chunks, or fold normalisation first: what depends on batch size and
    weights cannot be written down once.
    """
    network = _AllBoxes(copy.deepcopy(detector)).eval()
    return network.requires_grad_(True)


def _clips(count: int, shape: tuple[int, ...]) -> Tensor:
    """Clips of noise, the same every time."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def _compare(network: _AllBoxes, exported: Apply, shape: tuple[int, ...]) -> dict[str, tuple[float, float]]:
    """Output -> its largest difference, as a share (of 1, or of its largest value where that is more) and as it is."""
    found = dict.fromkeys(OUTPUTS, (0.0, 0.0))
    for count in CHECKED:
        clips = _clips(count, shape)
        for name, ours, theirs in zip(OUTPUTS, network(clips), exported(clips), strict=True):
            largest = float((ours - theirs).abs().max())
            share = largest / max(float(ours.abs().max()), 1.0)
            found[name] = max(found[name], (share, largest))
    return found


@contextmanager
def _explained(form: str) -> Iterator[None]:
    """What goes wrong within torch, in words; its warnings are about its own future, and about what is checked here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        first = str(_cause(error)).strip().splitlines()[:1]
        raise RequestError(
            f"torch {torch.__version__} cannot export this network as {form} ({''.join(first)}); try the other form of "
            f"{', '.join(FORMS)}"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """What was raised first."""
    return error if error.__cause__ is None else _cause(error.__cause__)


# ------------------------------------------------------------------------------------------------- torchscript


def _write_torchscript(network: _AllBoxes, clips: Tensor, path: Path, about: str) -> None:
    traced = torch.jit.trace(network, (clips,), check_trace=False).requires_grad_(False)  # the check is ours
    torch.jit.save(traced, str(path), _extra_files={ABOUT: about})


def _read_torchscript(path: Path) -> Apply:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Apply = torch.jit.load(str(path))
    return loaded


# -------------------------------------------------------------------------------------------------------- onnx


def _write_onnx(network: _AllBoxes, clips: Tensor, path: Path, about: str) -> None:
    _check_onnx()
    program = torch.onnx.export(
        network,
        (clips,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
    )
    assert program is not None
    program.model.metadata_props[ABOUT] = about
    program.save(str(path), external_data=False)


def _check_onnx() -> None:
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise RequestError(f'ONNX needs {", ".join(missing)}: pip install "ssldet[onnx]"')


def _read_onnx(path: Path) -> Apply:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda clips: [torch.from_numpy(array) for array in session.run(None, {INPUT: clips.numpy()})]


FORMS: Mapping[str, tuple[Callable[[_AllBoxes, Tensor, Path, str], None], Callable[[Path], Apply]]] = {
    "torchscript": (_write_torchscript, _read_torchscript),
    "onnx": (_write_onnx, _read_onnx),
}
"""Name of a form -> what writes and what reads it."""

SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx"}
