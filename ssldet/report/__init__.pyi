from .paper_figures import paper_figure as paper_figure
from .paper_tables import table as table
from .run_selection import collect_runs as collect_runs
from .tables import build_table as build_table

__all__ = [
    "build_table",
    "collect_runs",
    "paper_figure",
    "table",
]
