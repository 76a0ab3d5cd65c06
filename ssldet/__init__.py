"""ssldet: a benchmark suite for semi-supervised spatio-temporal action detection."""

from ssldet._version import __version__

__all__ = ["__version__"]
