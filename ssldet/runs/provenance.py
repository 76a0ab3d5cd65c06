"""Where a number comes from: versions and commits of all that can move it, the machine, the memory that it took."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import psutil

from ssldet import plugins

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

COMPARED = ("ssldet", "torch")
"""Distributions that the runs of one cell, and their first stages, should have in one version."""


def provenance() -> dict[str, Any]:
    """Python's version, and version and origin of every distribution that can move a number, plugins included.

    `distributions[name]` has `version`; one installed from a source tree also `commit` (None outside git) and
    `dirty`: the tree of the distribution itself, never that of the folder the user stands in.
    """
    moving = [kind for kind in plugins.KINDS if kind not in ("executor", "tracker")]  # these move no number
    offered = {plugin.distribution for kind in moving for plugin in plugins.available(kind)}
    return {
        "python": platform.python_version(),
        "distributions": dict(_origins(dict.fromkeys([*CORE_DISTRIBUTIONS, *sorted(offered)]))),
    }


def changed_distributions(then: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """Distributions that a recorded provenance has in another version, or from another source, than runs now.

    Args:
        then: what `provenance` gave.
        names: distributions to compare; all that are installed now where it is None.

    Returns:
        name -> what was recorded of it; None where it was not there.
    """
    before, now = then.get("distributions", {}), provenance()["distributions"]
    return {name: before.get(name) for name in names or now if before.get(name) != now.get(name)}


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
            ["git", "-C", os.fspath(tree), *arguments],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
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
