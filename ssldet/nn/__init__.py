"""Modules that several networks are made of: fusion with channel attention, convolutions in time, the frame head,
parts that are not trained. Nothing here knows of losses, files or data sets beyond their facts; a network's own layers
belong to its plugin."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
