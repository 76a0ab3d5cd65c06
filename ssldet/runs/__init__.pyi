from .external import ExternalRecord as ExternalRecord
from .external import find_externals as find_externals
from .external_scoring import record_external as record_external
from .network import TrainedDetector as TrainedDetector
from .network import trained_file as trained_file
from .network import trained_run as trained_run
from .planning import Plan as Plan
from .planning import plan as plan
from .record import Record as Record
from .runner import Interrupted as Interrupted
from .runner import Reporter as Reporter
from .runner import execute as execute
from .runner import run as run
from .store import RunEntry as RunEntry
from .store import find_run as find_run
from .store import find_runs as find_runs

__all__ = [
    "ExternalRecord",
    "Interrupted",
    "Plan",
    "Record",
    "Reporter",
    "RunEntry",
    "TrainedDetector",
    "execute",
    "find_externals",
    "find_run",
    "find_runs",
    "plan",
    "record_external",
    "run",
    "trained_file",
    "trained_run",
]
