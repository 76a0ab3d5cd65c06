"""From records to what people read: which runs stand for a cell, tables, figures, frames with boxes, and documents in
Markdown, LaTeX, HTML and CSV. Nothing here trains or scores."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
