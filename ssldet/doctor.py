"""What `ssldet doctor` finds out: the installation in sections, as plain data that may go into a bug report.

    examine(...) -> Report    sections in order, what is wrong, and what is so wrong that nothing can work

Of the environment only `VARIABLES` are read, and the home folder is written as ~ throughout. Torch may be missing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import av
import numpy as np

from ssldet import plugins
from ssldet.contracts import VideoSource
from ssldet.data.datasets import ROOT_VARIABLE, identify
from ssldet.data.video import read_frames
from ssldet.detector.pretrained import located_weights
from ssldet.errors import DecodeError, SsldetError
from ssldet.runs import layout
from ssldet.runs.provenance import hardware, provenance
from ssldet.util import cache

DISTRIBUTION = "ssldet"

WEIGHTS_VARIABLE = "SSLDET_WEIGHTS"

VARIABLES = (
    ROOT_VARIABLE,
    WEIGHTS_VARIABLE,
    "SSLDET_CACHE",
    "NUMBA_CACHE_DIR",
    "MPLCONFIGDIR",
    plugins.STRICT_VARIABLE,
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NO_COLOR",
)

CODECS = ("mpeg4", "h264", "mjpeg")
"""Decoders that the published data sets need: Xvid .avi, films in H.264, JPEG in a container."""

LEVELS = (30, 90, 150, 210)
"""Brightness of the frames of the video that the decoder is tried on."""


@dataclass
class Report:
    """What was found.

    Attributes:
        sections: title -> name -> what was found, plain data.
        problems: what is wrong, and what to do.
        broken: those of them without whose remedy nothing, or nothing that this program ships, can work.
    """

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def examine(
    data_root: Path | None = None,
    weights_root: Path | None = None,
    results: Path = layout.RESULTS,
    *,
    check: bool = False,
) -> Report:
    """Look at everything; nothing that is found wrong is raised.

    Args:
        data_root: None means $SSLDET_DATA. weights_root: None means $SSLDET_WEIGHTS, else "weights".
        results: where runs would be written.
        check: whether every plugin is imported, each in a process of its own.
    """
    report = Report()
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "versions": versions,
        "machine": machine,
        "devices": lambda: devices(report),
        "environment": lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "decoder": lambda: decoder(report),
        "plugins": lambda: plugins_found(report, check),
        "data": lambda: data(data_root or _named(ROOT_VARIABLE), report),
        "weights": lambda: weights(weights_root or _named(WEIGHTS_VARIABLE) or Path("weights")),
        "folders": lambda: folders(results, report),
    }
    for title, look in sections.items():
        try:
            report.sections[title] = look()
        except Exception as error:  # a report with a hole is worth more than none
            report.sections[title] = {"not known": f"{type(error).__name__}: {error}"}
            report.problems.append(f"{title}: {type(error).__name__}: {error}")
    return Report(*(_without_home(part) for part in (report.sections, report.problems, report.broken)))


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


# --------------------------------------------------------------------------------------- software and hardware


def versions() -> dict[str, Any]:
    """Python, this program with its commit, what it requires, FFmpeg, and distributions that bring plugins."""
    found = provenance()
    rows: dict[str, Any] = {"python": found["python"]}
    for name, origin in found["distributions"].items():
        commit = f", commit {origin['commit'][:12]}" if origin.get("commit") else ""
        rows[name] = f"{origin['version']}{commit}{', changed' if origin.get('dirty') else ''}"
    required = (re.match(r"[\w.-]+", text) for text in requires(DISTRIBUTION) or () if "extra ==" not in text)
    rows |= {match[0]: _version(match[0]) for match in required if match and match[0] not in rows}
    return rows | {"ffmpeg": av.ffmpeg_version_info}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Platform, processor, cores, memory."""
    found = hardware()
    return {
        "platform": found["platform"],
        "cpu": found["cpu"],
        "cores": f"{found['cores']} to use, {os.cpu_count()} in all",
        "memory": gigabytes(found["memory_bytes"]),
    }


def devices(report: Report) -> dict[str, Any]:
    """What torch can compute on, and why there is no CUDA device if there is none."""
    try:
        import torch
    except Exception as error:  # a library that does not load may raise anything
        reason = _first_line(error)
        report.broken.append(
            f"torch cannot be imported ({reason}); install it again: pip install --force-reinstall torch"
        )
        return {"torch": f"cannot be imported: {reason}"}
    rows: dict[str, Any] = {"threads": torch.get_num_threads()}
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        rows[f"cuda:{number}"] = (
            f"{found.name}, {gigabytes(found.total_memory)}, capability {found.major}.{found.minor}"
        )
    return rows | {"cuda": torch.version.cuda if torch.cuda.is_available() else f"none: {_why_no_cuda(torch)}"}


def _why_no_cuda(torch: Any) -> str:
    """What torch says when it is asked for CUDA all the same."""
    try:
        torch.cuda.init()
    except Exception as error:  # which class it is depends on the cause and on torch
        return _first_line(error)
    return "no device"


def decoder(report: Report) -> dict[str, Any]:
    """Whether a small video comes back as it was written, and which decoders FFmpeg has."""
    absent = [name for name in CODECS if name not in av.codecs_available]
    if absent:
        report.problems.append(
            f"this FFmpeg has no decoder for {', '.join(absent)}; install av from its published wheels"
        )
    found = try_decoder()
    if found != "works":
        report.broken.append(
            f"the decoder {found}; install av from its published wheels: pip install --force-reinstall av"
        )
    return {"trial": found, "codecs": ", ".join(name for name in CODECS if name not in absent) or "none"}


def try_decoder() -> str:
    """ "works" when a video of grey frames that is made here is decoded to those frames, else what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trial.avi")
        try:
            _write_video(path)
            frames_thwc = read_frames(VideoSource(path), len(LEVELS)).frames_thwc
        except (DecodeError, OSError, ValueError, av.FFmpegError) as error:
            return f"fails: {_first_line(error).replace(folder, '')}"
    off = np.abs(frames_thwc.mean(axis=(1, 2, 3)) - LEVELS).max()
    return "works" if off < 8 else f"gives other frames: brightness is off by {off:.0f} of 255"


def _write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in LEVELS:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ------------------------------------------------------------------------------------- plugins, data, weights


def plugins_found(report: Report, check: bool) -> dict[str, Any]:
    """Installed plugins by kind; what is wrong with them by their metadata, or by importing each."""
    found = {kind: plugins.available(kind) for kind in plugins.KINDS}
    faults = plugins.faults()
    for plugin in (plugin for offers in found.values() for plugin in offers if check):
        if (one := plugins.check(plugin)).reason:
            faults.append(plugins.Fault(plugin.distribution, one.reason, plugin.version))
    for fault in faults:
        (report.broken if fault.distribution == DISTRIBUTION else report.problems).append(f"plugin of {fault}")
    rows: dict[str, Any] = {kind: ", ".join(map(_title, offers)) or "none" for kind, offers in found.items()}
    return rows | {
        "faults": [str(fault) for fault in faults] or ("none" if check else "none in their metadata"),
        "imported": "each" if check else "none; --check imports each, which finds the other faults",
    }


def _title(plugin: plugins.PluginInfo) -> str:
    return (
        plugin.name
        if plugin.distribution == DISTRIBUTION
        else f"{plugin.name} ({plugin.distribution} {plugin.version})"
    )


def data(root: Path | None, report: Report) -> dict[str, Any]:
    """The data sets below a folder, each with its layout, and what frames are cached."""
    entries = cache.entries()
    size = gigabytes(sum(entry.bytes for entry in entries))
    kept: dict[str, Any] = {"cache": f"{len(entries)} entries, {size} in {cache.cache_root()}"}
    if root is None:
        return {"root": f"none (--data-root or {ROOT_VARIABLE})", **kept}
    if not root.is_dir():
        report.problems.append(f"the data root {root} is no folder; name another with --data-root or {ROOT_VARIABLE}")
        return {"root": f"{root}: no such folder", **kept}
    found = {name: "; ".join(dataset.layout().splitlines()) for name, dataset in identify(root).items()}
    return {"root": str(root), **(found or {"data sets": "none recognised; see `ssldet data guide`"}), **kept}


def weights(root: Path) -> dict[str, Any]:
    """Which pretrained files of the backbones lie below a folder, or elsewhere on this machine, such as in a package:
    backbone -> file -> size or "absent".
    """
    rows: dict[str, Any] = {"root": f"{root}{'' if root.is_dir() else ': no such folder'}"}
    for name in plugins.names("backbone"):
        try:
            rows[name] = _pretrained_files(name, root) or "none needed"
        except (SsldetError, ValueError) as error:
            rows[name] = f"not known: {_first_line(error)}"
    return rows


def _pretrained_files(backbone: str, root: Path) -> dict[str, str]:
    """File name -> its size and the data sets that it is for. Imports the backbone. Raises SsldetError."""
    plugin = plugins.load("backbone", backbone)
    built = plugin(plugin.Config())
    places: dict[str, Path] = {}
    used: dict[str, list[str]] = {}
    for dataset in plugins.names("dataset"):
        files = built.pretrained_files(dataset)
        for part, path in located_weights(built, dataset, root).items():
            places[files[part]] = path
            used.setdefault(files[part], []).append(dataset)
    return {file: _file_words(path, root, used[file]) for file, path in places.items()}


def _file_words(path: Path, root: Path, used: list[str]) -> str:
    size = f"{path.stat().st_size / 1e6:,.0f} MB" if path.is_file() else "absent"
    elsewhere = "" if path.is_relative_to(root) else f" at {path}"
    return f"{size}{elsewhere}, for {', '.join(used)}"


# ---------------------------------------------------------------------------------------------------- folders


def folders(results: Path, report: Report) -> dict[str, Any]:
    """Whether runs and cached frames can be written, and how much space there is."""
    rows = {}
    for name, folder, remedy in (
        ("results", results, "name another with --results"),
        ("cache", cache.cache_root(), "set SSLDET_CACHE to a folder that can be written"),
    ):
        place = _existing(folder)
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        if not writable:
            report.problems.append(f"the {name} folder {folder} cannot be written; {remedy}")
        free = gigabytes(shutil.disk_usage(place).free)
        rows[name] = f"{folder}, {'writable' if writable else 'not writable'}, {free} free"
    return {**rows, "compiled code": _compiled_code(report)}


def _compiled_code(report: Report) -> str:
    """Where numba keeps compiled loops; a problem where it cannot."""
    from ssldet.ops.compiled import folder_of
    from ssldet.ops.iou import box_iou

    if kept := folder_of(box_iou):
        return f"kept in {kept}"
    report.problems.append(
        "compiled loops cannot be kept, so that every process compiles them anew, in some seconds; "
        "set NUMBA_CACHE_DIR to a folder that can be written"
    )
    return "not kept"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


# ------------------------------------------------------------------------------------------------------ words


def gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_home(value: Any) -> Any:
    """The same data with ~ for the home folder in every text."""
    if isinstance(value, Mapping):
        return {_without_home(key): _without_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_home(inner) for inner in value]
    home = str(Path.home())
    if not isinstance(value, str) or home == Path.home().anchor:
        return value
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
