"""Activation checkpointing: what lies inside the blocks of a network is computed again in the backward pass, not kept.

Memory falls to the borders of blocks, for about a third more arithmetic; numbers stay what they are. A block is
computed again as it was computed first: in the same groups of batch normalisation, with the same random draws, and
without moving running statistics a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ssldet.nn.batch_norm import groups_now, normalised_in_groups, statistics_kept


def recompute_blocks(network: nn.Module) -> int:
    """Let the blocks of a network be computed again in its backward pass; how many there are. Names stay.

    Blocks are the composite members of `nn.Sequential`, the outermost ones.
    """
    inner = list(blocks(network))
    for block in inner:  # an attribute of the instance goes before the method of its class
        if not _is_recomputed(block):
            block.forward = partial(_forward, block, block.forward)
    return len(inner)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost composite members of sequences."""
    for child in network.children():
        if isinstance(network, nn.Sequential) and any(True for _ in child.children()):
            yield child
        else:
            yield from blocks(child)


def _is_recomputed(block: nn.Module) -> bool:
    forward = vars(block).get("forward")
    return isinstance(forward, partial) and forward.func is _forward


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)
    contexts = partial(_contexts, block, groups_now())
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module, groups: int) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _OnceMore(block, groups)


class _OnceMore(AbstractContextManager[None]):
    """What a block is computed in again, in each backward pass, when the groups of its first time are long over."""

    def __init__(self, block: nn.Module, groups: int) -> None:
        self._block, self._groups = block, groups

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(statistics_kept(self._block))
        self._stack.enter_context(normalised_in_groups(self._block, self._groups))

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
