"""Frames of a store as the tests of workers need them: light, since workers import it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssldet.errors import DataError


@dataclass
class EndsTheProcess:
    """The frames of a store; whoever reads those of `video` ends with exit code 3."""

    frames: Callable[[str], np.ndarray]
    video: str

    def __call__(self, video: str) -> np.ndarray:
        if video == self.video:
            os._exit(3)
        return self.frames(video)


@dataclass
class AreAbsent:
    """The frames of a store, in which those of `video` are missing."""

    frames: Callable[[str], np.ndarray]
    video: str

    def __call__(self, video: str) -> np.ndarray:
        if video == self.video:
            raise DataError(f"no frames of {video} in the store")
        return self.frames(video)


@dataclass
class CountsThreads:
    """The frames of a store, every pixel the number of threads of the process that reads them."""

    frames: Callable[[str], np.ndarray]

    def __call__(self, video: str) -> np.ndarray:
        import torch

        return np.full_like(self.frames(video), torch.get_num_threads())
