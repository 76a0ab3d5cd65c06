from .planning import Plan as Plan
from .planning import plan as plan
from .record import Record as Record
from .runner import Interrupted as Interrupted
from .runner import Reporter as Reporter
from .runner import execute as execute
from .runner import run as run
from .store import RunEntry as RunEntry
from .store import find_runs as find_runs

__all__ = [
    "Interrupted",
    "Plan",
    "Record",
    "Reporter",
    "RunEntry",
    "execute",
    "find_runs",
    "plan",
    "run",
]
