"""ssldet: a benchmark suite for semi-supervised spatio-temporal action detection."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ssldet._version import __version__

if TYPE_CHECKING:
    from ssldet.datasets import load_dataset
    from ssldet.detector import build_detector
    from ssldet.runner import run

__all__ = ["__version__", "build_detector", "load_dataset", "run"]

_HOMES = {"build_detector": "ssldet.detector", "load_dataset": "ssldet.datasets", "run": "ssldet.runner"}
"""Exports that are imported on first use, so that `import ssldet` stays quick and free of torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
