from .local import run_grid as run_grid

__all__ = [
    "run_grid",
]
