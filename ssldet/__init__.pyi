from ._version import __version__ as __version__
from .data.datasets import load_dataset as load_dataset
from .detector.build import build_detector as build_detector
from .runs.runner import run as run

__all__ = ["__version__", "build_detector", "load_dataset", "run"]
