"""The record of a run: what was asked, on what, with what, and what came out; and the log beside it.

record.json is written last, so that its presence with status "done" is the only sign of a finished run.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlparse
from urllib.request import url2pathname

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssldet import plugins
from ssldet.errors import RequestError
from ssldet.files import plain, write_json, write_text

SCHEMA_VERSION = 1

CORE_DISTRIBUTIONS = (
    "ssldet",
    "torch",
    "torchvision",
    "av",
    "numpy",
    "scipy",
    "numba",
    "pyarrow",
    "pytorchvideo",
    "timm",
)
"""Distributions whose version can move a number."""


# ------------------------------------------------------------------------------------------------ record


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class SplitSummary(_Part):
    """The labelled / unlabelled split by its hash, and how many videos each part has."""

    hash: str
    labelled: int
    unlabelled: int
    evaluated: int


class Training(_Part):
    """What training did.

    Attributes:
        steps: optimiser steps, all stages.
        gradient_clips: clips that went through the student with gradients.
        teacher_clips: clips that went through a teacher without.
        seconds: phase name -> wall-clock seconds; of "train" over all sessions, of the others in the last one.
    """

    steps: int
    gradient_clips: int
    teacher_clips: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)


class Record(_Part):
    """One run. Numbers in tables come from here and nowhere else.

    Attributes:
        id: hash of what defines the experiment; the same for every run of it on any machine.
        config: the resolved configuration.
        data_fingerprint: `Dataset.fingerprint()`.
        metrics: metric -> protocol -> result, fractions 0-1, as `MetricResult` has them; None when unscored.
        hardware: see `hardware`; provenance: see `provenance`.
        files: name inside the run's folder -> SHA-256.
        notes: what a reader must know, by topic (the use of hidden truth for diagnostics, say; the error of a run
            that failed).
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    status: Literal["done", "failed"]
    config: dict[str, Any]
    split: SplitSummary
    data_fingerprint: str
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: Training
    hardware: dict[str, Any]
    provenance: dict[str, Any]
    peak_memory_bytes: int
    files: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record. Raises RequestError when it is absent, damaged or of another schema version."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(
                f"no readable record at {path}: {error}; `ssldet runs rm` removes the run, and the same request "
                "makes it again"
            ) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(
                f"{path} has record schema {version!r}, and this ssldet reads {SCHEMA_VERSION}; "
                "read it with the ssldet that its provenance names, or run again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RequestError(f"{path} is not a whole record: {error}") from error


# ------------------------------------------------------------------------------------------------ origin


def provenance() -> dict[str, Any]:
    """Python's version, and version and origin of every distribution that can move a number, plugins included.

    `distributions[name]` has `version`; one installed from a source tree also `commit` (None outside git) and
    `dirty`: the tree of the distribution itself, never that of the folder the user stands in.
    """
    offered = {plugin.distribution for kind in plugins.KINDS for plugin in plugins.available(kind)}
    return {
        "python": platform.python_version(),
        "distributions": dict(_origins(dict.fromkeys([*CORE_DISTRIBUTIONS, *sorted(offered)]))),
    }


def _origins(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        try:
            distribution = importlib.metadata.distribution(name)
        except PackageNotFoundError:
            continue
        yield name, {"version": distribution.version, **_source(distribution)}


def _source(distribution: Distribution) -> dict[str, Any]:
    """Commit and state of what the distribution was installed from, where there is such a thing."""
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    if commit := url.get("vcs_info", {}).get("commit_id"):
        return {"commit": commit, "dirty": False}
    tree = _source_tree(distribution, url)
    return _git_state(tree) if tree else {}


def _source_tree(distribution: Distribution, url: dict[str, Any]) -> Path | None:
    """The folder an editable install imports from; also when the egg-info inside it was found first."""
    if url.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(url["url"]).path))
    folder = Path(str(distribution.locate_file("")))
    return folder if (folder / "pyproject.toml").is_file() or (folder / "setup.py").is_file() else None


def _git_state(tree: Path) -> dict[str, Any]:
    """HEAD of the repository that tracks `tree`, and whether anything in `tree` differs from it."""
    if not _git(tree, "ls-files", "--", "."):  # a folder that merely lies inside someone's repository
        return {"commit": None, "dirty": None}
    return {"commit": _git(tree, "rev-parse", "HEAD"), "dirty": bool(_git(tree, "status", "--porcelain", "--", "."))}


def _git(tree: Path, *arguments: str) -> str | None:
    """Output of a git command in a folder; None where it fails. GIT_DIR and its like do not lead it astray."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(tree), *arguments], capture_output=True, text=True, timeout=30, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware(device: str = "cpu") -> dict[str, Any]:
    """The machine and the device that trained: platform, CPU model, cores that may be used, memory in bytes."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "device_name": _device_name(device),
    }


def _cpu_model() -> str:
    return _proc_value("cpuinfo", "model name") or platform.processor() or platform.machine()


def _proc_value(file: str, key: str) -> str | None:
    """The value of the first "key: value" line of a file below /proc; None where there is none (not Linux)."""
    try:
        match = re.search(rf"^{key}\s*:\s*(.+)$", Path("/proc", file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return _cpu_model() if device == "cpu" else device
    import torch

    return torch.cuda.get_device_name(device)


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most main memory that this process has held so far."""
    if high_water := _proc_value("self/status", "VmHWM"):  # Linux's getrusage counts the parent's memory at the fork
        return int(high_water.split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --------------------------------------------------------------------------------------------------- log


class RunLog:
    """A log of JSON objects, one a line, each written at once and whole.

    Opening repairs what an interruption left (a last line cut short) and, with `keep_until`, drops what came
    after that step: a resumed run goes on from a checkpoint and writes those lines again.
    """

    def __init__(self, path: Path, *, keep_until: int | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in read_log(path) if keep_until is None or line["step"] <= keep_until]
            write_text(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")

    def append(self, step: int, **values: Any) -> None:
        """Add a line. Numbers that are not finite become null, so that every line is strict JSON."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log up to the first that is not whole."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not (isinstance(line, dict) and isinstance(line.get("step"), int)):
            break
        lines.append(line)
    return lines


def _line(value: dict[str, Any]) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n"
