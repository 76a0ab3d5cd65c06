from .run_selection import gather as gather
from .tables import build as build

__all__ = [
    "build",
    "gather",
]
