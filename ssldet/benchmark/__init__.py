"""Many runs: the tables' specifications, the cells that they are made of, the grid that plans them, and the executors
that carry them out."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
