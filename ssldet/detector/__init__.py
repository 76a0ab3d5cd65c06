"""The network's side: detectors, their heads and losses, what comes of decoded boxes, weights files, and how a
detector is built from names. Networks themselves are backbone plugins."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
