from .run_selection import collect_runs as collect_runs
from .tables import build_table as build_table

__all__ = [
    "build_table",
    "collect_runs",
]
