"""The log of a run: JSON objects, one a line, beside its record."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ssldet.util.files import plain, write_text

MAPPINGS = ("losses", "parts", "gradient_norms", "pseudo_labels", "thresholds", "validation")
"""What a line has under these names, where it has it, are numbers by name."""


class RunLog:
    """A log of JSON objects, one a line, each written at once and whole.

    Opening repairs what an interruption left (a last line cut short) and, with `keep_until`, drops what came
    after that step: a resumed run goes on from a checkpoint and writes those lines again.
    """

    def __init__(self, path: Path, *, keep_until: int | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in read_log(path) if keep_until is None or line["step"] <= keep_until]
            write_text(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")

    def append(self, step: int, **values: Any) -> None:
        """Add a line. Numbers that are not finite become null, so that every line is strict JSON."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log up to the first that is not whole."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not _is_line(line):
            break
        lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    """Whether a value has the form of a line: readers of logs go by that."""
    if not (isinstance(line, dict) and type(line.get("step")) is int):
        return False
    mappings = [line[name] for name in MAPPINGS if line.get(name) is not None]
    if not all(isinstance(value, dict) for value in mappings):
        return False
    validation, warnings = line.get("validation") or {}, line.get("warnings") or []
    return all(isinstance(scores, dict) for scores in validation.values()) and isinstance(warnings, list)


def _line(value: dict[str, Any]) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n"
