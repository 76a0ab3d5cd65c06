"""Pure maths of boxes, tubes and rankings: functions of arrays that know neither files nor plugins. An equation or a
protocol that several modules share belongs here."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
