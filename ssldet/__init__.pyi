from ._version import __version__ as __version__
from .data.datasets import load_dataset as load_dataset
from .detector.build import build_detector as build_detector
from .evaluation.evaluator import evaluate as evaluate
from .report.comparison import compare as compare
from .report.frames import load_records as load_records
from .report.paper_tables import table as table
from .runs.runner import run as run

__all__ = ["__version__", "build_detector", "compare", "evaluate", "load_dataset", "load_records", "run", "table"]
