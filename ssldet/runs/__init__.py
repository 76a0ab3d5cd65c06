"""One run: its file names, its plan and cost, the first stage that it may share, the runner, and the record, log and
provenance that it leaves. What concerns many runs is `benchmark`."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
