"""From a trained detector to numbers: detections of whole videos, the file that holds them, and scoring such a file.
Protocols are metric plugins."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
