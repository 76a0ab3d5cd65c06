from .cells import Settings as Settings
from .grid import GridRequest as GridRequest
from .grid import plan_grid as plan_grid
from .spec import paper as paper
from .spec import specs as specs

__all__ = [
    "GridRequest",
    "Settings",
    "paper",
    "plan_grid",
    "specs",
]
