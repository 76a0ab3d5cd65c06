"""Tables of own videos, separated by commas, semicolons or tabs.

Boxes: video,frame,x1,y1,x2,y2,label[,tube], frames from 1. Groups: video,group, what each video was cut from.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssldet.errors import DataError
from ssldet_datasets.own_records import (
    Annotation,
    OwnBox,
    OwnVideo,
    VideoNames,
    box_edges,
    class_name,
    frame_number,
    whole_number,
)

COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "label")
EDGES = COLUMNS[2:6]
GROUP_COLUMNS = ("video", "group")


def read_csv(path: Path, text: str, names: VideoNames) -> Annotation:
    """Rows under a heading; one without box and label is background. Other columns are let be.

    Raises:
        DataError: names line and column of what is wrong.
    """
    if "Exported using VGG Image Annotator" in text[:500] or "# CSV_HEADER" in text[:2000]:
        raise DataError(f"{path}: VIA's CSV has no frames, only seconds of files; save the project as JSON instead")
    videos: Annotation = {}
    separator = _separator(text)
    heading = f"{separator.join(COLUMNS)}[{separator}tube]"
    for line, row in _rows(path, text, separator, COLUMNS, heading):
        _add_row(videos, row, f"{path}, line {line}", path, names, decimal_comma=separator != ",")
    return videos


def read_groups(path: Path, text: str, names: VideoNames) -> dict[str, str]:
    """Video -> the recording that it was cut from. Other columns are let be.

    Raises:
        DataError: names line and column of what is wrong; a video is in two groups.
    """
    groups: dict[str, str] = {}
    separator = _separator(text)
    for line, row in _rows(path, text, separator, GROUP_COLUMNS, separator.join(GROUP_COLUMNS)):
        where = f"{path}, line {line}"
        video_id, group = names.id_of(row["video"], path), _group_name(row["group"], where)
        if groups.setdefault(video_id, group) != group:
            raise DataError(f"{where}: {video_id} is in group {groups[video_id]!r} already, and here in {group!r}")
    return groups


def _group_name(text: str, where: str) -> str:
    if not text or len(text) > 200:
        raise DataError(f"{where}, column group: expected a name, got {text!r:.40}; leave out videos that stand alone")
    return unicodedata.normalize("NFC", text)


def _separator(text: str) -> str:
    """What parts the heading: , or ; (where commas are decimal) or a tab."""
    head = text.lstrip().split("\n", 1)[0]
    return max(",;\t", key=head.count)


def _rows(
    path: Path, text: str, separator: str, columns: Sequence[str], expected: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row by column), blank rows left out; `expected` is the heading in words.

    Raises:
        DataError: not a CSV, no such columns, or a row that is not as long as the heading.
    """
    try:
        yield from _cells_by_column(path, text, separator, columns, expected)
    except csv.Error as error:
        raise DataError(f"{path}: not a sound CSV ({error})") from error


def _cells_by_column(
    path: Path, text: str, separator: str, columns: Sequence[str], expected: str
) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(text.splitlines(), delimiter=separator, strict=True)
    heading = [name.strip().lower() for name in next(reader, [])]
    _check_heading(path, heading, columns, expected)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(heading):
            raise DataError(f"{path}, line {reader.line_num}: {_ragged(cells, heading, separator)}")
        yield reader.line_num, {name: cell.strip() for name, cell in zip(heading, cells, strict=True)}


def _check_heading(path: Path, heading: Sequence[str], columns: Sequence[str], expected: str) -> None:
    if missing := [name for name in columns if name not in heading]:
        raise DataError(f"{path}, line 1: no column {', '.join(missing)}; expected {expected}")
    if twice := sorted({name for name in heading if name and heading.count(name) > 1}):
        raise DataError(f"{path}, line 1: column {twice[0]} is there twice")


def _ragged(cells: Sequence[str], heading: Sequence[str], separator: str) -> str:
    what = f"{len(cells)} cells, and the heading has {len(heading)}"
    if len(cells) < len(heading):
        return f"{what}; {heading[len(cells)]} is missing (a row without box still has its separators)"
    more = f"{what}; too many from {cells[len(heading)]!r:.40} in cell {len(heading) + 1} on"
    return more + ("; write decimals with a point, or separate by ;" if separator == "," else "")


def _add_row(
    videos: Annotation, row: Mapping[str, str], where: str, path: Path, names: VideoNames, *, decimal_comma: bool
) -> None:
    video = videos.setdefault(names.id_of(row["video"], path), OwnVideo())
    frame = frame_number(row["frame"], f"{where}, column frame", first=1)
    if not any(row[name] for name in COLUMNS[2:]):
        video.frames.add(frame)
        return
    tube = whole_number(row.get("tube") or -1, f"{where}, column tube", "tube", least=-1)
    edges = [_number(row[name], f"{where}, column {name}", decimal_comma) for name in EDGES]
    label = class_name(row["label"], f"{where}, column label")
    video.add(OwnBox(frame, label, tube, box_edges(edges, where)))


def _number(text: str, where: str, decimal_comma: bool) -> float:
    """A number; with a decimal comma where commas do not separate. Raises DataError."""
    comma = re.fullmatch(r"-?\d+,\d+", text) is not None
    try:
        return float(text.replace(",", ".") if comma and decimal_comma else text)
    except ValueError:
        hint = "; write decimals with a point" if comma else ""
        raise DataError(f"{where}: expected a number, got {text!r:.40}{hint}") from None
