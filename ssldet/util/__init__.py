"""Files written whole, the cache folder, freed memory, graceful interrupts, pickles read without code. Nothing here
knows of detection; what only one package needs belongs into that package."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
