"""How the tasks of a grid are carried out: in processes of this machine (`local`), as jobs of a Slurm cluster (`slurm`)
or on a Ray cluster (`ray`).
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
