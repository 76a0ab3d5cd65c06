"""The embedded data set `synthetic`: figures that act, generated on first use."""

from ssldet_datasets.synthetic.dataset import Synthetic

__all__ = ["Synthetic"]
