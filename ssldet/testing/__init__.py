"""The contract suites that every plugin keeps, as its author runs them, and the small made-up networks and batches that
they use. See `suite` for how."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
