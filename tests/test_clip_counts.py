"""What a strategy costs: the clips that go through the student with gradients are counted, and foreseen."""

from __future__ import annotations

import pytest
import torch
from helpers import FACTS
from torch import Tensor, nn

from ssldet import plugins
from ssldet.contracts import Strategy
from ssldet.testing.tiny import TINY_INFO, TINY_PROGRESS, tiny_batch, tiny_detector
from ssldet.training.loop import gradient_clips

STRATEGIES = sorted(plugin.name for plugin in plugins.available("strategy") if plugin.distribution == "ssldet")


@pytest.mark.parametrize("name", STRATEGIES)
def test_all_clips_with_gradients_are_counted(name: str) -> None:
    plugin: type[Strategy] = plugins.load("strategy", name)
    strategy = plugin(plugin.Config())
    student, batch = tiny_detector(FACTS, frame_head=strategy.needs.frame_head), tiny_batch(FACTS, strategy.needs)
    seen = []

    def count(_: nn.Module, clips: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            seen.append(len(clips[0]))

    student.register_forward_pre_hook(count)
    strategy.start(student, TINY_INFO)
    result = strategy.losses(batch, student, TINY_PROGRESS)
    unlabelled = len(batch.unlabelled.strong_bcthw) if batch.unlabelled else 0
    assert sum(seen) == gradient_clips(batch) + result.extra_clips > 0
    assert result.extra_clips == strategy.extra_clips(len(batch.labelled.clips_bcthw), unlabelled)
