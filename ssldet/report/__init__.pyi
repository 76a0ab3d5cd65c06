from .paper_figures import paper_figure as paper_figure
from .paper_tables import table as table
from .prediction import Predictions as Predictions
from .prediction import PredictOptions as PredictOptions
from .prediction import inputs_of as inputs_of
from .prediction import predict as predict
from .run_selection import collect_runs as collect_runs
from .tables import build_table as build_table

__all__ = [
    "PredictOptions",
    "Predictions",
    "build_table",
    "collect_runs",
    "inputs_of",
    "paper_figure",
    "predict",
    "table",
]
