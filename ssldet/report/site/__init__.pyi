from .build import SiteSummary as SiteSummary
from .build import build_site as build_site

__all__ = [
    "SiteSummary",
    "build_site",
]
