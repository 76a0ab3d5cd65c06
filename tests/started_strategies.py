"""Strategies that have started over a tiny network, for tests of their equations."""

from __future__ import annotations

from typing import Any

from ssldet.testing import SINGLE_LABEL, TINY_INFO
from ssldet.testing import tiny_detector as tiny_student


def started(kind: type[Any], state: str = "confident", **options: Any) -> tuple[Any, Any]:
    """A strategy that has started, and its student."""
    strategy = kind(kind.Config(**options))
    student = tiny_student(SINGLE_LABEL, frame_head=strategy.needs.frame_head, state=state)  # type: ignore[arg-type]
    strategy.start(student, TINY_INFO)
    return strategy, student
