"""A report as a folder of pages that open from a file: leaderboard, tables, runs, comparisons. Nothing is fetched from
elsewhere; what a page says is in the page, and what is missing is named."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
