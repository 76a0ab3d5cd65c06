from .choice import make_executor as make_executor
from .local import run_grid as run_grid

__all__ = [
    "make_executor",
    "run_grid",
]
