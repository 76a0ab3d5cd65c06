"""How the tasks of a grid are carried out. `local`: worker processes on this machine; `slurm`: jobs of a cluster."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
