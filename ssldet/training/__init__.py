"""The loop, and what strategies are made of: loss terms, teachers, pseudo-labels; checkpoints, and the diagnostics of
pseudo-labels. What only one strategy needs is its plugin."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
