from .cells import Settings as Settings
from .grid import GridRequest as GridRequest
from .grid import plan_grid as plan_grid
from .spec import paper as paper
from .spec import specs as specs
from .tuned_settings import TunedSettings as TunedSettings
from .tuned_settings import read_tuned as read_tuned
from .tuning import TuneRequest as TuneRequest
from .tuning import plan_tuning as plan_tuning

__all__ = [
    "GridRequest",
    "Settings",
    "TuneRequest",
    "TunedSettings",
    "paper",
    "plan_grid",
    "plan_tuning",
    "read_tuned",
    "specs",
]
