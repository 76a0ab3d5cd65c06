"""Tensors in records, and waiting for the device that they are on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value: one, or fields of dataclasses within one another."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
