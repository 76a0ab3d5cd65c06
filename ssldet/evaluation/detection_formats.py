"""Readers of detections in the forms that people have: each brings its file into `Rows`, unchecked.

| form | recognised by | rows |
|---|---|---|
| ours, wide or long | Parquet, or CSV with a header | see `ssldet.evaluation.detections` |
| AVA | CSV without a header | video, second, x1, y1, x2, y2 in 0-1, action from 1, score |
| ACT | .pkl | {video: {label from 0: rows of frame from 1, x1, y1, x2, y2, score, or tubes of them}} |
| YOWO | folder of Class_video_00001.txt | class (name, or number from 1), score, x1, y1, x2, y2 in pixels |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ssldet.contracts import DatasetFacts, Video
from ssldet.errors import DetectionsError
from ssldet.evaluation.detection_conventions import column_faults, read_labels, renamed
from ssldet.evaluation.detection_rows import NO_FRAME, SIDES, Rows

MAX_LABEL = 2**31
"""No data set has as many classes."""

COMMON = ("video", "frame", *SIDES)
KNOWN = (*COMMON, "confidence", "scores", "label", "score")


def read_rows(path: Path, facts: DatasetFacts, videos: Mapping[str, Video]) -> Rows:
    """The rows of a file or folder that is not Parquet.

    Raises:
        DetectionsError: the form is not known, or the file cannot be read as its form says.
    """
    if path.is_dir():
        return _read_folder(path, facts, videos)
    if path.suffix in (".pkl", ".pickle"):
        return _read_pickle(path, facts)
    if path.suffix in (".csv", ".txt"):
        with path.open(encoding="utf-8", errors="replace") as file:
            first_line = file.readline()
        if not first_line.strip():
            raise DetectionsError("the file is empty")
        return _read_csv(path, facts) if _is_header(first_line) else _read_ava(path, facts, videos)
    raise DetectionsError("not a form of detections that is known: .parquet, .csv, .pkl or a folder of .txt files")


def is_parquet(path: Path) -> bool:
    """By suffix or by the first bytes."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return path.suffix == ".parquet" or file.read(4) == b"PAR1"


def _is_header(line: str) -> bool:
    """Whether a first line names columns; AVA's rows have numbers from the second field on."""
    return not re.match(r"^[^,]*,\s*[\d.]+\s*,", line)


# ------------------------------------------------------------------------------------------ ours


def rows_of_table(
    table: pa.Table,
    facts: DatasetFacts,
    *,
    video: str | None = None,
    first_row: int = 0,
    csv: bool = False,
) -> Rows:
    """The rows of a table in the wide or the long form; of one `video`, where it is named.

    Raises:
        DetectionsError: names the columns that are missing, or one of another type.
    """
    table, faults = _our_columns(table, given_video=video is not None)
    codes_n, names = _names(table["video"]) if video is None else (np.zeros(len(table), np.int64), [video])
    boxes_n4 = np.stack([_numbers(table, side) for side in SIDES], axis=1)
    ones_n = np.ones(len(table), np.float32)
    wide, with_confidence = "scores" in table.column_names, "confidence" in table.column_names
    labels_n, named, unknown_labels = (None, False, ()) if wide else _labels(table["label"], facts)
    return Rows(
        names=names,
        codes_n=codes_n,
        numbers_n=_whole_numbers(table, "frame"),
        boxes_n4=boxes_n4,
        confidence_n=_numbers(table, "confidence") if with_confidence else ones_n,
        scores=_score_lists(table["scores"], facts.num_classes) if wide else _numbers(table, "score"),
        labels_n=labels_n,
        at_n=np.arange(first_row, first_row + len(table)),
        place=_csv_place if csv else _row_place,
        has_confidence=with_confidence,
        named=named,
        unknown_labels=unknown_labels,
        column_faults=faults,
        remarks=_column_remarks(table.column_names),
    )


def _row_place(row: int) -> str:
    return f"row {row} (from 0)"


def _csv_place(row: int) -> str:
    return f"line {row + 2}"


def _our_columns(table: pa.Table, *, given_video: bool) -> tuple[pa.Table, list[str]]:
    """The table with our names of columns, and what is to be edited where it has others.

    Raises:
        DetectionsError: names all columns that are missing, one that stands there twice, or two forms that are mixed.
    """
    columns = table.column_names
    wide = "scores" in columns
    needed = (*COMMON, "confidence", "scores") if wide else (*COMMON, "label", "score")
    others = renamed(columns, [column for column in needed if not (given_video and column == "video")])
    if missing := [column for column in needed if column not in {*columns, *others.values()}]:
        raise DetectionsError(_missing_columns(missing, needed, columns, wide))
    if wide and ("label" in columns or "score" in columns):
        raise DetectionsError("column 'scores' (wide form) stands beside 'label' or 'score' (long form): give one form")
    ours = [others.get(column, column) for column in columns]
    if doubled := [column for column in dict.fromkeys(ours) if column in KNOWN and ours.count(column) > 1]:
        raise DetectionsError(f"column {doubled[0]!r} stands there {ours.count(doubled[0])} times: give one of them")
    faults = column_faults(others)
    if not wide and "confidence" not in columns and (near := get_close_matches("confidence", columns, n=1, cutoff=0.8)):
        faults.append(f"column {near[0]!r} is not known: rename it if 'confidence' is meant")
    return table.rename_columns(ours), faults


def _missing_columns(missing: Sequence[str], needed: Sequence[str], columns: Sequence[str], wide: bool) -> str:
    what = f"column {missing[0]!r} is" if len(missing) == 1 else f"columns {', '.join(map(repr, missing))} are"
    near = {column: get_close_matches(column, columns, n=1) for column in missing}
    edits = "".join(f"; rename {names[0]!r} if {column!r} is meant" for column, names in near.items() if names)
    form = "wide" if wide else "long"
    return f"{what} missing{edits}; the {form} form has {', '.join(needed)}, and the file has {', '.join(columns)}"


def _column_remarks(columns: Sequence[str]) -> list[str]:
    further = [column for column in columns if column not in KNOWN and not column.startswith("__index")]
    return [f"columns that are not read: {', '.join(further)}"] if further else []


def _labels(column: pa.ChunkedArray, facts: DatasetFacts) -> tuple[np.ndarray, bool, Sequence[str]]:
    """Labels from numbers or names: the labels, whether they are names, and the names that are no class."""
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(value_type) or pa.types.is_large_string(value_type)):
        return _whole_numbers(pa.table({"label": column}), "label"), False, ()
    codes_n, words = _names(column)
    labels, named = read_labels(words, facts)
    numbers_k = np.array([*(labels[word] for word in words), 0], np.int64)
    return numbers_k[codes_n], named, [word for word in words if labels[word] < 0] if named else ()


def _names(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Code of each row and the names that the codes stand for; an empty field is the name ""."""
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or len(column) == 0):
        raise DetectionsError(f"column 'video' holds {value_type}, expected text")
    filled = pc.fill_null(pc.cast(column, pa.large_string()), "")
    encoded = pa.concat_arrays(filled.chunks or [pa.array([], pa.large_string())]).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float32, NaN where it is empty."""
    return _single(_cast(table, column, pa.float64()))


def _single(values: Any) -> np.ndarray:
    """Numbers as float32. Those that are too large become infinite, and are found unsound as such."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def _whole_numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as int64; NO_FRAME where it is empty or no whole number."""
    return _whole(_cast(table, column, pa.float64()))


def _whole(values_n: np.ndarray) -> np.ndarray:
    """Numbers as int64; NO_FRAME where one is not whole."""
    whole_n = np.isfinite(values_n) & (np.floor(values_n) == values_n) & (np.abs(values_n) < 2**53)
    return np.where(whole_n, values_n, NO_FRAME).astype(np.int64)


def _cast(table: pa.Table, column: str, to: pa.DataType) -> np.ndarray:
    try:
        return pc.cast(table[column], to, safe=False).to_numpy()
    except pa.ArrowException as error:
        raise DetectionsError(f"column {column!r} holds {table[column].type}, expected numbers ({error})") from error


def _score_lists(column: pa.ChunkedArray, num_classes: int) -> np.ndarray:
    """(n, k) float32; a row of NaN where a list is empty or has not one number per class."""
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (lists or pa.types.is_fixed_size_list(column.type)):
        raise DetectionsError(f"column 'scores' holds {column.type}, expected a list of {num_classes} numbers")
    lengths_n = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    right_n = (lengths_n == num_classes) & pc.is_valid(column).to_numpy()
    if len(right_n) and not right_n.any():
        raise DetectionsError(
            f"column 'scores' has {lengths_n[0]} numbers in a row, expected {num_classes}, one a class"
        )
    flat = pc.list_flatten(column if right_n.all() else column.filter(pa.array(right_n)))
    right_mk = pc.cast(flat, pa.float32(), safe=False).to_numpy().reshape(-1, num_classes)
    if right_n.all():
        return right_mk
    scores_nk = np.full((len(column), num_classes), np.nan, np.float32)
    scores_nk[right_n] = right_mk
    return scores_nk


def _read_csv(path: Path, facts: DatasetFacts) -> Rows:
    """Ours as CSV; `scores` is text such as "[0.1, 0.9]" (commas, semicolons or spaces)."""
    text = {"video": pa.string(), "scores": pa.string()}
    separator, decimal = _marks_of_csv(path)
    table = pacsv.read_csv(
        path,
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter=separator),
        convert_options=pacsv.ConvertOptions(column_types=text, strings_can_be_null=False, decimal_point=decimal),
    )
    if "scores" in table.column_names:
        index = table.column_names.index("scores")
        table = table.set_column(index, "scores", _parse_lists(table["scores"]))
    return rows_of_table(table, facts, csv=True)


def _marks_of_csv(path: Path) -> tuple[str, str]:
    """What separates the columns of a file with a header, and what the fraction of its numbers."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header, first = file.readline(), file.readline()
    separator = next((mark for mark in (",", ";", "\t") if mark in header), ",")
    return separator, "," if separator != "," and re.search(r"\d,\d", first) and "[" not in first else "."


def _parse_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    bare = pc.replace_substring_regex(column, r"^[\s\[\(]+|[\s\]\)]+$", "")
    try:
        return pc.split_pattern_regex(bare, r"[\s,;]+").cast(pa.list_(pa.float32()))
    except pa.ArrowInvalid as error:
        raise DetectionsError(f"column 'scores' holds something that is no list of numbers ({error})") from error


# ------------------------------------------------------------------------------------------ others'


def _long_rows(
    names: Sequence[str], codes_n: Any, numbers_n: Any, boxes_n4: Any, labels_n: Any, scores_n: Any, place: Any
) -> Rows:
    count = len(scores_n)
    return Rows(
        names=names,
        codes_n=np.asarray(codes_n, np.int64),
        numbers_n=np.asarray(numbers_n, np.int64),
        boxes_n4=_single(boxes_n4).reshape(-1, 4),
        confidence_n=np.ones(count, np.float32),
        scores=_single(scores_n),
        labels_n=np.asarray(labels_n, np.int64),
        at_n=np.arange(count),
        place=place,
    )


def _read_ava(path: Path, facts: DatasetFacts, videos: Mapping[str, Video]) -> Rows:
    """AVA's own form: no header, boxes as fractions of the frame, actions from 1, the score last."""
    columns = ["video", "frame", *SIDES, "label", "score"]
    types = {column: pa.float64() for column in columns} | {"video": pa.string()}
    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=columns, use_threads=False),
            convert_options=pacsv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise DetectionsError(f"not AVA's form ({', '.join(columns)}, no header): {error}") from error
    codes_n, names = _names(table["video"])
    sizes = [(videos[name].width, videos[name].height) if name in videos else (1, 1) for name in names] + [(1, 1)]
    scale_n4 = np.tile(np.array(sizes, np.float64), 2)[codes_n]
    boxes_n4 = np.stack([_cast(table, side, pa.float64()) for side in SIDES], axis=1) * scale_n4
    labels_n = _whole_numbers(table, "label") - 1
    numbers_n, scores_n = _whole_numbers(table, "frame"), _numbers(table, "score")
    return _long_rows(names, codes_n, numbers_n, boxes_n4, labels_n, scores_n, lambda row: f"line {row + 1}")


_FRAME_FILE = re.compile(r"(.+)_(\d+)\.txt")


def _read_folder(folder: Path, facts: DatasetFacts, videos: Mapping[str, Video]) -> Rows:
    """One text file per frame, named after class, video and frame, as YOWO writes them."""
    ids = {video.replace("/", "_"): video for video in videos}
    labels = {name: label for label, name in enumerate(facts.classes)}
    labels |= {str(label + 1): label for label in range(facts.num_classes)}
    names: dict[str, int] = {}
    rows: list[tuple[int, int, list[str]]] = []
    places: list[str] = []
    for path in sorted(folder.rglob("*.txt")):
        match = _FRAME_FILE.fullmatch(path.name)
        if match is None:
            raise DetectionsError(f"{path.name}: expected a name such as Class_video_00001.txt")
        code = names.setdefault(ids.get(match[1], match[1]), len(names))
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if text.strip():
                rows.append((code, int(match[2]), text.split()))
                places.append(f"{path.name}, line {line}")
    if not rows:
        raise DetectionsError("the folder has no rows in files such as Class_video_00001.txt")
    values, labels_n = _folder_values(rows, labels, places)
    codes_n, numbers_n = [row[0] for row in rows], [row[1] for row in rows]
    return _long_rows(list(names), codes_n, numbers_n, values[:, 1:], labels_n, values[:, 0], places.__getitem__)


def _folder_values(
    rows: Sequence[tuple[int, int, list[str]]], labels: Mapping[str, int], places: Sequence[str]
) -> tuple[np.ndarray, list[int]]:
    values = np.empty((len(rows), 5), np.float64)
    for row, (_, _, fields) in enumerate(rows):
        try:
            values[row] = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise DetectionsError(f"{places[row]}: expected class, score, x1, y1, x2, y2, got {fields}") from error
    return values, [labels.get(fields[0], -1) for _, _, fields in rows]


def _read_pickle(path: Path, facts: DatasetFacts) -> Rows:
    """ACT's nesting of video and label, with (n, 6) rows of frame, box and score or a list of such tubes."""
    from ssldet.util.safe_pickle import load

    content = load(path)
    if not isinstance(content, Mapping) or not content:
        raise DetectionsError("expected {video: {label: rows of frame, x1, y1, x2, y2, score}}")
    names = [str(name) for name in content]
    parts = [
        (code, label, rows)
        for code, by_label in enumerate(content.values())
        for label, item in _labelled(names[code], by_label)
        for rows in _act_rows(item, f"video {names[code]!r}, label {label}")
    ]
    if not parts:
        raise DetectionsError("the file has no rows")
    counts = [len(rows) for _, _, rows in parts]
    rows_n6 = np.concatenate([rows for _, _, rows in parts])
    codes_n, labels_n = (np.repeat([part[column] for part in parts], counts) for column in (0, 1))
    numbers_n = _whole(rows_n6[:, 0])
    places = [f"video {names[code]!r}, label {label}" for code, label in zip(codes_n, labels_n, strict=True)]
    return _long_rows(names, codes_n, numbers_n, rows_n6[:, 1:5], labels_n, rows_n6[:, 5], places.__getitem__)


def _labelled(name: str, by_label: Any) -> Iterator[tuple[int, Any]]:
    if not isinstance(by_label, Mapping):
        raise DetectionsError(f"video {name!r}: expected {{label: rows}}, got {type(by_label).__name__}")
    for label, item in by_label.items():
        if not isinstance(label, int | np.integer) or abs(int(label)) > MAX_LABEL:
            raise DetectionsError(f"video {name!r}: label {label!r:.80} is no number of a class; labels count from 0")
        yield int(label), item


def _act_rows(item: Any, place: str) -> Iterator[np.ndarray]:
    """(n, 6) arrays of an array, a list of arrays, or a list of (array, score of the tube)."""
    if not isinstance(item, np.ndarray | list | tuple):
        raise DetectionsError(f"{place}: expected rows or a list of tubes, got {type(item).__name__}")
    for part in [item] if isinstance(item, np.ndarray) else item:
        try:
            rows_nm = _numbers_of_tube(part)
        except (TypeError, ValueError, OverflowError) as error:
            raise DetectionsError(f"{place}: expected rows of numbers ({error})") from error
        if rows_nm.ndim != 2 or rows_nm.shape[1] != 6:
            raise DetectionsError(f"{place}: expected rows of frame, x1, y1, x2, y2, score, got shape {rows_nm.shape}")
        yield rows_nm


def _numbers_of_tube(part: Any) -> np.ndarray:
    """Rows as float64; with the score of their tube behind each, where it has one and they have none."""
    rows, score = part if isinstance(part, tuple) else (part, None)
    rows_nm = np.asarray(rows, np.float64)
    rows_nm = rows_nm.reshape(-1, 6) if rows_nm.size == 0 else rows_nm
    if score is not None and rows_nm.ndim == 2 and rows_nm.shape[1] == 5:
        return np.column_stack((rows_nm, np.full(len(rows_nm), float(score))))
    return rows_nm
