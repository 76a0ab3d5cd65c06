"""A run in one file: what goes in comes out, and what no pack holds is refused before anything is written."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_networks import NANO, write_trained_run
from made_videos import write_video

from ssldet.cli import main
from ssldet.errors import PackError, RequestError, WeightsError
from ssldet.runs.packing import CONTENTS, pack, packed_detector, unpack
from ssldet.runs.store import RunEntry, find_run
from ssldet.util.files import file_hash


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def entry_of(folder: Path) -> RunEntry:
    return find_run(f"{folder}/", ())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a finished run, and the pack of it."""
    place = tmp_path_factory.mktemp("made")
    folder = write_trained_run(place / "runs")
    return folder, pack(entry_of(folder), place / "run.zip")


def changed(
    archive: Path,
    out: Path,
    files: dict[str, bytes | None],
    about: Callable[[dict[str, Any]], object] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A copy of an archive with some files replaced, added, or (None) left out; `about` edits pack.json."""
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(out, "w", compression) as after:
        members = {name: before.read(name) for name in before.namelist()}
        contents = json.loads(members[CONTENTS])
        if about:
            about(contents)
        members = {**members, CONTENTS: json.dumps(contents).encode(), **files}
        for name, content in members.items():
            if content is not None:
                after.writestr(zipfile.ZipInfo(name) if compression == zipfile.ZIP_STORED else name, content)
    return out


def listed_as(name: str, content: bytes) -> Callable[[dict[str, Any]], object]:
    """What makes pack.json name a file as it is."""
    import hashlib

    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return lambda contents: contents["files"].update({name: entry})


def test_what_goes_in_comes_out(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder, archive = made
    unpacked = unpack(archive, tmp_path)
    assert (unpacked.folder, unpacked.outcome) == (tmp_path / folder.name, "unpacked")
    there = {path.name: file_hash(path) for path in unpacked.folder.iterdir()}
    assert there == {path.name: file_hash(path) for path in folder.iterdir()}
    assert entry_of(unpacked.folder).status == "done"
    assert unpack(archive, tmp_path).outcome == "there already"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_same_run_makes_the_same_pack(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder, archive = made
    assert pack(entry_of(folder), tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with pytest.raises(RequestError, match=r"again.zip exists; .*--out"):
        pack(entry_of(folder), tmp_path / "again.zip")


def test_a_pack_predicts(made: tuple[Path, Path], tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [50] * 9)
    words = ("--run", made[1], "--out", tmp_path / "out", "--no-video", "--device", "cpu", "--json")
    done = ssldet("predict", video, *words)
    assert done.exit_code == 0 and json.loads(done.stdout)["videos"][0]["tubes"][0]["class"] == "right"


def test_a_run_of_an_earlier_version_gets_its_network(tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path / "runs")
    (folder / "network.json").unlink()
    record = json.loads((folder / "record.json").read_text())
    del record["files"]["network.json"]
    entry = entry_of(folder)
    assert entry.record
    entry.record.model_copy(update={"files": record["files"]}).write(folder / "record.json")
    unpacked = unpack(pack(entry_of(folder), tmp_path / "old.zip"), tmp_path / "there")
    assert json.loads((unpacked.folder / "network.json").read_text())["facts"]["name"] == "jhmdb"


@pytest.mark.parametrize("name", ["detections.parquet", "weights.safetensors", "split.json"])
def test_a_run_that_is_not_whole_is_not_packed(tmp_path: Path, name: str) -> None:
    folder = write_trained_run(tmp_path / "runs")
    (folder / name).write_text("other")
    with pytest.raises(PackError, match=rf"{name} is changed"):
        pack(entry_of(folder), tmp_path / "run.zip")
    (folder / name).unlink()
    with pytest.raises(PackError, match=rf"{name} is absent; .*make the run"):
        pack(entry_of(folder), tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()


LINK = zipfile.ZipInfo("log.jsonl")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/record.json", "..\\evil", "evil.py", "record.json/", ".claim"]
)
def test_names_that_no_pack_holds_are_refused(made: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    archive = changed(made[1], tmp_path / "bad.zip", {name: b"x"}, listed_as(name, b"x"))
    with pytest.raises(PackError, match=r"holds .* nothing was unpacked"):
        unpack(archive, tmp_path / "there")
    assert not (tmp_path / "there").exists() and not (tmp_path / "evil").exists()


def test_links_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    archive = changed(made[1], tmp_path / "link.zip", {"log.jsonl": None})
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(LINK, "/etc/passwd")
    with pytest.raises(PackError, match=r"holds 'log.jsonl'"):
        unpack(archive, tmp_path / "there")


def test_bombs_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    """A file of zeros that weighs a thousandth of what it unpacks to; and a file twice."""
    zeros = bytes(10_000_000)
    archive = changed(
        made[1], tmp_path / "bomb.zip", {"log.jsonl": zeros}, listed_as("log.jsonl", zeros), zipfile.ZIP_DEFLATED
    )
    with pytest.raises(PackError, match=r"is compressed .* fill the disk"):
        unpack(archive, tmp_path / "there")
    twice = Path(shutil.copy(made[1], tmp_path / "twice.zip"))
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr(zipfile.ZipInfo("log.jsonl"), "x")
    with pytest.raises(PackError, match="holds a file twice"):
        unpack(twice, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def later(contents: dict[str, Any]) -> None:
    contents["form"] = 2


def elsewhere(contents: dict[str, Any]) -> None:
    contents["folder"] = "../../x-split1-seed0-" + contents["run"]


def another_run(contents: dict[str, Any]) -> None:
    contents["folder"] = contents["folder"].replace(contents["run"], "0" * 12)
    contents["run"] = "0" * 12


@pytest.mark.parametrize(
    ("files", "about", "said"),
    [
        ({"weights.safetensors": b"other"}, None, "weights.safetensors is damaged: its SHA-256"),
        (
            {"weights.safetensors": b"other"},
            listed_as("weights.safetensors", b"other"),
            "is not the one that its record",
        ),
        ({"weights.safetensors": None}, None, "lacks weights.safetensors"),
        ({"log.jsonl": None}, None, "differ in log.jsonl"),
        ({CONTENTS: None}, None, "it is no packed run"),
        ({CONTENTS: b"[" * 100_000}, None, "no sound JSON"),
        ({CONTENTS: b"{}"}, None, "does not describe a run"),
        ({}, later, "a later version of ssldet wrote"),
        ({}, elsewhere, "is no name of a run's folder"),
        ({}, another_run, "its record is of the run"),
        ({"record.json": b"{}"}, listed_as("record.json", b"{}"), "record.json is not a whole record"),
        ({"network.json": b"{}"}, listed_as("network.json", b"{}"), "does not describe a network"),
    ],
)
def test_what_is_not_as_it_was_packed_is_refused(
    made: tuple[Path, Path],
    tmp_path: Path,
    files: dict[str, bytes | None],
    about: Callable[[dict[str, Any]], object] | None,
    said: str,
) -> None:
    archive = changed(made[1], tmp_path / "bad.zip", files, about)
    with pytest.raises(PackError, match=said):
        unpack(archive, tmp_path / "there")
    assert not list((tmp_path / "there").glob("*")) if (tmp_path / "there").exists() else True


def test_an_edited_record_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    record = json.loads((made[0] / "record.json").read_text())
    record["training"]["steps"] += 1
    text = json.dumps(record).encode()
    archive = changed(made[1], tmp_path / "edited.zip", {"record.json": text}, listed_as("record.json", text))
    with pytest.raises(PackError, match="does not match its checksum"):
        unpack(archive, tmp_path / "there")


def test_what_is_no_archive_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.zip"
    cut.write_bytes(made[1].read_bytes()[:-100])
    with pytest.raises(PackError, match="no sound zip archive"):
        unpack(cut, tmp_path)
    with pytest.raises(PackError, match=r"no packed run at .*absent.zip"):
        unpack(tmp_path / "absent.zip", tmp_path)


def test_another_run_of_that_name_is_left_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    there = tmp_path / made[0].name
    there.mkdir()
    (there / "record.json").write_text("mine")
    with pytest.raises(PackError, match=r"is there already, with another record"):
        unpack(made[1], tmp_path)
    assert (there / "record.json").read_text() == "mine"


def test_weights_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    """The network of the pack has another width than its weights: nothing is built, what does not fit is said."""
    folder = write_trained_run(tmp_path / "runs")
    network = NANO.model_dump(mode="json") | {"backbone_options": {"width": 8, "frame_hidden": 8}}
    (folder / "network.json").write_text(json.dumps(network))
    entry = entry_of(folder)
    assert entry.record
    files = {**entry.record.files, "network.json": file_hash(folder / "network.json")}
    entry.record.model_copy(update={"files": files}).write(folder / "record.json")
    with pytest.raises(WeightsError, match=r"another version of it.* shape_mismatch"):
        packed_detector(pack(entry_of(folder), tmp_path / "run.zip"))


def test_the_commands_pack_and_unpack(made: tuple[Path, Path], tmp_path: Path) -> None:
    done = ssldet("runs", "pack", made[0], "--out", tmp_path / "ours.zip")
    assert done.exit_code == 0 and "ours.zip: run" in done.stdout
    told = json.loads(ssldet("runs", "unpack", tmp_path / "ours.zip", "--results", tmp_path / "x", "--json").stdout)
    assert told["outcome"] == "unpacked" and Path(told["folder"]).is_dir()
    assert ssldet("runs", "unpack", tmp_path / "nothing.zip").exit_code == 2
