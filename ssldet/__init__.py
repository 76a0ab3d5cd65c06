"""ssldet: a benchmark suite for semi-supervised spatio-temporal action detection.

Exports are imported on first use, so that `import ssldet` stays quick and free of torch; `__init__.pyi` lists them.
"""

from __future__ import annotations

import lazy_loader

from ssldet._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
