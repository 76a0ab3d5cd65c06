"""How loops are compiled, and whether what numba made of them can be kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """numba's `njit` without the interpreter's lock, kept on disk where a folder for it can be written.

    Elsewhere (an installation that cannot be written, and no home folder) each process compiles anew, in some seconds;
    NUMBA_CACHE_DIR names a folder.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kept: Callable[..., Any]
        try:
            kept = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba's "no locator available"
            kept = njit(nogil=True, **options)(function)
        return kept

    return decorate


def folder_of(function: Callable[..., Any]) -> str | None:
    """Where numba keeps what it makes of a function of `compiled`; None where it cannot."""
    folder: str | None = function.stats.cache_path  # type: ignore[attr-defined]
    return folder
