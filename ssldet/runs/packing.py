"""A finished run in one file, for others: `pack(entry, path)` and `unpack(path, results)`.

A pack is a zip archive of what a run keeps, and of pack.json, which has name, size and SHA-256 of each. All of it is
stored, not compressed: it weighs what it unpacks to, so that no small file fills a disk. Nothing in it is executed:
weights are safetensors, all else is JSON, YAML and Parquet, and what it names is looked up among what is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ssldet._version import __version__
from ssldet.errors import PackError, RequestError
from ssldet.runs import layout
from ssldet.runs.listing import check_files
from ssldet.runs.network import TrainedDetector, network_of, read_network, trained_run, write_network
from ssldet.runs.record import Record, is_as_written
from ssldet.runs.rescoring import what_is_lost
from ssldet.runs.store import RunEntry, find_run
from ssldet.util.files import begins_as_zip, file_hash, plain, replacing

FORM = 1
"""Of packs; it grows when an older version could not read one."""

CONTENTS = "pack.json"
NEEDED = (layout.RECORD, layout.CONFIG, layout.SPLIT, layout.NETWORK, layout.WEIGHTS, layout.DETECTIONS)
PACKED = (*NEEDED, layout.LOG, layout.PER_VIDEO)

LARGEST_CONTENTS = 1 << 20
"""Bytes of pack.json, which is read whole."""

UNSOUND = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises over an archive that is not as it should be."""

CHUNK = 1 << 20
FOLDER_NAME = re.compile(r"[\w.,=+-]{1,200}")

Outcome = Literal["unpacked", "there already"]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: int


class _Contents(BaseModel):
    """pack.json: `folder` is what the run's folder was called, `ssldet` the version that packed it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal[1] = 1
    run: str
    folder: str
    ssldet: str
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What became of a pack: the run's folder, and whether it was there already."""

    run: str
    folder: Path
    outcome: Outcome


# ------------------------------------------------------------------------------------------------------ packing


def pack(entry: RunEntry, path: Path, data_root: Path | None = None) -> Path:
    """Write a finished run into one file, whole or not at all.

    Args:
        entry: the run.
        path: of the file.
        data_root: the run's data; see `network_of`.

    Raises:
        PackError: the run is not finished, or lacks a file that it left, or one is not as it was left.
        RequestError: there is such a file, or nothing says what its network is.
    """
    if entry.status != "done" or entry.record is None:
        raise PackError(f"run {entry.id} is {entry.status}, and finished runs are packed: {entry.problem}")
    if path.exists():
        raise RequestError(f"{path} exists; delete it, or name another file with --out")
    _check_whole(entry, entry.record)
    with tempfile.TemporaryDirectory() as made:
        files = {name: file for name in PACKED if (file := entry.folder / name).is_file()}
        if layout.NETWORK not in files:  # of an earlier version
            files[layout.NETWORK] = Path(made) / layout.NETWORK
            write_network(files[layout.NETWORK], network_of(entry, data_root))
        _write(path, entry, files)
    return path


def _check_whole(entry: RunEntry, record: Record) -> None:
    wrong = {name: state for name, state in check_files(entry).items() if state != "whole"}
    wrong |= {name: "absent" for name in NEEDED if name != layout.NETWORK and not (entry.folder / name).is_file()}
    if wrong:
        words = ", ".join(f"{name} is {state}" for name, state in wrong.items())
        lost = what_is_lost(record, entry.folder, entry.id) or "make the run again"
        raise PackError(f"run {entry.id} is not whole, and cannot be packed: {words}; {lost}")


def _write(path: Path, entry: RunEntry, files: Mapping[str, Path]) -> None:
    about = {name: _File(sha256=file_hash(file), bytes=file.stat().st_size) for name, file in files.items()}
    contents = _Contents(run=entry.id, folder=_folder_name(entry), ssldet=__version__, files=about)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(CONTENTS), json.dumps(plain(contents), indent=2) + "\n")
        for name, file in files.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member, file.open("rb") as source:
                while chunk := source.read(CHUNK):
                    member.write(chunk)


def _folder_name(entry: RunEntry) -> str:
    """What the folder is called, if it is called as runs are."""
    if layout.RUN_FOLDER.fullmatch(entry.folder.name) and FOLDER_NAME.fullmatch(entry.folder.name):
        return entry.folder.name
    return f"run-split{entry.experiment.get('split', 1)}-seed{entry.experiment.get('seed', 0)}-{entry.id}"


# ---------------------------------------------------------------------------------------------------- unpacking


def unpack(path: Path, results: Path) -> Unpacked:
    """Put the run of a pack into a results folder, whole or not at all. The same pack again changes nothing.

    Raises:
        PackError: it is no pack, of a later version, damaged, or holds what no pack holds; or another run of this id
            is there. Nothing is left then.
    """
    with _opened(path) as (archive, contents):
        target = results / contents.folder
        if target.exists():
            return _there_already(path, contents, target)
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=results) as temporary:
            folder = Path(temporary) / contents.folder
            folder.mkdir()
            for name, about in contents.files.items():
                _extract(path, archive, name, about, folder / name)
            _check_run(path, contents, folder)
            folder.rename(target)
    return Unpacked(contents.run, target, "unpacked")


def packed_detector(path: Path) -> TrainedDetector:
    """The detector of a packed run, which is unpacked for the moment.

    Raises:
        PackError: as `unpack`. WeightsError, RequestError: as `trained_run`.
    """
    with tempfile.TemporaryDirectory(prefix="ssldet-pack-") as temporary:
        unpacked = unpack(path, Path(temporary))
        return trained_run(find_run(f"{unpacked.folder}{os.sep}", ()))


def is_pack(name: str) -> bool:
    """Whether whoever names a run means a file."""
    return name.endswith(".zip") or (Path(name).is_file() and begins_as_zip(Path(name)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, _Contents]]:
    """The archive, every member of which has been looked at."""
    if not path.is_file():
        raise PackError(f"no packed run at {path}; `ssldet runs pack RUN` makes one")
    with ExitStack() as open_files:
        try:
            archive = open_files.enter_context(zipfile.ZipFile(path))
            contents = _checked_contents(path, archive)
        except (*UNSOUND, OSError) as error:  # a place in the file that cannot be
            raise PackError(f"{path} is no sound zip archive ({error}); get it again") from error
        try:
            yield archive, contents
        except UNSOUND as error:
            raise PackError(f"{path} is no sound zip archive ({error}); get it again") from error


def _checked_contents(path: Path, archive: zipfile.ZipFile) -> _Contents:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise PackError(f"{path} holds a file twice, which no pack does; it is refused")
    for member in members.values():
        _check_member(path, member)
    if sum(member.file_size for member in members.values()) > path.stat().st_size:
        raise PackError(f"{path} claims to hold more than it weighs; it is refused")
    if CONTENTS not in members or members[CONTENTS].file_size > LARGEST_CONTENTS:
        raise PackError(
            f"{path} has no {CONTENTS} of usual size: it is no packed run; `ssldet runs pack RUN` makes one"
        )
    contents = _read_contents(path, archive.read(CONTENTS))
    if missing := [name for name in NEEDED if name not in members]:
        raise PackError(f"{path} lacks {', '.join(missing)}; it is no whole run: get it again")
    if others := members.keys() ^ {CONTENTS, *contents.files}:
        raise PackError(f"{path} and its {CONTENTS} differ in {', '.join(sorted(others))}; it is refused")
    return contents


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.filename not in (CONTENTS, *PACKED) or kind not in (0, stat.S_IFREG):
        raise PackError(
            f"{path} holds {member.filename!r:.80}; a pack holds plain files called {', '.join((CONTENTS, *PACKED))}"
            "; it is refused, and nothing was unpacked"
        )
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or member.flag_bits & 1:
        raise PackError(
            f"{path}: {member.filename} is compressed or encrypted, which no pack is: a small file could fill the "
            "disk; it is refused. Ask for the file that `ssldet runs pack` wrote"
        )


def _read_contents(path: Path, text: bytes) -> _Contents:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{path}: its {CONTENTS} is no sound JSON ({error}); get it again") from error
    form = content.get("form") if isinstance(content, dict) else None
    if type(form) is int and form > FORM:
        raise PackError(
            f"{path} is a pack of form {form}, which a later version of ssldet wrote; this one ({__version__}) reads "
            f"forms up to {FORM}: use that version"
        )
    try:
        contents = _Contents.model_validate(content)
    except ValidationError as error:
        raise PackError(f"{path}: its {CONTENTS} does not describe a run ({error.error_count()} mistakes)") from error
    match = layout.RUN_FOLDER.fullmatch(contents.folder)
    if not match or not FOLDER_NAME.fullmatch(contents.folder) or match[1] != contents.run:
        raise PackError(f"{path}: {contents.folder!r:.80} is no name of a run's folder; it is refused")
    return contents


def _extract(path: Path, archive: zipfile.ZipFile, name: str, about: _File, target: Path) -> None:
    """One file, whose size and hash must be as pack.json says."""
    digest, size = hashlib.sha256(), 0
    with archive.open(name) as member, target.open("wb") as file:
        while chunk := member.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if (size, digest.hexdigest()) != (about.bytes, about.sha256):
        raise PackError(f"{path}: {name} is damaged: its SHA-256 is not the one in {CONTENTS}; get it again")


def _check_run(path: Path, contents: _Contents, folder: Path) -> None:
    """Hold what was unpacked against the run's own record."""
    try:
        record = Record.read(folder / layout.RECORD)
        read_network(folder / layout.NETWORK)
    except RequestError as error:
        raise PackError(f"{path}: {str(error).replace(str(folder) + os.sep, '')}") from error
    if record.id != contents.run or record.status != "done":
        raise PackError(f"{path}: its record is of the run {record.id} ({record.status}), not {contents.run}")
    if not is_as_written(json.loads((folder / layout.RECORD).read_text(encoding="utf-8"))):
        raise PackError(f"{path}: its record does not match its checksum: somebody changed it; it is refused")
    for name, digest in record.files.items():
        if name in PACKED and (name not in contents.files or contents.files[name].sha256 != digest):
            raise PackError(f"{path}: {name} is not the one that its record names; it is refused")


def _there_already(path: Path, contents: _Contents, target: Path) -> Unpacked:
    record = target / layout.RECORD
    if not record.is_file() or file_hash(record) != contents.files[layout.RECORD].sha256:
        raise PackError(
            f"{target} is there already, with another record than that of {path}; unpack into another folder with "
            "--results, and `ssldet runs merge` keeps both"
        )
    return Unpacked(contents.run, target, "there already")
