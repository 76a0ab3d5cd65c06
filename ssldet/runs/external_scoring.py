"""Score somebody's detections and keep the numbers under a name: what `ssldet evaluate --record` calls.

record_external(name, file, dataset, ...)   as `evaluate`, with a record and per-video matches in the results' folder
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ssldet.contracts import Dataset
from ssldet.errors import RequestError
from ssldet.evaluation.detection_conventions import FileConventions
from ssldet.evaluation.evaluator import Evaluation, Metrics, evaluate
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.runs import layout
from ssldet.runs.external import SHOWN_DIGITS, External, ExternalRecord, is_external, read_external
from ssldet.util.files import content_hash, file_hash, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9]|[A-Za-z0-9]")

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What Windows takes for a device."""


def record_external(
    name: str,
    detections: str | Path,
    dataset: Dataset,
    metrics: Metrics | None = None,
    *,
    results: str | Path = layout.RESULTS,
    ratio: float | None = None,
    seed: int | None = None,
    split: int = 1,
    videos: Iterable[str] | None = None,
    lenient: bool = False,
    conventions: FileConventions | None = None,
    replace: bool = False,
) -> tuple[External, Evaluation]:
    """Score a file of detections as `evaluate` does, and keep its numbers and per-video matches under a name.

    The same call again changes nothing.

    Args:
        name: what tables call it; letters, digits, ".", "_" and "-".
        dataset: the opened data set whose truth counts.
        results: the folder of results, in which `external/NAME` is written.
        ratio, seed: what its author states; None: not stated.
        replace: whether what is kept under this name may be replaced.
        metrics, split, videos, lenient, conventions: as of `evaluate`.

    Raises:
        RequestError: the name is no good, or other detections or numbers are kept under it. The others as `evaluate`.
    """
    check_name(name)
    path, folder = Path(detections), Path(results) / layout.EXTERNAL / name
    kept = _kept(folder, name) if not replace else None
    digest = detections_hash(path) if path.exists() else ""
    if kept is not None and digest and kept.detections != digest:
        raise RequestError(_taken(name, folder, f"detections {kept.short_hash}, and these are {digest[:SHOWN_DIGITS]}"))
    listed = None if videos is None else tuple(sorted(set(videos)))
    evaluation = evaluate(path, dataset, metrics, split=split, videos=listed, lenient=lenient, conventions=conventions)
    record = ExternalRecord(
        name=name,
        source=path.resolve().name,
        detections=digest,
        dataset=type(dataset).facts.name,
        dataset_options=dataset.config.model_dump(mode="json"),
        data_fingerprint=dataset.fingerprint(),
        split=split,
        videos=listed,
        evaluated=len(evaluation.videos),
        ratio=ratio,
        seed=seed,
        metrics=evaluation.results,
        reading={**asdict(conventions or FileConventions()), "lenient": lenient},
        dropped=dict(evaluation.dropped),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if kept is None:
        record = _write(folder, record, evaluation, dataset)
    else:
        _check_same(folder, kept, record)
        record = kept
    return External(name, folder, record), evaluation


def check_name(name: str) -> None:
    """Raises RequestError where a name is no good: as a file's on any system, or since it reads like a run's."""
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise RequestError(
            f"--record {name!r}: expected a name of up to 64 letters, digits, '.', '_' and '-' that is a folder's name "
            "on every system, such as moc-2020"
        )
    if layout.RUN_ID.fullmatch(name) or layout.RUN_FOLDER.fullmatch(name):
        raise RequestError(
            f"--record {name!r} reads like the id or folder of a run; add what it is, such as moc-{name[:8]}"
        )


def detections_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder that of the names and hashes of its files."""
    if path.is_file():
        return file_hash(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return content_hash([(each.relative_to(path).as_posix(), file_hash(each)) for each in files])


def _kept(folder: Path, name: str) -> ExternalRecord | None:
    """What is kept under a name. Raises RequestError where it is damaged, or of a name in other letters."""
    if not is_external(folder):
        return None
    found = read_external(folder)
    if found.record is None:
        raise RequestError(f"{found.problem}; --replace writes it anew")
    if found.record.name != name:  # file systems may take Moc and moc for one
        raise RequestError(_taken(name, folder, f"what is called {found.record.name}"))
    return found.record


def _taken(name: str, folder: Path, what: str) -> str:
    return f"{folder} holds {what}; give --replace to have these instead, or another name than {name}"


def _check_same(folder: Path, kept: ExternalRecord, asked: ExternalRecord) -> None:
    """Raises RequestError where something else was kept than what is asked for now."""
    one, other = (each.model_dump(mode="json", exclude={"files", "ssldet", "finished"}) for each in (kept, asked))
    differs = [key for key in one if one[key] != other[key]]
    if differs:
        long = ("metrics", "videos")
        words = ", ".join(key if key in long else f"{key} {one[key]!r} instead of {other[key]!r}" for key in differs)
        raise RequestError(_taken(kept.name, folder, f"the same detections with other {words}"))


def _write(folder: Path, record: ExternalRecord, evaluation: Evaluation, dataset: Dataset) -> ExternalRecord:
    """The matches, then the record, whose presence says that all is there."""
    (folder / layout.EXTERNAL_RECORD).unlink(missing_ok=True)
    (folder / layout.PER_VIDEO).unlink(missing_ok=True)
    if evaluation.matches:
        kept = per_video(dataset.facts, record.split, evaluation.videos, evaluation.matches)
        write_per_video(folder / layout.PER_VIDEO, kept)
    whole = record.model_copy(update={"files": _files(folder)})
    write_json(folder / layout.EXTERNAL_RECORD, whole)
    return whole


def _files(folder: Path) -> dict[str, str]:
    path = folder / layout.PER_VIDEO
    return {layout.PER_VIDEO: file_hash(path)} if path.is_file() else {}
