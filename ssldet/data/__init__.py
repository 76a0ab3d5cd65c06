"""From files on disk to the batches of a step: opening data sets, splits of labels, decoding, the store of decoded
frames, views, sampling, targets. Everything before the detector belongs here; what one data set knows is its plugin."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
